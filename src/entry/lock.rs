//! Kernel locks on open files and folders.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Class, Error, IoContext, Result};
use crate::text::{Shown, Took};

/// How long a writer waits for another one.
pub const LOCK_WAIT: Duration = Duration::from_secs(60);

/// How often a taken lock is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// What kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Shared,
    Exclusive,
}

/// Takes a lock without waiting; false when somebody else holds it.
pub(super) fn try_lock(file: &File, hold: Hold) -> Result<bool> {
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(errno).or_fail(|| "the file system does not lock files: use a folder on a local disk");
            }
        }
    }
}

/// Takes a lock, waiting so long for others. Class `Locked` when they do not let go.
pub(super) fn wait_lock(file: &File, hold: Hold, path: &Path, most: Duration, cancel: &Cancel) -> Result<()> {
    let started = Instant::now();
    while !try_lock(file, hold)? {
        cancel.check()?;
        if started.elapsed() >= most {
            return Err(Error::new(
                Class::Locked,
                format_args!("another process has held `{}` for {}", Shown::path(path), Took(most)),
            )
            .hint("see which monofo still runs and wait for it, or end it: its lock ends with it"));
        }
        std::thread::sleep(TRY_AGAIN);
    }
    Ok(())
}

/// Holds a folder against others who want to do so, until the result is dropped. Calls `waiting` when one of them has it; class
/// `Locked` when they do not let go within [`LOCK_WAIT`].
pub fn hold_folder(folder: &Path, waiting: &dyn Fn(), cancel: &Cancel) -> Result<File> {
    let doing = || format!("cannot open `{}`", Shown::path(folder));
    loop {
        let held = File::open(folder).or_fail(doing)?;
        if !try_lock(&held, Hold::Exclusive)? {
            waiting();
            wait_lock(&held, Hold::Exclusive, folder, LOCK_WAIT, cancel)?;
        }
        // It may be another one by now, as after a switch to another branch.
        let (open, there) = (held.metadata().or_fail(doing)?, std::fs::metadata(folder).or_fail(doing)?);
        if (open.dev(), open.ino()) == (there.dev(), there.ino()) {
            return Ok(held);
        }
    }
}

/// Whether somebody holds a lock on what is open.
pub fn is_locked(file: &File) -> bool {
    // The lock that this takes ends with the file.
    !try_lock(file, Hold::Exclusive).unwrap_or(false)
}

/// Whether a name still leads to what is open.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
