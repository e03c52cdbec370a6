//! The one engine behind commands and hooks: files to an artifact, an artifact to files.
//!
//! The engine never prints. It returns an [`Outcome`], calls back nothing but [`Progress`], and can be stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::transport::{Pick, Transport};

/// What to do when nothing was selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfEmpty {
    /// Say so loudly, upload nothing, succeed.
    #[default]
    Warn,
    /// Fail with [`Class::NotThere`](crate::error::Class::NotThere).
    Error,
    /// Upload nothing, succeed quietly.
    Ignore,
}

/// Where a list of paths comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListSource {
    /// Standard input.
    Stdin,
    /// A file; a relative path starts at the working directory.
    File(PathBuf),
}

/// Which files an artifact is made of. All paths are relative to `root` and below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The working directory.
    pub root: PathBuf,
    /// Globs; one that starts with `!` takes out.
    pub globs: Vec<String>,
    /// A list of paths.
    pub list: Option<ListSource>,
    /// Whether the list is separated by NUL bytes instead of newlines.
    pub null_separated: bool,
    /// Globs that take out, as `!glob` does.
    pub exclude: Vec<String>,
}

/// One upload.
#[derive(Debug, Clone)]
pub struct UploadRequest {
    /// The artifact.
    pub name: ArtifactName,
    /// Its files.
    pub selection: Selection,
    /// Compression level; `None` is the codec's default.
    pub level: Option<i32>,
    /// What to do when nothing was selected.
    pub if_empty: IfEmpty,
}

/// One download.
#[derive(Debug, Clone)]
pub struct DownloadRequest {
    /// The artifact.
    pub name: ArtifactName,
    /// Which upload of it.
    pub pick: Pick,
    /// The folder to unpack into, made when it is missing.
    pub into: PathBuf,
    /// Whether to give files the owner that the archive names.
    pub same_owner: bool,
}

/// What the engine needs besides the request.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Asks the engine to stop.
    pub cancel: Cancel,
    /// Where the engine counts what it has done so far.
    pub progress: Progress,
}

/// How far the work is, for whoever draws it. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Adds to the bytes of files done.
    pub fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many bytes there will be in all; 0 is unknown.
    pub fn expect(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes done, and bytes in all (0 when unknown).
    pub fn read(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }
}

/// What happened to one artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Files (of any kind but folders) packed or unpacked.
    pub files: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
    /// Bytes that travelled.
    pub artifact_bytes: u64,
    /// Time taken.
    pub took: Duration,
    /// What the user should know, one sentence each: globs without a match, files left out.
    pub warnings: Vec<String>,
    /// For a download, where it came from.
    pub from: Option<String>,
    /// False when nothing was selected and so nothing was uploaded.
    pub moved: bool,
}

/// Packs the selected files and uploads them. Blocks. Nothing is published unless all went well.
pub fn upload(request: &UploadRequest, transport: &dyn Transport, context: &Context) -> Result<Outcome> {
    let _ = (request, transport, context);
    Err(crate::error::Error::failed("upload: under construction"))
}

/// Downloads an artifact and unpacks it (or places it, when it is a plain file). Blocks.
pub fn download(request: &DownloadRequest, transport: &dyn Transport, context: &Context) -> Result<Outcome> {
    let _ = (request, transport, context);
    Err(crate::error::Error::failed("download: under construction"))
}
