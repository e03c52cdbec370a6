//! What is ready into a folder that others use at the same time: file by file, each in one step; a whole folder where the place
//! is free. What else is there stays. Whether a file stays that is newer than the one that would replace it is for [`Newer`].

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::{Class, Error, IoContext, Result};
use crate::text::Shown;

/// What becomes of a file that is newer here than in the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// It stays: the entry is of another key, and only something to begin with.
    Stays,
    /// It is replaced: the entry is of the very key that was asked for, so its files are the ones that were promised. When a
    /// file was written says nothing about the key that it was written for.
    IsReplaced,
}

/// How often a place that others change is looked at again.
const TRIES: u32 = 100;

/// Refuses, before anything is moved, a file that would have to take a folder's place, or a folder another's.
pub(super) fn check_kinds(ready: &Path, place: &Path) -> Result<()> {
    let doing = || format!("cannot look at `{}`", Shown::path(place));
    let is_dir = fs::symlink_metadata(ready).or_fail(doing)?.is_dir();
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(there) if is_dir && there.is_dir() => {
            let mode = owner_may_write(ready)?;
            let checked = in_folder(ready).or_fail(doing)?.iter().try_for_each(|name| {
                let (ready, place) = (ready.join(name), place.join(name));
                check_kinds(&ready, &place)
            });
            if let Some(mode) = mode {
                fs::set_permissions(ready, Permissions::from_mode(mode)).or_fail(doing)?;
            }
            checked
        }
        Ok(there) if is_dir == there.is_dir() => Ok(()),
        Ok(there) => Err(other_kind(place, there.is_dir())),
        Err(error) => Err(error).or_fail(doing),
    }
}

fn in_folder(folder: &Path) -> std::io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn other_kind(place: &Path, is_folder_here: bool) -> Error {
    let (here, in_entry) = if is_folder_here { ("folder", "a file") } else { ("file or link", "a folder") };
    Error::refused(format_args!("`{}` is a {here} here and {in_entry} in the entry", Shown::path(place)))
        .hint("remove it if nobody needs it")
}

/// Moves what is ready to its place, on the same file system. Folders are merged, files and links take the place of files and
/// links, newer ones as `newer` says. Nothing goes through a link. Class `Refused` where a file would have to take a folder's place, or
/// a folder another's. Counts in `moved` what was put in place or replaced, also where it fails.
pub(super) fn merge(ready: &Path, place: &Path, newer: Newer, moved: &mut u64) -> Result<()> {
    let doing = || format!("cannot put the entry in place at `{}`", Shown::path(place));
    let new = fs::symlink_metadata(ready).or_fail(doing)?;
    let is_dir = new.is_dir();
    for _ in 0..TRIES {
        match fs::symlink_metadata(place) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(parent) = place.parent() {
                    fs::create_dir_all(parent).or_fail(doing)?;
                }
                if put(ready, place, is_dir).or_fail(doing)? {
                    *moved += 1;
                    return Ok(());
                }
            }
            Ok(there) if is_dir && there.is_dir() => return merge_folder(ready, place, newer, moved),
            // Whoever wrote it since knows better than the entry does, which has whole seconds.
            Ok(there) if newer == Newer::Stays && !is_dir && !there.is_dir() && there.mtime() > new.mtime() => {
                return Ok(());
            }
            Ok(there) if !is_dir && !there.is_dir() => {
                fs::rename(ready, place).or_fail(doing)?;
                *moved += 1;
                return Ok(());
            }
            Ok(there) => return Err(other_kind(place, there.is_dir())),
            Err(error) => return Err(error).or_fail(doing),
        }
    }
    Err(Error::new(Class::Changed, format_args!("`{}` keeps changing", Shown::path(place))))
}

fn merge_folder(ready: &Path, place: &Path, newer: Newer, moved: &mut u64) -> Result<()> {
    let doing = || format!("cannot put the entry in place at `{}`", Shown::path(place));
    owner_may_write(ready)?;
    let mode = owner_may_write(place)?;
    let mut names = in_folder(ready).or_fail(doing)?.into_iter();
    let merged = names.try_for_each(|name| merge(&ready.join(&name), &place.join(&name), newer, moved));
    if let Some(mode) = mode {
        fs::set_permissions(place, Permissions::from_mode(mode)).or_fail(doing)?;
    }
    merged
}

/// Moves to where nothing is. False when something is there meanwhile.
fn put(ready: &Path, place: &Path, is_dir: bool) -> std::io::Result<bool> {
    let mode = if is_dir { owner_may_write(ready).map_err(std::io::Error::other)? } else { None };
    match rustix::fs::renameat_with(CWD, ready, CWD, place, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST | Errno::NOENT) => return Ok(false),
        // No such rename on this file system: the kernel puts no folder in the place of one that holds something.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(ready, place)?,
        Err(errno) => return Err(errno.into()),
    }
    if let Some(mode) = mode {
        fs::set_permissions(place, Permissions::from_mode(mode))?;
    }
    Ok(true)
}

/// Lets the owner write to a folder, which moving it or in it needs. Returns the mode that it had, if that was another.
pub(super) fn owner_may_write(folder: &Path) -> Result<Option<u32>> {
    let doing = || format!("cannot make `{}` writable", Shown::path(folder));
    let mode = fs::metadata(folder).or_fail(doing)?.permissions().mode() & 0o7777;
    if mode & 0o300 == 0o300 {
        return Ok(None);
    }
    fs::set_permissions(folder, Permissions::from_mode(mode | 0o700)).or_fail(doing)?;
    Ok(Some(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn set(path: &Path, seconds: u64) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_is_there_stays_and_what_comes_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, place) = (dir.path().join("ready"), dir.path().join("place/deep"));
        for (path, text) in [("a", "new"), ("d/b", "new"), ("e/f/g", "new"), ("newer", "new")] {
            write(&ready.join(path), text);
        }
        for (path, text) in [("a", "old"), ("d/c", "old"), ("newer", "newer")] {
            write(&place.join(path), text);
        }
        fs::set_permissions(ready.join("e"), Permissions::from_mode(0o555)).unwrap();
        fs::set_permissions(place.join("d"), Permissions::from_mode(0o555)).unwrap();
        set(&place.join("newer"), 2_000_000_000);
        set(&ready.join("newer"), 1_000_000_000);
        set(&place.join("a"), 1_000_000_000);
        let mut moved = 0;
        merge(&ready, &place, Newer::Stays, &mut moved).unwrap();
        assert_eq!(moved, 3);
        for (path, text) in [("a", "new"), ("d/b", "new"), ("d/c", "old"), ("e/f/g", "new"), ("newer", "newer")] {
            assert_eq!(fs::read_to_string(place.join(path)).unwrap(), text, "{path}");
        }
        for folder in ["d", "e"] {
            assert_eq!(fs::metadata(place.join(folder)).unwrap().permissions().mode() & 0o777, 0o555, "{folder}");
        }
    }

    #[test]
    fn kinds_that_differ_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let (ready, place) = (dir.path().join("ready"), dir.path().join("place"));
        write(&ready.join("x/f"), "new");
        write(&place.join("y"), "old");
        std::os::unix::fs::symlink(&outside, place.join("x")).unwrap();
        assert_eq!(check_kinds(&ready, &place).unwrap_err().class(), Class::Refused);
        assert_eq!(merge(&ready, &place, Newer::IsReplaced, &mut 0).unwrap_err().class(), Class::Refused);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        write(&place.join("z/f"), "old");
        write(&dir.path().join("file"), "new");
        assert_eq!(check_kinds(&dir.path().join("file"), &place.join("z")).unwrap_err().class(), Class::Refused);
        assert_eq!(
            merge(&dir.path().join("file"), &place.join("z"), Newer::IsReplaced, &mut 0).unwrap_err().class(),
            Class::Refused
        );
    }
}
