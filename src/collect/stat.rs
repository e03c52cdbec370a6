//! `lstat` for many names at once, relative to an open folder.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::fileset::{FileSet, Kind, Name, Status};

/// What a name turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    Entry(Status),
    /// A socket, FIFO or device.
    Special,
    /// Why its status could not be read.
    Unreadable(Errno),
}

/// Fewer names than this are not worth a second thread.
const PER_THREAD: usize = 2000;

/// Looks at all names, in their order. Uses several threads for many names.
pub(super) fn look_at(root: BorrowedFd<'_>, set: &FileSet, names: &[Name]) -> Vec<Found> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(names.len() / PER_THREAD).max(1);
    if threads == 1 {
        return names.iter().map(|name| look(root, set.name_of(*name))).collect();
    }
    let share = names.len().div_ceil(threads);
    thread::scope(|scope| {
        let parts: Vec<_> = names
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(|name| look(root, set.name_of(*name))).collect::<Vec<_>>()))
            .collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn look(root: BorrowedFd<'_>, name: &[u8]) -> Found {
    let stat = match rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(errno) => return Found::Unreadable(errno),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Dir,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        _ => return Found::Special,
    };
    let text = match kind {
        Kind::Symlink => match rustix::fs::readlinkat(root.as_fd(), name, Vec::new()) {
            Ok(text) => Some(text.into_bytes().into_boxed_slice()),
            Err(errno) => return Found::Unreadable(errno),
        },
        _ => None,
    };
    Found::Entry(status(&stat, kind, text))
}

/// The time of the last change of a file's status, mixed into four bytes; `None` for a file with several names, whose time
/// changes whenever another name comes or goes. Unlike the modification time, nobody can set it back, and a file that
/// took another's place has one of its own.
pub fn stamp(stat: &Stat) -> Option<NonZeroU32> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "mixed, not counted with; the types differ by system"
    )]
    let mixed = {
        let time = (stat.st_ctime as u64).wrapping_mul(1_000_000_007).wrapping_add(stat.st_ctime_nsec as u64);
        (time ^ time >> 32) as u32
    };
    if stat.st_nlink > 1 { None } else { Some(NonZeroU32::new(mixed).unwrap_or(NonZeroU32::MIN)) }
}

/// Whether a file that is open is still what it was when it was met: the same one, unwritten. See [`stamp`].
pub fn same_file(now: &Stat, then: &Stat) -> bool {
    let facts = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    facts(now) == facts(then) && stamp(now).zip(stamp(then)).is_none_or(|(now, then)| now == then)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "kernel fields within their documented range"
)]
pub(super) fn status(stat: &Stat, kind: Kind, text: Option<Box<[u8]>>) -> Status {
    let several_names = kind == Kind::File && stat.st_nlink > 1;
    Status {
        kind,
        mode: (stat.st_mode & 0o7777) as u16,
        mtime: stat.st_mtime,
        mtime_nanos: stat.st_mtime_nsec as u32,
        stamp: stamp(stat),
        size: if kind == Kind::File { stat.st_size as u64 } else { 0 },
        text,
        inode: several_names.then_some((stat.st_dev, stat.st_ino)),
    }
}
