//! A folder as a [`Shelf`]: `file://`, for caches on a shared file system and for trying things out.
//!
//! ```text
//! <root>/.monofo-tmp/upload-…      files under way
//! <root>/<name>                    files, whole
//! ```
//!
//! A file is written below the root itself, synced to the disk, and given its name at once: by a rename where it may replace
//! another, by a hard link where it must not, so that of several processes, on several machines even, exactly one succeeds.
//! Links are never followed inside the root.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FileType;

use super::folder::{STAGING, stage, sweep};
use super::held::{Held, Setting, no_folder};
use super::shelf::{Made, Opened, Shelf, too_long};
use crate::cancel::Cancel;
use crate::error::{Class, Error, IoContext, Result, Why, from_io};
use crate::text::Shown;

/// What names the folder.
const REMOTE: Setting = "the remote's location";

/// How much of a file is copied between two looks at the cancellation.
const BLOCK: usize = 1 << 20;

/// A shelf in a folder, made by the first file that is stored: until then it is empty. The folder that it lies in has to be
/// there, for reading too: most likely it is a mount that is missing.
#[derive(Debug)]
pub struct FolderShelf {
    root: PathBuf,
    cancel: Cancel,
}

/// A file under way. Dropping it removes it.
struct Staged {
    file: File,
    name: String,
    staging: Held,
}

impl FolderShelf {
    /// A shelf in this folder, whose path is absolute.
    pub fn new(root: impl Into<PathBuf>, cancel: Cancel) -> Self {
        FolderShelf { root: root.into(), cancel }
    }

    /// The folder that a file lies in, if it is there, and the last part of its name.
    fn home<'n>(&self, name: &'n str) -> Result<(Option<Held>, &'n str)> {
        self.cancel.check()?;
        let (folders, leaf) = name.rsplit_once('/').unwrap_or(("", name));
        Ok((self.folder(folders)?, leaf))
    }

    fn folder(&self, folders: &str) -> Result<Option<Held>> {
        let mut at = Held::root(&self.root, REMOTE)?;
        if at.is_none() {
            self.check_parent()?;
        }
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            let Some(folder) = at else { return Ok(None) };
            at = folder.enter(part)?;
            // A file in a folder's place holds nothing, which must not look like a folder that does.
            if at.is_none() && folder.kind(part).is_some_and(|kind| kind != FileType::Directory) {
                return Err(no_folder(REMOTE, &folder.path_of(part)));
            }
        }
        Ok(at)
    }

    /// Opens a file with its size.
    fn find(&self, name: &str) -> Result<Option<(File, u64)>> {
        let (Some(home), leaf) = self.home(name)? else { return Ok(None) };
        match home.open(leaf) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if is_no_file(&error) => Err(no_file(&home.path_of(leaf))),
            Err(error) => Err(home.unusable("read", leaf, error)),
        }
    }

    /// The root, made where it is missing.
    fn make_root(&self) -> Result<Held> {
        self.cancel.check()?;
        self.check_parent()?;
        Held::make_root(&self.root, REMOTE)
    }

    /// A whole path of folders where a mount is missing would be written to for months by this machine alone.
    fn check_parent(&self) -> Result<()> {
        match self.root.parent().filter(|parent| !parent.exists()) {
            Some(parent) => Err(missing(parent)),
            None => Ok(()),
        }
    }

    /// A new file to write, and the root that it will move in.
    fn stage(&self) -> Result<(Held, Staged)> {
        let root = self.make_root()?;
        let staging = root.make(STAGING)?;
        let (name, file) = stage(&staging).map_err(|error| staging.unusable("write to", "", error))?;
        sweep(&staging);
        Ok((root, Staged { file, name, staging }))
    }

    /// Writes everything, to the disk, and opens the folder where it belongs.
    fn write<'n>(&self, name: &'n str, mut source: impl Read, from: &str) -> Result<(Staged, Held, &'n str)> {
        let (root, mut staged) = self.stage()?;
        let fail = |staging: &Held, name: &str, error| staging.unusable("write", name, error);
        let mut block = vec![0; BLOCK];
        loop {
            self.cancel.check()?;
            let count = match source.read(&mut block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.or_fail(|| format!("cannot read {from}"))?,
            };
            if count == 0 {
                break;
            }
            staged.file.write_all(&block[..count]).map_err(|error| fail(&staged.staging, &staged.name, error))?;
        }
        // A record must not outlive the payload that it speaks of, when the machine loses its power.
        staged.file.sync_all().map_err(|error| fail(&staged.staging, &staged.name, error))?;
        let (folders, leaf) = name.rsplit_once('/').unwrap_or(("", name));
        let mut home = root;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            home = home.make(part)?;
        }
        Ok((staged, home, leaf))
    }

    fn broken(&self, doing: &str, name: &str, error: io::Error) -> Error {
        let doing = format!("{doing} from `{}` failed", Shown::path(&self.root.join(name)));
        from_io(doing, error).with_class(Class::Unavailable).because(Why::Busy)
    }

    /// Writes a file and lets it take the place of what has its name.
    fn replace(&self, name: &str, source: impl Read, from: &str) -> Result<()> {
        let (staged, home, leaf) = self.write(name, source, from)?;
        staged.staging.rename(&staged.name, &home, leaf).map_err(|error| home.unusable("write", leaf, error))
    }
}

impl Shelf for FolderShelf {
    fn place(&self) -> String {
        Shown::path(&self.root).to_string()
    }

    fn is_folder(&self) -> bool {
        true
    }

    fn prepare(&self) -> Result<()> {
        self.make_root().map(drop)
    }

    fn get(&self, doing: &str, name: &str, most: u64, _limit: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.find(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        if size <= most {
            // What grows while it is read is none of ours: one byte too many is enough to see it.
            let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes);
            read.map_err(|error| self.broken(doing, name, error))?;
        }
        if size.max(bytes.len() as u64) > most {
            return Err(too_long(doing, &self.place(), most));
        }
        Ok(Some(bytes))
    }

    fn size(&self, _doing: &str, name: &str) -> Result<Option<u64>> {
        Ok(self.find(name)?.map(|(_, size)| size))
    }

    fn open(&self, _doing: &'static str, name: &str) -> Result<Option<Opened>> {
        // Whoever opens a file knows that it has to be there.
        let found = self.find(name).map_err(|error| match error.why() {
            Some(Why::Strange) => error.because(Why::Damaged),
            _ => error,
        })?;
        Ok(found.map(|(file, size)| Opened { reader: Box::new(file), size }))
    }

    fn put(&self, _doing: &str, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.replace(name, &*bytes, "what is to be stored")
    }

    fn put_file(&self, _doing: &'static str, name: &str, source: &Path) -> Result<()> {
        let from = format!("`{}`", Shown::path(source));
        let file = File::open(source).or_fail(|| format!("cannot read {from}"))?;
        self.replace(name, file, &from)
    }

    fn create(&self, _doing: &str, name: &str, bytes: Vec<u8>) -> Result<Made> {
        let (staged, home, leaf) = self.write(name, &*bytes, "what is to be stored")?;
        match staged.staging.link(&staged.name, &home, leaf) {
            Ok(()) => Ok(Made::Created),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Made::Taken),
            // Some file systems have no hard links. There a moment stays between the look and the rename.
            Err(error) => match home.open(leaf) {
                Ok(_) => Ok(Made::Taken),
                Err(missing) if missing.kind() == ErrorKind::NotFound => {
                    tracing::debug!(%error, "no hard links there");
                    let renamed = staged.staging.rename(&staged.name, &home, leaf);
                    renamed.map(|()| Made::Created).map_err(|error| home.unusable("write", leaf, error))
                }
                Err(error) => Err(home.unusable("write", leaf, error)),
            },
        }
    }

    fn first(&self, _doing: &str, folder: &str, most: usize, _limit: Duration) -> Result<Vec<String>> {
        self.cancel.check()?;
        let Some(held) = self.folder(folder)? else { return Ok(Vec::new()) };
        let mut names: Vec<String> = held.names().map_err(|error| held.unusable("read", "", error))?.collect();
        names.sort_unstable();
        names.truncate(most);
        Ok(names)
    }

    fn second(&self, doing: &str, folder: &str, most: usize, limit: Duration) -> Result<Vec<String>> {
        let Some(held) = self.folder(folder)? else { return Ok(Vec::new()) };
        let inner = held.names().map_err(|error| held.unusable("read", "", error))?;
        let mut names = Vec::new();
        // Others may keep files there.
        for inner in inner.filter(|inner| held.kind(inner) != Some(FileType::RegularFile)) {
            let left = most.saturating_sub(names.len());
            let found = match self.first(doing, &format!("{folder}/{inner}"), left, limit) {
                // A link, which leads to nothing of ours.
                Err(error) if error.why() == Some(Why::Strange) => continue,
                found => found?,
            };
            names.extend(found.into_iter().map(|name| format!("{inner}/{name}")));
        }
        Ok(names)
    }

    fn remove(&self, _doing: &str, names: &[String]) -> Result<()> {
        for name in names {
            let (Some(home), leaf) = self.home(name)? else { continue };
            let removed = home.remove(leaf).or_else(|error| match error.kind() {
                // A folder, where nothing of ours makes one; what somebody put in there stays.
                ErrorKind::IsADirectory | ErrorKind::PermissionDenied => home
                    .remove_folder(leaf)
                    .map_err(|folder| if folder.kind() == ErrorKind::NotADirectory { error } else { folder }),
                _ => Err(error),
            });
            match removed {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                    return Err(no_file(&home.path_of(leaf)));
                }
                Err(error) => return Err(home.unusable("remove", leaf, error)),
            }
        }
        Ok(())
    }
}

/// The error for a folder that has to be there. It will be missing for the next entry too.
fn missing(path: &Path) -> Error {
    Error::new(Class::Unavailable, format_args!("`{}` is not there", Shown::path(path)))
        .hint("is it mounted? Of the remote's path only the last folder is made, by the first entry that is stored")
        .because(Why::Nameless)
}

/// The error for something that is no file.
fn no_file(path: &Path) -> Error {
    Error::refused(format_args!("`{}` is no regular file", Shown::path(path)))
        .hint("remove it: nothing of ours makes such a thing there")
        .because(Why::Strange)
}

/// Whether what was to be opened is a folder, a link, a pipe or the like.
fn is_no_file(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == ErrorKind::InvalidInput
        || [Errno::LOOP, Errno::NXIO].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename it is gone already, after a link its other name stays.
        let _ = self.staging.remove(&self.name);
    }
}
