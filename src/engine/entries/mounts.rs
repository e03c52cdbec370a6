//! What is mounted at or below a folder that is to be replaced or removed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::text::Shown;

/// Refuses a path, real and as the user named it, that is a mount point or holds one.
pub(super) fn check_mounts(real: &Path, path: &Path) -> Result<()> {
    let path = Shown::path(path);
    match mount_in(real).or_fail(|| format!("cannot tell whether `{path}` holds a mount"))? {
        None => Ok(()),
        Some(mount) if mount == real => {
            Err(Error::refused(format_args!("`{path}` is a mount point, and is not replaced"))
                .hint("name a folder inside it with --target"))
        }
        Some(mount) => Err(Error::refused(format_args!(
            "`{path}` holds a mount point, `{}`, and is not replaced",
            Shown::path(&mount)
        ))
        .hint("unmount it, or name a folder of its own for the artifact with --target")),
    }
}

/// A mount at or below a path without links, if there is one.
pub(super) fn mount_in(real: &Path) -> io::Result<Option<PathBuf>> {
    if fs::symlink_metadata(real).is_err() {
        return Ok(None);
    }
    if let Some(table) = mount_table() {
        return Ok(mounts(&table).find(|mount| mount.starts_with(real)));
    }
    // Where nothing tells of mounts, another file system is all that shows.
    let above = real.parent().unwrap_or(real).symlink_metadata()?.dev();
    other_device(real, above)
}

#[cfg(target_os = "linux")]
fn mount_table() -> Option<Vec<u8>> {
    fs::read("/proc/self/mountinfo").ok()
}

#[cfg(not(target_os = "linux"))]
fn mount_table() -> Option<Vec<u8>> {
    None
}

/// The mount points of a `mountinfo`: the fifth word of each line, see proc_pid_mountinfo(5).
fn mounts(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let words = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    words.map(|word| PathBuf::from(OsString::from_vec(without_octal(word))))
}

/// Blank, tab, newline and backslash are written as `\` and three octal digits.
fn without_octal(mut word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    while let Some((first, rest)) = word.split_first() {
        match rest.split_at_checked(3) {
            Some((digits, after)) if *first == b'\\' && digits.iter().all(|digit| matches!(digit, b'0'..=b'7')) => {
                plain.push(digits.iter().fold(0_u8, |byte, digit| byte.wrapping_mul(8) + (digit - b'0')));
                word = after;
            }
            _ => {
                plain.push(*first);
                word = rest;
            }
        }
    }
    plain
}

fn other_device(path: &Path, device: u64) -> io::Result<Option<PathBuf>> {
    let status = fs::symlink_metadata(path)?;
    if status.dev() != device {
        return Ok(Some(path.to_owned()));
    }
    if status.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Some(found) = other_device(&entry.path(), device)?
            {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 8:1 /d /a\\040b\\134c\\0 rw shared:1 - ext4 /dev/a rw\n";
        let found: Vec<_> = mounts(table).collect();
        assert_eq!(found, [PathBuf::from("/"), PathBuf::from("/a b\\c\\0")]);
    }
}
