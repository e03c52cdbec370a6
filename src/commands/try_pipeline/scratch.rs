//! The trial's own folder, gone at the end even where a step has left folders that nobody may write to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::emergency::RUNNING;
use crate::env::Env;
use crate::error::{IoContext, Result};
use crate::text::Shown;

/// The folder, removed when dropped unless it is to be kept.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes one below `TMPDIR`.
    pub(super) fn new(env: &Env, keep: bool) -> Result<Self> {
        let parent = env.path("TMPDIR").unwrap_or_else(|| "/tmp".into());
        let making = || format!("creating a temporary folder in `{}`", Shown::path(&parent));
        let folder = tempfile::Builder::new().prefix("monofo-try-").tempdir_in(&parent).or_fail(making)?;
        let path = folder.path().canonicalize().or_fail(making)?;
        // From here on the folder is removed below, which can do more than its own type.
        let _ = folder.keep();
        if !keep {
            RUNNING.uses(&path);
        }
        Ok(Scratch { path, keep })
    }

    /// Its absolute path, without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What is left lies in the system's folder for such things.
            let _ = remove(&self.path);
            RUNNING.done_with(&self.path);
        }
    }
}

/// Removes a folder and all below it; folders that are closed to us are opened first.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open(folder)?;
            fs::remove_dir_all(folder)
        }
        other => other,
    }
}

fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_closed_to_everybody_are_opened() {
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/", place.path().join("a/link")).unwrap();
        for folder in [inner.as_path(), &place.path().join("a")] {
            fs::set_permissions(folder, Permissions::from_mode(0o000)).unwrap();
        }
        // The tests may run as root, to whom nothing is closed; opening is then all there is to see.
        open(&place.path().join("a")).unwrap();
        assert_eq!(inner.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        remove(&place.path().join("a")).unwrap();
        assert!(!place.path().join("a").exists());
    }

    #[test]
    fn the_folder_goes_unless_it_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let env = Env::of([("TMPDIR", parent.path())]);
        drop(Scratch::new(&env, false).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        let kept = Scratch::new(&env, true).unwrap().path().to_path_buf();
        assert!(kept.is_dir());
    }
}
