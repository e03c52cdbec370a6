//! Archives as chunks: a stream of selected files into a chunk store, and an index back into a stream, both in one pass.

pub mod collect;
mod cutting;
mod fetch;
pub mod inspect;
pub mod keep;
mod parallel;
mod prefetch;
mod store;
pub mod verify;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use self::fetch::{Fetched, fetch};
pub use self::store::store;
use crate::chunk::{Digest, Sizes};
use crate::chunk_store::{Cache, ChunkStore, Seeds};
use crate::error::{Error, Result};

/// Where chunks go and come from, and how archives are cut.
pub struct Chunking {
    /// The store that artifacts depend on.
    pub store: Arc<dyn ChunkStore>,
    /// Chunks that were fetched before, on this machine.
    pub cache: Option<Cache>,
    /// Archives that were made or fetched before, on this machine.
    pub seeds: Option<Seeds>,
    /// Sizes of chunks of new archives.
    pub sizes: Sizes,
    /// Digest of chunks of new archives.
    pub digest: Digest,
}

/// Opens what an artifact of chunks needs, once, when the first one comes.
pub struct Chunks {
    open: Box<dyn Fn() -> Result<Chunking> + Send + Sync>,
    opened: OnceLock<Arc<Chunking>>,
    opening: Mutex<()>,
}

impl Chunks {
    /// Opens with this when it is asked for.
    pub fn new(open: impl Fn() -> Result<Chunking> + Send + Sync + 'static) -> Self {
        Chunks { open: Box::new(open), opened: OnceLock::new(), opening: Mutex::new(()) }
    }

    /// For work that has nothing to do with chunks.
    pub fn none() -> Self {
        Self::new(|| Err(Error::usage("no chunk store is configured").hint("set MONOFO_DESYNC_STORE")))
    }

    /// What it opens.
    pub fn get(&self) -> Result<Arc<Chunking>> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.opened.get() {
            return Ok(Arc::clone(opened));
        }
        let opened = Arc::new((self.open)()?);
        Ok(Arc::clone(self.opened.get_or_init(|| opened)))
    }
}

/// What became of an archive's chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkCounts {
    /// Chunks of the archive.
    pub total: u64,
    /// Chunks that travelled to or from the store.
    pub moved: u64,
    /// Bytes that they travelled as.
    pub moved_bytes: u64,
    /// Chunks that came from a seed.
    pub from_seed: u64,
    /// Chunks that came from the local cache.
    pub from_cache: u64,
}

#[cfg(test)]
mod look_tests;
