//! What must not outlive a trial that is ended without unwinding, by a second Ctrl-C: the process group that runs and the
//! temporary folder.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

use super::scratch;
use crate::text::Shown;

/// The one of this process.
pub(super) static RUNNING: Running = Running::new();

/// How often removing the folder is tried: a copy on its way into it goes on until it looks up.
const TRIES: usize = 5;

/// What runs now.
pub(super) struct Running(Mutex<State>);

struct State {
    group: Option<Pid>,
    folder: Option<PathBuf>,
    over: bool,
}

impl Running {
    const fn new() -> Self {
        Running(Mutex::new(State { group: None, folder: None, over: false }))
    }

    /// Starts a child that leads a process group of its own; none is started once all was ended.
    pub(super) fn start(&self, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
        let mut state = self.state();
        if state.over {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = spawn()?;
        state.group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(child)
    }

    /// Forgets the group, before its number may mean another one.
    pub(super) fn ended(&self, group: Option<Pid>) {
        let mut state = self.state();
        if state.group == group {
            state.group = None;
        }
    }

    /// Remembers the folder to remove.
    pub(super) fn uses(&self, folder: &Path) {
        self.state().folder = Some(folder.to_path_buf());
    }

    /// Forgets the folder: somebody else removed it, or it is to stay.
    pub(super) fn done_with(&self, folder: &Path) {
        let mut state = self.state();
        if state.folder.as_deref() == Some(folder) {
            state.folder = None;
        }
    }

    /// Kills what runs and removes the folder, or returns it when that did not work. Whoever wants to start something
    /// while this goes on waits.
    pub(super) fn end(&self) -> Option<PathBuf> {
        let mut state = self.state();
        state.over = true;
        if let Some(group) = state.group.take() {
            // A group that is gone already is what we want.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let folder = state.folder.take()?;
        for _ in 0..TRIES {
            let _ = scratch::remove(&folder);
            if folder.symlink_metadata().is_err() {
                return None;
            }
        }
        Some(folder)
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    use super::*;

    #[test]
    fn the_group_is_killed_the_folder_goes_and_nothing_starts_any_more() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("trial");
        fs::create_dir_all(folder.join("checkout-1")).unwrap();
        let running = Running::new();
        running.uses(&folder);
        let spawn = || Command::new("sh").args(["-c", "trap '' TERM INT; sleep 30"]).process_group(0).spawn();
        let mut child = running.start(spawn).unwrap();
        assert_eq!(running.end(), None);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(!folder.exists());
        assert_eq!(running.start(spawn).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn what_ended_or_is_to_stay_is_left_alone() {
        let kept = tempfile::tempdir().unwrap();
        let running = Running::new();
        let mut child = running.start(|| Command::new("true").process_group(0).spawn()).unwrap();
        child.wait().unwrap();
        running.ended(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
        running.uses(kept.path());
        running.done_with(kept.path());
        assert_eq!(running.end(), None);
        assert!(kept.path().exists());
    }
}
