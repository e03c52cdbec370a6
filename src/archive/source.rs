//! Selected files as the bytes of an archive: any span of its stream, made by itself.
//!
//! A format's layout says what is where in its stream before any content is read ([`Stream`]); [`Source`] reads the content,
//! and makes sure that it is what was selected.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::collect::{Entry, FileSet, Kind, open_through_no_link, stamp};
use crate::context::Context;
use crate::error::{Class, Error, IoContext, Result};
use crate::text::Shown;

/// A stream with everything in its place.
pub trait Stream: Sync {
    /// Length of the whole stream in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes; no archive is like that.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls back with the parts of the stream from `start` to `end`, in order.
    ///
    /// `scratch` holds the header being made; keep one per thread.
    fn parts(
        &self,
        start: u64,
        end: u64,
        scratch: &mut Vec<u8>,
        part: &mut dyn FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()>;
}

/// A part of a stream.
#[derive(Debug)]
pub enum Part<'a> {
    /// A member's header begins here; its bytes follow as parts of their own.
    Begin(&'a Entry),
    /// These bytes.
    Bytes(&'a [u8]),
    /// This many bytes of a file's content, starting at `offset`.
    Content {
        /// The file.
        entry: &'a Entry,
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// This many zero bytes.
    Zeros(u64),
}

/// Content of a file that was read into a span.
pub struct Seen<'a> {
    /// The file.
    pub entry: &'a Entry,
    /// Where in the file these bytes are.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
    /// Where in the span they were put.
    pub at: usize,
}

/// Selected files below an open folder, or several.
pub struct Source<'a> {
    files: &'a FileSet,
    roots: Vec<OpenRoot>,
}

/// Where files lie whose names begin alike.
#[derive(Debug, Clone)]
pub struct Root {
    /// What their names begin with, without a `/` at the end; nothing where all lie in one folder.
    pub prefix: Vec<u8>,
    /// The folder that the rest of their names is relative to. Where there are several, no link leads there.
    pub folder: PathBuf,
    /// For a single file, whose whole name is the prefix: its name in the folder.
    pub file: Option<Vec<u8>>,
}

struct OpenRoot {
    prefix: Vec<u8>,
    folder: OwnedFd,
    file: Option<Vec<u8>>,
}

impl OpenRoot {
    fn open(root: Root) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || Ok(rustix::fs::open(&root.folder, flags, Mode::empty())?);
        let folder = if root.prefix.is_empty() { open() } else { open_through_no_link(&root.folder) };
        let folder = folder.or_fail(|| format!("cannot open `{}`", Shown::path(&root.folder)))?;
        Ok(OpenRoot { prefix: root.prefix, folder, file: root.file })
    }

    /// Where a name is; `None` when it is in none of these folders.
    fn place<'s>(&'s self, name: &'s [u8]) -> Option<(BorrowedFd<'s>, &'s [u8])> {
        let folder = self.folder.as_fd();
        if self.prefix.is_empty() {
            return Some((folder, name));
        }
        match (name.strip_prefix(self.prefix.as_slice())?, &self.file) {
            (b"", Some(file)) => Some((folder, file)),
            (rest, None) => Some((folder, rest.strip_prefix(b"/")?)),
            _ => None,
        }
    }
}

impl<'a> Source<'a> {
    /// The files of a set, which lie below `root`.
    pub fn new(root: &Path, files: &'a FileSet) -> Result<Self> {
        Self::several(vec![Root { prefix: Vec::new(), folder: root.to_owned(), file: None }], files)
    }

    /// The files of a set that lie in several folders.
    pub fn several(roots: Vec<Root>, files: &'a FileSet) -> Result<Self> {
        Ok(Source { files, roots: roots.into_iter().map(OpenRoot::open).collect::<Result<_>>()? })
    }

    fn place<'s>(&'s self, name: &'s [u8]) -> Result<(BorrowedFd<'s>, &'s [u8])> {
        let placed = self.roots.iter().find_map(|root| root.place(name));
        placed.ok_or_else(|| Error::failed(format_args!("`{}` lies in none of the folders", Shown(name))))
    }

    /// Fills `out` with a span of the stream. A file that changed or vanished since it was selected is an error of class
    /// [`Class::Changed`] naming it. Blocks.
    pub fn fill(
        &self,
        stream: &dyn Stream,
        span: Range<u64>,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        context: &Context,
    ) -> Result<()> {
        self.fill_and_see(stream, span, out, scratch, context, &mut |_| {})
    }

    /// As [`Source::fill`], and shows the content of files that was read.
    pub fn fill_and_see(
        &self,
        stream: &dyn Stream,
        span: Range<u64>,
        mut out: &mut [u8],
        scratch: &mut Vec<u8>,
        context: &Context,
        see: &mut dyn FnMut(Seen<'_>),
    ) -> Result<()> {
        context.cancel.check()?;
        let whole = out.len();
        stream.parts(span.start, span.end, scratch, &mut |part| {
            let at = whole - out.len();
            let mut next = |len| out.split_off_mut(..len).unwrap_or_default();
            match part {
                Part::Begin(entry) => self.look_again(entry)?,
                Part::Bytes(bytes) => next(bytes.len()).copy_from_slice(bytes),
                Part::Zeros(count) => next(as_len(count)).fill(0),
                Part::Content { entry, offset, len } => {
                    let bytes = next(as_len(len));
                    self.read(entry, offset, bytes)?;
                    see(Seen { entry, offset, bytes, at });
                    context.progress.add(len);
                }
            }
            Ok(())
        })
    }

    /// Fills `out` from a file, and makes sure that it is still what was selected.
    fn read(&self, entry: &Entry, offset: u64, out: &mut [u8]) -> Result<()> {
        let (folder, at) = self.place(self.files.name(entry))?;
        let file = open_at(folder, at, self.files.name(entry))?;
        let mut have = 0;
        while have < out.len() {
            match rustix::io::pread(&file, &mut out[have..], offset + have as u64) {
                Ok(0) => return Err(changed(self.files.name(entry), "became shorter")),
                Ok(n) => have += n,
                Err(Errno::INTR) => {}
                Err(Errno::ISDIR) => return Err(changed(self.files.name(entry), "was replaced")),
                Err(errno) => return Err(unreadable(self.files.name(entry), errno)),
            }
        }
        check_unchanged(&file, self.files, entry)
    }

    /// Looks once more at what has no content to be read: an empty file or a link.
    fn look_again(&self, entry: &Entry) -> Result<()> {
        if entry.size > 0 || entry.kind == Kind::Dir {
            return Ok(());
        }
        let name = self.files.name(entry);
        let (folder, at) = self.place(name)?;
        let stat = rustix::fs::statat(folder, at, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => changed(name, "vanished"),
            errno => unreadable(name, errno),
        })?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let same_size = entry.kind != Kind::File || stat.st_size == 0;
        let same = is_link == (entry.kind == Kind::Symlink) && same_size && same_time(&stat, entry);
        if same { Ok(()) } else { Err(changed(name, "changed")) }
    }
}

/// Opens a selected file for reading. Neither a link nor a FIFO that took its place is followed or waited for.
pub(crate) fn open_selected(root: BorrowedFd<'_>, files: &FileSet, entry: &Entry) -> Result<OwnedFd> {
    let name = files.name(entry);
    open_at(root, name, name)
}

/// Opens a file at a place; `name` is what errors call it.
fn open_at(folder: BorrowedFd<'_>, at: &[u8], name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(folder, at, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => changed(name, "vanished"),
        Errno::LOOP | Errno::NXIO => changed(name, "was replaced"),
        errno => unreadable(name, errno),
    })
}

/// Fails with [`Class::Changed`] unless an open file has the size and time that it was selected with.
pub(crate) fn check_unchanged(file: &OwnedFd, files: &FileSet, entry: &Entry) -> Result<()> {
    let name = files.name(entry);
    let stat = rustix::fs::fstat(file).map_err(|errno| unreadable(name, errno))?;
    let same = u64::try_from(stat.st_size) == Ok(entry.size) && same_time(&stat, entry);
    if same { Ok(()) } else { Err(changed(name, "changed")) }
}

fn same_time(stat: &Stat, entry: &Entry) -> bool {
    i128::from(stat.st_mtime) == i128::from(entry.mtime)
        && i128::from(stat.st_mtime_nsec) == i128::from(entry.mtime_nanos)
        // Only where both are known: see there.
        && stamp(stat).zip(entry.stamp).is_none_or(|(now, then)| now == then)
}

fn changed(name: &[u8], how: &str) -> Error {
    Error::new(Class::Changed, format_args!("`{}` {how} while it was packed", Shown(name)))
        .hint("make sure that nothing writes to these files, or changes their modes or links, while they are packed, and try again")
}

fn unreadable(name: &[u8], errno: Errno) -> Error {
    Error::failed(format_args!("cannot read `{}`", Shown(name))).caused_by(std::io::Error::from(errno))
}

/// A length within one block.
pub(super) fn as_len(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
