//! What files take on disk, each counted once however many names it has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::engine::parts::in_parts;
use crate::error::{IoContext, Result};
use crate::text::Shown;

/// Bytes that a file takes on disk.
pub fn disk(status: &fs::Metadata) -> u64 {
    status.blocks() * 512
}

/// Files of trees, each inode once: its bytes on disk, how many names it has, and how many of these were met.
#[derive(Debug, Default)]
pub struct Inodes(HashMap<(u64, u64), Inode>);

#[derive(Debug)]
struct Inode {
    disk: u64,
    names: u64,
    met: u64,
}

impl Inodes {
    /// Everything at or below these paths, looked at with several threads.
    pub fn of(paths: &[PathBuf]) -> Result<Inodes> {
        let look = |part: &[PathBuf]| {
            let mut inodes = Inodes::default();
            part.iter().try_for_each(|path| inodes.add(path)).map(|()| inodes)
        };
        let mut all = Inodes::default();
        for part in in_parts(paths, look) {
            all.merge(part?);
        }
        Ok(all)
    }

    /// Everything in a cache or store, but what lies two folders deep and is passed by its name.
    pub fn of_home(root: &Path, is_passed: impl Fn(&OsStr) -> bool) -> Result<Inodes> {
        // What vanishes meanwhile is passed over.
        let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let (mut outer, mut inner) = (Inodes::default(), Vec::new());
        outer.add_only(root);
        for entry in inside(root) {
            let path = entry.path();
            outer.add_only(&path);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                inner.extend(inside(&path).filter(|entry| !is_passed(&entry.file_name())).map(|entry| entry.path()));
            }
        }
        outer.merge(Inodes::of(&inner)?);
        Ok(outer)
    }

    /// Adds everything at or below a path. What vanishes meanwhile is passed over.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let Ok(status) = fs::symlink_metadata(path) else { return Ok(()) };
        let inode = Inode { disk: disk(&status), names: status.nlink(), met: 0 };
        let inode = self.0.entry((status.dev(), status.ino())).or_insert(inode);
        inode.met += 1;
        if status.is_dir() {
            // The number of a folder's names counts its folders.
            inode.names = inode.met;
            for entry in fs::read_dir(path).into_iter().flatten() {
                let entry = entry.or_fail(|| format!("cannot read `{}`", Shown::path(path)))?;
                self.add(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Adds one file or folder, without what is in it.
    pub fn add_only(&mut self, path: &Path) {
        if let Ok(status) = fs::symlink_metadata(path) {
            let inode = Inode { disk: disk(&status), names: 1, met: 0 };
            self.0.entry((status.dev(), status.ino())).or_insert(inode).met += 1;
        }
    }

    /// Adds what others met.
    pub fn merge(&mut self, other: Inodes) {
        for (inode, met) in other.0 {
            match self.0.entry(inode) {
                Entry::Vacant(place) => drop(place.insert(met)),
                Entry::Occupied(mut place) => {
                    let known = place.get_mut();
                    known.met += met.met;
                    // What went before took names with it.
                    known.names = known.names.max(met.names);
                }
            }
        }
    }

    /// Bytes on disk of all.
    pub fn disk(&self) -> u64 {
        self.0.values().map(|inode| inode.disk).sum()
    }

    /// Bytes on disk that come free once all names that were met are gone.
    pub fn freed(&self) -> u64 {
        self.0.values().filter(|inode| inode.met >= inode.names).map(|inode| inode.disk).sum()
    }

    /// Bytes on disk, were every name a file of its own.
    pub fn unshared(&self) -> u64 {
        self.0.values().map(|inode| inode.disk * inode.met).sum()
    }
}
