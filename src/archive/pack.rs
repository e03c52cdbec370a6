//! Packing: a file set to archive bytes, in parallel blocks.
//!
//! Each worker takes the next span of the tar stream, fills a buffer with headers and file content, compresses it on
//! the same core while it is in cache, and hands it to the one writer, which puts blocks back in order. Memory is
//! `buffers × block`: buffers are shared by all archives of the process, reused, and taken before a span is, so the
//! writer's next block is always being worked on.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::codec::{Codec, Encoder};
use super::tar::layout::{Layout, Part};
use super::tar::read::check_is_tar;
use crate::collect::{Entry, FileSet, Kind, stamp};
use crate::context::Context;
use crate::error::{Class, Error, Result, from_io};
use crate::text::Shown;

/// Input and output of one span. The vectors only ever grow, since clearing memory anew costs as much as filling it;
/// the lengths say how much of them counts.
#[derive(Default)]
struct Buffer {
    input: Vec<u8>,
    input_len: usize,
    output: Vec<u8>,
    output_len: usize,
}

impl Buffer {
    /// Forgets what it held, and makes room for a block.
    fn start(&mut self, block_size: usize) {
        (self.input_len, self.output_len) = (0, 0);
        if self.input.len() < block_size {
            self.input.resize(block_size, 0);
        }
    }

    /// The next `len` bytes of the block, to be filled.
    fn next(&mut self, len: usize) -> &mut [u8] {
        let start = self.input_len;
        self.input_len += len;
        &mut self.input[start..self.input_len]
    }

    fn input(&self) -> &[u8] {
        &self.input[..self.input_len]
    }

    fn output(&self) -> &[u8] {
        &self.output[..self.output_len]
    }
}

/// The buffers of the whole process. 20 of them, each up to 4 MiB in and as much out, stay well below 256 MiB.
struct Pool {
    state: Mutex<PoolState>,
    returned: Condvar,
}

struct PoolState {
    made: usize,
    free: Vec<Buffer>,
}

const MOST_BUFFERS: usize = 20;

static POOL: Pool = Pool { state: Mutex::new(PoolState { made: 0, free: Vec::new() }), returned: Condvar::new() };

impl Pool {
    fn take(&self) -> Buffer {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(buffer) = state.free.pop() {
                return buffer;
            }
            if state.made < MOST_BUFFERS {
                state.made += 1;
                return Buffer::default();
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give(&self, buffer: Buffer) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).free.push(buffer);
        self.returned.notify_one();
    }
}

/// A pooled buffer; it goes back whatever happens.
struct Lent(Option<Buffer>);

impl Lent {
    fn take() -> Self {
        Lent(Some(POOL.take()))
    }

    fn buffer(&mut self) -> &mut Buffer {
        self.0.get_or_insert_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            POOL.give(buffer);
        }
    }
}

/// Compresses what a reader gives, in the same blocks. Returns the lengths of input and output. Blocks.
pub fn compress(
    mut input: impl Read + Send,
    codec: Codec,
    out: &mut dyn Write,
    context: &Context,
) -> Result<(u64, u64)> {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(codec.max_threads());
    let (to_workers, work) = crossbeam_channel::bounded::<(u64, Lent)>(0);
    let (sender, receiver) = crossbeam_channel::unbounded();
    thread::scope(|scope| {
        for _ in 0..cores {
            let (work, sender) = (work.clone(), sender.clone());
            scope.spawn(move || {
                let mut encoder = None;
                for (index, mut lent) in work {
                    let encoded = encode(codec, lent.buffer(), &mut encoder);
                    if sender.send((index, encoded.map(|()| lent))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(work);
        let reading = scope.spawn(move || {
            let mut total = 0;
            for index in 0.. {
                context.cancel.check()?;
                let mut lent = Lent::take();
                let buffer = lent.buffer();
                buffer.start(codec.block_size());
                buffer.input_len = fill(&mut input, &mut buffer.input[..codec.block_size()])?;
                let n = buffer.input_len;
                if index == 0 {
                    check_is_tar(buffer.input())?;
                }
                if n == 0 {
                    break;
                }
                total += n as u64;
                context.progress.add(n as u64);
                if to_workers.send((index, lent)).is_err() {
                    break;
                }
            }
            Ok(total)
        });
        drop(sender);
        let written = write_in_order(receiver, codec, out);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((read?, written?))
    })
}

/// Packs `files`, which lie below `root`, and writes the archive. Returns the number of bytes written. Blocks.
///
/// A file that changed or vanished since it was selected is an error of class [`Class::Changed`] naming it; what has
/// been written by then is of no use.
pub fn pack(root: &Path, files: &FileSet, codec: Codec, out: &mut dyn Write, context: &Context) -> Result<u64> {
    let layout = Layout::new(files)?;
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |errno| {
            Error::failed(format_args!("cannot open `{}`", Shown::path(root))).caused_by(std::io::Error::from(errno))
        },
    )?;
    let block_size = codec.block_size() as u64;
    let blocks = layout.len().div_ceil(block_size);
    let cores = thread::available_parallelism().map_or(1, usize::from).min(codec.max_threads());
    let workers = usize::try_from(blocks).unwrap_or(usize::MAX).min(cores);
    let spans = Mutex::new(0..blocks);
    let (sender, receiver) = crossbeam_channel::unbounded();
    thread::scope(|scope| {
        for _ in 0..workers {
            let worker = Worker {
                layout: &layout,
                files,
                root: root.as_fd(),
                codec,
                spans: &spans,
                sender: sender.clone(),
                context,
            };
            scope.spawn(move || worker.run());
        }
        drop(sender);
        let written = write_in_order(receiver, codec, out);
        if written.is_err() {
            // No more spans: the workers finish the one they have and end.
            *spans.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
        }
        written
    })
}

type Filled = (u64, Result<Lent>);

struct Worker<'a> {
    layout: &'a Layout<'a>,
    files: &'a FileSet,
    root: BorrowedFd<'a>,
    codec: Codec,
    spans: &'a Mutex<std::ops::Range<u64>>,
    sender: Sender<Filled>,
    context: &'a Context,
}

impl Worker<'_> {
    fn run(self) {
        let mut scratch = Vec::new();
        let mut encoder = None;
        loop {
            // The buffer comes first: whoever holds a span must be able to finish it.
            let mut lent = Lent::take();
            let next = self.spans.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(index) = next else { return };
            let filled = self.fill(index, lent.buffer(), &mut scratch, &mut encoder);
            let failed = filled.is_err();
            if self.sender.send((index, filled.map(|()| lent))).is_err() || failed {
                return;
            }
        }
    }

    fn fill(
        &self,
        index: u64,
        buffer: &mut Buffer,
        scratch: &mut Vec<u8>,
        encoder: &mut Option<Box<dyn Encoder>>,
    ) -> Result<()> {
        self.context.cancel.check()?;
        let block = self.codec.block_size() as u64;
        let start = index * block;
        let end = (start + block).min(self.layout.len());
        buffer.start(self.codec.block_size());
        self.layout.parts(start, end, scratch, |part| {
            match part {
                Part::Begin(entry) => self.look_again(entry)?,
                Part::Bytes(bytes) => buffer.next(bytes.len()).copy_from_slice(bytes),
                Part::Zeros(count) => buffer.next(as_len(count)).fill(0),
                Part::Content { entry, offset, len } => {
                    self.read(entry, offset, buffer.next(as_len(len)))?;
                    self.context.progress.add(len);
                }
            }
            Ok(())
        })?;
        encode(self.codec, buffer, encoder)
    }

    /// Fills `out` from a file, and makes sure that it is still what was selected.
    fn read(&self, entry: &Entry, offset: u64, out: &mut [u8]) -> Result<()> {
        let file = open_selected(self.root, self.files, entry)?;
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
        let stat = rustix::fs::statat(self.root, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| match errno {
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
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(root, name, flags, Mode::empty()).map_err(|errno| match errno {
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

fn encode(codec: Codec, buffer: &mut Buffer, encoder: &mut Option<Box<dyn Encoder>>) -> Result<()> {
    if encoder.is_none() {
        *encoder = codec.encoder()?;
    }
    match encoder {
        Some(encoder) => {
            let bound = encoder.bound(buffer.input_len);
            if buffer.output.len() < bound {
                buffer.output.resize(bound, 0);
            }
            buffer.output_len = encoder.block(&buffer.input[..buffer.input_len], &mut buffer.output)?;
            Ok(())
        }
        None => Ok(()),
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match input.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(from_io("cannot read the archive", e)),
        }
    }
    Ok(have)
}

/// A length within one block.
fn as_len(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Owns the receiver: when this returns early, what is queued is dropped and its buffers go back, so that no worker
/// waits for one in vain.
fn write_in_order(receiver: Receiver<Filled>, codec: Codec, out: &mut dyn Write) -> Result<u64> {
    let mut framing = codec.framing();
    let mut written = 0u64;
    let mut emit = |bytes: &[u8]| {
        written += bytes.len() as u64;
        out.write_all(bytes).map_err(|e| from_io("cannot write the archive", e))
    };
    emit(&framing.prologue)?;
    let mut waiting: BTreeMap<u64, Lent> = BTreeMap::new();
    let mut next = 0;
    for (index, filled) in receiver {
        waiting.insert(index, filled?);
        while let Some(mut lent) = waiting.remove(&next) {
            let buffer = lent.buffer();
            let bytes = if codec == Codec::None { buffer.input() } else { buffer.output() };
            emit(bytes)?;
            framing.see(buffer.input());
            next += 1;
        }
    }
    emit(&framing.epilogue())?;
    Ok(written)
}
