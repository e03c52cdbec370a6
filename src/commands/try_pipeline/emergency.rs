//! What must not outlive a trial that is ended without unwinding, by a second Ctrl-C: the temporary folder. The process group
//! that runs is killed before.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::scratch;
use crate::text::Shown;

/// The one of this process.
pub(super) static RUNNING: Running = Running::new();

/// How often removing the folder is tried: a copy on its way into it goes on until it looks up.
const TRIES: usize = 5;

/// The folder that is in use now.
pub(super) struct Running(Mutex<Option<PathBuf>>);

impl Running {
    const fn new() -> Self {
        Running(Mutex::new(None))
    }

    /// Remembers the folder to remove.
    pub(super) fn uses(&self, folder: &Path) {
        *self.folder() = Some(folder.to_path_buf());
    }

    /// Forgets the folder: somebody else removed it, or it is to stay.
    pub(super) fn done_with(&self, folder: &Path) {
        let mut known = self.folder();
        if known.as_deref() == Some(folder) {
            *known = None;
        }
    }

    /// Removes the folder, or returns it when that did not work.
    pub(super) fn end(&self) -> Option<PathBuf> {
        let folder = self.folder().take()?;
        for _ in 0..TRIES {
            let _ = scratch::remove(&folder);
            if folder.symlink_metadata().is_err() {
                return None;
            }
        }
        Some(folder)
    }

    fn folder(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the trial of this process, if there is one, as [`super::emergency`] promises.
pub(super) fn end() {
    if let Some(left) = RUNNING.end() {
        let left = Shown::path(&left);
        let _ = writeln!(io::stderr().lock(), "warning: cannot remove `{left}`\n  hint: remove it by hand");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_folder_goes_unless_it_is_to_stay() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("trial");
        fs::create_dir_all(folder.join("checkout-1")).unwrap();
        let running = Running::new();
        running.uses(&folder);
        running.done_with(place.path());
        assert_eq!(running.end(), None);
        assert!(!folder.exists());
        running.uses(place.path());
        running.done_with(place.path());
        assert_eq!(running.end(), None);
        assert!(place.path().exists());
    }
}
