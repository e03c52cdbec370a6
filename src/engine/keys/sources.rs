//! Files to the listing that a key covers: their paths, contents and executable bits, hashed by several threads.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::collect::walk::{IgnoreFiles, NodeKind, Visited, Walk, walk, will_be_ignored};
use crate::collect::{self, Globs, leads_out};
use crate::engine::parts::in_parts;
use crate::entry::StatCache;
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Hasher, Line, LineKind, Listing, ListingKind};
use crate::key::Component;
use crate::text::Shown;

/// Never a source, at any depth: histories, and what we keep ourselves.
const NEVER: [&[u8]; 7] = [b".git", b".hg", b".svn", b".jj", b".monofo", b".meta-cache", b".meta-store"];

/// What hashing files needs.
#[derive(Clone, Copy)]
pub(super) struct Hashing<'a> {
    /// Folders of cache and store, absolute.
    pub(super) own: &'a [PathBuf],
    pub(super) known: &'a StatCache,
    pub(super) cancel: &'a Cancel,
    /// Whether what a link reaches counts also where it lies in the same folder: it need not be named itself.
    pub(super) follow: bool,
}

/// A listing, and what was found out beside it.
pub(super) struct Hashed {
    pub(super) listing: Listing,
    /// When the newest file was changed, seconds since 1970.
    pub(super) newest: i64,
    pub(super) warnings: Vec<String>,
    /// Globs that match nothing.
    pub(super) unmatched: Vec<String>,
}

enum Met {
    Lines(Vec<Line>, i64),
    Special(Vec<u8>),
}

/// The sources of a component in its folder. Class `NotThere` when that is missing.
pub(super) fn sources(folder: &Path, component: &Component, hashing: Hashing<'_>) -> Result<Hashed> {
    let exclude = Globs::new(&[], &component.exclude)?;
    let mut own = own_paths(folder, hashing.own);
    own.extend(component.outputs.as_ref().map(|outputs| plain(outputs)));
    let leave_out = |path: &[u8]| is_never(path) || own.contains(path) || exclude.is_excluded(path);
    let plan = Walk {
        root: folder,
        ignore_files: IgnoreFiles::Honour,
        leave_out: &leave_out,
        enter: None,
        cancel: hashing.cancel,
    };
    let met = walk(&plan, |visited| meet(folder, visited, hashing))?;
    Ok(collected(met))
}

/// Whether a file that is made in a component's folder, at this path below it, will be a source of that component.
pub fn will_be_source(folder: &Path, component: &Component, path: &Path) -> Result<bool> {
    let exclude = Globs::new(&[], &component.exclude)?;
    let outputs = component.outputs.as_ref().map(|outputs| plain(outputs));
    let left_out = |above: &Path| {
        let above = plain(above);
        is_never(&above) || outputs.as_ref() == Some(&above) || exclude.is_excluded(&above)
    };
    let mut below = path.ancestors().filter(|above| !above.as_os_str().is_empty());
    Ok(!below.any(left_out) && !will_be_ignored(folder, &plain(path)))
}

/// Files that globs name, below a root.
pub(super) fn named(root: &Path, globs: &[String], hashing: Hashing<'_>) -> Result<Hashed> {
    let patterns = Globs::new(globs, &[])?;
    if !patterns.selects() {
        return Err(Error::usage("no --input names a file").hint("give at least one glob that does not begin with `!`"));
    }
    let source = collect::Source { root, globs: &patterns, list: None, null_separated: false };
    let selected = collect::select(source, hashing.cancel)?;
    let own = own_paths(root, hashing.own);
    let folder = File::open(root).or_fail(|| format!("cannot open `{}`", Shown::path(root)))?;
    let is_own = |path: &[u8]| {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        above.chain([path]).any(|above| is_never(above) || own.contains(above))
    };
    let names: Vec<&[u8]> = selected
        .files
        .entries()
        .iter()
        .filter(|entry| entry.kind != collect::Kind::Dir)
        .map(|entry| selected.files.name(entry))
        .filter(|name| !is_own(name))
        .collect();
    let look = |part: &[&[u8]]| -> Result<Vec<Met>> {
        let mut met = Vec::new();
        for name in part {
            hashing.cancel.check()?;
            met.extend(meet_named(root, folder.as_fd(), name, hashing)?);
        }
        Ok(met)
    };
    let met = in_parts(&names, look).into_iter().collect::<Result<Vec<_>>>()?;
    let mut hashed = collected(met.into_iter().flatten().collect());
    hashed.warnings.extend(selected.warnings);
    hashed.unmatched = selected.unmatched;
    Ok(hashed)
}

fn collected(met: Vec<Met>) -> Hashed {
    let (mut lines, mut special, mut newest) = (Vec::with_capacity(met.len()), Vec::new(), i64::MIN);
    for one in met {
        match one {
            Met::Lines(found, changed) => {
                newest = newest.max(changed);
                lines.extend(found);
            }
            Met::Special(path) => special.push(path),
        }
    }
    let listing = Listing::new(ListingKind::Source, lines);
    let mut warnings = collect::special_warning(special);
    let folders = listing.lines().iter().filter(|line| line.kind == LineKind::TargetDirectory);
    let folders: Vec<_> = folders.map(|line| format!("`{}`", Shown(&line.path))).take(4).collect();
    if !folders.is_empty() {
        let more = if folders.len() > 3 { ", …" } else { "" };
        warnings.push(format!(
            "a link to a folder outside: what lies there is not part of the key: {}{more}",
            folders[..folders.len().min(3)].join(", ")
        ));
    }
    Hashed { listing, newest, warnings, unmatched: Vec::new() }
}

fn is_never(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    NEVER.contains(&name) || name.starts_with(b".monofo-")
}

/// Those of our own folders that lie below a folder, relative to it.
fn own_paths(folder: &Path, own: &[PathBuf]) -> BTreeSet<Vec<u8>> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let below = |path: &PathBuf| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        path.strip_prefix(&folder).ok().map(plain)
    };
    own.iter().filter_map(below).filter(|path| !path.is_empty()).collect()
}

/// A relative path without `.` parts.
fn plain(path: &Path) -> Vec<u8> {
    let parts = path.components().filter(|part| *part != std::path::Component::CurDir);
    parts.collect::<PathBuf>().into_os_string().into_encoded_bytes()
}

fn meet_named(root: &Path, folder: BorrowedFd<'_>, path: &[u8], hashing: Hashing<'_>) -> Result<Option<Met>> {
    let stat = rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| unreadable(path, errno))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => NodeKind::File,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Directory => return Err(changed(path)),
        _ => NodeKind::Special,
    };
    meet(root, &Visited { path, folder, name: path, kind, stat: &stat }, hashing)
}

fn meet(root: &Path, visited: &Visited<'_>, hashing: Hashing<'_>) -> Result<Option<Met>> {
    let path = visited.path.to_vec();
    Ok(Some(match visited.kind {
        NodeKind::Dir { .. } => return Ok(None),
        NodeKind::Special => Met::Special(path),
        NodeKind::File => {
            let (hash, size) = digest(visited, hashing.known)?;
            let kind = if visited.stat.st_mode & 0o100 != 0 { LineKind::Executable } else { LineKind::File };
            Met::Lines(vec![Line { kind, hash, size, path }], visited.stat.st_mtime)
        }
        NodeKind::Symlink => {
            let text = collect::link_text(visited)?;
            let target = (hashing.follow || leads_out(&path, &text)).then(|| target(root, &path)).transpose()?;
            let link = Line { kind: LineKind::Link, hash: Hash::of(&text), size: text.len() as u64, path };
            Met::Lines(std::iter::once(link).chain(target).collect(), i64::MIN)
        }
    }))
}

/// What a link that leads out of the sources reaches: its content belongs to the key as well.
fn target(root: &Path, path: &[u8]) -> Result<Line> {
    let full = root.join(std::ffi::OsStr::from_bytes(path));
    let line = |kind, hash, size| Line { kind, hash, size, path: path.to_vec() };
    let nothing = Hash([0; 32]);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match std::fs::metadata(&full) {
        Ok(status) if status.is_dir() => Ok(line(LineKind::TargetDirectory, nothing, 0)),
        Ok(status) if status.is_file() => {
            let file = rustix::fs::open(&full, flags, Mode::empty()).map_err(|errno| unreadable(path, errno))?;
            let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(path, errno))?;
            let (hash, size) = read(File::from(file), &stat, path)?;
            Ok(line(LineKind::Target, hash, size))
        }
        _ => Ok(line(LineKind::TargetMissing, nothing, 0)),
    }
}

fn digest(visited: &Visited<'_>, known: &StatCache) -> Result<(Hash, u64)> {
    if let Some(hash) = known.find(visited) {
        return Ok((hash, u64::try_from(visited.stat.st_size).unwrap_or(0)));
    }
    let started = SystemTime::now();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(visited.folder, visited.name, flags, Mode::empty())
        .map_err(|errno| unreadable(visited.path, errno))?;
    let (hash, size) = read(File::from(file), visited.stat, visited.path)?;
    known.remember(visited, &hash, started);
    Ok((hash, size))
}

/// Reads a file to its end; it has to be what its status said, before and after.
fn read(mut file: File, expected: &Stat, path: &[u8]) -> Result<(Hash, u64)> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 128 << 10]);
    }
    let (hash, size) = BUFFER.with_borrow_mut(|buffer| {
        let (mut hasher, mut size) = (Hasher::new(), 0);
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok((hasher.finish(), size)),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::failed(format_args!("cannot read `{}`", Shown(path))).caused_by(error));
                }
            }
        }
    })?;
    let now = rustix::fs::fstat(&file).map_err(|errno| unreadable(path, errno))?;
    if !collect::same_file(&now, expected) || u64::try_from(now.st_size) != Ok(size) {
        return Err(changed(path));
    }
    Ok((hash, size))
}

fn changed(path: &[u8]) -> Error {
    Error::new(Class::Changed, format_args!("`{}` changed while it was hashed", Shown(path)))
        .hint("make sure that nothing writes to the sources meanwhile, and try again")
}

fn unreadable(path: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => changed(path),
        errno => Error::failed(format_args!("cannot read `{}`", Shown(path)))
            .caused_by(std::io::Error::from(errno))
            .hint("what cannot be read has no key: make it readable, or exclude it"),
    }
}
