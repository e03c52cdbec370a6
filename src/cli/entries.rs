//! The command line of cache, store and gc.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum, ValueHint};

/// `monofo cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Store a built artifact under its key
    #[command(after_long_help = BUILD_EXAMPLES)]
    Build(CacheBuild),
    /// Restore the artifact of a component's key, from this machine or the remote
    #[command(after_long_help = GET_EXAMPLES)]
    Get(CacheGet),
    /// Print the key of a component
    #[command(after_long_help = KEY_EXAMPLES)]
    Key(CacheKey),
    /// Say why there is no entry: what differs from the nearest one
    #[command(after_long_help = EXPLAIN_EXAMPLES)]
    Explain(CacheExplain),
    /// Read every entry again, and move damaged ones out of the way
    Verify,
    /// Remove entries
    #[command(after_long_help = INVALIDATE_EXAMPLES)]
    Invalidate(CacheInvalidate),
    /// List entries
    List,
    /// Say how much the cache holds, and how often it helped
    Stats,
}

/// What a key is computed from.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The component: a name of manifests/components.yaml or, without that file, any name
    pub component: String,

    /// Files that belong to the key, relative to the workspace's root (may be given several times)
    #[arg(long, value_name = "GLOB")]
    pub input: Vec<String>,
}

/// Where entries are shared.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// Share entries there: s3://bucket/prefix, gs://bucket/prefix or file:///folder (default: MONOFO_REMOTE)
    #[arg(long, value_name = "URL")]
    pub remote: Option<OsString>,

    /// Fail with exit status 8 when the remote cannot be used, instead of going on without it
    #[arg(long)]
    pub remote_required: bool,
}

/// `monofo cache build`.
#[derive(Debug, Args)]
pub struct CacheBuild {
    /// What the key is made of
    #[command(flatten)]
    pub key: KeyArgs,

    /// The artifact: a folder or a file (default: the component's `outputs`)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub source: Option<PathBuf>,

    /// Store nothing, and exit with status 5, unless the key is still this one
    #[arg(long, value_name = "KEY")]
    pub expect_key: Option<String>,

    /// Where to share it
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `monofo cache get`.
#[derive(Debug, Args)]
pub struct CacheGet {
    /// What the key is made of
    #[command(flatten)]
    pub key: KeyArgs,

    /// Where the artifact goes; what is there is replaced in one step (default: the component's `outputs`)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub target: Option<PathBuf>,

    /// Take this key instead of computing it
    #[arg(long = "key", value_name = "KEY", conflicts_with = "input")]
    pub this_key: Option<String>,

    /// Where to look when this machine has none
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `monofo cache key`.
#[derive(Debug, Args)]
pub struct CacheKey {
    /// What the key is made of
    #[command(flatten)]
    pub key: KeyArgs,
}

/// `monofo cache explain`.
#[derive(Debug, Args)]
pub struct CacheExplain {
    /// What the key is made of
    #[command(flatten)]
    pub key: KeyArgs,

    /// Where to look when this machine has no entry to compare with
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `monofo cache invalidate`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["component", "key", "all"])))]
pub struct CacheInvalidate {
    /// All entries of this component
    #[arg(long, value_name = "NAME")]
    pub component: Option<String>,

    /// The entry with this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    /// All entries
    #[arg(long)]
    pub all: bool,

    /// Remove nothing, and say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Remove them there as well
    #[arg(long, value_name = "URL")]
    pub remote: Option<OsString>,
}

/// `monofo store`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Add an artifact; prints its hash
    #[command(after_long_help = ADD_EXAMPLES)]
    Add(StoreAdd),
    /// Print what is known of an artifact
    Query(StoreQuery),
    /// Restore an artifact
    #[command(after_long_help = STORE_GET_EXAMPLES)]
    Get(StoreGet),
    /// Read every artifact again, and move damaged ones out of the way
    Verify,
    /// Keep an artifact under a name, whatever gc removes
    Pin {
        /// Name of the pin
        name: String,
        /// The artifact
        hash: String,
    },
    /// Remove a pin
    Unpin {
        /// Name of the pin
        name: String,
    },
    /// Make a set of artifacts the current generation of a profile, or go back to an earlier one
    #[command(after_long_help = SWITCH_EXAMPLES)]
    Switch(StoreSwitch),
    /// List the generations of a profile
    Generations {
        /// Name of the profile
        profile: String,
    },
    /// List artifacts
    List,
    /// Say how much the store holds
    Stats,
}

/// `monofo store add`.
#[derive(Debug, Args)]
pub struct StoreAdd {
    /// What the hash is made of, beside the content
    #[command(flatten)]
    pub key: KeyArgs,

    /// The artifact: a folder or a file (default: the component's `outputs`)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub source: Option<PathBuf>,

    /// Where to share it
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `monofo store query`.
#[derive(Debug, Args)]
pub struct StoreQuery {
    /// The artifact: its hash, the first 6 digits of it or more, or `inputs:KEY`
    pub hash: String,

    /// Where to look when this machine has it not
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// `monofo store get`.
#[derive(Debug, Args)]
pub struct StoreGet {
    /// The artifact: its hash, the first 6 digits of it or more, or `inputs:KEY`
    pub hash: String,

    /// Where it goes; what is there is replaced in one step. A file goes into a folder named with a `/` at the end
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub target: PathBuf,

    /// How files come out of the store
    #[arg(long, value_enum, default_value = "reflink")]
    pub link: LinkKind,

    /// Where to look when this machine has it not
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// How files come out of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkKind {
    /// Share blocks where the file system can, else copy
    Reflink,
    /// Read-only names of the store's own files: fast, and not to be written to
    Hard,
    /// Copy
    Copy,
}

/// `monofo store switch`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("to_what").required(true).args(["hashes", "lock", "to", "back"])))]
pub struct StoreSwitch {
    /// Name of the profile
    pub profile: String,

    /// Artifacts of the new generation
    #[arg(value_name = "HASH")]
    pub hashes: Vec<String>,

    /// The artifacts that a lock file names
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub lock: Option<PathBuf>,

    /// The generation with this number
    #[arg(long, value_name = "N")]
    pub to: Option<u64>,

    /// The generation that was current before the current one was made
    #[arg(long)]
    pub back: bool,
}

/// What `gc cache`, `gc store` and `gc all` take.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Remove nothing, and say what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Leave what is younger than this (default: 1h in the cache, 24h in the store)
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,

    /// Cache: remove what was used last before so long; a bare number is days (default: 30d)
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,

    /// Cache: remove what was used longest ago until no more than this is left, such as 20GiB
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
}

const BUILD_EXAMPLES: &str = "\
Nothing is compiled: this stores what was built. Exit status: 0 stored, or there already; 4 workspace invalid; 5 the inputs \
changed meanwhile; 6 the source cannot be stored; 8 the remote is required and cannot be used

Examples:
  monofo cache build scraper-capabilities --source bazel-bin/scraper_capabilities
  monofo cache build web --source dist --input 'src/**' --input package-lock.json
  K=$(monofo cache key web) && make && monofo cache build web --expect-key $K";

const GET_EXAMPLES: &str = "\
Exit status: 0 restored; 3 a miss, with the reason in one line; 4 workspace invalid; 6 the target is never replaced; 8 the \
remote is required and cannot be used

Examples:
  monofo cache get scraper-capabilities --target bazel-bin/scraper_capabilities
  monofo cache get web --target dist --input 'src/**' --remote s3://bucket/cache || make";

const KEY_EXAMPLES: &str = "\
Examples:
  monofo cache key scraper-capabilities
  monofo cache key web --input 'src/**' --input package-lock.json
  monofo --json cache key web      (with the record that is hashed)";

const EXPLAIN_EXAMPLES: &str = "\
Values of variables are never shown.

Examples:
  monofo cache explain scraper-capabilities
  monofo cache explain web --input 'src/**' --remote s3://bucket/cache";

const INVALIDATE_EXAMPLES: &str = "\
Exit status: 0 also when nothing matched; 3 when there is no entry with --key

Examples:
  monofo cache invalidate --component scraper-capabilities
  monofo cache invalidate --all --dry-run";

const ADD_EXAMPLES: &str = "\
The hash covers what went in and what came out, so the same hash always is the same artifact of the same inputs.

Examples:
  monofo store add scraper-capabilities --source bazel-bin/scraper_capabilities
  monofo store add web --source dist --input 'src/**' --remote gs://bucket/store";

const STORE_GET_EXAMPLES: &str = "\
Exit status: 0 restored; 2 several hashes begin like this; 3 not there; 6 the target is never replaced; 7 damaged, and no \
good copy

Examples:
  monofo store get 986f17193907 --target output/
  monofo store get inputs:1d6a7fabe5cb --target output --link hard";

const SWITCH_EXAMPLES: &str = "\
A profile is a link that is replaced in one step: .meta-store/profiles/NAME/current/COMPONENT is the artifact.

Examples:
  monofo store switch prod 986f17193907 5670a1057f8c
  monofo store switch prod --lock manifests/components.lock.prod.yaml
  monofo store switch prod --back";

/// Examples of `gc cache|store|all`.
pub const GC_EXAMPLES: &str = "\
Never removed: what is being read or written, what is younger than the grace, what a later version wrote, names that are none \
of ours. In the store: what a pin, a generation of a profile, a lock file or a current key names, and the newest of each \
component. When one of these cannot be read, nothing is removed (exit status 4).

Examples:
  monofo gc all --dry-run
  monofo gc cache --max-age 14d --max-size 20GiB
  monofo gc store --grace 0";
