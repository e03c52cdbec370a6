//! Chunks that were fetched before: a folder of this machine in front of a distant store.
//!
//! Nothing depends on it. What is wrong in there is removed and fetched again, and when it cannot be written, work goes on
//! without; that is said once. It holds at most so many bytes, those used last.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::tidy::{self, Kept};
use super::{ChunkStore, FolderStore, Stored};
use crate::cancel::Cancel;
use crate::chunk::{ChunkId, Form};
use crate::error::Error;
use crate::text::Shown;

/// What was used this long ago is marked as used again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Chunks in a folder of this machine.
pub struct Cache {
    store: FolderStore,
    folder: PathBuf,
    most: u64,
    broken: AtomicBool,
    why: Mutex<Option<Error>>,
}

impl Cache {
    /// A cache in this folder, of at most so many bytes.
    pub fn new(folder: impl Into<PathBuf>, most: u64, cancel: Cancel) -> Self {
        let folder = folder.into();
        let store = FolderStore::new(&folder, cancel);
        Cache { store, folder, most, broken: AtomicBool::new(false), why: Mutex::default() }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it seems to have a chunk.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.store.about(id).is_ok_and(|about| about.is_some())
    }

    /// A chunk, unchecked. What cannot be read is as good as not there.
    pub fn get(&self, id: &ChunkId) -> Option<Stored> {
        let stored = self.store.get(id).ok().flatten()?;
        if self.store.about(id).is_ok_and(|about| about.is_some_and(|about| about.age > STALE)) {
            // Without it, the chunk is only removed earlier.
            let _ = self.store.keep_alive(id);
        }
        Some(stored)
    }

    /// Keeps a chunk that has been checked. The first time that fails, the cache is given up for this run.
    pub fn put(&self, id: &ChunkId, stored: &Stored) {
        if stored.form != Form::Compressed || self.broken.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.store.put(id, &stored.bytes) {
            self.broken.store(true, Ordering::Relaxed);
            self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Removes a chunk that is wrong.
    pub fn remove(&self, id: &ChunkId) {
        let _ = self.store.discard(id);
    }

    /// Says what went wrong, and makes room where there is too much, at most once a day.
    pub fn tidy(&self) -> Option<String> {
        if let Some(error) = self.why.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Some(format!("chunks are not kept in the local cache: {}", error.chain()));
        }
        if !tidy::due(&self.folder) {
            return None;
        }
        let mut kept = Vec::new();
        let listed = self.store.list(&mut |listed| {
            let path = self.folder.join(&listed.name);
            kept.push(Kept { paths: vec![path], len: listed.about.len, age: listed.about.age });
            Ok(())
        });
        match listed {
            Ok(()) => {
                tidy::shrink(kept, self.most);
                None
            }
            Err(error) => {
                Some(format!("the local cache in `{}` was not tidied: {}", Shown::path(&self.folder), error.chain()))
            }
        }
    }
}
