//! The one engine behind commands and hooks: files to an artifact, an artifact to files.
//!
//! The engine never prints. It returns an [`Outcome`], calls back nothing but [`Progress`], and can be stopped.

pub mod apply;
pub mod chunks;
mod download;
pub mod entries;
pub mod keys;
mod parts;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

pub use self::chunks::{ChunkCounts, Chunking, Chunks};
use crate::artifact::ArtifactName;
use crate::transport::Pick;

pub use crate::context::{Context, Progress};
pub(crate) use download::Counting;
pub use download::{download, inflate};
pub use upload::{deflate, upload};

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
    /// The folder that files go to, made when it is missing. It is the user's own: links on the way to it are followed.
    pub root: PathBuf,
    /// A folder below `root` to unpack into instead, reached without following a link. Empty or `.` for `root` itself.
    pub into: PathBuf,
    /// Whether to give files the owner that the archive names.
    pub same_owner: bool,
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
    /// What became of its chunks, when it is made of such.
    pub chunks: Option<ChunkCounts>,
    /// For a download, where it came from.
    pub from: Option<String>,
    /// False when nothing was selected and so nothing was uploaded.
    pub moved: bool,
}
