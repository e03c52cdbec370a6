//! One build: the command of a component, run by `sh` in its folder.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use rustix::io::Errno;

use super::said::pipe;
use crate::cancel::Cancel;
use crate::error::{Class, Error, IoContext, Result};
use crate::group::{Alone, Ended, ourselves, run_whole};
use crate::text::Shown;

/// Where what a build says goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// To our standard error while it is said. For one build at a time.
    Through,
    /// To whoever is told of it while it is said. For one build at a time.
    Followed,
    /// Into a file without a name, to be shown in one piece.
    Kept,
}

/// A build that ended.
pub(super) struct Ran {
    /// What it said, if that was kept; at its beginning.
    pub(super) log: Option<File>,
    /// The error is that it failed, or was stopped.
    pub(super) result: Result<()>,
    /// Whether something that it had started was still running, and had to be stopped.
    pub(super) left: bool,
}

/// Runs a command in a folder, with our environment, nothing to read and no terminal. It leads a session, whose processes end with
/// it, or with us; `held` is let go after that. `follow` gets what is to be followed.
pub(super) fn build(
    command: &str,
    folder: &Path,
    saying: Saying,
    follow: &(dyn Fn(&mut dyn Read) + Sync),
    held: Option<&File>,
    cancel: &Cancel,
) -> Result<Ran> {
    let mut alone = Alone::new("sh", ourselves().as_deref());
    let shell = &mut alone.command;
    shell.arg("-c").arg(command).current_dir(folder).stdin(Stdio::null());
    let (mut log, mut followed) = (None, None);
    match saying {
        Saying::Through => _ = shell.stdout(std::io::stderr()),
        Saying::Followed => {
            let doing = || "cannot make a pipe for what its build says";
            let (writer, said, over) = pipe().or_fail(doing)?;
            shell.stdout(writer.try_clone().or_fail(doing)?).stderr(writer);
            followed = Some((said, over));
        }
        Saying::Kept => {
            let folder = std::env::temp_dir();
            let doing = || format!("cannot make a file for what its build says in `{}`", Shown::path(&folder));
            let made = tempfile::tempfile_in(&folder);
            let hint = made.as_ref().err().map(hint).unwrap_or_default();
            let file = made.or_fail(doing).map_err(|error| error.with_hint(hint))?;
            // Both write at one place in it, so lines stay in their order.
            shell.stdout(file.try_clone().or_fail(doing)?).stderr(file.try_clone().or_fail(doing)?);
            log = Some(file);
        }
    }
    let ran = thread::scope(|scope| {
        let over = followed.map(|(mut said, over)| {
            scope.spawn(move || follow(&mut said));
            over
        });
        let ran = run_whole(&mut alone, held, cancel);
        // With our own ends of the pipe.
        drop(alone);
        over.into_iter().for_each(|over| over.tell());
        ran
    });
    let left = ran.as_ref().is_ok_and(|(_, left)| *left);
    let result = match ran.map(|(ended, _)| ended) {
        Ok(Ended::Status(0)) => Ok(()),
        // Whoever stops us may stop it as well, and it may be the faster to end.
        Ok(Ended::Stopped | Ended::Status(_)) if cancel.signal().is_some() => cancel.check(),
        Ok(Ended::Stopped) => Err(Error::failed("its build was stopped")),
        Ok(Ended::Status(status)) => {
            let why = format!("its build ended with status {status}");
            Err(Error::failed(why).hint("what it said is above"))
        }
        Err(error) => match cancel.check() {
            Ok(()) => Err(error.context("its build could not be started").with_class(Class::Failed)),
            stopped => stopped,
        },
    };
    let log = match log {
        Some(mut file) => {
            file.rewind().or_fail(|| "cannot read what a build said")?;
            Some(file)
        }
        None => None,
    };
    Ok(Ran { log, result, left })
}

/// What helps where no file can be made for what a build says.
fn hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "let this process open more files (`ulimit -n`), or build fewer at a time: --jobs"
        }
        _ => "set TMPDIR to a folder that can be written to, or build one at a time: --jobs 1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_depends_on_what_there_is_too_little_of() {
        assert!(hint(&Errno::MFILE.into()).contains("ulimit"));
        assert!(hint(&Errno::NOSPC.into()).contains("TMPDIR"));
    }
}
