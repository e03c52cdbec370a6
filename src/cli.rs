//! The command line: clap types and help text, nothing else.

pub mod apply;
pub mod entries;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use self::apply::{APPLY_EXAMPLES, Apply, LOCK_EXAMPLES, Lock};
use self::entries::{CacheCommand, GC_EXAMPLES, GcArgs, StoreCommand};

/// Move tens of thousands of files between Buildkite steps as one artifact
#[derive(Debug, Parser)]
#[command(name = "monofo", version, max_term_width = 100, arg_required_else_help = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// What is said
    #[command(flatten)]
    pub output: Output,
}

/// Flags of every command.
#[derive(Debug, Args, Clone, Copy)]
pub struct Output {
    /// Say why: which transport, how things were found, what was left out
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Say nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Print a summary as one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack files and upload them as one artifact
    #[command(after_long_help = UPLOAD_EXAMPLES)]
    Upload(Upload),
    /// Download artifacts and unpack them in place
    #[command(after_long_help = DOWNLOAD_EXAMPLES)]
    Download(Download),
    /// Compress a tar file into the format that a name asks for
    #[command(after_long_help = DEFLATE_EXAMPLES)]
    Deflate(Deflate),
    /// Unpack an archive of any known compression
    #[command(after_long_help = INFLATE_EXAMPLES)]
    Inflate(Inflate),
    /// Look into an index of chunks (.catar.caibx), and check what it names
    #[command(subcommand)]
    Index(IndexCommand),
    /// Keep what was built under a key of everything that went into it, and find it again
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Keep artifacts under a hash of what went in and what came out
    #[command(subcommand)]
    Store(StoreCommand),
    /// Remove what nobody needs any more
    #[command(subcommand)]
    Gc(GcCommand),
    /// Bring all components of the workspace up to date: from the cache, else by building them
    #[command(after_long_help = APPLY_EXAMPLES)]
    Apply(Apply),
    /// Write down versions, commits and sources of all components, for apply --locked
    #[command(after_long_help = LOCK_EXAMPLES)]
    Lock(Lock),
    /// Run one of the plugin's hooks (called by hooks/*)
    Hook {
        /// Which hook
        phase: HookPhase,
    },
    /// Run a pipeline's command steps here, hooks and all, without Buildkite
    #[command(after_long_help = TRY_EXAMPLES)]
    Try(Try),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// How long it may take to clean up once it was told to stop, before the process ends regardless. `try` and `apply`
    /// first have to wait for the commands that they run, which have a grace period of their own.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(if matches!(self, Command::Try(_) | Command::Apply(_)) { 20 } else { 5 })
    }
}

/// `monofo upload`.
#[derive(Debug, Args)]
pub struct Upload {
    /// Name of the artifact; its suffix names the format: .tar, .tar.gz, .tgz, .tar.lz4, .tar.zst, .catar, .catar.caibx,
    /// or one plain file
    pub name: String,

    /// Files to pack: `*` stays in one folder, `**` does not, a matched folder means everything below it, `!GLOB` takes out
    #[arg(value_name = "GLOB")]
    pub globs: Vec<String>,

    /// Read a list of paths from a file (`-` for standard input)
    #[arg(short = 'F', long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub files_from: Option<PathBuf>,

    /// The list is separated by NUL bytes, as `find -print0` writes it
    #[arg(short = 'z', long, requires = "files_from")]
    pub null: bool,

    /// Folder that all paths start from
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub chdir: PathBuf,

    /// Leave out what matches, also below listed folders (may be given several times)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,

    /// What to do when nothing is selected
    #[arg(long, value_enum, default_value = "warn")]
    pub if_empty: IfEmpty,

    /// Compression level: 1 to 9 for .tar.gz (default 6), 1 to 19 for .tar.zst (default 3)
    #[arg(long, value_name = "N")]
    pub level: Option<i32>,
}

/// What to do when nothing is selected.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum IfEmpty {
    /// Say so, upload nothing, succeed
    Warn,
    /// Fail with exit status 3
    Error,
    /// Upload nothing, succeed quietly
    Ignore,
}

/// `monofo download`.
#[derive(Debug, Args)]
pub struct Download {
    /// Names of the artifacts
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,

    /// Folder to unpack into, made when it is missing
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub chdir: PathBuf,

    /// Take the artifact of another build (default: this build, or `local` outside a job)
    #[arg(long, value_name = "ID")]
    pub build: Option<String>,

    /// Take what the step with this key uploaded (default: the newest of any step)
    #[arg(long, value_name = "KEY")]
    pub step: Option<String>,

    /// Give files the numeric owner that the archive names
    #[arg(long)]
    pub same_owner: bool,
}

/// `monofo deflate`.
#[derive(Debug, Args)]
pub struct Deflate {
    /// The tar file (`-` for standard input); a compressed one is decompressed first
    #[arg(value_name = "TARFILE|-", value_hint = ValueHint::FilePath)]
    pub tarfile: PathBuf,

    /// The archive to make; its suffix names the format
    #[arg(value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// Compression level: 1 to 9 for .tar.gz (default 6), 1 to 19 for .tar.zst (default 3)
    #[arg(long, value_name = "N")]
    pub level: Option<i32>,
}

/// `monofo inflate`.
#[derive(Debug, Args)]
pub struct Inflate {
    /// The archive (`-` for standard input); its compression is told by its first bytes
    #[arg(value_name = "ARCHIVE|-", value_hint = ValueHint::FilePath)]
    pub archive: PathBuf,

    /// Folder to unpack into, made when it is missing
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub chdir: PathBuf,

    /// Give files the numeric owner that the archive names
    #[arg(long)]
    pub same_owner: bool,
}

/// `monofo index`.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Say what an index names, and how much of it lies where
    #[command(after_long_help = INDEX_INFO_EXAMPLES)]
    Info(IndexInfo),
    /// Fetch and check every chunk that an index names
    #[command(after_long_help = INDEX_VERIFY_EXAMPLES)]
    Verify(IndexVerify),
}

/// `monofo index info`.
#[derive(Debug, Args)]
pub struct IndexInfo {
    /// The index (`-` for standard input)
    #[arg(value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Say how much of it this chunk store has (default: MONOFO_DESYNC_STORE, if set; may be given several times)
    #[arg(long, value_name = "URL")]
    pub store: Vec<OsString>,
}

/// `monofo index verify`.
#[derive(Debug, Args)]
pub struct IndexVerify {
    /// The index (`-` for standard input)
    #[arg(value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// The chunk store (default: MONOFO_DESYNC_STORE, outside a job the folder .monofo/chunks)
    #[arg(long, value_name = "URL")]
    pub store: Option<OsString>,

    /// Take wrong chunks out of the way, so that the next upload stores them again
    #[arg(long)]
    pub repair: bool,
}

/// `monofo gc`.
#[derive(Debug, Subcommand)]
pub enum GcCommand {
    /// Remove chunks from a store that no kept index names
    #[command(after_long_help = GC_CHUNKS_EXAMPLES)]
    Chunks(GcChunks),
    /// Remove entries of the cache that were not used lately
    #[command(after_long_help = GC_EXAMPLES)]
    Cache(GcArgs),
    /// Remove artifacts from the store that nothing refers to
    #[command(after_long_help = GC_EXAMPLES)]
    Store(GcArgs),
    /// Clean up the cache, then the store
    #[command(after_long_help = GC_EXAMPLES)]
    All(GcArgs),
}

/// `monofo gc chunks`.
#[derive(Debug, Args)]
pub struct GcChunks {
    /// The chunk store (default: MONOFO_DESYNC_STORE)
    #[arg(long, value_name = "URL")]
    pub store: Option<OsString>,

    /// Indexes whose chunks stay, or folders to look through for such; links in them are not followed
    #[arg(long, value_name = "INDEX", required = true, num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub keep: Vec<PathBuf>,

    /// Leave what was written or used more lately than this
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    pub older_than: String,

    /// Remove nothing, and say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// `monofo try`.
#[derive(Debug, Args)]
pub struct Try {
    /// The pipeline file
    #[arg(value_name = "PIPELINE.yml", value_hint = ValueHint::FilePath)]
    pub pipeline: PathBuf,

    /// Keep the steps' folders, and say where they are
    #[arg(long)]
    pub keep: bool,
}

/// When in a job a hook runs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HookPhase {
    /// Before the command: restore cache entries, then download
    PreCommand,
    /// After the command: upload, then store cache entries
    PostCommand,
    /// At the end: clean up
    PreExit,
}

const EXIT_CODES: &str = "\
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 no such artifact, file or entry, 4 workspace invalid, 5 files \
changed meanwhile, 6 refused for safety, 7 damaged data, 8 transport, chunk store or remote unusable, 9 lock not obtained, 130 \
or 143 interrupted

Where artifacts go: MONOFO_ARTIFACTS is `agent` (default inside a Buildkite job), file:///dir, s3://bucket/prefix or \
gs://bucket/prefix (default outside a job: the folder .monofo/artifacts)";

const UPLOAD_EXAMPLES: &str = "\
Examples:
  monofo upload build.tar.lz4 'dist/**' '!**/*.map'
  find node_modules -type f -print0 -o -type l -print0 | monofo upload node-modules.tar.lz4 -F - -z
  monofo upload report.html reports/index.html
  MONOFO_ARTIFACTS=s3://bucket/artifacts monofo upload build.tar.zst --level 9 dist";

const DOWNLOAD_EXAMPLES: &str = "\
Examples:
  monofo download node-modules.tar.lz4 build.tar.lz4
  monofo download build.tar.zst --step compile -C out
  monofo download build.tar.zst --build 0192c3f4-…";

const DEFLATE_EXAMPLES: &str = "\
Examples:
  monofo deflate files.tar files.tar.zst --level 9
  tar -c dist | monofo deflate - dist.tar.lz4";

const INFLATE_EXAMPLES: &str = "\
Examples:
  monofo inflate dist.tar.lz4 -C out
  monofo inflate - < anything.tar.gz";

const INDEX_INFO_EXAMPLES: &str = "\
Seeds and the cache of this machine are looked at where a download would use them. Chunks that a store lacks are no failure \
here; not being able to tell is one (exit status 8). A damaged index is one, too (7).

Examples:
  monofo index info build.catar.caibx
  monofo index info build.catar.caibx --store s3://bucket/chunks
  monofo --json index info - < build.catar.caibx";

const INDEX_VERIFY_EXAMPLES: &str = "\
Chunks are fetched from the store itself, whatever seeds and the cache of this machine hold. Ends with exit status 7 when one \
is missing or wrong, also when --repair took it out of the way.

Examples:
  monofo index verify build.catar.caibx --store s3://bucket/chunks
  monofo index verify build.catar.caibx --store /mnt/chunks --repair";

const GC_CHUNKS_EXAMPLES: &str = "\
Every index that is still needed has to be among those that are kept: chunks that only others name are removed. In a folder, \
every file that begins like an index counts, whatever its name. When one cannot be read, nothing is removed. Uploads mark the \
old chunks that they rely on, so they may go on meanwhile unless --older-than is below 4 days.

Examples:
  monofo gc chunks --store /mnt/chunks --keep /mnt/artifacts --dry-run
  monofo gc chunks --store s3://bucket/chunks --keep main.caibx release.caibx --older-than 30d";

const TRY_EXAMPLES: &str = "\
Examples:
  monofo try .buildkite/pipeline.yml
  monofo try --keep examples/pipeline.yml";
