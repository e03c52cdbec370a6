//! Files under names, small and large, that are made once and not replaced: what a remote cache keeps.
//!
//! A file appears whole or not at all, whatever happens to its writer. Names are relative, with `/` between parts; whoever
//! makes them has checked every part. Errors say by [`Why`](crate::error::Why) what kind of trouble there is; a file that
//! is not there is no error where it is asked for.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::folder_shelf::FolderShelf;
use super::objects::{BucketShelf, Limits};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Error, IoContext, Result};
use crate::location::Location;

/// What became of a file that was to be made and not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It is there now, and was not before.
    Created,
    /// One of this name is there.
    Taken,
    /// Others are making it at this moment, or the answer was lost: look, then make it again if it is not there.
    Unsure,
}

/// A file that is open for reading.
pub struct Opened {
    /// Its bytes, as they come.
    pub reader: Box<dyn Read + Send>,
    /// Its length.
    pub size: u64,
}

/// A place that keeps files under names. Every method blocks, may be called by many threads at once, and takes the words
/// for what it is `doing`, such as `reading a record`.
pub trait Shelf: Send + Sync {
    /// The place, for messages; never a credential.
    fn place(&self) -> String;

    /// Whether it is a folder of this machine, where nobody answers in its place.
    fn is_folder(&self) -> bool {
        false
    }

    /// Makes sure that something can be stored, where that is not the service's business. For whoever reads before storing.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// The whole of a file of at most `most` bytes; a longer one is an error of class
    /// [`Refused`](crate::error::Class::Refused), of which nothing more is read. With a `limit`, all tries end by then.
    fn get(&self, doing: &str, name: &str, most: u64, limit: Option<Duration>) -> Result<Option<Vec<u8>>>;

    /// A file's size.
    fn size(&self, doing: &str, name: &str) -> Result<Option<u64>>;

    /// Opens a file of any size.
    fn open(&self, doing: &'static str, name: &str) -> Result<Option<Opened>>;

    /// Stores bytes, also in place of a file that is there.
    fn put(&self, doing: &str, name: &str, bytes: Vec<u8>) -> Result<()>;

    /// Stores what a file of this machine holds, without having all of it in memory.
    fn put_file(&self, doing: &'static str, name: &str, source: &Path) -> Result<()>;

    /// Stores bytes if nothing is there. Where the place knows no such condition it looks first.
    fn create(&self, doing: &str, name: &str, bytes: Vec<u8>) -> Result<Made>;

    /// The first names, in their order, of what lies directly in a folder, at most so many; within the `limit`.
    fn first(&self, doing: &str, folder: &str, most: usize, limit: Duration) -> Result<Vec<String>>;

    /// The names of files in the folders of a folder, `<folder>/<file>`, at most so many, in any order; within the `limit`.
    fn second(&self, doing: &str, folder: &str, most: usize, limit: Duration) -> Result<Vec<String>>;

    /// Removes files, and what else lies in their places; those that are not there are no error.
    fn remove(&self, doing: &str, names: &[String]) -> Result<()>;
}

/// Opens the shelf at a location. Nothing is connected to or created yet, except that wrong configuration is found.
pub fn open_shelf(location: &Location, env: &Env, limits: Limits, cancel: &Cancel) -> Result<Arc<dyn Shelf>> {
    let cancel = cancel.clone();
    Ok(match location {
        Location::Agent => {
            return Err(Error::usage("the agent's artifact storage cannot keep a cache: it ends with the build")
                .hint("use `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///folder` or a folder"));
        }
        Location::Folder(path) => {
            let root = std::path::absolute(path).or_fail(|| "cannot tell the working directory")?;
            Arc::new(FolderShelf::new(root, cancel))
        }
        Location::S3(bucket) => Arc::new(BucketShelf::s3(bucket, env, limits, cancel)?),
        Location::Gs(bucket) => Arc::new(BucketShelf::gs(bucket, env, limits, cancel)?),
    })
}

/// The error for a file that is longer than anything of its kind.
pub(super) fn too_long(doing: &str, place: &str, most: u64) -> Error {
    let most = crate::text::Bytes(most);
    Error::refused(format_args!("{doing} in {place} failed: it is longer than the {most} that it may have"))
        .hint("somebody else wrote it, or it is damaged: remove it there")
}
