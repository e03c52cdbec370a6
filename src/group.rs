//! Child processes that lead a process group of their own: run to their end, or stopped with everything that they started.
//!
//! The groups of this process are known, so that none outlives it when it is ended without unwinding.
//!
//! What must not reach a terminal leads a session of its own, which has none: a reader in the background of ours would be stopped,
//! and wait for ever. The system has no program for that everywhere, so this one starts itself anew to become the other, see [`become_alone`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, setsid, test_kill_process_group};

use crate::cancel::Cancel;
use crate::error::{IoContext, Result};

/// How long a child may take to stop after SIGTERM before it is killed: the agent's grace period.
const GRACE: Duration = Duration::from_secs(9);

/// How often somebody looks whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// How long what a child left behind may take to end by itself: a pipe's last reader needs a moment longer than its writer.
const LINGER: Duration = Duration::from_millis(300);

/// How long it may take to stop after SIGTERM before it is killed.
const LEFT_GRACE: Duration = Duration::from_secs(2);

/// Reads the number of a group, then waits for the end of its input and kills that group.
const WATCHER: &str = "read group && { read over || kill -s KILL -- \"-$group\" || kill -s KILL \"$group\"; }";

/// The first argument that makes this program another one, in a session of its own.
const ALONE: &str = "--in-a-session-of-its-own";

/// This program, whatever lies in its place by now.
const OURSELVES: &str = "/proc/self/exe";

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
    wait(start(command)?, cancel)
}

/// The same for a command that nothing may be left of: what is still in its group when it ended is stopped, and whether there was
/// something is told beside. When this process is killed the group is killed too, and only then `held` is let go, which may be
/// open for a lock.
pub fn run_whole(command: &mut Alone, held: Option<&File>, cancel: &Cancel) -> Result<(Ended, bool)> {
    let mut watcher = Watcher::start(held).or_fail(|| "cannot start `sh`")?;
    let child = command.start()?;
    let group = group_of(&child);
    watcher.watch(group);
    let ended = wait(child, cancel)?;
    let left = ended != Ended::Stopped && group.is_some_and(sweep);
    Ok((ended, left))
}

fn start(command: &mut Command) -> Result<Child> {
    command.process_group(0);
    let name = command.get_program().display().to_string();
    GROUPS.start(|| command.spawn()).or_fail(|| format!("cannot start `{name}`"))
}

/// A command that is to lead a session without a terminal.
pub struct Alone {
    /// The command, for its arguments, its folder and its streams.
    pub command: Command,
    name: String,
    /// Whether it is to be a group's leader from its start: that could not lead a session.
    grouped: bool,
}

impl Alone {
    /// A program by its name. `by` is a binary that begins with [`become_alone`], usually [`ourselves`]; without any, the program
    /// leads a group in our own session.
    pub fn new(program: &str, by: Option<&OsStr>) -> Self {
        let command = match by {
            Some(by) => {
                let mut command = Command::new(by);
                command.args([ALONE, program]);
                command
            }
            None => Command::new(program),
        };
        Alone { command, name: program.to_owned(), grouped: by.is_none() }
    }

    fn start(&mut self) -> Result<Child> {
        if self.grouped {
            return start(&mut self.command);
        }
        GROUPS.start(|| self.command.spawn()).or_fail(|| format!("cannot start `{}`", self.name))
    }
}

/// This program's binary, to be started again; `None` where that is not known: who starts it through a loader runs that.
pub fn ourselves() -> Option<OsString> {
    let runs = std::env::current_exe().ok()?;
    if is_loader(&runs) {
        return None;
    }
    let there = std::fs::symlink_metadata(OURSELVES).is_ok();
    Some(if there { OURSELVES.into() } else { runs.into() })
}

/// Whether a program is one that loads others: `ld-linux-x86-64.so.2`, `ld-musl-aarch64.so.1`, `ld.so`.
fn is_loader(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b"ld-") || name.starts_with(b"ld.")
}

/// Becomes another program, in a session of its own, if these arguments ask for it. For the very beginning of `main`. Returns what
/// could not be started, if it comes to that, and why.
pub fn become_alone(mut arguments: impl Iterator<Item = OsString>) -> Option<(OsString, io::Error)> {
    arguments.by_ref().nth(1).filter(|first| first == ALONE)?;
    let program = arguments.next()?;
    // What leads a group already stays in its session, which is as good as it gets.
    let _ = setsid();
    let error = Command::new(&program).args(arguments).exec();
    Some((program, error))
}

/// Stops what is left of a group whose leader ended. Whether there was something.
fn sweep(group: Pid) -> bool {
    if is_gone_within(group, LINGER) {
        return false;
    }
    // A group that is gone already is what we want.
    let _ = kill_process_group(group, Signal::TERM);
    let _ = kill_process_group(group, Signal::CONT);
    if !is_gone_within(group, LEFT_GRACE) {
        // A group that is gone already is what we want.
        let _ = kill_process_group(group, Signal::KILL);
    }
    true
}

fn is_gone_within(group: Pid, most: Duration) -> bool {
    let started = Instant::now();
    while test_kill_process_group(group).is_ok() && runs(group) {
        if started.elapsed() >= most {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Whether a group has a process that is more than an exit status that nobody fetched: the first process of a container may be
/// slow to do that, or never do it.
fn runs(group: Pid) -> bool {
    // Where nothing tells of our processes, each counts.
    let Some(all) = is_ours(Path::new("/proc")).then(|| std::fs::read_dir("/proc").ok()).flatten() else { return true };
    let mut stats = all.flatten().filter_map(|one| std::fs::read(one.path().join("stat")).ok()).peekable();
    let group = group.as_raw_pid().to_string();
    // The name, in brackets, may hold anything: proc_pid_stat(5).
    let is_member = |stat: Vec<u8>| {
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let mut fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
        let state = fields.next();
        fields.nth(1) == Some(group.as_str()) && !matches!(state, Some("Z" | "X"))
    };
    stats.peek().is_none() || stats.any(is_member)
}

/// Whether a folder tells of processes by the numbers that we know them by: it may be that of another namespace.
fn is_ours(proc: &Path) -> bool {
    std::fs::read_link(proc.join("self")).is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

/// Asks a group to end. What is stopped, as a reader of a terminal in the background is, has to go on to do so.
fn stop(group: Pid) {
    send(group, Signal::TERM);
    send(group, Signal::CONT);
}

/// Sends a signal to a group whose leader was not waited for. Right after its start it may not lead the group yet.
fn send(group: Pid, signal: Signal) {
    if kill_process_group(group, signal) == Err(Errno::SRCH) {
        // What is gone already is what we want.
        let _ = kill_process(group, signal);
    }
}

/// A process that outlives this one for as long as it takes to kill a group.
struct Watcher(Child);

impl Watcher {
    fn start(held: Option<&File>) -> io::Result<Self> {
        // Whoever has it open holds a lock until the group is killed. The builds do not: what they leave running must not.
        let held = held.map(File::try_clone).transpose()?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCHER]).current_dir("/").process_group(0).stdin(Stdio::piped());
        command.stdout(held.map_or_else(Stdio::null, Stdio::from)).stderr(Stdio::null());
        command.spawn().map(Watcher)
    }

    fn watch(&mut self, group: Option<Pid>) {
        if let (Some(stdin), Some(group)) = (&mut self.0.stdin, group) {
            // Without a watcher the group runs as it would have before.
            let _ = writeln!(stdin, "{}", group.as_raw_pid());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Before the end of its input can be seen: there is nothing to kill any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
                if let Some(group) = group {
                    // A group that is gone already is what we want.
                    let _ = kill_process_group(group, Signal::KILL);
                }
                GROUPS.ended(group);
                return Ok(Ended::Stopped);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Stopped),
            Err(RecvTimeoutError::Timeout) => {}
        }
        match stopped {
            None if cancel.signal().is_some() => {
                group.into_iter().for_each(stop);
                stopped = Some(Instant::now());
            }
            Some(since) if !killed && since.elapsed() > GRACE => {
                group.into_iter().for_each(|group| send(group, Signal::KILL));
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
        state.running.drain(..).for_each(|group| send(group, Signal::KILL));
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

    /// Stops it in a moment.
    fn stopped_soon(cancel: &Cancel) -> thread::JoinHandle<()> {
        let later = cancel.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            later.stop(2);
        })
    }

    #[test]
    fn a_stop_reaches_the_grandchildren_too() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let cancel = Cancel::new();
        let stopper = stopped_soon(&cancel);
        let begun = Instant::now();
        assert_eq!(shell(&format!("(sleep 1; touch '{}') & sleep 20", mark.display()), &cancel), Ended::Stopped);
        stopper.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(1200));
        assert!(!mark.exists(), "a grandchild went on");
    }

    #[test]
    fn what_is_left_behind_is_stopped_and_told() {
        let whole = |script: &str| {
            let mut shell = Alone::new("sh", None);
            shell.command.args(["-c", script]).stdout(Stdio::null());
            run_whole(&mut shell, None, &Cancel::new()).unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        assert_eq!(whole("exit 3"), (Ended::Status(3), false));
        assert_eq!(whole("sleep 0.05 & exit 0"), (Ended::Status(0), false));
        assert_eq!(whole(&format!("sleep 77 & echo $! > '{}'", pid.display())), (Ended::Status(0), true));
        let pid = std::fs::read_to_string(pid).unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "it is still there: {stat}");
    }

    #[test]
    fn a_folder_that_tells_of_others_processes_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_ours(folder.path()));
        std::os::unix::fs::symlink((std::process::id() + 1).to_string(), folder.path().join("self")).unwrap();
        assert!(!is_ours(folder.path()));
        assert_eq!(is_ours(Path::new("/proc")), cfg!(target_os = "linux"));
    }

    #[test]
    fn a_stopped_one_ends_at_once() {
        let cancel = Cancel::new();
        let stopper = stopped_soon(&cancel);
        let begun = Instant::now();
        assert_eq!(shell("kill -STOP $$", &cancel), Ended::Stopped);
        stopper.join().unwrap();
        assert!(begun.elapsed() < GRACE, "it was waited for");
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
