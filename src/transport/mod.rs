//! How an artifact reaches another step: bytes under a name, somewhere.
//!
//! ```text
//! <prefix>/<build id>/<artifact name>/<step key or ->.<job id>      file://, s3://, gs://
//! ```
//!
//! A transport knows nothing about archives. An artifact appears whole or not at all: [`Upload::finish`] publishes, and
//! dropping an [`Upload`] takes everything back. Errors tell absent ([`Class::NotThere`]), refused and unreachable
//! ([`Class::Unavailable`]) apart and say what to check. The interface blocks; async stays inside `objects`.
//!
//! [`Class::NotThere`]: crate::error::Class::NotThere
//! [`Class::Unavailable`]: crate::error::Class::Unavailable

use std::io::{Read, Write};

use crate::artifact::ArtifactName;
use crate::error::Result;

/// Who uploads: the part of an artifact's place that keeps two jobs from overwriting each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The build that the artifact belongs to; `local` outside a job.
    pub build: String,
    /// The step's key, when it has one.
    pub step: Option<String>,
    /// The job; a fresh id outside a job.
    pub job: String,
}

/// Which upload of an artifact a download wants: the newest of a build, or the newest of one of its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// The build to look in.
    pub build: String,
    /// Only what this step (by key) uploaded.
    pub step: Option<String>,
}

/// Somewhere to put artifacts and get them from.
pub trait Transport: Send + Sync {
    /// The place, for messages; never a credential.
    fn place(&self) -> String;

    /// Begins an upload. Nothing is visible to downloads before [`Upload::finish`].
    fn upload(&self, name: &ArtifactName) -> Result<Box<dyn Upload>>;

    /// Opens the newest upload that fits. [`Class::NotThere`](crate::error::Class::NotThere) when there is none.
    fn download(&self, name: &ArtifactName, pick: &Pick) -> Result<Download>;
}

/// An upload under way: write the bytes, then finish. Dropping it instead abandons it and leaves nothing behind.
pub trait Upload: Write + Send {
    /// Publishes what was written. Blocks until the artifact can be downloaded by others.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A download under way.
pub struct Download {
    /// The artifact's bytes. Reading to the end without an error means that they are what was uploaded, as far as the
    /// transport can tell.
    pub reader: Box<dyn Read + Send>,
    /// Length in bytes, when the transport knows it.
    pub size: Option<u64>,
    /// Where it came from, for messages: step and job, or the object's place.
    pub from: String,
}
