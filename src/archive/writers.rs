//! Threads that create files.
//!
//! Small files travel in batches; a large file is taken by one writer, which receives its content over a channel of its
//! own, since two writers on one inode are no faster. Content is never copied: what travels are pieces of the buffers it
//! was decoded into, and the number of those bounds the memory. Queues are bounded too, and with them open folders.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender};

use super::codec::{Content, Piece};
use super::tar::Extent;
use super::tree::{Attributes, Folder, NewFile, umask};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::hash::{Hash, Hasher, Line, LineKind};

/// A batch is handed out when it holds this many bytes, files or folders. Small ones keep all writers busy and their
/// content in the processor's caches.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_FILES: usize = 256;
/// Each folder of a batch is an open file, and a process may have no more than 1,024 of them.
const BATCH_FOLDERS: usize = 8;
/// ... or pieces of this many buffers: those that wait to be handed out must leave some to decode into.
const BATCH_BUFFERS: usize = 2;
const _: () = assert!(BATCH_BUFFERS - 1 + SMALL_BUFFERS <= Content::MAY_KEEP);
/// A small file in pieces of more buffers than this is copied together instead.
const SMALL_BUFFERS: usize = 2;
/// Batches that may wait for each writer.
const WAITING: usize = 4;
/// Content of a large file travels in pieces of at most this size.
const CHUNK: usize = 512 << 10;
const CHUNKS: usize = 3;

/// Files to be created together.
#[derive(Default)]
struct Batch {
    files: Vec<Small>,
    paths: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
    folders: usize,
    buffers: usize,
}

struct Small {
    folder: Arc<Folder>,
    path_len: usize,
    name_len: usize,
    /// How many of the batch's pieces are its content.
    pieces: usize,
    attributes: Attributes,
}

struct Large {
    folder: Arc<Folder>,
    path: Vec<u8>,
    name_len: usize,
    attributes: Attributes,
    size: u64,
    chunks: Receiver<Chunk>,
}

/// Bytes and where they go; `None` says that the file is complete.
type Chunk = Option<(u64, Piece)>;

enum Job {
    Batch(Batch),
    Large(Large),
}

/// What writers and their master share.
#[derive(Default)]
struct Shared {
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    open_jobs: Mutex<usize>,
    idle: Condvar,
}

impl Shared {
    fn fail(&self, error: Error) {
        self.failed.store(true, Ordering::SeqCst);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn check(&self) -> Result<()> {
        if !self.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Err(Error::failed("writing files failed")),
        }
    }

    fn open(&self) {
        *self.open_jobs.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn close(&self) {
        if thread::panicking() {
            // The panic goes on in the master once its threads are joined; it must not wait for this job before.
            self.failed.store(true, Ordering::SeqCst);
        }
        let mut open = self.open_jobs.lock().unwrap_or_else(PoisonError::into_inner);
        *open -= 1;
        if *open == 0 {
            self.idle.notify_all();
        }
    }
}

/// Closes a job however it ends.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The master's end.
pub(super) struct Writers<'a> {
    shared: &'a Shared,
    jobs: Sender<Job>,
    spent: Receiver<Batch>,
    batch: Batch,
}

impl Writers<'_> {
    /// Files up to this size travel in batches.
    pub(super) const SMALL: u64 = 512 << 10;

    /// Runs `work` with writers at hand; they end when it returns. The first error of either side is returned, and no
    /// further file is created after it.
    ///
    /// With `lines`, the content of every file is digested as it is written, and told there.
    pub(super) fn with(
        context: &Context,
        lines: Option<&Lines>,
        work: impl FnOnce(&mut Writers<'_>) -> Result<()>,
    ) -> Result<()> {
        // More than cores: some of them wait for a folder that another is making files in.
        let count = thread::available_parallelism().map_or(4, |cores| 2 * cores.get()).clamp(3, 8);
        let shared = Shared::default();
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(WAITING * count);
        let (spent_sender, spent) = crossbeam_channel::unbounded();
        let umask = umask();
        thread::scope(|scope| {
            for _ in 0..count {
                let (queue, spent, shared) = (queue.clone(), spent_sender.clone(), &shared);
                scope.spawn(move || {
                    for job in queue {
                        let _closing = Closing(shared);
                        if !shared.failed.load(Ordering::Relaxed)
                            && let Err(error) = context.cancel.check().and_then(|()| write(job, umask, &spent, lines))
                        {
                            shared.fail(error);
                        }
                    }
                });
            }
            drop((queue, spent_sender));
            let mut writers = Writers { shared: &shared, jobs, spent, batch: Batch::default() };
            let result = work(&mut writers);
            if result.is_err() {
                shared.failed.store(true, Ordering::SeqCst);
            }
            result
        })
    }

    /// Hands over a small file; `take` gives its content, at most so many bytes at a time.
    pub(super) fn small(
        &mut self,
        folder: &Arc<Folder>,
        path: &[u8],
        name_len: usize,
        attributes: Attributes,
        len: usize,
        mut take: impl FnMut(usize) -> Result<Piece>,
    ) -> Result<()> {
        let new_folder = self.batch.files.last().is_none_or(|last| !Arc::ptr_eq(&last.folder, folder));
        let full = self.batch.bytes + len > BATCH_BYTES
            || self.batch.files.len() == BATCH_FILES
            || self.batch.buffers >= BATCH_BUFFERS
            || new_folder && self.batch.folders == BATCH_FOLDERS;
        if full {
            self.flush()?;
        }
        let batch = &mut self.batch;
        let before = batch.pieces.len();
        let mut left = len;
        while left > 0 {
            let piece = take(left)?;
            left -= piece.len();
            if batch.pieces.len() - before < SMALL_BUFFERS {
                batch.buffers += usize::from(batch.pieces.last().is_none_or(|last| !last.shares_buffer(&piece)));
                batch.pieces.push(piece);
                continue;
            }
            // Buffers so small would be used up before the file is complete.
            let mut whole = Vec::with_capacity(len);
            batch.pieces.drain(before..).for_each(|piece| whole.extend_from_slice(&piece));
            whole.extend_from_slice(&piece);
            drop(piece);
            while left > 0 {
                let piece = take(left)?;
                left -= piece.len();
                whole.extend_from_slice(&piece);
            }
            batch.pieces.push(Piece::from(whole));
        }
        batch.bytes += len;
        batch.paths.extend_from_slice(path);
        batch.folders += usize::from(new_folder || batch.files.is_empty());
        batch.files.push(Small {
            folder: Arc::clone(folder),
            path_len: path.len(),
            name_len,
            pieces: batch.pieces.len() - before,
            attributes,
        });
        Ok(())
    }

    /// Hands over a large file, whose content follows through [`LargeFile::fill`].
    pub(super) fn large(
        &mut self,
        folder: &Arc<Folder>,
        path: &[u8],
        name_len: usize,
        attributes: Attributes,
        size: u64,
    ) -> Result<LargeFile<'_>> {
        let (chunks, chunk_receiver) = crossbeam_channel::bounded(CHUNKS);
        self.send(Job::Large(Large {
            folder: Arc::clone(folder),
            path: path.to_vec(),
            name_len,
            attributes,
            size,
            chunks: chunk_receiver,
        }))?;
        Ok(LargeFile { shared: self.shared, chunks })
    }

    /// Waits until everything handed over is on disk.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        let mut open = self.shared.open_jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while *open > 0 {
            open = self.shared.idle.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        drop(open);
        self.shared.check()
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.files.is_empty() {
            return Ok(());
        }
        let next = self.spent.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        self.send(Job::Batch(batch))
    }

    fn send(&mut self, job: Job) -> Result<()> {
        self.shared.check()?;
        self.shared.open();
        self.jobs.send(job).map_err(|_| Error::failed("the writing threads stopped"))
    }
}

/// A large file under way.
pub(super) struct LargeFile<'a> {
    shared: &'a Shared,
    chunks: Sender<Chunk>,
}

impl LargeFile<'_> {
    /// Sends the content of these extents and completes the file. When it fails in the middle, the file is removed.
    pub(super) fn fill(
        &mut self,
        extents: &[Extent],
        mut take: impl FnMut(usize) -> Result<Piece>,
        context: &Context,
    ) -> Result<()> {
        for extent in extents {
            let mut at = 0;
            while at < extent.len {
                context.cancel.check()?;
                let piece = take(usize::try_from(extent.len - at).unwrap_or(CHUNK).min(CHUNK))?;
                let len = piece.len() as u64;
                self.send(Some((extent.offset + at, piece)))?;
                at += len;
            }
        }
        self.send(None)
    }

    fn send(&self, chunk: Chunk) -> Result<()> {
        if self.chunks.send(chunk).is_ok() {
            return Ok(());
        }
        // The writer gave the file up; its reason is on its way.
        while !self.shared.failed.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        self.shared.check()
    }
}

/// What became of files, as lines of a listing.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Vec<Line>>);

impl Lines {
    /// Adds lines.
    pub(super) fn add(&self, mut lines: Vec<Line>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut lines);
    }

    /// All that were added, in no order.
    pub(super) fn into_inner(self) -> Vec<Line> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(path: &[u8], attributes: Attributes, hash: Hash, size: u64) -> Line {
    let kind = if attributes.mode & 0o100 != 0 { LineKind::Executable } else { LineKind::File };
    Line { kind, hash, size, path: path.to_vec() }
}

fn write(job: Job, umask: u32, spent: &Sender<Batch>, lines: Option<&Lines>) -> Result<()> {
    match job {
        Job::Batch(mut batch) => {
            let mut path_at = 0;
            let mut pieces = batch.pieces.iter();
            let mut written = Vec::new();
            let mut in_one_piece = Vec::new();
            for small in batch.files.drain(..) {
                let path = &batch.paths[path_at..path_at + small.path_len];
                path_at += small.path_len;
                let name = &path[path.len() - small.name_len..];
                let mut file = NewFile::create(&small.folder, path, name, small.attributes)?;
                let pieces = pieces.by_ref().take(small.pieces);
                let (mut hasher, mut size) = (Hasher::new(), 0);
                for piece in pieces {
                    file.write(piece)?;
                    size += piece.len() as u64;
                    match lines {
                        Some(_) if small.pieces == 1 => in_one_piece.push((path, small.attributes, &**piece)),
                        Some(_) => hasher.update(piece),
                        None => {}
                    }
                }
                file.finish(umask)?;
                if lines.is_some() && small.pieces != 1 {
                    written.push(line(path, small.attributes, hasher.finish(), size));
                }
            }
            if let Some(lines) = lines {
                let contents: Vec<_> = in_one_piece.iter().map(|(.., content)| *content).collect();
                let hashes = Hash::of_each(&contents);
                let digested = in_one_piece.iter().zip(hashes);
                written
                    .extend(digested.map(|((path, attributes, content), hash)| {
                        line(path, *attributes, hash, content.len() as u64)
                    }));
                lines.add(written);
            }
            batch.pieces.clear();
            batch.paths.clear();
            batch.bytes = 0;
            batch.folders = 0;
            batch.buffers = 0;
            // Nobody needs it back when the archive has been read.
            let _ = spent.send(batch);
            Ok(())
        }
        Job::Large(large) => {
            let name = &large.path[large.path.len() - large.name_len..];
            let mut file = NewFile::create(&large.folder, &large.path, name, large.attributes)?;
            let mut content = lines.map(|_| Hasher::new());
            for chunk in &large.chunks {
                let Some((offset, bytes)) = chunk else {
                    file.set_len(large.size)?;
                    file.finish(umask)?;
                    if let (Some(lines), Some(hasher)) = (lines, content) {
                        lines.add(vec![line(&large.path, large.attributes, hasher.finish(), large.size)]);
                    }
                    return Ok(());
                };
                file.write_at(offset, &bytes)?;
                if let Some(hasher) = &mut content {
                    hasher.update(&bytes);
                }
            }
            // The content ended early: dropping the file removes it, and the reader reports why.
            Ok(())
        }
    }
}
