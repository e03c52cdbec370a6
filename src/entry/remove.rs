//! How an entry goes: its metadata first, by a rename, then its content; never while somebody reads or writes it.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::home::list;
use super::lock::{Hold, LOCK_WAIT, is_at, try_lock, wait_lock};
use super::open::{Opened, open, open_plain};
use super::staging::{random_name, remove_tree, sync_dir};
use super::{Home, HomeKind, plain};
use crate::cancel::Cancel;
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// What became of an entry that was to go.
#[derive(Debug)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// It is gone, but not all of its content: that is nobody's now, and the next gc tries again.
    Left(Error),
    /// Somebody reads or writes it.
    InUse,
    /// A second look, under the lock, said that it is to stay.
    Kept,
    /// It was gone already.
    Gone,
}

/// Whether readers hold an entry back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// What is being read stays.
    Spare,
    /// Who reads has it open, and reads on: for payloads, not for files that lie as they are. Who writes is waited for.
    LetFinish,
}

/// Removes an entry: once this returns `Removed`, no new reader gets it. `still` looks again under the lock.
pub fn remove(
    home: &Home,
    name: &Hash,
    readers: Readers,
    still: impl Fn() -> Result<bool>,
    cancel: &Cancel,
) -> Result<Removal> {
    let doing = || format!("cannot remove entry {}", name.short());
    let folder = home.folder(name);
    let metadata_path = home.metadata(name);
    let mut held = open_or_make(&folder)?;
    while let Some(open) = &held {
        match readers {
            Readers::Spare if !try_lock(open, Hold::Exclusive)? => return Ok(Removal::InUse),
            Readers::Spare => {}
            Readers::LetFinish => wait_lock(open, Hold::Exclusive, &folder, LOCK_WAIT, cancel)?,
        }
        if is_at(open, &folder) {
            break;
        }
        held = open_or_make(&folder)?;
    }
    let metadata = match open_plain(&metadata_path) {
        Ok(None) => return Ok(Removal::Gone),
        Ok(metadata) => metadata,
        // A link in its place: damage, which nobody reads.
        Err(error) if error.class() == Class::Damaged => None,
        Err(error) => return Err(error),
    };
    if let Some(metadata) = &metadata {
        if readers == Readers::Spare && !try_lock(metadata, Hold::Exclusive)? {
            return Ok(Removal::InUse);
        }
        if !is_at(metadata, &metadata_path) {
            return Ok(Removal::InUse);
        }
    }
    if !still()? {
        return Ok(Removal::Kept);
    }
    let moved = take_away(home, &metadata_path).or_fail(doing)?;
    drop(metadata);
    let rest = || {
        sync_dir(&home.shard(name))?;
        if held.is_some() || plain::is_in_the_way(&folder) {
            clear_away(home, &folder, held).or_fail(doing)?;
        }
        moved.map_or(Ok(()), |moved| erase(&moved)).or_fail(doing)
    };
    // The entry is gone, whatever becomes of the rest.
    Ok(rest().map_or_else(Removal::Left, |()| Removal::Removed))
}

/// Takes something out of sight, into `tmp`, and says where it lies now. On a full disk a folder may have no room for one more
/// name: then it is erased where it lies, since nothing could ever be freed otherwise.
fn take_away(home: &Home, path: &Path) -> io::Result<Option<PathBuf>> {
    let place = home.tmp().join(random_name());
    match fs::rename(path, &place) {
        Ok(()) => Ok(Some(place)),
        Err(error) if is_full(&error) || !home.tmp().is_dir() => erase(path).map(|()| None),
        Err(error) => Err(error),
    }
}

/// Removes something that the holder of this lock may remove. Whoever waits for the lock does not wait for files to go, if
/// they can be moved first.
pub(super) fn clear_away(home: &Home, path: &Path, held: Option<File>) -> io::Result<()> {
    let Some(moved) = take_away(home, path)? else { return Ok(()) };
    drop(held);
    erase(&moved)
}

/// Removes a file, a link or a tree. That it is gone already is no error.
fn erase(path: &Path) -> io::Result<()> {
    let erased = match fs::symlink_metadata(path) {
        Ok(status) if status.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match erased {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Removes what lies where an entry's content would, without metadata: what a crash left. False when somebody publishes
/// there, or has.
pub fn remove_orphan(home: &Home, name: &Hash) -> Result<bool> {
    let doing = || format!("cannot remove what a crash left of entry {}", name.short());
    let folder = home.folder(name);
    let held = open_folder(&folder)?;
    let free = match &held {
        Some(held) => try_lock(held, Hold::Exclusive)? && is_at(held, &folder),
        None => plain::is_in_the_way(&folder),
    };
    if !free || fs::symlink_metadata(home.metadata(name)).is_ok() {
        return Ok(false);
    }
    clear_away(home, &folder, held).or_fail(doing)?;
    Ok(true)
}

/// Removes what lies beside an entry's payload: a crash while it was being replaced left it. Returns how many; somebody who
/// publishes there now is left alone.
pub fn remove_strays(home: &Home, name: &Hash, dry_run: bool) -> Result<u64> {
    let folder = home.folder(name);
    if list(&folder)?.len() <= 1 {
        return Ok(0);
    }
    let Some(held) = open_folder(&folder)? else { return Ok(0) };
    if !try_lock(&held, Hold::Exclusive)? || !is_at(&held, &folder) {
        return Ok(0);
    }
    let Ok(Some(opened)) = open(home, name) else { return Ok(0) };
    let Some(payload) = opened.record.payload.filter(|_| home.kind() == HomeKind::Cache) else { return Ok(0) };
    let (own, mut removed) = (payload.file(), 0);
    for stray in list(&folder)?.into_iter().filter(|file| *file != own) {
        if !dry_run {
            clear_away(home, &folder.join(&stray), None)
                .or_fail(|| format!("cannot remove what a crash left of entry {}", name.short()))?;
        }
        removed += 1;
    }
    Ok(removed)
}

/// Moves a damaged entry out of sight, unless it was replaced meanwhile: `seen` is what proved to be damaged, or nothing
/// when it could not even be opened. Best effort in a cache that may not be written.
pub fn quarantine(home: &Home, name: &Hash, seen: Option<&Opened>) -> Result<bool> {
    let (folder, path) = (home.folder(name), home.metadata(name));
    let held = open_or_make(&folder)?;
    if let Some(held) = &held
        && !try_lock(held, Hold::Exclusive)?
    {
        return Ok(false);
    }
    let still = match seen {
        Some(opened) => opened.is_current(&path),
        None => open(home, name).is_err(),
    };
    if !still {
        return Ok(false);
    }
    let place = home.quarantine().join(format!("{name}-{}", random_name()));
    let doing = || format!("cannot move the damaged entry {} away", name.short());
    fs::create_dir_all(&place).or_fail(doing)?;
    fs::rename(&path, place.join("metadata.json")).or_fail(doing)?;
    if held.is_some() || plain::is_in_the_way(&folder) {
        fs::rename(&folder, place.join("content")).or_fail(doing)?;
    }
    Ok(true)
}

/// An entry's folder, made when it is missing: with nothing to lock, somebody could publish there meanwhile. `None` when
/// something else is in its place.
fn open_or_make(folder: &Path) -> Result<Option<File>> {
    if let Some(open) = open_folder(folder)? {
        return Ok(Some(open));
    }
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
        Err(error) => return Err(error).or_fail(|| format!("cannot make `{}`", Shown::path(folder))),
    }
    open_folder(folder)
}

fn open_folder(folder: &Path) -> Result<Option<File>> {
    plain::folder(folder).or_fail(|| format!("cannot open `{}`", Shown::path(folder)))
}
