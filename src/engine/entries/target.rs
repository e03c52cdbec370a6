//! Where an artifact is restored to: what is never replaced, and how the new takes the place of the old.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::mounts::{check_mounts, mount_in};
use crate::entry::{Home, RootKind, Staging, random_name, remove_tree};
use crate::error::{Class, Error, IoContext, Result};
use crate::text::Shown;

/// What the names of folders begin with that are made beside targets.
pub const BESIDE: &str = ".monofo-restore-";

/// The file in `tmp` that says where such a folder is, so that it is found after a kill.
pub const NOTE: &str = "beside";

/// What was in the target's place, in such a folder, where names cannot be exchanged.
pub const ASIDE: &str = "aside";

/// Folders that are never replaced, nor any above them.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// The root of the workspace.
    pub workspace: PathBuf,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// Cache, store, and a remote that is a folder.
    pub own: Vec<PathBuf>,
}

/// A place that may be replaced.
#[derive(Debug)]
pub struct Target {
    /// Absolute; no link on the way to it, and it may be one itself.
    real: PathBuf,
    path: PathBuf,
}

impl Target {
    /// Judges a target. Makes nothing. Class `Refused` for what is never replaced.
    pub fn new(path: &Path, guards: &Guards) -> Result<Target> {
        let target = Self::judged(path, guards)?;
        check_mounts(&target.real, path)?;
        if fs::symlink_metadata(&target.real).is_ok_and(|there| there.is_dir())
            && fs::symlink_metadata(target.real.join(".git")).is_ok()
        {
            return Err(Error::refused(format_args!(
                "`{}` holds a git repository, and is not replaced",
                Shown::path(path)
            ))
            .hint("name a folder of its own for the artifact with --target"));
        }
        Ok(target)
    }

    /// Judges a place that is added to and not replaced: a mount may be there.
    pub(super) fn judged(path: &Path, guards: &Guards) -> Result<Target> {
        let refused = |why: &str| {
            Error::refused(format_args!("`{}` {why}, and is not replaced", Shown::path(path)))
                .hint("name a folder of its own for the artifact with --target")
        };
        if path.file_name().is_none() {
            return Err(refused("is no name of its own"));
        }
        let real = match placed(path).or_fail(|| format!("cannot read `{}`", Shown::path(path)))? {
            Some(real) => real,
            None => {
                return Err(refused("goes through `..` of a folder that is not there, or a link that leads nowhere"));
            }
        };
        if real.parent().is_none() {
            return Err(refused("is the root of the file system"));
        }
        // The mark of a folder like `/tmp`: others have things in it that they may not even remove for each other.
        if fs::symlink_metadata(&real).is_ok_and(|there| there.is_dir() && there.mode() & 0o1000 != 0) {
            return Err(refused("is a folder that several users share"));
        }
        if real.components().any(|part| part.as_os_str().eq_ignore_ascii_case(".git")) {
            return Err(refused("is or lies in a git repository's own folder"));
        }
        // A link to a folder, or on the way to it, is as good as the folder.
        let above = |what: &Path| {
            let on_the_way = std::path::absolute(what).unwrap_or_else(|_| what.to_owned());
            resolved(what).is_ok_and(|what| what.is_some_and(|what| what.starts_with(&real)))
                || on_the_way.ancestors().any(|part| placed(part).is_ok_and(|part| part.as_ref() == Some(&real)))
        };
        let within = |what: &Path| resolved(what).is_ok_and(|what| what.is_some_and(|what| real.starts_with(what)));
        if guards.home.as_deref().is_some_and(above) {
            return Err(refused("is your home, or holds it"));
        }
        if above(&guards.workspace) {
            return Err(refused("is the workspace, or holds it"));
        }
        if above(Path::new(".")) {
            return Err(refused("is the current folder, or holds it"));
        }
        if guards.own.iter().any(|own| above(own)) {
            return Err(refused("holds the cache, the store or the remote"));
        }
        // Nor is anything put into them.
        if guards.own.iter().any(|own| within(own)) {
            return Err(refused("lies in the cache, the store or the remote"));
        }
        let manifests = guards.workspace.join("manifests");
        if manifests.join("components.yaml").exists() && (above(&manifests) || within(&manifests)) {
            return Err(refused("is or lies in the folder of the manifests"));
        }
        Ok(Target { real, path: path.to_owned() })
    }

    /// Judges the place of a file that is to go into a folder.
    pub fn inside(folder: &Path, name: &[u8], guards: &Guards) -> Result<Target> {
        // Without the `/` at its end, which nothing but a folder could have.
        let plain = folder.components().as_path();
        if fs::metadata(plain).is_ok_and(|there| !there.is_dir()) {
            return Err(Error::refused(format_args!(
                "`{}` is no folder, and the artifact is a file that is to go into it",
                Shown::path(plain)
            ))
            .hint("name a folder, or leave out the `/` at the end to name the file itself"));
        }
        if resolved(plain).is_ok_and(|real| real.is_some_and(|real| real.parent().is_none())) {
            return Err(Error::refused("nothing is put into the root of the file system")
                .hint("name a folder of its own for the artifact with --target"));
        }
        let name = Path::new(OsStr::from_bytes(name));
        if name.components().count() != 1 || name.file_name() != Some(name.as_os_str()) {
            return Err(Error::damaged("the name of the artifact's file is none"));
        }
        Target::new(&plain.join(name), guards)
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same once more.
    pub(super) fn again(&self) -> Result<Target> {
        Ok(Target { real: self.real.clone(), path: self.path.clone() })
    }

    /// Where that is.
    pub(super) fn real(&self) -> &Path {
        &self.real
    }

    /// Refuses a file in place of a folder that holds something, and a folder in place of a file.
    pub fn check_kind(&self, kind: RootKind) -> Result<()> {
        let shown = Shown::path(&self.path);
        match (kind, fs::symlink_metadata(&self.real)) {
            (RootKind::File, Ok(there)) if there.is_dir() && !is_empty(&self.real) => Err(Error::refused(
                format_args!("`{shown}` is a folder with something in it, and the artifact is a file"),
            )
            .hint("remove the folder, or name a file with --target")),
            (RootKind::Dir, Ok(there)) if !there.is_dir() && !there.is_symlink() => {
                Err(Error::refused(format_args!("`{shown}` is a file, and the artifact is a folder"))
                    .hint("remove the file, or name a folder with --target"))
            }
            _ => Ok(()),
        }
    }

    /// Makes a folder beside the target, on its file system. It is noted in the cache or store, so that gc finds it after
    /// a kill; one that may not be written, or is full, does without. When this process may open no more files, nothing is made.
    pub fn beside(&self, home: &Home) -> Result<Beside> {
        let parent = self.real.parent().unwrap_or(Path::new("/"));
        let doing = || format!("cannot make a folder in `{}`", Shown::path(parent));
        fs::create_dir_all(parent).or_fail(doing)?;
        if parent.canonicalize().or_fail(doing)? != parent {
            return Err(self.changing());
        }
        for _ in 0..100 {
            let path = parent.join(format!("{BESIDE}{}", random_name()));
            let text = [path.as_os_str().as_bytes(), self.real.as_os_str().as_bytes()].join(&0);
            let noted = Staging::make(home).and_then(|note| fs::write(note.join(NOTE), &text).map(|()| note));
            let note = match noted {
                // What could not be restored could not be removed either, and nobody would find it.
                Err(error) if is_shortage(&error) => return Err(error).or_fail(doing),
                // A cache that is full is read like any other.
                noted => noted.ok(),
            };
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => {
                    other.or_fail(doing)?;
                    return Ok(Beside { path, target: self.real.clone(), note, open: true });
                }
            }
        }
        Err(Error::failed(doing()))
    }

    fn changing(&self) -> Error {
        Error::new(Class::Changed, format_args!("`{}` keeps changing", Shown::path(&self.path)))
    }

    /// Puts what is ready in the target's place. The old goes last. A warning when it could not be done in one step.
    pub fn swap(&self, ready: &Path, kind: RootKind, beside: &Beside) -> Result<Option<String>> {
        let doing = || format!("cannot put what is restored in place at `{}`", Shown::path(&self.path));
        let target = &self.real;
        if target.parent().and_then(|parent| parent.canonicalize().ok()).as_deref() != target.parent() {
            return Err(self.changing());
        }
        for _ in 0..1000 {
            self.check_kind(kind)?;
            // A rename takes mounts below along, to where the old is removed.
            check_mounts(target, &self.path)?;
            let there = fs::symlink_metadata(target).ok();
            let done = match &there {
                None => rustix::fs::renameat_with(CWD, ready, CWD, target, RenameFlags::NOREPLACE),
                // A file takes a file's or link's place in one step.
                Some(old) if kind == RootKind::File && !old.is_dir() => rustix::fs::rename(ready, target),
                Some(_) => rustix::fs::renameat_with(CWD, ready, CWD, target, RenameFlags::EXCHANGE),
            };
            match done {
                // What was there lies where the new was, and goes with the folder beside.
                Ok(()) => return Ok(None),
                // Somebody else was quicker.
                Err(Errno::EXIST | Errno::NOENT | Errno::ISDIR) if fs::symlink_metadata(ready).is_ok() => {}
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if there.is_some() => {
                    return Self::replace(target, ready, beside).or_fail(doing).map(|()| None);
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return fs::rename(ready, target).or_fail(doing).map(|()| None);
                }
                // A folder that comes from a lower layer of an overlay can be neither exchanged nor moved.
                Err(Errno::XDEV) => {
                    remove_old(target).or_fail(doing)?;
                    fs::rename(ready, target).or_fail(doing)?;
                    return Ok(Some(format!(
                        "`{}` lies in a lower layer of an overlay: for a moment there was neither the old nor the new",
                        Shown::path(&self.path)
                    )));
                }
                Err(errno) => return Err(errno).or_fail(doing),
            }
        }
        Err(self.changing())
    }

    /// Where names cannot be exchanged: the old aside, the new in its place, and the old back if that fails.
    fn replace(target: &Path, ready: &Path, beside: &Beside) -> io::Result<()> {
        let aside = beside.path.join(ASIDE);
        fs::rename(target, &aside)?;
        fs::rename(ready, target).inspect_err(|_| drop(fs::rename(&aside, target)))
    }
}

/// Whether the process or the system has no more of what files are opened with.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Where a path is, without a link on the way; its last component is not followed. What is not there yet is appended as it
/// is. `None` when that cannot be told: it has a `..` in it, or there is a link that leads nowhere.
fn placed(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(resolved(parent)?.map(|parent| parent.join(name))),
        _ => resolved(&path),
    }
}

/// Where a path leads. What is not there yet is appended as it is; else as `placed`.
fn resolved(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = std::path::absolute(path)?;
    for there in path.ancestors() {
        match there.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
                let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
                // Joining nothing would put a `/` at the end.
                let whole = if rest.as_os_str().is_empty() { real } else { real.join(rest) };
                return Ok(plain.then_some(whole));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if fs::symlink_metadata(there).is_ok() => return Ok(None),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Removes a tree, or a file, unless something is mounted in it: then nothing goes. That it is gone already is no error.
pub fn remove_old(path: &Path) -> io::Result<()> {
    let status = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let removed = if status.is_dir() {
        let real = path.canonicalize()?;
        if let Some(mount) = mount_in(&real)? {
            return Err(io::Error::other(format!("`{}` is mounted there", Shown::path(&mount))));
        }
        remove_tree(&real)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a folder beside a target. When the target is missing because its old content was moved aside and nothing took
/// its place, that is moved back before.
pub fn clear(beside: &Path, target: Option<&Path>) -> io::Result<()> {
    if let Some(target) = target.filter(|target| is_lost(beside, target)) {
        let aside = beside.join(ASIDE);
        match rustix::fs::renameat_with(CWD, &aside, CWD, target, RenameFlags::NOREPLACE) {
            // The kernel puts no folder that holds something in the place of another; a file takes a file's.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(&aside, target)?,
            other => other?,
        }
    }
    remove_old(beside)
}

/// Whether all that is left of a target is what lies aside.
pub fn is_lost(beside: &Path, target: &Path) -> bool {
    let is_missing =
        |path: &Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    is_missing(target) && fs::symlink_metadata(beside.join(ASIDE)).is_ok()
}

/// What a note says: the folder beside a target, and the target. `None` for what no restore wrote.
pub fn read_note(note: Vec<u8>) -> Option<(PathBuf, Option<PathBuf>)> {
    let mut paths = note.split(|byte| *byte == 0).map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let (beside, target) = (paths.next()?, paths.next());
    let plain = |path: &Path| {
        path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
    };
    let hex = beside.file_name()?.as_bytes().strip_prefix(BESIDE.as_bytes())?;
    let named = hex.len() == 16 && hex.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let target = target.filter(|target| plain(target) && target.parent() == beside.parent());
    (named && plain(&beside) && paths.next().is_none()).then_some((beside, target))
}

/// A folder beside a target, where an artifact is made ready. It is removed when this is dropped.
#[derive(Debug)]
pub struct Beside {
    /// The folder.
    pub path: PathBuf,
    target: PathBuf,
    note: Option<Staging>,
    open: bool,
}

impl Beside {
    /// Removes it, and what was replaced with it. A warning when something stays.
    pub fn finish(mut self) -> Option<String> {
        let then = self.then();
        let error = self.clear().err()?;
        Some(format!(
            "`{}`, which holds what was replaced, could not be removed ({error}): {then}",
            Shown::path(&self.path)
        ))
    }

    /// What is to be done with it if it cannot be removed.
    fn then(&self) -> &'static str {
        if self.note.is_some() { "gc tries again later" } else { "remove it by hand" }
    }

    fn clear(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let cleared = clear(&self.path, Some(&self.target));
        if let (Err(_), Some(note)) = (&cleared, self.note.take()) {
            note.leave();
        }
        cleared
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let then = self.then();
        if let Err(error) = self.clear() {
            tracing::warn!(
                "`{}`, where something was restored, could not be removed ({error}): {then}",
                Shown::path(&self.path)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_a_folder_of_ours_and_a_target_beside_it_or_is_none() {
        let read = |note: &str| read_note(note.as_bytes().to_vec());
        let ours = "/a/.monofo-restore-0123456789abcdef";
        assert_eq!(read(ours), Some((PathBuf::from(ours), None)));
        assert_eq!(read(&format!("{ours}\0/a/out")), Some((PathBuf::from(ours), Some(PathBuf::from("/a/out")))));
        assert_eq!(read(&format!("{ours}\0/b/out")), Some((PathBuf::from(ours), None)));
        for wrong in [
            "/a/.monofo-restore-0123456789ABCDEF",
            "/a/.monofo-restore-0123456789abcdeg",
            "/a/.monofo-restore-0123456789abcde",
            "/a/../b/.monofo-restore-0123456789abcdef",
            "a/.monofo-restore-0123456789abcdef",
            "/a/b",
            "",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
