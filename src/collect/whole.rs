//! A whole folder, or a single file, as a file set: what cache and store keep.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType};

use super::fileset::{FileSet, Kind, Status};
use super::stat::status;
use super::walk::{IgnoreFiles, NodeKind, Visited, Walk, open_through_no_link, walk, walk_in};
use crate::cancel::Cancel;
use crate::error::{Error, IoContext, Result};
use crate::text::{Count, Shown};

/// Every file, link and folder below `root`, whatever its name; or, with `only`, this one file in it.
///
/// Names of one file are files of their own, since what is restored shares nothing. Special files are left out and told
/// of. Reads no content. Blocks.
pub fn whole_tree(root: &Path, only: Option<&OsStr>, cancel: &Cancel) -> Result<(FileSet, Vec<String>)> {
    let mut set = FileSet::default();
    if let Some(name) = only {
        let folder = std::fs::File::open(root)
            .map_err(|error| Error::failed(format_args!("cannot open `{}`", Shown::path(root))).caused_by(error))?;
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
            Error::failed(format_args!("cannot read `{}`", Shown(name.as_bytes())))
                .caused_by(std::io::Error::from(errno))
        })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::refused(format_args!("`{}` is no regular file", Shown(name.as_bytes()))));
        }
        let stored = set.add_name(name.as_bytes())?;
        set.add(stored, Status { inode: None, ..status(&stat, Kind::File, None) });
        return Ok((set, Vec::new()));
    }
    let everything = |_: &[u8]| false;
    let plan = Walk { root, ignore_files: IgnoreFiles::Keep, leave_out: &everything, enter: None, cancel };
    let mut special = Vec::new();
    for (path, status) in walk(&plan, |visited| Ok(Some((visited.path.to_vec(), look(visited)?))))? {
        match status {
            Some(status) => {
                let name = set.add_name(&path)?;
                set.add(name, status);
            }
            None => special.push(path),
        }
    }
    set.finish();
    Ok((set, special_warning(special)))
}

/// Several trees and files as one set, each under a name of its own. Folders on the way to these names are entries too.
///
/// As [`whole_tree`], less what is directly in a folder and `leave_out` names. The names lie apart: none is within another.
/// The paths lead through no link, and are refused where they do.
pub fn whole_trees(
    trees: &[(&[u8], &Path, RootOf)],
    leave_out: &(dyn Fn(&[u8]) -> bool + Sync),
    cancel: &Cancel,
) -> Result<(FileSet, Vec<String>)> {
    let mut set = FileSet::default();
    let mut special = Vec::new();
    let mut above = BTreeSet::new();
    for (prefix, root, kind) in trees {
        let mut on_the_way = *prefix;
        while let Some(at) = on_the_way.iter().rposition(|byte| *byte == b'/') {
            on_the_way = &on_the_way[..at];
            above.insert(on_the_way);
        }
        let unreadable = || format!("cannot read `{}`", Shown::path(root));
        let name = set.add_name(prefix)?;
        let folder = match kind {
            RootOf::Folder => open_through_no_link(root).or_fail(unreadable)?,
            RootOf::File => {
                let parent = open_through_no_link(root.parent().unwrap_or(Path::new("/"))).or_fail(unreadable)?;
                let file = root.file_name().unwrap_or_default();
                let stat = rustix::fs::statat(&parent, file, AtFlags::SYMLINK_NOFOLLOW).or_fail(unreadable)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Error::refused(format_args!("`{}` is no regular file", Shown::path(root))));
                }
                set.add(name, Status { inode: None, ..status(&stat, Kind::File, None) });
                continue;
            }
        };
        let stat = rustix::fs::fstat(&folder).or_fail(unreadable)?;
        set.add(name, Status { inode: None, ..status(&stat, Kind::Dir, None) });
        let plan = Walk { root, ignore_files: IgnoreFiles::Keep, leave_out, enter: None, cancel };
        let nodes = walk_in(folder.as_fd(), &plan, |visited| Ok(Some((visited.path.to_vec(), look(visited)?))));
        let nodes = nodes.map_err(|error| error.context(format_args!("in `{}`", Shown::path(root))))?;
        for (path, status) in nodes {
            let path = [prefix, b"/".as_slice(), &path].concat();
            match status {
                Some(status) => {
                    let name = set.add_name(&path)?;
                    set.add(name, status);
                }
                None => special.push(path),
            }
        }
    }
    for folder in above {
        let name = set.add_name(folder)?;
        // They are nobody's: whoever unpacks has folders of their own there.
        let nothing = Status {
            kind: Kind::Dir,
            mode: 0o755,
            mtime: 0,
            mtime_nanos: 0,
            stamp: None,
            size: 0,
            text: None,
            inode: None,
        };
        set.add(name, nothing);
    }
    set.finish();
    Ok((set, special_warning(special)))
}

/// What lies at the top of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootOf {
    /// A folder with all that is in it.
    Folder,
    /// One file.
    File,
}

/// What becomes of a node; `None` for a special file.
fn look(visited: &Visited<'_>) -> Result<Option<Status>> {
    let (kind, text) = match visited.kind {
        NodeKind::Dir { .. } => (Kind::Dir, None),
        NodeKind::File => (Kind::File, None),
        NodeKind::Symlink => (Kind::Symlink, Some(link_text(visited)?.into_boxed_slice())),
        NodeKind::Special => return Ok(None),
    };
    Ok(Some(Status { inode: None, ..status(visited.stat, kind, text) }))
}

/// The text of a symbolic link that was met.
pub(crate) fn link_text(visited: &Visited<'_>) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(visited.folder, visited.name, Vec::new()).map(std::ffi::CString::into_bytes).map_err(
        |errno| {
            Error::failed(format_args!("cannot read the link `{}`", Shown(visited.path)))
                .caused_by(std::io::Error::from(errno))
        },
    )
}

/// The one warning about special files.
pub(crate) fn special_warning(mut special: Vec<Vec<u8>>) -> Vec<String> {
    if special.is_empty() {
        return Vec::new();
    }
    special.sort();
    let named: Vec<_> = special.iter().take(3).map(|path| format!("`{}`", Shown(path))).collect();
    let more = if special.len() > named.len() { ", …" } else { "" };
    vec![format!(
        "left out {} (sockets, FIFOs and devices are neither kept nor hashed): {}{more}",
        Count(special.len() as u64, "special file"),
        named.join(", ")
    )]
}
