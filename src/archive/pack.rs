//! Packing: a file set to archive bytes, in parallel blocks.
//!
//! Each worker takes the next span of the tar stream, fills a buffer with headers and file content, compresses it on
//! the same core while it is in cache, and hands it to the one writer, which puts blocks back in order. Memory is
//! `buffers × block`: buffers are shared by all archives of the process, reused, and taken before a span is, so the
//! writer's next block is always being worked on.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use super::codec::{Codec, Encoder};
use super::source::{Seen, Source, Stream, as_len};
use super::tar::read::check_is_tar;
use super::{catar, tar};
use crate::artifact::Format;
use crate::chunk::Digest;
use crate::collect::FileSet;
use crate::context::Context;
use crate::error::{Result, from_io};
use crate::hash::{Hash, Hasher};
use crossbeam_channel::{Receiver, Sender};

/// Input and output of one span. The vectors only ever grow, since clearing memory anew costs as much as filling it;
/// the lengths say how much of them counts.
#[derive(Default)]
struct Buffer {
    input: Vec<u8>,
    input_len: usize,
    output: Vec<u8>,
    output_len: usize,
    /// Content of files that lie in several spans, to be digested in order.
    parts: Vec<PartOfFile>,
}

impl Buffer {
    /// Forgets what it held, and makes room for a block.
    fn start(&mut self, block_size: usize) {
        (self.input_len, self.output_len) = (0, 0);
        self.parts.clear();
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
        let written = write_in_order(receiver, codec, out, None, None);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((read?, written?))
    })
}

/// The stream of an archive format, before compression.
pub fn stream(files: &FileSet, format: Format) -> Result<Box<dyn Stream + '_>> {
    Ok(match format {
        Format::Catar | Format::CatarCaibx => Box::new(catar::layout::Layout::new(files, Digest::default())?),
        _ => Box::new(tar::layout::Layout::new(files)?),
    })
}

/// Makes a stream of selected files, compresses it, and writes the archive. Returns the number of bytes written. Blocks.
///
/// A file that changed or vanished since it was selected is an error of class `Changed` naming it; what has
/// been written by then is of no use.
pub fn pack(
    stream: &dyn Stream,
    source: &Source<'_>,
    codec: Codec,
    out: &mut dyn Write,
    context: &Context,
) -> Result<u64> {
    pack_and_digest(stream, source, codec, out, None, context)
}

/// As [`pack`], and digests the content of every file on the way: each byte is read once.
pub fn pack_and_digest(
    stream: &dyn Stream,
    source: &Source<'_>,
    codec: Codec,
    out: &mut dyn Write,
    digests: Option<&Digests<'_>>,
    context: &Context,
) -> Result<u64> {
    let block_size = codec.block_size() as u64;
    let blocks = stream.len().div_ceil(block_size);
    let cores = thread::available_parallelism().map_or(1, usize::from).min(codec.max_threads());
    let workers = usize::try_from(blocks).unwrap_or(usize::MAX).min(cores);
    let spans = Mutex::new(0..blocks);
    let (sender, receiver) = crossbeam_channel::unbounded();
    // No more blocks than keep everybody busy: fresh memory costs more time than waiting for the writer.
    let ahead = 2 * workers + 2;
    let (done, leave) = crossbeam_channel::bounded(ahead);
    // There is room for all of them.
    (0..ahead).for_each(|_| _ = done.try_send(()));
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, leave) = (sender.clone(), leave.clone());
            let worker = Worker { stream, source, codec, spans: &spans, leave, sender, digests, context };
            scope.spawn(move || worker.run());
        }
        drop(sender);
        let written = write_in_order(receiver, codec, out, digests, Some(done));
        if written.is_err() {
            // No more spans: the workers finish the one they have and end.
            *spans.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
        }
        written
    })
}

type Filled = (u64, Result<Lent>);

/// Content of a file of which this span holds only a part.
#[derive(Debug)]
struct PartOfFile {
    file: usize,
    at: Range<usize>,
    ends: bool,
}

/// The digests of files' contents, by their places in a file set.
pub struct Digests<'a> {
    files: &'a FileSet,
    found: Mutex<Vec<(usize, Hash)>>,
}

impl<'a> Digests<'a> {
    /// None yet.
    pub fn of(files: &'a FileSet) -> Self {
        Digests { files, found: Mutex::default() }
    }

    /// Those of files that have content, once all is packed.
    pub fn into_found(self) -> Vec<(usize, Hash)> {
        self.found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a file: whether it lies within one span or only a part of it does, which is left for when the spans are in
    /// order.
    fn see(&self, seen: &Seen<'_>, whole: &mut Vec<(usize, Range<usize>)>, parts: &mut Vec<PartOfFile>) {
        let file = self.files.index_of(seen.entry);
        let len = seen.bytes.len();
        let at = seen.at..seen.at + len;
        if len as u64 == seen.entry.size {
            whole.push((file, at));
        } else {
            let ends = seen.offset + len as u64 == seen.entry.size;
            parts.push(PartOfFile { file, at, ends });
        }
    }

    /// Digests the files that lie within a span.
    fn digest(&self, span: &[u8], whole: &[(usize, Range<usize>)]) {
        let contents: Vec<_> = whole.iter().map(|(_, at)| &span[at.clone()]).collect();
        self.add(whole.iter().map(|(file, _)| *file).zip(Hash::of_each(&contents)));
    }

    fn add(&self, found: impl IntoIterator<Item = (usize, Hash)>) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    }

    fn parts(&self, buffer: &Buffer, open: &mut Hasher) {
        for part in &buffer.parts {
            open.update(&buffer.input()[part.at.clone()]);
            if part.ends {
                self.add([(part.file, std::mem::take(open).finish())]);
            }
        }
    }
}

struct Worker<'a> {
    stream: &'a dyn Stream,
    source: &'a Source<'a>,
    codec: Codec,
    spans: &'a Mutex<std::ops::Range<u64>>,
    /// One for each block that may be begun.
    leave: Receiver<()>,
    sender: Sender<Filled>,
    digests: Option<&'a Digests<'a>>,
    context: &'a Context,
}

impl Worker<'_> {
    fn run(self) {
        let mut scratch = Vec::new();
        let mut encoder = None;
        loop {
            if self.leave.recv().is_err() {
                // The writer gave up.
                return;
            }
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
        let block = self.codec.block_size() as u64;
        let start = index * block;
        let end = (start + block).min(self.stream.len());
        buffer.start(self.codec.block_size());
        let mut parts = std::mem::take(&mut buffer.parts);
        let out = buffer.next(as_len(end - start));
        match self.digests {
            None => self.source.fill(self.stream, start..end, out, scratch, self.context)?,
            Some(digests) => {
                let mut whole = Vec::new();
                let see = &mut |seen: Seen<'_>| digests.see(&seen, &mut whole, &mut parts);
                self.source.fill_and_see(self.stream, start..end, out, scratch, self.context, see)?;
                digests.digest(out, &whole);
            }
        }
        buffer.parts = parts;
        encode(self.codec, buffer, encoder)
    }
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

/// Tells `done` of every block that is written. Owns the receiver: when this returns early, what is queued is dropped and its buffers go back, so that no worker
/// waits for one in vain.
fn write_in_order(
    receiver: Receiver<Filled>,
    codec: Codec,
    out: &mut dyn Write,
    digests: Option<&Digests<'_>>,
    done: Option<Sender<()>>,
) -> Result<u64> {
    let mut framing = codec.framing();
    let mut written = 0u64;
    let mut emit = |bytes: &[u8]| {
        written += bytes.len() as u64;
        out.write_all(bytes).map_err(|e| from_io("cannot write the archive", e))
    };
    emit(&framing.prologue)?;
    let mut waiting: BTreeMap<u64, Lent> = BTreeMap::new();
    let mut next = 0;
    let mut open = Hasher::new();
    for (index, filled) in receiver {
        waiting.insert(index, filled?);
        while let Some(mut lent) = waiting.remove(&next) {
            let buffer = lent.buffer();
            let bytes = if codec == Codec::None { buffer.input() } else { buffer.output() };
            emit(bytes)?;
            framing.see(buffer.input());
            if let Some(digests) = digests {
                digests.parts(buffer, &mut open);
            }
            drop(lent);
            if let Some(done) = &done {
                // Nobody needs it when all blocks are begun.
                let _ = done.try_send(());
            }
            next += 1;
        }
    }
    emit(&framing.epilogue())?;
    Ok(written)
}
