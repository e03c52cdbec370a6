//! Child processes that lead a process group of their own: run to their end, or stopped with everything that they started.
//!
//! The groups of this process are known, so that none outlives it when it is ended without unwinding.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::cancel::Cancel;
use crate::error::{IoContext, Result};

/// How long a child may take to stop after SIGTERM before it is killed: the agent's grace period.
const GRACE: Duration = Duration::from_secs(9);

/// How often somebody looks whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// Those of this process.
static GROUPS: Groups = Groups::new();

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status; 128 and the signal's number if a signal did it.
    Status(i32),
    /// Because we were told to stop.
    Stopped,
}

/// Runs a command as the leader of a new process group and waits for it. When `cancel` is set the whole group gets SIGTERM,
/// and SIGKILL after a grace period of 9 s; nothing of it is left then. The error is that it could not be started.
pub fn run(command: &mut Command, cancel: &Cancel) -> Result<Ended> {
    command.process_group(0);
    let name = command.get_program().display().to_string();
    let child = GROUPS.start(|| command.spawn()).or_fail(|| format!("cannot start `{name}`"))?;
    wait(child, cancel)
}

/// Kills every group that runs, and lets none start any more. For the moment before the process ends without unwinding.
pub fn end_all() {
    GROUPS.end();
}

fn wait(mut child: Child, cancel: &Cancel) -> Result<Ended> {
    let group = group_of(&child);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more when the program is on its way out.
        let _ = sender.send(child.wait());
    });
    let signal = |signal| {
        if let Some(group) = group {
            // A group that is gone already is what we want.
            let _ = kill_process_group(group, signal);
        }
    };
    let mut stopped: Option<Instant> = None;
    let mut killed = false;
    loop {
        match ended.recv_timeout(POLL) {
            Ok(status) if stopped.is_none() => {
                GROUPS.ended(group);
                return status.or_fail(|| "waiting for a child process").map(|status| Ended::Status(number(status)));
            }
            Ok(_) => {
                // What ignored SIGTERM and outlived its parent must not outlive the run.
                signal(Signal::KILL);
                GROUPS.ended(group);
                return Ok(Ended::Stopped);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Stopped),
            Err(RecvTimeoutError::Timeout) => {}
        }
        match stopped {
            None if cancel.signal().is_some() => {
                signal(Signal::TERM);
                stopped = Some(Instant::now());
            }
            Some(since) if !killed && since.elapsed() > GRACE => {
                signal(Signal::KILL);
                killed = true;
            }
            _ => {}
        }
    }
}

fn group_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn number(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(1))
}

/// What runs now.
struct Groups(Mutex<State>);

struct State {
    running: Vec<Pid>,
    over: bool,
}

impl Groups {
    const fn new() -> Self {
        Groups(Mutex::new(State { running: Vec::new(), over: false }))
    }

    /// Starts a child that leads a group; none is started once all were ended.
    fn start(&self, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
        let mut state = self.state();
        if state.over {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = spawn()?;
        state.running.extend(group_of(&child));
        Ok(child)
    }

    /// Forgets a group, before its number may mean another one.
    fn ended(&self, group: Option<Pid>) {
        self.state().running.retain(|running| Some(*running) != group);
    }

    /// Kills what runs. Whoever wants to start something while this goes on waits.
    fn end(&self) {
        let mut state = self.state();
        state.over = true;
        for group in state.running.drain(..) {
            // A group that is gone already is what we want.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, cancel: &Cancel) -> Ended {
        run(Command::new("/bin/sh").args(["-c", script]), cancel).unwrap()
    }

    #[test]
    fn the_status_is_that_of_the_child_or_of_its_signal() {
        assert_eq!(shell("exit 7", &Cancel::new()), Ended::Status(7));
        assert_eq!(shell("kill -9 $$", &Cancel::new()), Ended::Status(137));
    }

    #[test]
    fn a_stop_reaches_the_grandchildren_too() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let cancel = Cancel::new();
        let later = cancel.clone();
        let stopper = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            later.stop(2);
        });
        let begun = Instant::now();
        assert_eq!(shell(&format!("(sleep 1; touch '{}') & sleep 20", mark.display()), &cancel), Ended::Stopped);
        stopper.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(1200));
        assert!(!mark.exists(), "a grandchild went on");
    }

    #[test]
    fn all_groups_are_killed_and_nothing_starts_any_more() {
        let groups = Groups::new();
        let spawn = || Command::new("sh").args(["-c", "trap '' TERM INT; sleep 30"]).process_group(0).spawn();
        let mut children = [groups.start(spawn).unwrap(), groups.start(spawn).unwrap()];
        let mut gone = groups.start(|| Command::new("true").process_group(0).spawn()).unwrap();
        gone.wait().unwrap();
        groups.ended(group_of(&gone));
        assert_eq!(groups.state().running.len(), 2);
        groups.end();
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
        assert_eq!(groups.start(spawn).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
