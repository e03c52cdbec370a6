//! Files in a store: read-only, shared between entries where they are equal, made durable together.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::entry::sync_filesystem;
use crate::error::{Error, IoContext, Result};
use crate::text::Shown;

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
        (Some(one), None) => Ok(one.path()),
        _ => Err(Error::damaged(format_args!("`{}` does not hold exactly one file", Shown::path(folder)))),
    }
}
