//! How an entry appears: content first, then its metadata by one rename, each made durable before the next.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::lock::{Hold, LOCK_WAIT, is_at, wait_lock};
use super::staging::{random_name, sync_dir, sync_file};
use super::{Home, HomeKind, Record, Staging, open, peek, plain};
use crate::cancel::Cancel;
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// What to do with a whole entry of the same name. In a store it stays: the name says what is in it.
#[derive(Clone, Copy)]
pub enum Existing<'a> {
    /// Replace it: this one was built just now.
    Replace,
    /// Keep it: this one comes from elsewhere.
    Keep,
    /// Replace it if this says so of it, who is asked while nobody else can change it.
    ReplaceIf(&'a dyn Fn(&Record) -> bool),
}

impl Existing<'_> {
    fn gives_way(self, there: &Record) -> bool {
        match self {
            Existing::Replace => true,
            Existing::Keep => false,
            Existing::ReplaceIf(says) => says(there),
        }
    }
}

/// What became of an entry that was to appear.
#[derive(Debug)]
pub enum Published {
    /// There was none of this name.
    New,
    /// One was there, and stays. Its metadata: its payload may be compressed in another way and, where it was to be kept, its
    /// output may be another one.
    Same(Box<Record>),
    /// One with another output was there; it was replaced. Its metadata.
    Replaced(Box<Record>),
}

/// Publishes an entry whose content lies at `content` in the staging folder, and is durable: a payload's file, or a folder
/// of files. Blocks, and waits for another process that publishes the same entry.
pub fn publish(
    home: &Home,
    staging: &Staging,
    record: &Record,
    content: &Path,
    existing: Existing<'_>,
    cancel: &Cancel,
) -> Result<Published> {
    let name = record.name(home.kind());
    // What could not be read again is not stored.
    Record::parse(&record.text(home.kind()), home.kind(), &name)
        .map_err(|error| error.context("its metadata cannot be written").with_class(Class::Refused))?;
    if peek(home, &name)?.is_some_and(|peeked| peeked.newer) {
        return Err(Error::refused(format_args!("a later version of monofo wrote entry {}", name.short()))
            .hint("use that version; this one neither reads nor replaces it"));
    }
    make_durable_shard(home, &name)?;
    match home.kind() {
        HomeKind::Cache => publish_payload(home, staging, record, &name, content, existing, cancel),
        HomeKind::Store => publish_tree(home, staging, record, &name, content, cancel),
    }
}

fn publish_payload(
    home: &Home,
    staging: &Staging,
    record: &Record,
    name: &Hash,
    content: &Path,
    existing: Existing<'_>,
    cancel: &Cancel,
) -> Result<Published> {
    let folder = home.folder(name);
    let doing = || format!("cannot publish in `{}`", Shown::path(&folder));
    let _held = hold_folder(&folder, staging, cancel)?;
    let before = match open(home, name) {
        Err(error) if error.class() != Class::Damaged => return Err(error),
        Ok(Some(there)) => {
            let before = &there.record;
            let same = before.output == record.output && before.payload == record.payload;
            if (same && before.scope == record.scope) || !existing.gives_way(before) {
                if let Some(payload) = record.payload.filter(|_| same) {
                    // What lies there may have rotted; this was written just now, and is the same but for that.
                    fs::rename(content, folder.join(payload.file())).or_fail(doing)?;
                    sync_dir(&folder)?;
                }
                there.touch_now();
                // Whoever published it may not have come so far.
                sync_dir(&home.shard(name))?;
                return Ok(Published::Same(Box::new(there.record)));
            }
            Some(there.record)
        }
        // What is damaged is replaced like what is not there.
        Ok(None) | Err(_) => None,
    };
    let Some(payload) = &record.payload else { return Err(Error::failed("an entry of a cache has a payload")) };
    let file = payload.file();
    let place = folder.join(&file);
    if place.is_dir() {
        // Damage: a payload is a file.
        fs::rename(&place, staging.join("in-the-way")).or_fail(doing)?;
    }
    fs::rename(content, &place).or_fail(doing)?;
    sync_dir(&folder)?;
    commit(home, staging, record, name)?;
    for other in super::home::list(&folder)? {
        if other != file {
            // Moved first: whoever has it open reads on, and a folder in its place goes as well.
            fs::rename(folder.join(&other), staging.join(&random_name())).or_fail(doing)?;
        }
    }
    Ok(match before {
        None => Published::New,
        Some(before) => Published::Replaced(Box::new(before)),
    })
}

fn publish_tree(
    home: &Home,
    staging: &Staging,
    record: &Record,
    name: &Hash,
    content: &Path,
    cancel: &Cancel,
) -> Result<Published> {
    let folder = home.folder(name);
    let doing = || format!("cannot publish `{}`", Shown::path(&folder));
    // Held from before it has its name: nobody takes a tree for debris that is about to be an entry.
    let held = File::open(content).or_fail(doing)?;
    wait_lock(&held, Hold::Exclusive, content, LOCK_WAIT, cancel)?;
    loop {
        cancel.check()?;
        match rustix::fs::renameat_with(CWD, content, CWD, &folder, RenameFlags::NOREPLACE) {
            Ok(()) => break,
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno).or_fail(doing),
        }
        // Somebody publishes the same, or was killed while doing so, or has done it.
        let Some(there) = plain::folder(&folder).or_fail(doing)? else {
            put_aside(&folder, staging)?;
            continue;
        };
        wait_lock(&there, Hold::Exclusive, &folder, LOCK_WAIT, cancel)?;
        if !is_at(&there, &folder) {
            continue;
        }
        if let Ok(Some(opened)) = open(home, name) {
            opened.touch_now();
            // Whoever published it may not have come so far.
            sync_dir(&home.shard(name))?;
            return Ok(Published::Same(Box::new(opened.record)));
        }
        remove_metadata(home, name, staging)?;
        fs::rename(&folder, staging.join(&random_name())).or_fail(doing)?;
    }
    sync_dir(&home.shard(name))?;
    commit(home, staging, record, name)?;
    Ok(Published::New)
}

/// The rename that makes an entry visible.
fn commit(home: &Home, staging: &Staging, record: &Record, name: &Hash) -> Result<()> {
    let doing = || format!("cannot write the metadata of {}", name.short());
    let staged = staging.join("metadata.json");
    let mut file = File::options().write(true).create(true).truncate(true).open(&staged).or_fail(doing)?;
    file.write_all(&record.text(home.kind())).or_fail(doing)?;
    file.set_permissions(Permissions::from_mode(0o444)).or_fail(doing)?;
    sync_file(&file)?;
    let place = home.metadata(name);
    if place.is_dir() {
        fs::rename(&place, staging.join(&random_name())).or_fail(doing)?;
    }
    fs::rename(&staged, &place).or_fail(doing)?;
    sync_dir(&home.shard(name))
}

/// Takes metadata out of the way that names nothing whole.
fn remove_metadata(home: &Home, name: &Hash, staging: &Staging) -> Result<()> {
    match fs::rename(home.metadata(name), staging.join(&random_name())) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.or_fail(|| format!("cannot replace the metadata of {}", name.short())),
    }
}

/// Makes an entry's folder, and holds it against everybody who would change it.
fn hold_folder(folder: &Path, staging: &Staging, cancel: &Cancel) -> Result<File> {
    let doing = || format!("cannot make `{}`", Shown::path(folder));
    loop {
        cancel.check()?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.or_fail(doing)?,
        }
        // Somebody who cleans up may have been quicker.
        let Some(held) = plain::folder(folder).or_fail(doing)? else {
            put_aside(folder, staging)?;
            continue;
        };
        wait_lock(&held, Hold::Exclusive, folder, LOCK_WAIT, cancel)?;
        if is_at(&held, folder) {
            return Ok(held);
        }
    }
}

/// Moves what is in the place of an entry's folder, and is none: damage.
fn put_aside(folder: &Path, staging: &Staging) -> Result<()> {
    if plain::is_in_the_way(folder) {
        fs::rename(folder, staging.join(&random_name()))
            .or_fail(|| format!("cannot move `{}` out of the way", Shown::path(folder)))?;
    }
    Ok(())
}

fn make_durable_shard(home: &Home, name: &Hash) -> Result<()> {
    let shard: PathBuf = home.shard(name);
    match fs::create_dir(&shard) {
        // Also when somebody else made it, perhaps just now.
        Ok(()) => sync_dir(home.root()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => sync_dir(home.root()),
        Err(error) => Err(error).or_fail(|| format!("cannot make `{}`", Shown::path(&shard))),
    }
}
