//! Where an artifact is restored to: what is never replaced, and how the new takes the place of the old.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::entry::{Home, RootKind, Staging, random_name, remove_tree};
use crate::error::{Class, Error, IoContext, Result};
use crate::text::Shown;

/// What the names of folders begin with that are made beside targets.
pub const BESIDE: &str = ".monofo-restore-";

/// The file in `tmp` that says where such a folder is, so that it is found after a kill.
pub const NOTE: &str = "beside";

/// Folders that are never replaced, nor any above them.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// The root of the workspace.
    pub workspace: PathBuf,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// Cache and store.
    pub own: Vec<PathBuf>,
}

/// A place that may be replaced.
#[derive(Debug)]
pub struct Target {
    parent: PathBuf,
    name: OsString,
    path: PathBuf,
}

impl Target {
    /// Judges a target; its parent is made when it is missing. Class `Refused` for what is never replaced.
    pub fn new(path: &Path, guards: &Guards) -> Result<Target> {
        let refused = |why: &str| {
            Error::refused(format_args!("`{}` {why}, and is not replaced", Shown::path(path)))
                .hint("name a folder of its own for the artifact with --target")
        };
        let Some(name) = path.file_name() else {
            return Err(refused("is no name of its own"));
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Before anything is made: a path that is refused leaves no trace.
        let there = fs::symlink_metadata(path).ok();
        let is_dir = there.as_ref().is_some_and(fs::Metadata::is_dir);
        if let Some(there) = there.as_ref().filter(|_| is_dir) {
            let real = path.canonicalize().or_fail(|| format!("cannot read `{}`", Shown::path(path)))?;
            let above = |what: &Path| what.canonicalize().is_ok_and(|what| what.starts_with(&real));
            if real.parent().is_none() {
                return Err(refused("is the root of the file system"));
            }
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
                return Err(refused("holds the cache or the store"));
            }
            if real.parent().and_then(|parent| fs::metadata(parent).ok()).is_some_and(|up| up.dev() != there.dev()) {
                return Err(refused("is a mount point"));
            }
            if fs::symlink_metadata(real.join(".git")).is_ok() {
                return Err(refused("holds a git repository"));
            }
        }
        // Nor is anything put into the cache or store.
        let real_parent = real_ancestor(parent);
        if guards.own.iter().filter_map(|own| own.canonicalize().ok()).any(|own| real_parent.starts_with(own)) {
            return Err(refused("lies in the cache or the store"));
        }
        Ok(Target { parent: parent.to_owned(), name: name.to_owned(), path: path.to_owned() })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a file in place of a folder that holds something, and a folder in place of a file.
    pub fn check_kind(&self, kind: RootKind) -> Result<()> {
        let shown = Shown::path(&self.path);
        match (kind, fs::symlink_metadata(&self.path)) {
            (RootKind::File, Ok(there)) if there.is_dir() && !is_empty(&self.path) => Err(Error::refused(
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
    /// a kill; one that may not be written does without.
    pub fn beside(&self, home: &Home) -> Result<Beside> {
        let doing = || format!("cannot make a folder in `{}`", Shown::path(&self.parent));
        fs::create_dir_all(&self.parent).or_fail(doing)?;
        let parent = self.parent.canonicalize().or_fail(doing)?;
        for _ in 0..100 {
            let path = parent.join(format!("{BESIDE}{}", random_name()));
            let note = Staging::new(home).ok();
            if let Some(note) = &note {
                fs::write(note.join(NOTE), path.as_os_str().as_encoded_bytes()).or_fail(doing)?;
            }
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => {
                    other.or_fail(doing)?;
                    return Ok(Beside { path, _note: note });
                }
            }
        }
        Err(Error::failed(doing()))
    }

    /// Puts what is ready in the target's place. The old goes last. A warning when it could not be done in one step.
    pub fn swap(&self, ready: &Path, kind: RootKind, beside: &Beside) -> Result<Option<String>> {
        let doing = || format!("cannot put the artifact in place at `{}`", Shown::path(&self.path));
        let target = self.parent.canonicalize().or_fail(doing)?.join(&self.name);
        for _ in 0..1000 {
            self.check_kind(kind)?;
            let there = fs::symlink_metadata(&target).ok();
            let done = match &there {
                None => rustix::fs::renameat_with(CWD, ready, CWD, &target, RenameFlags::NOREPLACE),
                // A file takes a file's or link's place in one step.
                Some(old) if kind == RootKind::File && !old.is_dir() => rustix::fs::rename(ready, &target),
                Some(_) => rustix::fs::renameat_with(CWD, ready, CWD, &target, RenameFlags::EXCHANGE),
            };
            match done {
                // What was there lies where the new was, and goes with the folder beside.
                Ok(()) => return Ok(None),
                // Somebody else was quicker.
                Err(Errno::EXIST | Errno::NOENT | Errno::ISDIR) if fs::symlink_metadata(ready).is_ok() => {}
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if there.is_some() => {
                    return Self::replace(&target, ready, beside).or_fail(doing).map(|()| None);
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return fs::rename(ready, &target).or_fail(doing).map(|()| None);
                }
                // A folder that comes from a lower layer of an overlay can be neither exchanged nor moved.
                Err(Errno::XDEV) => {
                    remove_tree(&target).or_fail(doing)?;
                    fs::rename(ready, &target).or_fail(doing)?;
                    return Ok(Some(format!(
                        "`{}` lies in a lower layer of an overlay: for a moment there was neither the old nor the new",
                        Shown::path(&self.path)
                    )));
                }
                Err(errno) => return Err(errno).or_fail(doing),
            }
        }
        Err(Error::new(Class::Changed, format_args!("`{}` keeps changing", Shown::path(&self.path))))
    }

    /// Where names cannot be exchanged: the old aside, the new in its place, and the old back if that fails.
    fn replace(target: &Path, ready: &Path, beside: &Beside) -> io::Result<()> {
        let aside = beside.path.join(random_name());
        fs::rename(target, &aside)?;
        fs::rename(ready, target).inspect_err(|_| drop(fs::rename(&aside, target)))
    }
}

/// The nearest folder above that is there, or the path itself, without links.
fn real_ancestor(path: &Path) -> PathBuf {
    let or_dot = |path: &Path| if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path.to_owned() };
    path.ancestors().find_map(|path| or_dot(path).canonicalize().ok()).unwrap_or_else(|| path.to_owned())
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// A folder beside a target, where an artifact is made ready. It is removed when this is dropped.
#[derive(Debug)]
pub struct Beside {
    /// The folder.
    pub path: PathBuf,
    _note: Option<Staging>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next gc.
        let _ = remove_tree(&self.path);
    }
}
