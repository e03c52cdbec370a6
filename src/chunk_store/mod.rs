//! Where chunks live: a folder, a bucket, a web server; several of them in order; a local cache in front.
//!
//! ```text
//! <store>/<first 4 digits of the id>/<id>.cacnk      compressed; without the suffix: as it is (read only)
//! ```
//!
//! A store knows nothing of archives, and nothing of whether a chunk is right: whoever reads one checks it against its id.
//! Existence has three answers: there, not there, and an error, which is none of both. A chunk appears whole or not at all,
//! and writers of the same chunk do not disturb each other. The interface blocks; a store says how many calls at a time it
//! is worth making.

mod bucket;
mod cache;
mod folder;
mod place;
mod seed;
mod several;
mod tidy;
mod web;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

pub use self::bucket::BucketStore;
pub use self::cache::Cache;
pub use self::folder::FolderStore;
pub use self::place::open;
pub use self::seed::{NewSeed, Seed, Seeds};
pub use self::several::{Failover, Ordered};
pub use self::web::HttpStore;
use crate::chunk::{ChunkId, Form};
use crate::error::Result;

/// A chunk as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How to take the bytes.
    pub form: Form,
    /// The bytes, unchecked.
    pub bytes: Vec<u8>,
}

/// What a store tells about a chunk that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Bytes that it takes there.
    pub len: u64,
    /// How long ago it was written, or used last where a store can note that.
    pub age: Duration,
}

/// A place for chunks.
pub trait ChunkStore: Send + Sync {
    /// The place, for messages; never a credential.
    fn place(&self) -> String;

    /// A chunk as it is stored, unchecked; `None` when it is not there. Blocks.
    fn get(&self, id: &ChunkId) -> Result<Option<Stored>>;

    /// Whether a chunk is there, without reading it. What is there and empty counts as not there: no chunk is. Blocks.
    fn about(&self, id: &ChunkId) -> Result<Option<About>>;

    /// Stores a compressed chunk, also in place of one that is there. Blocks until others can read it.
    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()>;

    /// Makes sure that a clean-up takes a chunk that is there for one in use; false when the store cannot note that and
    /// the chunk has to be stored again instead.
    fn keep_alive(&self, id: &ChunkId) -> Result<bool>;

    /// Takes a chunk that proved to be wrong out of the way, so that the next upload stores it again. Returns what became
    /// of it, for a message.
    fn discard(&self, id: &ChunkId) -> Result<&'static str>;

    /// All chunks, where finding out costs less than asking for so many one by one; else `None`.
    fn survey(&self, chunks: usize) -> Result<Option<HashMap<ChunkId, About>>>;

    /// Calls back with every chunk and leftover, in no order. Blocks.
    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()>;

    /// Removes what [`ChunkStore::list`] listed, unless it has been used since. Returns how many are gone. Blocks.
    fn remove(&self, listed: &[Listed], older_than: Duration) -> Result<u64>;

    /// How many calls at a time make sense.
    fn at_once(&self) -> usize;

    /// Whether this is a folder of this machine, where reading costs no more than from a cache.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether this is that folder.
    fn is_at(&self, _folder: &Path) -> bool {
        false
    }
}

/// Something in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The chunk; `None` for a temporary file of a writer that ended early.
    pub id: Option<ChunkId>,
    /// Its place, relative to the store.
    pub name: String,
    /// What the store tells about it.
    pub about: About,
}

/// The place of a chunk, relative to its store.
pub(crate) fn name_of(id: &ChunkId, form: Form) -> String {
    let hex = id.to_string();
    let suffix = match form {
        Form::Compressed => ".cacnk",
        Form::Plain => "",
    };
    format!("{}/{hex}{suffix}", &hex[..4])
}

/// The chunk that a place is of, if it is the place of one.
pub(crate) fn id_of(name: &str) -> Option<(ChunkId, Form)> {
    let (folder, file) = name.split_once('/')?;
    let (hex, form) = match file.strip_suffix(".cacnk") {
        Some(hex) => (hex, Form::Compressed),
        None => (file, Form::Plain),
    };
    let id = ChunkId::parse(hex)?;
    (hex.len() > 4 && &hex[..4] == folder).then_some((id, form))
}
