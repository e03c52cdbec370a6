//! Files to chunks in a store, in one pass.
//!
//! ```text
//! workers: fill a segment, scan it -> choose cuts, in order -> name the chunks, several at a time
//! movers:  is it there? -> compress -> store            (as many as the store can serve at a time)
//! ```
//!
//! Memory is bounded by the buffers of segments; a mover's chunk keeps its segment. Whether a chunk is there is asked of the
//! store itself, in every upload: by one survey where that is cheap, else chunk by chunk. Nothing that an earlier run knew is
//! believed, so that a store may be cleaned up between any two uploads. During one, what is there counts only when it was
//! written or used lately; older chunks are marked as used or stored again, and a clean-up leaves what is young.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::cutting::{Chunk, Cutting, Pool};
use super::prefetch::most_held;
use super::{ChunkCounts, Chunking};
use crate::archive::catar::flags;
use crate::archive::source::{Source, Stream};
use crate::chunk::cut::Rule;
use crate::chunk::{ChunkId, Index, Item, Packer};
use crate::chunk_store::{About, NewSeed};
use crate::context::Context;
use crate::error::{Error, Result};

/// A chunk that was neither written nor used for so long is marked as used, or stored again. A clean-up takes none that is
/// younger than a day more, unless it is told to.
pub(super) const LATELY: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Most threads that fill, scan and name.
const MOST_WORKERS: usize = 16;

/// Cuts a stream into chunks and stores those that are missing. Returns the index. Blocks.
pub fn store(
    stream: &dyn Stream,
    source: &Source<'_>,
    chunking: &Chunking,
    seed: Option<&NewSeed>,
    context: &Context,
) -> Result<(Index, ChunkCounts)> {
    let rule = Rule::new(chunking.sizes);
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let workers = cores.min(MOST_WORKERS).div_ceil(context.at_once);
    let work = Work {
        stream,
        source,
        chunking,
        seed,
        context,
        rule,
        pool: Pool::new(2 * workers + 5, &rule, stream.len()),
        next: AtomicU64::new(0),
        cutting: Mutex::new(Cutting::new(rule, stream.len())),
        ids: Mutex::default(),
        seen: Mutex::default(),
        known: OnceLock::new(),
        packers: Packers::new(cores.div_ceil(context.at_once)),
        failure: Failure::default(),
        moved: AtomicU64::new(0),
        moved_bytes: AtomicU64::new(0),
    };
    let (sender, receiver) = crossbeam_channel::unbounded();
    let most = most_held(chunking.sizes.max).max(cores);
    let movers = chunking.store.at_once().min(most).div_ceil(context.at_once).max(1);
    thread::scope(|scope| {
        let work = &work;
        for _ in 0..workers {
            let sender = sender.clone();
            scope.spawn(move || work.guarded(|| work.cut(&sender)));
        }
        drop(sender);
        for _ in 0..movers {
            let receiver = receiver.clone();
            scope.spawn(move || work.guarded(|| work.store(&receiver)));
        }
    });
    work.failure.check()?;
    context.cancel.check()?;
    let ids = work.ids.into_inner().unwrap_or_else(PoisonError::into_inner);
    let items: Option<Vec<Item>> = ids.into_iter().collect();
    let items = items.ok_or_else(|| Error::failed("a chunk was left out of the index"))?;
    let counts = ChunkCounts {
        total: items.len() as u64,
        moved: work.moved.into_inner(),
        moved_bytes: work.moved_bytes.into_inner(),
        ..ChunkCounts::default()
    };
    Ok((Index { flags: flags(chunking.digest), sizes: chunking.sizes, digest: chunking.digest, items }, counts))
}

struct Work<'a> {
    stream: &'a dyn Stream,
    source: &'a Source<'a>,
    chunking: &'a Chunking,
    seed: Option<&'a NewSeed>,
    context: &'a Context,
    rule: Rule,
    pool: Pool,
    /// The next segment that nobody has taken.
    next: AtomicU64,
    cutting: Mutex<Cutting>,
    ids: Mutex<Vec<Option<Item>>>,
    /// Ids that a mover has, or had.
    seen: Mutex<HashSet<ChunkId>>,
    /// What a survey found in the store, if one is worth it.
    known: OnceLock<Option<HashMap<ChunkId, About>>>,
    packers: Packers,
    failure: Failure,
    moved: AtomicU64,
    moved_bytes: AtomicU64,
}

type Job = (ChunkId, Chunk);

impl Work<'_> {
    fn guarded(&self, work: impl FnOnce() -> Result<()>) {
        // A thread that panics must not leave the others waiting for what it holds.
        let _noted = NotedIfPanicking(&self.failure);
        if let Err(error) = work() {
            self.failure.set(error);
        }
    }

    fn cut(&self, jobs: &Sender<Job>) -> Result<()> {
        let mut scratch = Vec::new();
        loop {
            let Some(buffer) = self.pool.buffer(&self.failure) else { return Ok(()) };
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.pool.segments() || self.failure.is_set() {
                self.pool.give_back(buffer);
                return Ok(());
            }
            let segment = self.pool.fill(number, buffer, |span, out| {
                self.source.fill(self.stream, span, out, &mut scratch, self.context)
            })?;
            if let Some(seed) = self.seed {
                let (start, bytes) = segment.own_bytes();
                seed.write_at(start, bytes);
            }
            let scan = self.rule.scan(&segment.as_cut());
            let mut cutting = self.cutting.lock().unwrap_or_else(PoisonError::into_inner);
            let chunks = cutting.arrived(number, segment, scan);
            let count = cutting.count();
            drop(cutting);
            self.name(chunks, count, jobs);
        }
    }

    /// Names chunks and hands over those that no mover has seen.
    fn name(&self, chunks: Vec<Chunk>, count: usize, jobs: &Sender<Job>) {
        let bytes: Vec<_> = chunks.iter().map(Chunk::bytes).collect();
        let ids = self.chunking.digest.ids(&bytes.iter().map(|bytes| &**bytes).collect::<Vec<_>>());
        drop(bytes);
        let mut table = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() < count {
            table.resize(count, None);
        }
        for (chunk, id) in chunks.iter().zip(&ids) {
            table[chunk.number] = Some(Item { end: chunk.end, id: *id });
        }
        drop(table);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (chunk, id) in chunks.into_iter().zip(ids) {
            if seen.insert(id) {
                // Refused only when all movers have ended, for a reason of their own.
                let _ = jobs.send((id, chunk));
            }
        }
    }

    fn store(&self, jobs: &Receiver<Job>) -> Result<()> {
        let mut packed = Vec::new();
        for (id, chunk) in jobs {
            // Every job is taken even so: its segment's buffer has to go back.
            if self.failure.is_set() {
                continue;
            }
            if let Err(error) = self.store_one(&id, &chunk, &mut packed) {
                self.failure.set(error);
            }
        }
        Ok(())
    }

    fn store_one(&self, id: &ChunkId, chunk: &Chunk, packed: &mut Vec<u8>) -> Result<()> {
        self.context.cancel.check()?;
        let store = &self.chunking.store;
        let about = match self.known()? {
            Some(known) => known.get(id).copied(),
            None => store.about(id)?,
        };
        if let Some(about) = about
            && (about.age < LATELY || store.keep_alive(id)?)
        {
            return Ok(());
        }
        self.packers.with(|packer| packer.pack(&chunk.bytes(), packed))?;
        store.put(id, packed)?;
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.moved_bytes.fetch_add(packed.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// What a survey found; the first mover makes it and the others wait.
    fn known(&self) -> Result<Option<&HashMap<ChunkId, About>>> {
        let estimate = usize::try_from(self.stream.len() / self.chunking.sizes.avg.max(1)).unwrap_or(usize::MAX);
        let mut failed = None;
        let known = self.known.get_or_init(|| {
            self.chunking.store.survey(estimate).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        failed.map_or(Ok(known.as_ref()), Err)
    }
}

/// The first thing that went wrong.
#[derive(Default)]
pub(super) struct Failure {
    set: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Failure {
    pub(super) fn set(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.set.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<()> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

struct NotedIfPanicking<'a>(&'a Failure);

impl Drop for NotedIfPanicking<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set(Error::failed("a thread failed"));
        }
    }
}

/// As many compressors as there are cores: each takes memory, and many more movers than cores wait for the network.
struct Packers {
    free: Receiver<Option<Packer>>,
    back: Sender<Option<Packer>>,
}

impl Packers {
    fn new(count: usize) -> Self {
        let (back, free) = crossbeam_channel::bounded(count);
        for _ in 0..count {
            let _ = back.try_send(None);
        }
        Packers { free, back }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Packer) -> Result<T>) -> Result<T> {
        let mut slot = self.free.recv().ok().flatten();
        let result = match &mut slot {
            Some(packer) => work(packer),
            None => Packer::new().and_then(|packer| work(slot.insert(packer))),
        };
        let _ = self.back.try_send(slot);
        result
    }
}
