//! One child process: run to its end, or stopped with everything it started.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::emergency::RUNNING;
use crate::cancel::Cancel;
use crate::error::{IoContext, Result};

/// How long a child may take to stop after SIGTERM before it is killed: the agent's grace period.
const GRACE: Duration = Duration::from_secs(9);

/// Where a child's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// To ours.
    Through,
    /// To our standard error, because ours carries data.
    ToStderr,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this status; 128 and the signal's number if a signal did it.
    Status(i32),
    /// Because we were told to stop.
    Stopped,
}

/// Runs a program in a process group of its own, with exactly this environment and nothing to read, and waits for it.
/// When `cancel` is set the whole group gets SIGTERM, and SIGKILL after the grace period.
pub(super) fn run(
    program: &Path,
    arguments: &[&OsStr],
    directory: &Path,
    environment: &BTreeMap<String, String>,
    output: Output,
    cancel: &Cancel,
) -> Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env_clear().envs(environment).stdin(Stdio::null()).process_group(0);
    if output == Output::ToStderr {
        command.stdout(std::io::stderr());
    }
    let starting = RUNNING.start(|| command.spawn());
    let child = starting.or_fail(|| format!("starting `{}` in `{}`", program.display(), directory.display()))?;
    wait(child, cancel)
}

fn wait(mut child: Child, cancel: &Cancel) -> Result<Ended> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
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
        match ended.recv_timeout(Duration::from_millis(50)) {
            Ok(status) if stopped.is_none() => {
                RUNNING.ended(group);
                return status.or_fail(|| "waiting for a child process").map(|status| Ended::Status(number(status)));
            }
            Ok(_) => {
                // What ignored SIGTERM and outlived its parent must not outlive the step.
                signal(Signal::KILL);
                RUNNING.ended(group);
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

fn number(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, cancel: &Cancel) -> Ended {
        let environment = BTreeMap::from([("PATH".to_string(), "/usr/bin:/bin".to_string())]);
        let arguments = ["-c", script].map(OsStr::new);
        run(Path::new("/bin/sh"), &arguments, Path::new("/"), &environment, Output::ToStderr, cancel).unwrap()
    }

    #[test]
    fn the_status_is_that_of_the_child_or_of_its_signal() {
        assert_eq!(shell("exit 7", &Cancel::new()), Ended::Status(7));
        assert_eq!(shell("kill -9 $$", &Cancel::new()), Ended::Status(137));
        assert_eq!(shell("test -z \"$HOME\" && ! read x", &Cancel::new()), Ended::Status(0));
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
}
