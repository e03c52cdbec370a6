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
//! Chunk stores and remote caches use the same places by names of their own: [`Keyed`] and [`Web`] keep whole small
//! objects, a [`Shelf`] files of any size that are made once.
//!
//! [`Class::NotThere`]: crate::error::Class::NotThere
//! [`Class::Unavailable`]: crate::error::Class::Unavailable

mod agent;
mod child;
mod folder;
mod folder_shelf;
mod held;
mod layout;
mod objects;
mod secrets;
mod shelf;

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

pub use self::agent::{Agent, job_scratch, remove_job_scratch};
pub use self::folder::Folder;
pub use self::folder_shelf::FolderShelf;
pub use self::objects::{BucketShelf, Endpoint, Keyed, Limits, Object, Objects, Web};
pub use self::shelf::{Made, Opened, Shelf, open_shelf};
use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{IoContext, Result};
use crate::location::Location;

/// Where artifacts lie outside a job when nothing else is said, relative to the working directory.
pub const DEFAULT_FOLDER: &str = ".monofo/artifacts";

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

/// The place for artifacts: `MONOFO_ARTIFACTS`, else the agent inside a job, else [`DEFAULT_FOLDER`].
pub fn location(env: &Env) -> Result<Location> {
    match env.path("MONOFO_ARTIFACTS") {
        Some(text) => Location::parse(text).map_err(|error| error.context("MONOFO_ARTIFACTS is wrong")),
        None if env.in_job() => Ok(Location::Agent),
        None => Ok(Location::Folder(DEFAULT_FOLDER.into())),
    }
}

/// Who uploads, by the job's environment. Outside a job the build is `local`, and every call makes a fresh job id.
pub fn origin(env: &Env) -> Origin {
    Origin { build: build(env), step: env.text("BUILDKITE_STEP_KEY").map(Into::into), job: job(env) }
}

/// The build that downloads look in when no other is named.
pub fn build(env: &Env) -> String {
    env.text("BUILDKITE_BUILD_ID").unwrap_or("local").to_owned()
}

fn job(env: &Env) -> String {
    env.text("BUILDKITE_JOB_ID").map_or_else(fresh_id, Into::into)
}

/// An id that sorts by time and that no other process makes.
fn fresh_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("local-{:x}-{:016x}", now.as_millis(), RandomState::new().hash_one(std::process::id()))
}

/// Opens the transport of a location. Nothing is connected to or created yet, except that wrong configuration is found.
pub fn open(location: &Location, env: &Env, cancel: &Cancel) -> Result<Arc<dyn Transport>> {
    let (origin, cancel) = (origin(env), cancel.clone());
    Ok(match location {
        Location::Agent => Arc::new(Agent::new(env, cancel)?),
        Location::Folder(path) => {
            let root = std::path::absolute(path).or_fail(|| "cannot tell the working directory")?;
            Arc::new(Folder::new(root, origin, cancel))
        }
        Location::S3(bucket) => Arc::new(Objects::s3(bucket, env, Limits::default(), origin, cancel)?),
        Location::Gs(bucket) => Arc::new(Objects::gs(bucket, env, Limits::default(), origin, cancel)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_place_depends_on_being_in_a_job() {
        let none: [(&str, &str); 0] = [];
        assert_eq!(location(&Env::of(none)).unwrap(), Location::Folder(DEFAULT_FOLDER.into()));
        let job = [("BUILDKITE_JOB_ID", "j")];
        assert_eq!(location(&Env::of(job)).unwrap(), Location::Agent);
        let set = [("BUILDKITE_JOB_ID", "j"), ("MONOFO_ARTIFACTS", "file:///x")];
        assert_eq!(location(&Env::of(set)).unwrap(), Location::Folder("/x".into()));
    }

    #[test]
    fn an_origin_outside_a_job_is_local_and_fresh() {
        let none: [(&str, &str); 0] = [];
        let (one, two) = (origin(&Env::of(none)), origin(&Env::of(none)));
        assert_eq!((one.build.as_str(), &one.step), ("local", &None));
        assert_ne!(one.job, two.job);
        let job = [("BUILDKITE_JOB_ID", "j"), ("BUILDKITE_BUILD_ID", "b"), ("BUILDKITE_STEP_KEY", "s")];
        let expected = Origin { build: "b".into(), step: Some("s".into()), job: "j".into() };
        assert_eq!(origin(&Env::of(job)), expected);
    }
}
