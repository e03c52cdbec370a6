//! Reading an entry: its metadata, locked so that nobody who cleans up takes it away meanwhile.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lock::{Hold, is_at, try_lock};
use super::record::{MOST_BYTES, is_newer};
use super::{Home, HomeKind, Record, plain};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// How often a last use is noted at most.
const NOTED: Duration = Duration::from_secs(60 * 60);

/// How often an entry that is being replaced is tried again.
const TRIES: u32 = 100;

/// An entry held open. While it is, nobody removes it.
#[derive(Debug)]
pub struct Opened {
    /// Its metadata.
    pub record: Record,
    /// Where its content lies: the payload's file, or the folder of files.
    pub content: PathBuf,
    /// The payload, open; `None` in a store.
    pub payload: Option<File>,
    metadata: File,
}

impl Opened {
    /// Whether its metadata is still what this name leads to.
    pub(super) fn is_current(&self, path: &Path) -> bool {
        is_at(&self.metadata, path)
    }

    /// Notes that it was used now, at most once an hour. Best effort: a read-only cache serves as well.
    pub fn touch(&self) {
        let now = SystemTime::now();
        let noted = self.metadata.metadata().and_then(|status| status.modified()).ok();
        let lately = noted.and_then(|noted| now.duration_since(noted).ok()).is_some_and(|age| age < NOTED);
        if !lately {
            self.touch_now();
        }
    }

    /// Notes that it was used now, whenever that was noted last: what was stored again counts as new.
    pub(super) fn touch_now(&self) {
        use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = rustix::fs::futimens(&self.metadata, &Timestamps { last_access, last_modification });
    }
}

/// Opens an entry for reading. `None` when there is none; an error of class `Damaged` when what lies there is not whole, or
/// not what its name says. Waits for nobody.
pub fn open(home: &Home, name: &Hash) -> Result<Option<Opened>> {
    let path = home.metadata(name);
    for _ in 0..TRIES {
        let Some(metadata) = open_plain(&path)? else { return Ok(None) };
        // Whoever holds it is removing it. On a file system without locks, and one that may not be written, nobody is.
        if !try_lock(&metadata, Hold::Shared).unwrap_or(true) {
            if is_at(&metadata, &path) {
                std::thread::sleep(Duration::from_millis(1));
            }
            continue;
        }
        if !is_at(&metadata, &path) {
            continue;
        }
        let text = read(&metadata, &path)?;
        let record = Record::parse(&text, home.kind(), name);
        let record = match record {
            // Left for those who understand it, and a miss for us.
            Err(_) if is_newer(&text, home.kind()) => return Ok(None),
            other => other.map_err(|error| damaged(home, name, error))?,
        };
        let content = match (home.kind(), &record.payload) {
            (HomeKind::Store, _) => home.folder(name),
            (HomeKind::Cache, Some(payload)) => home.folder(name).join(payload.file()),
            (HomeKind::Cache, None) => return Err(damaged(home, name, Error::damaged("it names no payload"))),
        };
        let payload = match &record.payload {
            Some(payload) if home.kind() == HomeKind::Cache => {
                let file = open_plain(&content)?;
                let whole =
                    |file: &File| file.metadata().is_ok_and(|status| status.is_file() && status.len() == payload.bytes);
                if !file.as_ref().is_some_and(whole) {
                    if !is_at(&metadata, &path) {
                        // It was replaced between two looks.
                        continue;
                    }
                    return Err(damaged(home, name, Error::damaged("its payload is missing or not whole")));
                }
                file
            }
            _ => None,
        };
        if home.kind() == HomeKind::Store && !fs::symlink_metadata(&content).is_ok_and(|status| status.is_dir()) {
            if !is_at(&metadata, &path) {
                continue;
            }
            return Err(damaged(home, name, Error::damaged("its files are missing")));
        }
        return Ok(Some(Opened { record, content, payload, metadata }));
    }
    Ok(None)
}

/// What is known of an entry without opening it: for lists, and for deciding what goes.
#[derive(Debug)]
pub struct Peeked {
    /// Its metadata; `None` for what is damaged or of a later version.
    pub record: Option<Record>,
    /// Whether a later version wrote it.
    pub newer: bool,
    /// When it was used last, seconds since 1970.
    pub used: u64,
    /// Status of the metadata's file.
    pub status: fs::Metadata,
}

/// Looks at an entry's metadata. `None` when it is gone.
pub fn peek(home: &Home, name: &Hash) -> Result<Option<Peeked>> {
    let path = home.metadata(name);
    let file = match open_plain(&path) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(error) if error.class() == Class::Damaged => {
            let status = fs::symlink_metadata(&path).or_fail(|| format!("cannot read `{}`", Shown::path(&path)))?;
            return Ok(Some(Peeked { record: None, newer: false, used: 0, status }));
        }
        Err(error) => return Err(error),
    };
    let status = file.metadata().or_fail(|| format!("cannot read `{}`", Shown::path(&path)))?;
    if !status.is_file() {
        return Ok(Some(Peeked { record: None, newer: false, used: 0, status }));
    }
    let text = read(&file, &path)?;
    let record = Record::parse_lean(&text, home.kind(), name).ok();
    let newer = record.is_none() && is_newer(&text, home.kind());
    let used = status.modified().map_or(0, super::record::seconds);
    Ok(Some(Peeked { record, newer, used, status }))
}

/// Opens a file; neither a link nor a FIFO in its place is followed or waited for. `None` when there is no file.
pub(super) fn open_plain(path: &Path) -> Result<Option<File>> {
    match plain::options().read(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if plain::is_link(&error) => {
            Err(Error::damaged(format_args!("`{}` is a link, and no entry has one there", Shown::path(path))))
        }
        Err(error) => Err(error).or_fail(|| format!("cannot open `{}`", Shown::path(path))),
    }
}

fn read(file: &File, path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::with_capacity(4096);
    match file.take(MOST_BYTES + 1).read_to_end(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            Err(Error::damaged(format_args!("`{}` is a folder", Shown::path(path))))
        }
        Err(error) => Err(error).or_fail(|| format!("cannot read `{}`", Shown::path(path))),
    }
}

/// An entry's error, with its name in front.
fn damaged(home: &Home, name: &Hash, error: Error) -> Error {
    let named = Error::new(Class::Damaged, format_args!("{} entry {} is damaged", home.kind().word(), name.short()));
    named.caused_by(error).hint("build and store it again")
}
