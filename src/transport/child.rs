//! Running another program: its output captured, its time limited, and stopped when we are.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{IoContext, Result};

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Time between asking a program to stop and ending it.
const GRACE: Duration = Duration::from_secs(2);

/// Time within which a signal that ended a program reaches us too.
const SAME_SIGNAL: Duration = Duration::from_millis(60);

/// Time for output to arrive after the program ended: its own children may still hold the pipes.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// Output kept of each stream, from its end, at least.
const KEPT: usize = 4 << 20;

/// A finished program.
pub(super) struct Finished {
    /// How it ended; `None` when it ran out of time and was stopped.
    pub(super) status: Option<ExitStatus>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Finished {
    /// Whether it ended by itself, well.
    pub(super) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The end of what it said, for an error.
    pub(super) fn tail(&self, lines: usize) -> String {
        let said = format!("{}\n{}", self.stdout, self.stderr);
        let lines_said: Vec<_> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines_said[lines_said.len().saturating_sub(lines)..].join("\n")
    }

    /// How it ended, in words.
    pub(super) fn ending(&self) -> String {
        match self.status {
            None => "was stopped after too long".to_owned(),
            Some(status) => match status.code() {
                Some(code) => format!("ended with status {code}"),
                None => format!("was killed ({status})"),
            },
        }
    }
}

/// Finds a program on the environment's `PATH`.
pub(super) fn find(program: &str, env: &Env) -> Option<PathBuf> {
    let path = env.path("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    })
}

/// Runs a program to its end, at most for so long, in a folder, with our environment and nothing to read.
pub(super) fn run(
    program: &Path,
    arguments: &[OsString],
    folder: &Path,
    env: &Env,
    limit: Option<Duration>,
    cancel: &Cancel,
) -> Result<Finished> {
    cancel.check()?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .envs(env.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .or_fail(|| format!("cannot run `{}`", program.display()))?;
    let stdout = Said::by(child.stdout.take());
    let stderr = Said::by(child.stderr.take());
    let started = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().or_fail(|| "cannot wait for a program")? {
            break Ok(Some(status));
        }
        if let Err(stopped) = cancel.check() {
            break Err(stopped);
        }
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break Ok(None);
        }
        std::thread::sleep(POLL);
    };
    if !matches!(ended, Ok(Some(_))) {
        stop(&mut child);
    }
    let status = ended?;
    if status.is_some_and(|status| !status.success()) {
        // A signal to the whole process group ends the program before we have noticed our own.
        let ended = Instant::now();
        while ended.elapsed() < SAME_SIGNAL {
            cancel.check()?;
            std::thread::sleep(POLL / 10);
        }
    }
    Ok(Finished { status, stdout: stdout.text(), stderr: stderr.text() })
}

/// Asks a program to stop, and ends it when it does not.
fn stop(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The end of what a stream said, read on a thread of its own so that a program never blocks on a full pipe.
struct Said {
    bytes: Arc<Mutex<Vec<u8>>>,
    reading: Option<JoinHandle<()>>,
}

impl Said {
    fn by(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reading = stream.map(|mut stream| {
            std::thread::spawn(move || {
                let mut block = vec![0; 16 << 10];
                while let Ok(count @ 1..) = stream.read(&mut block) {
                    let mut said = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    said.extend_from_slice(&block[..count]);
                    if said.len() > 2 * KEPT {
                        let surplus = said.len() - KEPT;
                        said.drain(..surplus);
                    }
                }
            })
        });
        Said { bytes, reading }
    }

    /// All of it, waiting a moment for the end.
    fn text(&self) -> String {
        let ended = Instant::now();
        while self.reading.as_ref().is_some_and(|thread| !thread.is_finished()) && ended.elapsed() < LAST_OUTPUT {
            std::thread::sleep(Duration::from_millis(1));
        }
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn shell(script: &str, limit: Option<Duration>, cancel: &Cancel) -> Result<Finished> {
        let env = Env::of([("GREETING", "hello")]);
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], Path::new("/"), &env, limit, cancel)
    }

    /// As the agent does it: the signal goes to the whole process group, and reaches the program first.
    #[test]
    fn a_program_that_ends_by_the_signal_that_stops_us_is_an_interruption() {
        for script in ["kill -TERM $$", "trap 'exit 1' TERM; kill -TERM $$; sleep 5"] {
            let cancel = Cancel::new();
            let stopper = cancel.clone();
            let stopping = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                stopper.stop(15);
            });
            let error = shell(script, None, &cancel).err().unwrap();
            assert_eq!(error.class(), Class::Interrupted { signal: 15 }, "{script}");
            stopping.join().unwrap();
        }
    }

    #[test]
    fn output_and_status_are_reported() {
        let done = shell("echo $GREETING; echo oops >&2; exit 3", None, &Cancel::new()).unwrap();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("hello\n", "oops\n"));
        assert_eq!(done.ending(), "ended with status 3");
        assert_eq!(done.tail(1), "oops");
    }

    #[test]
    fn a_program_that_reads_finds_nothing_and_one_that_says_much_does_not_block() {
        let done = shell("cat; head -c 3000000 /dev/zero | tr '\\0' x", None, &Cancel::new()).unwrap();
        assert!(done.success());
        assert_eq!(done.stdout.len(), 3_000_000);
    }

    #[test]
    fn time_out_and_cancellation_end_even_a_deaf_program() {
        let started = Instant::now();
        let done = shell("trap '' TERM; sleep 30 & wait; sleep 30", Some(Duration::from_millis(100)), &Cancel::new());
        assert!(done.unwrap().status.is_none());
        let cancel = Cancel::new();
        let stopper = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            stopper.stop(15);
        });
        let error = shell("exec sleep 30", None, &cancel).err().unwrap();
        assert_eq!(error.class(), Class::Interrupted { signal: 15 });
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
