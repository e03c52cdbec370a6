//! Files that lie as they are: into a store, where equal files are one, and out of it. By several threads; every byte that is
//! kept or given out is digested on the way.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::copying::Copy;
use super::sharing::Sharing;
use crate::archive::tree::umask;
use crate::cancel::Cancel;
use crate::collect::walk::{IgnoreFiles, NodeKind, Visited, Walk, walk};
use crate::collect::{link_text, same_file};
use crate::context::Context;
use crate::entry::{StatCache, sync_filesystem};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Hasher, Line, LineKind};
use crate::text::Shown;

/// Files up to this size are read in one piece.
const SMALL: u64 = 1 << 20;

/// When every file in a store was changed last: a file with another time is one that somebody wrote to.
pub(super) const STORE_TIME: (i64, u32) = (1, 0);

/// How often the disk is told to keep what was copied.
const SYNC_EVERY: Duration = Duration::from_millis(400);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How files come out of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Blocks are shared where the file system can; below a MiB a copy is as fast.
    Reflink,
    /// Further names of the store's own files.
    Hard,
    /// Copies.
    Copy,
}

enum Purpose<'a> {
    /// Read-only files in a store; those whose digest is known by their status and that are there need not be read.
    Add(&'a Sharing, &'a StatCache),
    /// Files of a user, all with this time.
    GiveOut { link: Link, time: (i64, u32) },
    /// Nothing is written.
    Look,
}

thread_local! {
    /// The folder that this thread makes files in: entered before anything in it is visited.
    static HERE: std::cell::RefCell<Option<OwnedFd>> = const { std::cell::RefCell::new(None) };
    /// The folder in the store that this thread took a file from last.
    static KNOWN: std::cell::RefCell<Option<(PathBuf, OwnedFd)>> = const { std::cell::RefCell::new(None) };
}

struct Work<'a> {
    to: &'a Path,
    /// The same, open; nothing where nothing is written.
    root: Option<OwnedFd>,
    /// Folders that were made, to get their time in the end.
    folders: Mutex<Vec<Vec<u8>>>,
    purpose: Purpose<'a>,
    umask: u32,
    can_clone: AtomicBool,
    copied_instead: AtomicBool,
    context: &'a Context,
}

/// Copies an artifact into a new folder of a store, sharing what is there already. Returns the lines of its listing.
pub fn add(from: &Path, to: &Path, sharing: &Sharing, known: &StatCache, context: &Context) -> Result<Vec<Line>> {
    fs::create_dir_all(to).or_fail(|| "cannot make a folder in the store")?;
    let (done, waits) = crossbeam_channel::bounded::<()>(0);
    // The disk is busy while the rest is copied, so that little is left to wait for at the end.
    let lines = thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(SYNC_EVERY).is_err_and(|error| error.is_timeout()) {
                // That it fails shows at the end again.
                let _ = sync_filesystem(to);
            }
        });
        let lines = run(from, to, Purpose::Add(sharing, known), context);
        drop(done);
        lines
    })?;
    sync_filesystem(to)?;
    Ok(lines.0)
}

/// Copies a single file into a new folder of a store.
pub fn add_file(from: &Path, to: &Path, sharing: &Sharing, known: &StatCache, context: &Context) -> Result<Line> {
    let name = from.file_name().unwrap_or_default().as_bytes();
    let folder = File::open(from.parent().unwrap_or(Path::new("."))).or_fail(|| "cannot open the artifact's folder")?;
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .or_fail(|| format!("cannot read `{}`", Shown(name)))?;
    let work = Work::new(to, Purpose::Add(sharing, known), context)?;
    work.enter(b"")?;
    let visited = Visited { path: name, folder: folder.as_fd(), name, kind: NodeKind::File, stat: &stat };
    let line = work.file(&visited)?;
    sync_filesystem(to)?;
    Ok(Line { path: b".".to_vec(), ..line })
}

/// Copies or links an entry's files out of the store. Returns the lines of their listing, and whether links were asked for
/// and could not be made.
pub fn give_out(from: &Path, to: &Path, link: Link, time: (i64, u32), context: &Context) -> Result<(Vec<Line>, bool)> {
    run(from, to, Purpose::GiveOut { link, time }, context)
}

/// Digests an entry's files where they lie.
pub fn hash(folder: &Path, cancel: &Cancel) -> Result<Vec<Line>> {
    let context = Context { cancel: cancel.clone(), ..Context::default() };
    Ok(run(folder, folder, Purpose::Look, &context)?.0)
}

/// Digests a file.
pub fn hash_file(file: &Path, cancel: &Cancel) -> Result<Hash> {
    super::stored::digest_of(file, cancel)
}

fn run(from: &Path, to: &Path, purpose: Purpose<'_>, context: &Context) -> Result<(Vec<Line>, bool)> {
    let work = Work::new(to, purpose, context)?;
    let everything = |_: &[u8]| false;
    let enter = |path: &[u8]| work.enter(path);
    let plan = Walk {
        root: from,
        ignore_files: IgnoreFiles::Keep,
        leave_out: &everything,
        enter: Some(&enter),
        cancel: &context.cancel,
    };
    let lines = walk(&plan, |visited| work.node(visited))?;
    if let Purpose::GiveOut { time, .. } = work.purpose {
        work.finish_folders(time)?;
    }
    Ok((lines, work.copied_instead.into_inner()))
}

impl<'a> Work<'a> {
    fn new(to: &'a Path, purpose: Purpose<'a>, context: &'a Context) -> Result<Self> {
        let flag = AtomicBool::new;
        let root = match purpose {
            Purpose::Look => None,
            _ => {
                let doing = || format!("cannot make the folder `{}`", Shown::path(to));
                fs::create_dir_all(to).or_fail(doing)?;
                Some(rustix::fs::open(to, FOLDER, Mode::empty()).or_fail(doing)?)
            }
        };
        let (can_clone, copied_instead) = (flag(true), flag(false));
        Ok(Work { to, root, folders: Mutex::default(), purpose, umask: umask(), can_clone, copied_instead, context })
    }

    /// Makes the folder that corresponds to one that is entered; those above it are there.
    fn enter(&self, path: &[u8]) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let doing = || format!("cannot make the folder `{}`", Shown(path));
        if !path.is_empty() {
            rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o777)).or_fail(doing)?;
            self.folders.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_vec());
        }
        let path = if path.is_empty() { b"." } else { path };
        let here = rustix::fs::openat(root, path, FOLDER, Mode::empty()).or_fail(doing)?;
        HERE.with_borrow_mut(|place| *place = Some(here));
        Ok(())
    }

    /// Makes something in the folder that was entered.
    fn here<T>(&self, make: impl FnOnce(&OwnedFd) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        HERE.with_borrow(|here| make(here.as_ref().ok_or(Errno::BADF)?))
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.to.join(std::ffi::OsStr::from_bytes(path))
    }

    fn node(&self, visited: &Visited<'_>) -> Result<Option<Line>> {
        let path = visited.path;
        let looks = matches!(self.purpose, Purpose::Look);
        match visited.kind {
            NodeKind::File => self.file(visited).map(Some),
            NodeKind::Dir { empty } => {
                let line = Line { kind: LineKind::EmptyDir, hash: Hash([0; 32]), size: 0, path: path.to_vec() };
                Ok(empty.then_some(line))
            }
            NodeKind::Symlink => {
                let text = link_text(visited)?;
                if !looks {
                    let make = |here: &OwnedFd| {
                        rustix::fs::symlinkat(text.as_slice(), here, visited.name)?;
                        let time = &times(self.time());
                        rustix::fs::utimensat(here, visited.name, time, AtFlags::SYMLINK_NOFOLLOW)
                    };
                    self.here(make).or_fail(|| format!("cannot make the link `{}`", Shown(path)))?;
                }
                let (hash, size) = (Hash::of(&text), text.len() as u64);
                Ok(Some(Line { kind: LineKind::Link, hash, size, path: path.to_vec() }))
            }
            // Left out, with the one warning of whoever looked at the artifact first.
            NodeKind::Special if matches!(self.purpose, Purpose::Add(..)) => Ok(None),
            NodeKind::Special => {
                Err(Error::damaged(format_args!("`{}` is neither file, folder nor link", Shown(path))))
            }
        }
    }

    /// The time that everything gets.
    fn time(&self) -> (i64, u32) {
        match self.purpose {
            Purpose::GiveOut { time, .. } => time,
            Purpose::Add(..) | Purpose::Look => STORE_TIME,
        }
    }

    fn file(&self, visited: &Visited<'_>) -> Result<Line> {
        let stat = visited.stat;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let executable = stat.st_mode & 0o100 != 0;
        let hash = match self.link_unread(visited, size, executable) {
            Some(hash) => hash,
            None => {
                let started = SystemTime::now();
                let source = Source::open(visited)?;
                let hash = if size <= SMALL {
                    self.small(visited, source, size, executable)?
                } else {
                    self.large(visited, source, size, executable)?
                };
                if let Purpose::Add(_, known) = &self.purpose {
                    known.remember(visited, &hash, started);
                }
                hash
            }
        };
        self.context.progress.add(size);
        let kind = if executable { LineKind::Executable } else { LineKind::File };
        Ok(Line { kind, hash, size, path: visited.path.to_vec() })
    }

    /// A further name of what the store has of a file that is known by its status.
    fn link_unread(&self, visited: &Visited<'_>, size: u64, executable: bool) -> Option<Hash> {
        let Purpose::Add(sharing, known) = &self.purpose else { return None };
        let hash = known.find(visited)?;
        let there = sharing.find(hash, executable).filter(|_| size > 0)?;
        self.link(&there, visited, size).then(|| {
            sharing.count(size);
            hash
        })
    }

    fn small(&self, visited: &Visited<'_>, mut source: Source, size: u64, executable: bool) -> Result<Hash> {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        BUFFER.with_borrow_mut(|buffer| {
            // The buffer only grows: clearing memory anew costs as much as reading.
            let len = usize::try_from(size).unwrap_or(0);
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let buffer = &mut buffer[..len];
            source.read(visited, buffer)?;
            if matches!(self.purpose, Purpose::Add(..)) {
                source.check(visited, size)?;
            }
            let hash = Hash::of(buffer);
            match &self.purpose {
                Purpose::Look => {}
                Purpose::Add(sharing, _) => {
                    let known = if size > 0 { sharing.find(hash, executable) } else { None };
                    if known.is_some_and(|known| self.link(&known, visited, size)) {
                        sharing.count(size);
                    } else {
                        let mut file = self.create(visited, executable)?;
                        file.write_all(buffer).or_fail(|| format!("cannot write `{}`", Shown(visited.path)))?;
                        self.finish(&file, visited)?;
                        if size > 0 {
                            sharing.note(hash, executable, self.place(visited.path));
                        }
                    }
                }
                Purpose::GiveOut { link, .. } => {
                    if *link != Link::Hard || !self.give_link(visited) {
                        let mut file = self.create(visited, executable)?;
                        file.write_all(buffer).or_fail(|| format!("cannot write `{}`", Shown(visited.path)))?;
                        self.finish(&file, visited)?;
                    }
                }
            }
            Ok(hash)
        })
    }

    fn large(&self, visited: &Visited<'_>, mut source: Source, size: u64, executable: bool) -> Result<Hash> {
        match &self.purpose {
            Purpose::Look => source.digest(visited, None, &self.context.cancel),
            Purpose::Add(sharing, _) => {
                if sharing.may_have(size) {
                    let hash = source.digest(visited, None, &self.context.cancel)?;
                    if sharing.find(hash, executable).is_some_and(|known| self.link(&known, visited, size)) {
                        sharing.count(size);
                        return Ok(hash);
                    }
                    source
                        .file
                        .seek(SeekFrom::Start(0))
                        .or_fail(|| format!("cannot read `{}`", Shown(visited.path)))?;
                }
                let mut file = self.create(visited, executable)?;
                let hash = self.copy(visited, &mut source, &mut file)?;
                self.finish(&file, visited)?;
                sharing.note(hash, executable, self.place(visited.path));
                Ok(hash)
            }
            Purpose::GiveOut { link, .. } => {
                if *link == Link::Hard && self.give_link(visited) {
                    return source.digest(visited, None, &self.context.cancel);
                }
                let mut file = self.create(visited, executable)?;
                let hash = match link {
                    Link::Copy | Link::Hard => source.digest(visited, Some(&mut file), &self.context.cancel)?,
                    Link::Reflink => self.copy(visited, &mut source, &mut file)?,
                };
                self.finish(&file, visited)?;
                Ok(hash)
            }
        }
    }

    /// Shares blocks where that can be done, else copies. What is digested is the copy.
    fn copy(&self, visited: &Visited<'_>, source: &mut Source, file: &mut File) -> Result<Hash> {
        #[cfg(target_os = "linux")]
        if self.can_clone.load(Ordering::Relaxed) {
            match rustix::fs::ioctl_ficlone(&*file, &source.file) {
                Ok(()) => {
                    source.check(visited, u64::try_from(visited.stat.st_size).unwrap_or(0))?;
                    return super::stored::digest_of_open(&*file, &self.place(visited.path), &self.context.cancel);
                }
                Err(_) => self.can_clone.store(false, Ordering::Relaxed),
            }
        }
        source.digest(visited, Some(file), &self.context.cancel)
    }

    /// A further name of a file in the store. False where none can be made (too many names, another file system), and for a
    /// file that somebody wrote to, which shows in its time.
    fn link(&self, known: &Path, visited: &Visited<'_>, size: u64) -> bool {
        let (Some(folder), Some(name)) = (known.parent(), known.file_name()) else { return false };
        let executable = visited.stat.st_mode & 0o100;
        let make = |from: &OwnedFd| {
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let untouched = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_mode & 0o100 == executable
                && (stat.st_mtime, stat.st_mtime_nsec as u32) == STORE_TIME
                && u64::try_from(stat.st_size) == Ok(size);
            if !untouched {
                return Err(Errno::STALE);
            }
            self.here(|here| rustix::fs::linkat(from, name, here, visited.name, AtFlags::empty()))
        };
        KNOWN.with_borrow_mut(|known| {
            // Trees that share files do so folder by folder: the one of the last file is open still.
            if known.as_ref().is_none_or(|(path, _)| path != folder) {
                let opened = rustix::fs::open(folder, FOLDER, Mode::empty());
                *known = opened.ok().map(|opened| (folder.to_owned(), opened));
            }
            known.as_ref().is_some_and(|(_, opened)| make(opened).is_ok())
        })
    }

    /// The same for a file that is given out. What it says is what is read: the same inode.
    fn give_link(&self, visited: &Visited<'_>) -> bool {
        let make =
            |here: &OwnedFd| rustix::fs::linkat(visited.folder, visited.name, here, visited.name, AtFlags::empty());
        let made = self.here(make).is_ok();
        if !made {
            self.copied_instead.store(true, Ordering::Relaxed);
        }
        made
    }

    fn create(&self, visited: &Visited<'_>, executable: bool) -> Result<File> {
        let mode = match (&self.purpose, executable) {
            (Purpose::Add(..), false) => 0o444,
            (Purpose::Add(..), true) => 0o555,
            (_, false) => 0o644,
            (_, true) => 0o755,
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = |here: &OwnedFd| rustix::fs::openat(here, visited.name, flags, Mode::from_raw_mode(mode));
        let doing = || format!("cannot make `{}`", Shown(visited.path));
        let file = File::from(self.here(make).or_fail(doing)?);
        if executable && self.umask & 0o100 != 0 {
            // Whether it is executable is a part of what is kept.
            file.set_permissions(Permissions::from_mode(mode & !self.umask | 0o500)).or_fail(doing)?;
        }
        Ok(file)
    }

    fn finish(&self, file: &File, visited: &Visited<'_>) -> Result<()> {
        rustix::fs::futimens(file, &times(self.time()))
            .or_fail(|| format!("cannot set the time of `{}`", Shown(visited.path)))
    }

    /// Gives folders their time, once nothing more comes into them.
    fn finish_folders(&self, time: (i64, u32)) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        for path in self.folders.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let set = rustix::fs::utimensat(root, path.as_slice(), &times(time), AtFlags::SYMLINK_NOFOLLOW);
            set.or_fail(|| format!("cannot set the time of `{}`", Shown(path)))?;
        }
        Ok(())
    }
}

fn times(time: (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.0, tv_nsec: time.1.into() },
    }
}

/// A file that is read.
struct Source {
    file: File,
}

impl Source {
    fn open(visited: &Visited<'_>) -> Result<Source> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(visited.folder, visited.name, flags, Mode::empty()) {
            Ok(file) => Ok(Source { file: file.into() }),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Err(changed(visited.path)),
            Err(errno) => Err(errno).or_fail(|| format!("cannot read `{}`", Shown(visited.path))),
        }
    }

    /// Reads exactly so many bytes.
    fn read(&mut self, visited: &Visited<'_>, buffer: &mut [u8]) -> Result<()> {
        match self.file.read_exact(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(changed(visited.path)),
            other => other.or_fail(|| format!("cannot read `{}`", Shown(visited.path))),
        }
    }

    /// Makes sure that it is what was met, and was read whole.
    fn check(&self, visited: &Visited<'_>, read: u64) -> Result<()> {
        let now = rustix::fs::fstat(&self.file).or_fail(|| format!("cannot read `{}`", Shown(visited.path)))?;
        let same = same_file(&now, visited.stat) && u64::try_from(now.st_size) == Ok(read);
        if same { Ok(()) } else { Err(changed(visited.path)) }
    }

    /// Digests what it holds, and copies it.
    fn digest(&mut self, visited: &Visited<'_>, to: Option<&mut File>, cancel: &Cancel) -> Result<Hash> {
        let mut buffer = vec![0; 1 << 20];
        let (mut hasher, mut read) = (Hasher::new(), 0);
        let mut copy = to.map(|file| Copy::new(file, visited.stat));
        let writing = || format!("cannot write `{}`", Shown(visited.path));
        loop {
            cancel.check()?;
            let n = match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).or_fail(|| format!("cannot read `{}`", Shown(visited.path))),
            };
            hasher.update(&buffer[..n]);
            read += n as u64;
            if let Some(copy) = &mut copy {
                copy.write(&buffer[..n]).or_fail(writing)?;
            }
        }
        copy.map_or(Ok(()), Copy::finish).or_fail(writing)?;
        self.check(visited, read)?;
        Ok(hasher.finish())
    }
}

fn changed(path: &[u8]) -> Error {
    Error::new(Class::Changed, format_args!("`{}` changed while it was read", Shown(path)))
        .hint("make sure that nothing writes there meanwhile, and try again")
}
