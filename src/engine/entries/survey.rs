//! All entries of a cache or store at once: for lists, sums and for deciding what goes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::inodes::{Inodes, Which, disk};
use crate::engine::parts::in_parts;
use crate::entry::{Home, Peeked, Record, peek};
use crate::error::{Error, Result};
use crate::hash::Hash;

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
    let look_at = |part: &[Hash]| part.iter().map(|name| (*name, look(home, name))).collect::<Vec<_>>();
    let looked = in_parts(&names.entries, look_at);
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
/// looked at. With it, what the user should know.
pub fn disk_of_all(cache: &Home, found: &Survey) -> Result<(u64, Option<String>)> {
    let plain = |entry: &&Entry| entry.whole && holds_one_name(&cache.folder(&entry.name));
    let look = |part: &[Entry]| part.iter().filter(plain).map(|entry| (entry.name, entry.disk)).collect::<Vec<_>>();
    let met: HashMap<Hash, u64> = in_parts(&found.entries, look).into_iter().flatten().collect();
    let which = |name: &OsStr| {
        let name = name.to_str().unwrap_or_default();
        let hash = Hash::parse(name.strip_suffix(".metadata.json").unwrap_or(name));
        if hash.is_some_and(|hash| met.contains_key(&hash)) { Which::Passed } else { Which::Counted }
    };
    let rest = Inodes::of_home(cache.root(), which)?;
    Ok((rest.all.disk() + met.values().sum::<u64>(), rest.warning()))
}

/// Whether a folder holds a single name.
fn holds_one_name(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|names| names.take(2).count() == 1)
}
