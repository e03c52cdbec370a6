//! What a store has already, by content.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::hash::{Hash, LineKind, Listing};

/// Files that are in the store already, by what is in them.
#[derive(Debug, Default)]
pub struct Sharing {
    files: Mutex<HashMap<(Hash, bool), PathBuf>>,
    sizes: HashSet<u64>,
    /// Bytes that were shared.
    shared: AtomicU64,
}

impl Sharing {
    /// Adds the files of an entry whose listing is known.
    pub fn add(&mut self, folder: &Path, listing: &Listing) {
        let files = self.files.get_mut().unwrap_or_else(PoisonError::into_inner);
        for line in listing.lines() {
            let executable = line.kind == LineKind::Executable;
            if line.size > 0 && (executable || line.kind == LineKind::File) {
                let path = || folder.join(std::ffi::OsStr::from_bytes(&line.path));
                files.entry((line.hash, executable)).or_insert_with(path);
                self.sizes.insert(line.size);
            }
        }
    }

    /// How many files are known.
    pub fn known(&self) -> usize {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Bytes of files that were shared.
    pub fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, hash: Hash, executable: bool) -> Option<PathBuf> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&(hash, executable)).cloned()
    }

    pub(super) fn note(&self, hash: Hash, executable: bool, path: PathBuf) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert((hash, executable), path);
    }

    /// Whether a file of this size may be known.
    pub(super) fn may_have(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }

    /// Counts a file that was shared.
    pub(super) fn count(&self, size: u64) {
        self.shared.fetch_add(size, Ordering::Relaxed);
    }
}
