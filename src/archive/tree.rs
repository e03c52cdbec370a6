//! The only code that writes into a user's folder: confined to it, following no link.
//!
//! Two defences, each enough by itself. [`SafePath`] judges names: relative, no `..`, no NUL. [`Tree`] holds the folder
//! open and reaches everything below through handles of folders, one component at a time with `O_NOFOLLOW`, so that a
//! link in the way is an error of the kernel's even when no name looked wrong or another process changes the tree.
//! Files are made with `O_EXCL` after what was there has been unlinked: nothing existing is ever written through.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

pub use super::safe_path::SafePath;
use crate::error::{Class, Error, IoContext, Result};
use crate::text::Shown;

/// Longest text of a symbolic link, in bytes: the kernel's limit.
const LONGEST_LINK: usize = 4095;

/// So many folders, counted from the root, stay open on the way down; below them only the last. A path has up to 2,048
/// parts, and a process often no more than 1,024 open files.
const KEPT_OPEN: usize = 128;

/// What is set on a file, folder or link besides its content.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Permission bits; set-id bits are never set.
    pub mode: u32,
    /// Modification time, seconds.
    pub mtime: i64,
    /// Modification time, nanoseconds.
    pub mtime_nanos: u32,
    /// Owner and group, when they are wanted.
    pub owner: Option<(u32, u32)>,
}

impl Attributes {
    fn permissions(self) -> u32 {
        self.mode & 0o1777
    }

    fn times(self) -> Timestamps {
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: self.mtime, tv_nsec: self.mtime_nanos.into() },
        }
    }
}

/// An open folder to make things in.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// Whether it has a default ACL, which the kernel applies to new files in place of the umask.
    has_acl: bool,
}

impl Folder {
    fn new(fd: OwnedFd) -> Arc<Self> {
        // One byte is too short for it, which tells as much as its value.
        let looked = rustix::fs::fgetxattr(&fd, c"system.posix_acl_default", &mut [0u8; 1]);
        let has_acl = matches!(looked, Ok(_) | Err(Errno::RANGE));
        Arc::new(Folder { fd, has_acl })
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A folder held open, and a path of open folders below it: entries come folder by folder, so most need no new handle.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Folder>,
    /// Folders from below the root down to the last one used; those below [`KEPT_OPEN`] but the last are closed.
    open: Vec<(Vec<u8>, Option<Arc<Folder>>)>,
}

/// What to do with a folder on the way that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Make it, also in place of a file.
    Make,
    /// Answer that it is not there.
    Tell,
}

impl Tree {
    /// Opens a folder, making it and its parents when they are missing.
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).or_fail(|| format!("cannot make the folder `{}`", Shown::path(path)))?;
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .or_fail(|| format!("cannot open the folder `{}`", Shown::path(path)))?;
        Ok(Tree { root: Folder::new(root), open: Vec::new() })
    }

    /// The tree that starts at a folder below, which is made when it is missing. A link on the way is refused.
    pub fn below(mut self, path: &SafePath) -> Result<Self> {
        Ok(Tree { root: self.folder(path.as_bytes())?, open: Vec::new() })
    }

    /// A handle of a folder below, which is made when it is missing. A link in the way is refused.
    pub fn folder(&mut self, path: &[u8]) -> Result<Arc<Folder>> {
        self.reach(path, Missing::Make)?.ok_or_else(|| Error::failed("a folder that was made is missing"))
    }

    /// A handle of a folder below; `None` when something on the way is missing or no folder.
    fn reach(&mut self, path: &[u8], missing: Missing) -> Result<Option<Arc<Folder>>> {
        if path.is_empty() {
            return Ok(Some(Arc::clone(&self.root)));
        }
        let parts = || path.split(|byte| *byte == b'/');
        let known = parts().zip(&self.open).take_while(|(part, (name, _))| part == name).count();
        self.open.truncate(known);
        if self.open.last().is_some_and(|(_, fd)| fd.is_none()) {
            self.open.truncate(KEPT_OPEN);
        }
        for part in parts().skip(self.open.len()) {
            let parent = self.open.last().and_then(|(_, fd)| fd.as_ref()).unwrap_or(&self.root);
            let Some(fd) = enter(parent, part, path, missing)? else { return Ok(None) };
            if self.open.len() > KEPT_OPEN
                && let Some((_, parent)) = self.open.last_mut()
            {
                *parent = None;
            }
            self.open.push((part.to_vec(), Some(Folder::new(fd))));
        }
        Ok(self.open.last().and_then(|(_, fd)| fd.clone()))
    }

    /// Makes a folder, or keeps one that is there. It stays writable by its owner until [`Tree::finish_dir`].
    pub fn make_dir(&mut self, path: &SafePath) -> Result<()> {
        let fd = self.folder(path.as_bytes())?;
        let stat = rustix::fs::fstat(&fd).or_fail(|| format!("cannot read `{}`", Shown(path.as_bytes())))?;
        if stat.st_mode & 0o700 != 0o700 {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))
                .or_fail(|| format!("cannot make the folder `{}` writable", Shown(path.as_bytes())))?;
        }
        Ok(())
    }

    /// Gives a folder its final mode and time. To be called for folders below before those above.
    pub fn finish_dir(&mut self, path: &SafePath, attributes: Attributes) -> Result<()> {
        let fd = self.folder(path.as_bytes())?;
        let doing = || format!("cannot set mode and time of the folder `{}`", Shown(path.as_bytes()));
        own(&fd, attributes).or_fail(doing)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(attributes.permissions() as _)).or_fail(doing)?;
        rustix::fs::futimens(&fd, &attributes.times()).or_fail(doing)
    }

    /// Makes a symbolic link, replacing a file or link that is there.
    pub fn symlink(&mut self, path: &SafePath, text: &[u8], attributes: Attributes) -> Result<()> {
        if text.len() > LONGEST_LINK {
            return Err(Error::refused(format_args!(
                "entry `{}` is a symbolic link with a text longer than {LONGEST_LINK} bytes",
                Shown(path.as_bytes())
            )));
        }
        let (folder, name) = path.split();
        let fd = self.folder(folder)?;
        let doing = || format!("cannot make the link `{}`", Shown(path.as_bytes()));
        replacing(&fd, name, path.as_bytes(), || rustix::fs::symlinkat(text, &fd, name))?.or_fail(doing)?;
        if let Some((uid, gid)) = attributes.owner {
            rustix::fs::chownat(
                &fd,
                name,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .or_fail(doing)?;
        }
        rustix::fs::utimensat(&fd, name, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW).or_fail(doing)
    }

    /// Begins a file that appears whole at its path when it is published, replacing a file or link that is there.
    pub fn stage(&mut self, path: &SafePath) -> Result<Staged> {
        let (folder, name) = path.split();
        let folder = self.folder(folder)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let doing = || format!("cannot make `{}`", Shown(path.as_bytes()));
        for attempt in 0..100 {
            let staging = format!(".monofo-{}-{attempt}.part", std::process::id());
            match rustix::fs::openat(&folder, &staging, flags, Mode::from_raw_mode(0o666)) {
                Ok(fd) => return Ok(Staged { folder, staging: Some(staging), name: name.to_vec(), file: fd.into() }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).or_fail(doing),
            }
        }
        Err(Errno::EXIST).or_fail(doing)
    }

    /// Makes a second name of a regular file or symbolic link below, replacing a file or link that is there. Returns the
    /// text of a link.
    pub fn hard_link(&mut self, path: &SafePath, target: &SafePath) -> Result<Option<Vec<u8>>> {
        let shown = || Shown(path.as_bytes()).to_string();
        let (from_folder, from) = target.split();
        let missing = || {
            Error::damaged(format_args!(
                "entry `{}` is a hard link to `{}`, which does not exist",
                shown(),
                Shown(target.as_bytes())
            ))
        };
        let Some(source) = self.reach(from_folder, Missing::Tell)? else { return Err(missing()) };
        let text = match rustix::fs::statat(&source, from, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => None,
            // A second name of a symbolic link is made without following it.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                let text = rustix::fs::readlinkat(&source, from, Vec::new());
                Some(text.or_fail(|| format!("cannot read `{}`", Shown(target.as_bytes())))?.into_bytes())
            }
            Ok(_) => {
                return Err(Error::refused(format_args!(
                    "entry `{}` is a hard link to `{}`, which is neither a file nor a link",
                    shown(),
                    Shown(target.as_bytes())
                )));
            }
            Err(Errno::NOENT) => return Err(missing()),
            Err(errno) => return Err(errno).or_fail(|| format!("cannot read `{}`", Shown(target.as_bytes()))),
        };
        let (folder, name) = path.split();
        let fd = self.folder(folder)?;
        replacing(&fd, name, path.as_bytes(), || rustix::fs::linkat(&source, from, &fd, name, AtFlags::empty()))?
            .or_fail(|| format!("cannot make the hard link `{}`", shown()))?;
        Ok(text)
    }
}

/// Opens a folder in a folder. When it is to be made, a file in the way is replaced; a link never is.
fn enter(parent: &Folder, name: &[u8], path: &[u8], missing: Missing) -> Result<Option<OwnedFd>> {
    if matches!(name, b"" | b"." | b"..") {
        // No `SafePath` has such a part, but what is reached through here must not depend on that.
        return Err(Error::refused(format_args!("entry `{}` has the part `{}` in its name", Shown(path), Shown(name))));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let doing = || format!("cannot make the folder `{}`", Shown(path));
    for _ in 0..3 {
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::NOENT) if missing == Missing::Tell => return Ok(None),
            Err(Errno::NOENT) => match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).or_fail(doing),
            },
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    // Somebody else took it away in between.
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno).or_fail(doing),
                };
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    return Err(Error::refused(format_args!(
                        "entry `{}` would be written through `{}`, which is a symbolic link",
                        Shown(path),
                        Shown(name)
                    ))
                    .hint("remove the link first if the files belong there"));
                }
                if missing == Missing::Tell {
                    return Ok(None);
                }
                match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                    // What was there may have become a folder again.
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(errno) => return Err(errno).or_fail(doing),
                }
            }
            Err(errno) => return Err(errno).or_fail(doing),
        }
    }
    Err(Error::new(Class::Changed, format_args!("`{}` keeps changing while it is unpacked", Shown(path))))
}

/// Makes something under a name; when the name is taken, unlinks what is there first. A folder is not taken away.
fn replacing<T>(
    folder: &Folder,
    name: &[u8],
    path: &[u8],
    make: impl Fn() -> rustix::io::Result<T>,
) -> Result<rustix::io::Result<T>> {
    for _ in 0..3 {
        match make() {
            Err(Errno::EXIST) => {}
            other => return Ok(other),
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if is_dir(folder, name) => {
                return Err(Error::refused(format_args!(
                    "entry `{}` is a file in the archive and a folder here, and a folder is not replaced by a file",
                    Shown(path)
                ))
                .hint("remove the folder first if the file belongs there"));
            }
            Err(errno) => return Ok(Err(errno)),
        }
    }
    Err(Error::new(Class::Changed, format_args!("`{}` keeps changing while it is unpacked", Shown(path))))
}

fn is_dir(folder: &Folder, name: &[u8]) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn own(fd: &Folder, attributes: Attributes) -> rustix::io::Result<()> {
    match attributes.owner {
        Some((uid, gid)) => rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
        None => Ok(()),
    }
}

/// A file being written. Dropped before [`NewFile::finish`], it is removed again.
pub struct NewFile<'a> {
    folder: &'a Folder,
    name: &'a [u8],
    path: &'a [u8],
    file: std::fs::File,
    attributes: Attributes,
    finished: bool,
}

impl<'a> NewFile<'a> {
    /// Makes a file in an open folder, unlinking a file or link that is there. `path` is for errors.
    pub fn create(folder: &'a Folder, path: &'a [u8], name: &'a [u8], attributes: Attributes) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode((attributes.mode & 0o777) as _);
        let fd = replacing(folder, name, path, || rustix::fs::openat(folder, name, flags, mode))?
            .or_fail(|| format!("cannot make `{}`", Shown(path)))?;
        Ok(NewFile { folder, name, path, file: fd.into(), attributes, finished: false })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).or_fail(|| format!("cannot write `{}`", Shown(self.path)))
    }

    /// Writes bytes at an offset; a long run of zeros becomes a hole.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if is_zero(bytes) {
            return Ok(());
        }
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
            .or_fail(|| format!("cannot write `{}`", Shown(self.path)))
    }

    /// Sets the length, for files written with [`NewFile::write_at`].
    pub fn set_len(&mut self, len: u64) -> Result<()> {
        self.file.set_len(len).or_fail(|| format!("cannot set the length of `{}`", Shown(self.path)))
    }

    /// Sets mode and time and keeps the file. `umask` is the process's, which already took bits from the mode.
    pub fn finish(mut self, umask: u32) -> Result<()> {
        let doing = || format!("cannot set mode and time of `{}`", Shown(self.path));
        self.set_attributes(umask).or_fail(doing)?;
        self.finished = true;
        Ok(())
    }

    fn set_attributes(&self, umask: u32) -> io::Result<()> {
        let permissions = self.attributes.permissions();
        if let Some((uid, gid)) = self.attributes.owner {
            rustix::fs::fchown(&self.file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        if permissions & (umask | 0o1000) != 0 || self.attributes.owner.is_some() || self.folder.has_acl {
            rustix::fs::fchmod(&self.file, Mode::from_raw_mode(permissions as _))?;
        }
        rustix::fs::futimens(&self.file, &self.attributes.times())?;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Whatever stopped the file is being reported; that it cannot be removed either adds nothing to it.
            let _ = rustix::fs::unlinkat(self.folder, self.name, AtFlags::empty());
        }
    }
}

/// A file under a temporary name beside its place. Dropped before [`Staged::publish`], it is removed again.
pub struct Staged {
    folder: Arc<Folder>,
    staging: Option<String>,
    name: Vec<u8>,
    file: std::fs::File,
}

impl Staged {
    /// The file to write to.
    pub fn file(&mut self) -> &mut std::fs::File {
        &mut self.file
    }

    /// Gives the file its name. A folder of that name is not replaced.
    pub fn publish(mut self) -> Result<()> {
        let Some(staging) = self.staging.take() else { return Ok(()) };
        rustix::fs::renameat(&self.folder, &staging, &self.folder, self.name.as_slice()).map_err(|errno| {
            let _ = rustix::fs::unlinkat(&self.folder, &staging, AtFlags::empty());
            let shown = Shown(&self.name);
            match errno {
                Errno::ISDIR => {
                    Error::refused(format_args!("`{shown}` is a folder here, and a folder is not replaced by a file"))
                        .hint("remove the folder first if the file belongs there")
                }
                errno => Error::failed(format_args!("cannot place `{shown}`")).caused_by(io::Error::from(errno)),
            }
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(staging) = &self.staging {
            // Whatever stopped the file is being reported.
            let _ = rustix::fs::unlinkat(&self.folder, staging, AtFlags::empty());
        }
    }
}

/// Whether bytes are a run of zeros that is long enough to be left out as a hole.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.len() >= 4096
        && bytes.first() == Some(&0)
        && bytes.chunks(256).all(|part| part.iter().fold(0, |a, b| a | b) == 0)
}

/// The bits that this process's umask takes from new files; all of them where it cannot be known without changing it.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second defence by itself: no name here looks wrong.
    #[test]
    fn a_link_in_the_way_stops_every_operation() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("sentinel"), "kept").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        let mut tree = Tree::open(inside.path()).unwrap();
        let attributes = Attributes { mode: 0o644, mtime: 0, mtime_nanos: 0, owner: None };
        let path = |path: &str| SafePath::new(path.as_bytes()).unwrap();
        assert_eq!(tree.folder(b"link").unwrap_err().class(), Class::Refused);
        assert_eq!(tree.make_dir(&path("link/new")).unwrap_err().class(), Class::Refused);
        assert_eq!(tree.symlink(&path("link/new"), b"x", attributes).unwrap_err().class(), Class::Refused);
        assert_eq!(tree.hard_link(&path("new"), &path("link/sentinel")).unwrap_err().class(), Class::Refused);
        for path in [&b".."[..], b"../x", b"a/../../x", b"/tmp", b"a//b"] {
            assert_eq!(tree.folder(path).unwrap_err().class(), Class::Refused, "{}", Shown(path));
        }
        let root = tree.folder(b"").unwrap();
        assert!(NewFile::create(&root, b"..", b"..", attributes).is_err());
        let mut file = NewFile::create(&root, b"link", b"link", attributes).unwrap();
        file.write(b"a file in place of the link").unwrap();
        file.finish(umask()).unwrap();
        assert!(inside.path().join("link").symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(outside.path().join("sentinel")).unwrap(), "kept");
    }

    #[test]
    fn an_unfinished_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Tree::open(dir.path()).unwrap().folder(b"").unwrap();
        let attributes = Attributes { mode: 0o644, mtime: 0, mtime_nanos: 0, owner: None };
        let mut file = NewFile::create(&root, b"f", b"f", attributes).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
