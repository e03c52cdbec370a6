//! Repositories in what is to be replaced: what somebody works on, in a place where an artifact goes.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::target::Target;
use crate::error::{Error, Result};
use crate::text::Shown;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A path from an open folder gets no longer than this and one more name: the whole may be longer than the kernel takes.
const LONG: usize = 2048;

/// Why a folder is not replaced: it holds what nothing brings back, or may hold it.
#[derive(Debug)]
enum Kept {
    Repository(PathBuf),
    Unreadable(PathBuf, Errno),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Repository(place) => write!(f, "it holds a git repository, `{}`", Shown::path(place)),
            Kept::Unreadable(place, why) => {
                let (place, why) = (Shown::path(place), std::io::Error::from(*why));
                write!(f, "whether it holds a git repository cannot be told, since `{place}` cannot be read ({why})")
            }
        }
    }
}

impl std::error::Error for Kept {}

impl Target {
    /// Refuses to replace a folder with a repository anywhere below it that what is ready does not bring along itself, and one
    /// that cannot be looked into for that.
    pub(super) fn check_repositories(&self, ready: &Path) -> Result<()> {
        if !fs::symlink_metadata(self.real()).is_ok_and(|there| there.is_dir()) {
            return Ok(());
        }
        let shown = |below: PathBuf| {
            if below.as_os_str().is_empty() { self.path().to_owned() } else { self.path().join(below) }
        };
        let kept = match lost(self.real(), ready) {
            Ok(None) => return Ok(()),
            Ok(Some(below)) => Kept::Repository(shown(below)),
            Err((below, errno)) => Kept::Unreadable(shown(below), errno),
        };
        Err(Error::refused(format_args!("`{}` is not replaced", Shown::path(self.path())))
            .caused_by(kept)
            .hint("move that out of it, or name a folder of its own for the artifact with --target"))
    }
}

/// Whether an error says that a folder is not replaced for what it holds.
pub fn is_kept(error: &Error) -> bool {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |error| error.source()).any(|error| error.is::<Kept>())
}

/// A folder that was met and not read.
struct Pending {
    /// What the path begins at; the path alone leads to the first one.
    above: Option<Rc<OwnedFd>>,
    path: Vec<u8>,
    /// Where that is below the first one.
    below: PathBuf,
}

/// The first folder with a `.git` that has none at the same place in the other tree. Reads the names of folders alone, which the
/// removal of the old tree has to read as well. The error is a folder that cannot be read, and why.
fn lost(old: &Path, new: &Path) -> Result<Option<PathBuf>, (PathBuf, Errno)> {
    let mut folders = vec![Pending { above: None, path: old.as_os_str().as_bytes().to_vec(), below: PathBuf::new() }];
    while let Some(Pending { above, path, below }) = folders.pop() {
        let unreadable = |errno: Errno| (below.clone(), errno);
        let open = match &above {
            None => rustix::fs::openat(CWD, path.as_slice(), FOLDER, Mode::empty()),
            Some(above) => rustix::fs::openat(above, path.as_slice(), FOLDER, Mode::empty()),
        };
        let mut open = match open.and_then(Dir::new) {
            Ok(open) => open,
            // It went meanwhile, or something else took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno) => return Err(unreadable(errno)),
        };
        let mut inner = Vec::new();
        while let Some(entry) = open.read() {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            match name.to_bytes() {
                b"." | b".." => {}
                b".git" => {
                    if fs::symlink_metadata(new.join(&below).join(".git")).is_err() {
                        return Ok(Some(below));
                    }
                }
                bytes => {
                    let is_folder = match entry.file_type() {
                        FileType::Unknown => {
                            let stat =
                                rustix::fs::statat(open.fd().map_err(unreadable)?, name, AtFlags::SYMLINK_NOFOLLOW);
                            FileType::from_raw_mode(stat.map_err(unreadable)?.st_mode) == FileType::Directory
                        }
                        kind => kind == FileType::Directory,
                    };
                    if is_folder {
                        inner.push(bytes.to_vec());
                    }
                }
            }
        }
        if inner.is_empty() {
            continue;
        }
        let (above, path) = match above.filter(|_| path.len() < LONG) {
            Some(above) => (above, [path.as_slice(), b"/"].concat()),
            None => {
                let own = open.fd().map_err(unreadable)?.try_clone_to_owned();
                let own = own.map_err(|error| unreadable(Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))?;
                (Rc::new(own), Vec::new())
            }
        };
        folders.extend(inner.into_iter().map(|name| Pending {
            above: Some(Rc::clone(&above)),
            path: [path.as_slice(), &name].concat(),
            below: below.join(OsStr::from_bytes(&name)),
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_lost_unless_the_new_tree_has_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let make = |path: &str| fs::create_dir_all(at(path)).unwrap();
        make("old/a/b/c");
        make("new");
        assert_eq!(lost(&at("old"), &at("new")), Ok(None));
        make("old/a/b/c/.git/objects/.git");
        assert_eq!(lost(&at("old"), &at("new")), Ok(Some("a/b/c".into())));
        make("new/a/b/c/.git");
        assert_eq!(lost(&at("old"), &at("new")), Ok(None));
        fs::write(at("old/a/.git"), "gitdir: ../x\n").unwrap();
        assert_eq!(lost(&at("old"), &at("new")), Ok(Some("a".into())));
        fs::remove_file(at("old/a/.git")).unwrap();
        make("elsewhere/.git");
        std::os::unix::fs::symlink(at("elsewhere"), at("old/link")).unwrap();
        assert_eq!(lost(&at("old"), &at("new")), Ok(None), "a link was followed");
    }

    #[test]
    fn a_repository_is_found_however_deep_and_what_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (old, name) = (folder.path().join("old"), "d".repeat(250));
        fs::create_dir(&old).unwrap();
        let mut here = rustix::fs::open(&old, FOLDER, Mode::empty()).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&here, &name, Mode::from_raw_mode(0o700)).unwrap();
            here = rustix::fs::openat(&here, &name, FOLDER, Mode::empty()).unwrap();
        }
        let new = folder.path().join("new");
        assert_eq!(lost(&old, &new), Ok(None));
        rustix::fs::mkdirat(&here, ".git", Mode::from_raw_mode(0o700)).unwrap();
        let found = lost(&old, &new).unwrap().unwrap();
        assert_eq!(found.components().count(), 20);
        rustix::fs::unlinkat(&here, ".git", AtFlags::REMOVEDIR).unwrap();
        rustix::fs::fchmod(&here, Mode::from_raw_mode(0o300)).unwrap();
        if !rustix::process::geteuid().is_root() {
            assert_eq!(lost(&old, &new).unwrap_err().1, Errno::ACCESS);
        }
        rustix::fs::fchmod(&here, Mode::from_raw_mode(0o700)).unwrap();
        crate::entry::remove_tree(&old).unwrap();
    }
}
