//! What files take on disk, each counted once however many names it has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::engine::parts::in_parts;
use crate::error::{IoContext, Result};
use crate::text::Shown;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Letters of a shard's name.
const SHARD: usize = 2;

/// A path from an open folder gets no longer than this and one more name: an artifact's own paths may be as long as the kernel
/// takes them, and lie deep in a store.
const LONG: usize = 2048;

/// A folder that was met and not read.
struct Pending {
    /// What the path begins at; the path alone leads to the first one.
    above: Option<Rc<OwnedFd>>,
    path: Vec<u8>,
}

/// `None` for what is not there, or something else by now.
fn found<T>(looked: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What lies in a folder. One that this user may not read is told.
fn inside(folder: &Path, unread: &mut Vec<PathBuf>) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect::<io::Result<_>>().or_fail(|| cannot_read(folder)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            unread.push(folder.to_owned());
            Ok(Vec::new())
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error).or_fail(|| cannot_read(folder)),
    }
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read `{}`", Shown::path(path))
}

/// Bytes that a file takes on disk.
pub fn disk(status: &fs::Metadata) -> u64 {
    status.blocks() * 512
}

/// Files of trees: their bytes on disk, and of those with several names how many there are and how many were met. No path is added twice.
#[derive(Debug, Default, Clone)]
pub struct Inodes {
    /// Bytes of files with a single name, and of folders: nothing else can lead to them.
    single: u64,
    /// Files with several names, by device and number.
    shared: HashMap<(u64, u64), Inode>,
}

#[derive(Debug, Clone)]
struct Inode {
    disk: u64,
    names: u64,
    met: u64,
}

/// What becomes of something two folders deep in a cache or store, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// It is counted.
    Counted,
    /// It is counted, and apart from all else too.
    Apart,
    /// It is passed over.
    Passed,
}

/// What a cache or store takes on disk, as far as this user may look.
#[derive(Debug, Default)]
pub struct OfHome {
    /// Everything in it.
    pub all: Inodes,
    /// What was to be told apart.
    pub apart: Inodes,
    /// What could not be read, or held something that could not.
    pub unread: Vec<PathBuf>,
}

impl OfHome {
    /// Looks at all in a folder that was met.
    fn look_into(&mut self, path: &Path, which: impl Fn(&OsStr) -> Which) -> rustix::io::Result<()> {
        let opened = match rustix::fs::openat(CWD, path, FOLDER, Mode::empty()) {
            Err(Errno::ACCESS) => {
                self.unread.push(path.to_owned());
                return Ok(());
            }
            opened => found(opened)?,
        };
        let Some(folder) = opened.map(Rc::new) else { return Ok(()) };
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let seen = match which(name) {
                Which::Counted => &mut self.all,
                Which::Apart => &mut self.apart,
                Which::Passed => continue,
            };
            let is_whole = match found(rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
                Err(Errno::ACCESS) => false,
                stat if stat?.is_some_and(|stat| seen.note(&stat)) => {
                    seen.descend(Pending { above: Some(Rc::clone(&folder)), path: name.as_bytes().to_vec() }, true)?
                }
                _ => true,
            };
            if !is_whole {
                self.unread.push(path.join(name));
            }
        }
        Ok(())
    }

    /// What the user should know of that.
    pub fn warning(&self) -> Option<String> {
        let first = self.unread.first()?;
        let more = match self.unread.len() {
            1 => String::new(),
            many => format!(", nor can {} more", many - 1),
        };
        Some(format!(
            "`{}` cannot be read by this user{more}: what it takes on disk is counted as far as can be seen",
            Shown::path(first)
        ))
    }
}

impl Inodes {
    /// Everything in a cache or store, and apart from it, what lies in its shards and is to be told apart. Looked at with several
    /// threads. What this user may not read is told.
    pub fn of_home(root: &Path, which: impl Fn(&OsStr) -> Which + Sync) -> Result<OfHome> {
        let mut seen = OfHome::default();
        seen.all.add_only(root)?;
        let mut folders = Vec::new();
        for entry in inside(root, &mut seen.unread)? {
            let (path, name) = (entry.path(), entry.file_name());
            seen.all.add_only(&path)?;
            // A file system's own, for root alone, where all of it is a cache or store.
            if name == "lost+found" || !entry.file_type().or_fail(|| cannot_read(&path))?.is_dir() {
                continue;
            }
            if name.len() == SHARD {
                folders.push((path, true));
                continue;
            }
            // All texts lie in one folder, too many for one thread.
            for entry in inside(&path, &mut seen.unread)? {
                let path = entry.path();
                // A folder that may be read and not entered.
                if matches!(rustix::fs::lstat(&path), Err(Errno::ACCESS)) {
                    seen.unread.push(path);
                    continue;
                }
                seen.all.add_only(&path)?;
                if entry.file_type().or_fail(|| cannot_read(&path))?.is_dir() {
                    folders.push((path, false));
                }
            }
        }
        let look = |part: &[(PathBuf, bool)]| -> Result<OfHome> {
            let mut seen = OfHome::default();
            for (path, is_shard) in part {
                let which = |name: &OsStr| if *is_shard { which(name) } else { Which::Counted };
                seen.look_into(path, which).map_err(io::Error::from).or_fail(|| cannot_read(path))?;
            }
            Ok(seen)
        };
        for part in in_parts(&folders, look) {
            let part = part?;
            seen.all.merge(part.all);
            seen.apart.merge(part.apart);
            seen.unread.extend(part.unread);
        }
        seen.all.merge(seen.apart.clone());
        Ok(seen)
    }

    /// Adds everything at or below a path. What vanishes meanwhile is passed over.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        self.add_all(path, false).map(drop)
    }

    /// The same for what is removed next. A folder that may not be read is counted without what is in it: it goes all the
    /// same.
    pub fn add_readable(&mut self, path: &Path) -> Result<()> {
        self.add_all(path, true).map(drop)
    }

    /// Whether all of it could be read, or else was to be.
    fn add_all(&mut self, path: &Path, only_readable: bool) -> Result<bool> {
        self.look(path, only_readable).map_err(io::Error::from).or_fail(|| cannot_read(path))
    }

    fn look(&mut self, path: &Path, only_readable: bool) -> rustix::io::Result<bool> {
        let stat = match found(rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)) {
            Err(Errno::ACCESS) if only_readable => return Ok(false),
            stat => stat?,
        };
        if !stat.is_some_and(|stat| self.note(&stat)) {
            return Ok(true);
        }
        self.descend(Pending { above: None, path: path.as_os_str().as_bytes().to_vec() }, only_readable)
    }

    /// Adds what is in a folder that was met.
    fn descend(&mut self, folder: Pending, only_readable: bool) -> rustix::io::Result<bool> {
        let (mut is_whole, mut folders) = (true, vec![folder]);
        while let Some(Pending { above, path }) = folders.pop() {
            let open = match &above {
                None => rustix::fs::openat(CWD, path.as_slice(), FOLDER, Mode::empty()),
                Some(above) => rustix::fs::openat(above, path.as_slice(), FOLDER, Mode::empty()),
            };
            let open = match open {
                Err(Errno::ACCESS) if only_readable => {
                    is_whole = false;
                    continue;
                }
                open => open,
            };
            let Some(mut open) = found(open)?.map(Dir::new).transpose()? else { continue };
            let mut inner = Vec::new();
            while let Some(entry) = open.read() {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                match found(rustix::fs::statat(open.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)) {
                    Err(Errno::ACCESS) if only_readable => is_whole = false,
                    stat => {
                        if stat?.is_some_and(|stat| self.note(&stat)) {
                            inner.push(name.to_bytes().to_vec());
                        }
                    }
                }
            }
            if inner.is_empty() {
                continue;
            }
            let (above, path) = match above.filter(|_| path.len() < LONG) {
                Some(above) => (above, [path.as_slice(), b"/"].concat()),
                None => (
                    Rc::new(
                        open.fd()?
                            .try_clone_to_owned()
                            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?,
                    ),
                    Vec::new(),
                ),
            };
            let pending = |name: Vec<u8>| Pending { above: Some(above.clone()), path: [path.clone(), name].concat() };
            folders.extend(inner.into_iter().map(pending));
        }
        Ok(is_whole)
    }

    /// Adds one file or folder, without what is in it.
    pub fn add_only(&mut self, path: &Path) -> Result<()> {
        let stat = found(rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW));
        if let Some(stat) = stat.map_err(io::Error::from).or_fail(|| cannot_read(path))? {
            self.note(&stat);
        }
        Ok(())
    }

    /// Counts a name. Returns whether it is a folder's.
    fn note(&mut self, stat: &Stat) -> bool {
        #[allow(
            clippy::cast_sign_loss,
            clippy::unnecessary_cast,
            reason = "never negative; the types differ by system"
        )]
        let (device, number, blocks, names) =
            (stat.st_dev as u64, stat.st_ino as u64, stat.st_blocks as u64, stat.st_nlink as u64);
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let disk = blocks * 512;
        // The number of a folder's names counts its folders.
        if is_folder || names < 2 {
            self.single += disk;
        } else {
            self.shared.entry((device, number)).or_insert(Inode { disk, names, met: 0 }).met += 1;
        }
        is_folder
    }

    /// Adds what others met.
    pub fn merge(&mut self, other: Inodes) {
        self.single += other.single;
        for (inode, met) in other.shared {
            match self.shared.entry(inode) {
                Entry::Vacant(place) => drop(place.insert(met)),
                Entry::Occupied(mut place) => {
                    let known = place.get_mut();
                    known.met += met.met;
                    // What went before took names with it.
                    known.names = known.names.max(met.names);
                }
            }
        }
    }

    /// Bytes on disk of all.
    pub fn disk(&self) -> u64 {
        self.single + self.shared.values().map(|inode| inode.disk).sum::<u64>()
    }

    /// Bytes on disk that come free once all names that were met are gone.
    pub fn freed(&self) -> u64 {
        let gone = self.shared.values().filter(|inode| inode.met >= inode.names);
        self.single + gone.map(|inode| inode.disk).sum::<u64>()
    }

    /// Bytes on disk, were every name a file of its own.
    pub fn unshared(&self) -> u64 {
        self.single + self.shared.values().map(|inode| inode.disk * inode.met).sum::<u64>()
    }
}
