//! What lies in a store already: made read-only and durable, found, digested.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::cancel::Cancel;
use crate::entry::sync_filesystem;
use crate::error::{Error, IoContext, Result};
use crate::hash::{Hash, Hasher};
use crate::text::Shown;

/// The digest of a file's content. A link in its place is not followed.
pub(super) fn digest_of(path: &Path, cancel: &Cancel) -> Result<Hash> {
    let doing = || format!("cannot read `{}`", Shown::path(path));
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    digest_of_open(File::options().read(true).custom_flags(nofollow).open(path).or_fail(doing)?, path, cancel)
}

/// The digest of what an open file holds from where it is read next; `path` is what errors call it.
pub(super) fn digest_of_open(mut file: impl Read, path: &Path, cancel: &Cancel) -> Result<Hash> {
    let doing = || format!("cannot read `{}`", Shown::path(path));
    let (mut buffer, mut hasher) = (vec![0; 1 << 20], Hasher::new());
    loop {
        cancel.check()?;
        match file.read(&mut buffer).or_fail(doing)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Takes the right to write from all files of a tree, and makes it durable. Folders stay writable by their owner: one that
/// is not can be neither moved nor removed.
pub(super) fn settle(root: &Path) -> Result<()> {
    read_only(root)?;
    sync_filesystem(root)
}

fn read_only(folder: &Path) -> Result<()> {
    let doing = || format!("cannot set modes in `{}`", Shown::path(folder));
    for entry in fs::read_dir(folder).or_fail(doing)? {
        let entry = entry.or_fail(doing)?;
        let kind = entry.file_type().or_fail(doing)?;
        if kind.is_dir() {
            read_only(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata().or_fail(doing)?.permissions().mode();
            let mode = if mode & 0o100 != 0 { 0o555 } else { 0o444 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode)).or_fail(doing)?;
        }
    }
    Ok(())
}

/// The one file of an entry that is a file.
pub(super) fn only_file(folder: &Path) -> Result<PathBuf> {
    let doing = || format!("cannot read `{}`", Shown::path(folder));
    let mut entries = fs::read_dir(folder).or_fail(doing)?;
    match (entries.next().transpose().or_fail(doing)?, entries.next()) {
        (Some(one), None) if one.file_type().or_fail(doing)?.is_file() => Ok(one.path()),
        _ => Err(Error::damaged(format_args!("`{}` does not hold exactly one file", Shown::path(folder)))),
    }
}
