//! All entries of a cache or store at once: for lists, sums and for deciding what goes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use crate::entry::{Home, Peeked, Record, peek};
use crate::error::{Error, IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// An entry that is understood.
#[derive(Debug)]
pub struct Entry {
    /// What it is filed under.
    pub name: Hash,
    /// Its metadata, without what is not known here.
    pub record: Record,
    /// When it was used last, seconds since 1970.
    pub used: u64,
    /// The same to the nanosecond, to tell entries of one second apart.
    pub changed: SystemTime,
    /// Whether its content is there, as far as a look tells.
    pub whole: bool,
    /// Bytes on disk of metadata, folder and payload; of a store, of the metadata and the folder alone.
    pub disk: u64,
}

/// What lies in a cache or store.
#[derive(Debug, Default)]
pub struct Survey {
    /// Entries, sorted by name.
    pub entries: Vec<Entry>,
    /// Names whose metadata is damaged.
    pub damaged: Vec<Hash>,
    /// Names of entries that a later version wrote.
    pub newer: Vec<Hash>,
    /// Folders without metadata.
    pub orphans: Vec<Hash>,
}

/// Looks at all metadata, with several threads. Reads no content. An error when an entry's cannot be read.
pub fn survey(home: &Home) -> Result<Survey> {
    let (found, unreadable) = look_at_all(home)?;
    unreadable.map_or(Ok(found), Err)
}

/// The same for those who do with what can be read.
pub fn survey_readable(home: &Home) -> Result<Survey> {
    let (found, unreadable) = look_at_all(home)?;
    if let Some(error) = unreadable {
        tracing::debug!(error = %error.chain(), "an entry cannot be read, and is passed over");
    }
    Ok(found)
}

/// What can be read, and the first error of the rest.
fn look_at_all(home: &Home) -> Result<(Survey, Option<Error>)> {
    let names = home.names()?;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = names.entries.len().div_ceil(threads).max(1);
    let looked = thread::scope(|scope| {
        let look = |part: &[Hash]| part.iter().map(|name| (*name, look(home, name))).collect::<Vec<_>>();
        let parts: Vec<_> = names.entries.chunks(share).map(|part| scope.spawn(move || look(part))).collect();
        let join = |part: thread::ScopedJoinHandle<'_, Vec<_>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().map(join).collect::<Vec<_>>()
    });
    let (mut found, mut unreadable) = (Survey { orphans: names.orphans, ..Survey::default() }, None);
    for (name, looked) in looked.into_iter().flatten() {
        match looked {
            Ok(Looked::Gone) => {}
            Ok(Looked::Newer) => found.newer.push(name),
            Ok(Looked::Damaged) => found.damaged.push(name),
            Ok(Looked::Entry(entry)) => found.entries.push(*entry),
            Err(error) => drop(unreadable.get_or_insert(error)),
        }
    }
    Ok((found, unreadable))
}

/// What a name turned out to be.
enum Looked {
    Gone,
    Newer,
    Damaged,
    Entry(Box<Entry>),
}

fn look(home: &Home, name: &Hash) -> Result<Looked> {
    let (record, used, status) = match peek(home, name)? {
        None => return Ok(Looked::Gone),
        Some(Peeked { newer: true, .. }) => return Ok(Looked::Newer),
        Some(Peeked { record: None, .. }) => return Ok(Looked::Damaged),
        Some(Peeked { record: Some(record), used, status, .. }) => (record.slim(), used, status),
    };
    let changed = status.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let folder = home.folder(name);
    let content = fs::symlink_metadata(&folder);
    let mut taken = disk(&status) + content.as_ref().map_or(0, disk);
    let whole = match &record.payload {
        None => content.is_ok_and(|content| content.is_dir()),
        Some(payload) => match fs::symlink_metadata(folder.join(payload.file())) {
            Ok(file) => {
                taken += disk(&file);
                file.is_file() && file.len() == payload.bytes
            }
            Err(_) => false,
        },
    };
    Ok(Looked::Entry(Box::new(Entry { name: *name, record, used, changed, whole, disk: taken })))
}

/// Bytes on disk of everything in a cache, as `du` counts them. What entries are made of was met already; what else lies there is
/// looked at.
pub fn disk_of_all(cache: &Home, found: &Survey) -> Result<u64> {
    let mut rest = Inodes::default();
    rest.add_only(cache.root());
    let plain = |entry: &&Entry| entry.whole && holds_one_name(&cache.folder(&entry.name));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = found.entries.len().div_ceil(threads).max(1);
    let met: HashMap<Hash, u64> = thread::scope(|scope| {
        let look =
            |part: &[Entry]| -> Vec<_> { part.iter().filter(plain).map(|entry| (entry.name, entry.disk)).collect() };
        let parts: Vec<_> = found.entries.chunks(share).map(|part| scope.spawn(move || look(part))).collect();
        let join = |part: thread::ScopedJoinHandle<'_, Vec<_>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    });
    let is_met = |name: &std::ffi::OsStr| {
        let name = name.to_str().unwrap_or_default();
        Hash::parse(name.strip_suffix(".metadata.json").unwrap_or(name)).is_some_and(|hash| met.contains_key(&hash))
    };
    // What vanishes meanwhile is passed over.
    let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in inside(cache.root()) {
        let path = entry.path();
        if entry.file_name().len() != 2 {
            rest.add(&path)?;
            continue;
        }
        rest.add_only(&path);
        for inner in inside(&path).filter(|inner| !is_met(&inner.file_name())) {
            rest.add(&inner.path())?;
        }
    }
    Ok(rest.disk() + met.values().sum::<u64>())
}

/// Whether a folder holds a single name.
fn holds_one_name(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|names| names.take(2).count() == 1)
}

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
                std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(met)),
                std::collections::hash_map::Entry::Occupied(mut place) => {
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
