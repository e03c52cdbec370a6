//! An index back to its archive's bytes, in one pass: from a seed, the local cache or the store, in that order.
//!
//! Chunks come in batches, which several threads fetch, unpack and check side by side; [`Content`] hands them on in order.
//! Every chunk is checked against its id, wherever it came from. One that is wrong in a seed or the cache is taken from the
//! next place; one that is wrong in the store is fetched once more, then taken out of the way, and reported.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::prefetch::{Prefetch, most_held};
use super::{ChunkCounts, Chunking};
use crate::archive::codec::{Content, Decode, Step};
use crate::chunk::{ChunkId, Index, Unpacker, Wrong, stored_is};
use crate::chunk_store::{NewSeed, Seed, Stored};
use crate::context::Context;
use crate::error::{Class, Error, Result};
use crate::text::Count;

/// A batch ends when it has this many bytes or chunks: enough to check several chunks at a time, and little enough that a
/// dozen batches fit into memory.
const BATCH_BYTES: u64 = 768 << 10;
const BATCH_CHUNKS: usize = 16;

/// An archive being fetched. Dropped without [`Fetched::finish`], it leaves no seed.
pub struct Fetched(Arc<Fetcher>);

impl Fetched {
    /// Where the chunks came from, and what the user should know. To be called when all bytes have been read.
    pub fn finish(self) -> (ChunkCounts, Vec<String>) {
        self.0.finish()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // Threads that still fetch may hold the new seed for longer than the process lives.
        if let Some(new_seed) = self.0.new_seed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            new_seed.abandon();
        }
    }
}

/// Starts fetching an archive: its bytes, in which an error has its class and hint, and what is known once they have been
/// read. A seed is left for the next time when there is a place for seeds.
pub fn fetch(
    index: Index,
    chunking: &Arc<Chunking>,
    seed_name: Option<&str>,
    context: &Context,
) -> Result<(Content, Fetched)> {
    let index = Arc::new(index);
    let batches = batches(&index);
    let seeds = chunking.seeds.as_ref().zip(seed_name);
    let seed = seeds.and_then(|(seeds, name)| seeds.open(name));
    let new_seed = seeds.and_then(|(seeds, name)| {
        // The same archive again: what is there will do.
        let same = seed.as_ref().is_some_and(|seed| seed.index().items == index.items);
        if same { None } else { seeds.begin(name, index.len()) }
    });
    let fetcher = Arc::new(Fetcher {
        prefetch: plan(&index, &batches, chunking, seed.as_ref(), context),
        chunking: Arc::clone(chunking),
        seed,
        new_seed: Mutex::new(new_seed.map(Arc::new)),
        unpackers: Mutex::default(),
        bad_in_seed: AtomicU64::new(0),
        counts: Counts::default(),
        warnings: Mutex::default(),
        context: context.clone(),
        index,
    });
    let decoder = Batches { fetcher: Arc::clone(&fetcher), left: batches.into_iter() };
    Ok((Content::new(Box::new(decoder), context), Fetched(fetcher)))
}

/// The chunks that are fetched together.
fn batches(index: &Index) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    for (number, item) in index.items.iter().enumerate() {
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_CHUNKS && item.end - index.start(batch.start) <= BATCH_BYTES => {
                batch.end = number + 1;
            }
            _ => batches.push(number..number + 1),
        }
    }
    batches
}

/// What a distant store will be asked for, and starts asking. What is planned has to be taken, or the rest would wait for
/// ever; so chunks that are on this machine are left out, and those that repeat the one before them in their batch.
fn plan(
    index: &Index,
    batches: &[Range<usize>],
    chunking: &Chunking,
    seed: Option<&Seed>,
    context: &Context,
) -> Option<(Prefetch, HashSet<usize>)> {
    if chunking.store.is_local() {
        return None;
    }
    let here = |id: &ChunkId| {
        seed.is_some_and(|seed| seed.has(id)) || chunking.cache.as_ref().is_some_and(|cache| cache.has(id))
    };
    let planned = |batch: &Range<usize>| -> Vec<(usize, ChunkId)> {
        let wanted = |number: &usize| !(*number > batch.start && repeats(index, *number));
        let ids = batch.clone().filter(wanted).map(|number| (number, index.items[number].id));
        ids.filter(|(_, id)| !here(id)).collect()
    };
    let plan: Vec<(usize, ChunkId)> = batches.iter().flat_map(planned).collect();
    let numbers = plan.iter().map(|(number, _)| *number).collect();
    let threads = chunking.store.at_once().div_ceil(context.at_once).max(1);
    let store = Arc::clone(&chunking.store);
    // However few that are: the batch that is due takes its chunks in order, so what it waits for is never too far ahead.
    let ahead = most_held(index.sizes.max).div_ceil(context.at_once).max(2);
    Some((Prefetch::start(store, plan, threads, ahead, &context.cancel), numbers))
}

/// Whether a chunk, which is not the first, is the same as the one before it.
fn repeats(index: &Index, number: usize) -> bool {
    index.items[number - 1].id == index.items[number].id && index.chunk_len(number - 1) == index.chunk_len(number)
}

struct Fetcher {
    index: Arc<Index>,
    chunking: Arc<Chunking>,
    seed: Option<Seed>,
    new_seed: Mutex<Option<Arc<NewSeed>>>,
    /// Chunks that are fetched ahead, by their numbers.
    prefetch: Option<(Prefetch, HashSet<usize>)>,
    unpackers: Mutex<Vec<Unpacker>>,
    bad_in_seed: AtomicU64,
    counts: Counts,
    warnings: Mutex<Vec<String>>,
    context: Context,
}

#[derive(Default)]
struct Counts {
    moved: AtomicU64,
    moved_bytes: AtomicU64,
    from_seed: AtomicU64,
    from_cache: AtomicU64,
}

/// Where a chunk was taken from.
enum From {
    Seed,
    Cache,
    /// The store, as it was stored there.
    Store(Stored),
    /// From the store as well, where it did not unpack: the bytes are none.
    Wrong,
    /// The chunk before it in the batch, which is the same.
    Before,
}

struct Batches {
    fetcher: Arc<Fetcher>,
    left: std::vec::IntoIter<Range<usize>>,
}

impl Decode for Batches {
    fn in_parallel(&self) -> bool {
        true
    }

    fn next(&mut self, _out: &mut Vec<u8>, _packed: &mut Vec<u8>) -> io::Result<Step> {
        let Some(batch) = self.left.next() else { return Ok(Step::End) };
        let fetcher = Arc::clone(&self.fetcher);
        Ok(Step::Packed(Box::new(move |_packed, out| fetcher.fill(batch, out).map_err(io::Error::from)), None))
    }
}

impl Fetcher {
    /// Fills a buffer with a batch of chunks, all of them checked.
    fn fill(&self, batch: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        self.context.cancel.check()?;
        let start = self.index.start(batch.start);
        let end = self.index.start(batch.end);
        // What is in there is overwritten, and need not be cleared.
        out.resize(usize::try_from(end - start).unwrap_or(usize::MAX), 0);
        let mut unpacker = self.unpackers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let unpacker_ref = match &mut unpacker {
            Some(unpacker) => unpacker,
            None => unpacker.insert(Unpacker::new()?),
        };
        let mut origins = Vec::with_capacity(batch.len());
        let mut rest = out.as_mut_slice();
        let mut before: &[u8] = &[];
        for number in batch.clone() {
            let chunk = rest.split_off_mut(..self.index.chunk_len(number)).unwrap_or_default();
            if number > batch.start && repeats(&self.index, number) {
                chunk.copy_from_slice(before);
                origins.push(From::Before);
            } else {
                origins.push(self.load(number, chunk, unpacker_ref)?);
            }
            before = chunk;
        }
        self.check(&batch, &origins, out, unpacker_ref)?;
        self.unpackers.lock().unwrap_or_else(PoisonError::into_inner).extend(unpacker);
        let new_seed = self.new_seed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(new_seed) = new_seed {
            match self.run_in_seed(&batch, &origins) {
                Some((seed, from)) => new_seed.share(seed, from, start, out),
                None => new_seed.write_at(start, out),
            }
        }
        Ok(())
    }

    /// Where in the seed a batch lies, if all of it does, in one run.
    fn run_in_seed(&self, batch: &Range<usize>, origins: &[From]) -> Option<(&Seed, u64)> {
        let seed = self.seed.as_ref()?;
        if self.bad_in_seed.load(Ordering::Relaxed) > 0 || !origins.iter().all(|origin| matches!(origin, From::Seed)) {
            return None;
        }
        let place = |number: usize| seed.place(&self.index.items[number].id);
        let from = place(batch.start)?;
        let start = self.index.start(batch.start);
        let runs = batch.clone().all(|number| place(number) == Some(from + self.index.start(number) - start));
        runs.then_some((seed, from))
    }

    /// Checks the chunks of a batch, replaces wrong ones, and keeps those from the store in the cache.
    fn check(&self, batch: &Range<usize>, origins: &[From], out: &mut [u8], unpacker: &mut Unpacker) -> Result<()> {
        let start = self.index.start(batch.start);
        let place = |number: usize| {
            let at = |position: u64| usize::try_from(position - start).unwrap_or(usize::MAX);
            at(self.index.start(number))..at(self.index.items[number].end)
        };
        let chunks: Vec<&[u8]> = batch.clone().map(|number| &out[place(number)]).collect();
        let ids = self.index.digest.ids(&chunks);
        for ((number, origin), is) in batch.clone().zip(origins).zip(ids) {
            let id = self.index.items[number].id;
            let chunk = &mut out[place(number)];
            let right = !matches!(origin, From::Wrong) && (is == id || self.other_digest(&id, chunk));
            match origin {
                From::Store(stored) if right => self.counted(&id, stored),
                From::Seed if right => self.counts.from_seed.fetch_add(1, Ordering::Relaxed),
                From::Cache if right => self.counts.from_cache.fetch_add(1, Ordering::Relaxed),
                From::Before if right => 0,
                From::Store(_) | From::Wrong => self.reload(number, chunk, unpacker, false)?,
                From::Seed => {
                    self.bad_in_seed.fetch_add(1, Ordering::Relaxed);
                    self.reload(number, chunk, unpacker, true)?
                }
                // The one before it may have come from the seed, and was replaced since.
                From::Cache | From::Before => self.reload(number, chunk, unpacker, true)?,
            };
        }
        Ok(())
    }

    /// desync up to 1.0.4 could write an index of SHA-256 ids and say that they are SHA-512/256. A chunk is what its id
    /// says by either.
    fn other_digest(&self, id: &ChunkId, chunk: &[u8]) -> bool {
        self.index.digest.other().id(chunk) == *id
    }

    /// A chunk from the nearest place that has it, unchecked.
    fn load(&self, number: usize, chunk: &mut [u8], unpacker: &mut Unpacker) -> Result<From> {
        let id = self.index.items[number].id;
        let stored = match &self.prefetch {
            // First of all: what is planned has to be taken.
            Some((prefetch, numbers)) if numbers.contains(&number) => prefetch.take(number),
            _ => {
                if let Some(seed) = &self.seed
                    && seed.read(&id, chunk)
                {
                    return Ok(From::Seed);
                }
                if let Some(cache) = &self.chunking.cache
                    && let Some(stored) = cache.get(&id)
                {
                    match unpacker.unpack(stored.form, &stored.bytes, chunk) {
                        Ok(()) => return Ok(From::Cache),
                        Err(_) => cache.remove(&id),
                    }
                }
                self.chunking.store.get(&id)
            }
        };
        let stored = stored.map_err(|error| self.unreadable(error))?.ok_or_else(|| self.missing(&id))?;
        match unpacker.unpack(stored.form, &stored.bytes, chunk) {
            Ok(()) => Ok(From::Store(stored)),
            Err(Wrong::Unsupported(why)) => Err(self.wrong(&id, why, None)),
            // Once more, in `check`.
            Err(Wrong::Damaged(_)) => Ok(From::Wrong),
        }
    }

    /// A chunk that proved to be wrong, from the cache or the store; what is wrong there, too, is taken out of the way.
    fn reload(&self, number: usize, chunk: &mut [u8], unpacker: &mut Unpacker, local: bool) -> Result<u64> {
        let id = self.index.items[number].id;
        let fits = |chunk: &[u8]| self.index.digest.id(chunk) == id || self.other_digest(&id, chunk);
        if let Some(cache) = &self.chunking.cache {
            let cached = cache.get(&id).filter(|_| local);
            let unpacked = cached.map(|stored| unpacker.unpack(stored.form, &stored.bytes, chunk));
            if unpacked.is_some_and(|unpacked| unpacked.is_ok()) && fits(chunk) {
                return Ok(self.counts.from_cache.fetch_add(1, Ordering::Relaxed));
            }
            cache.remove(&id);
        }
        let store = &self.chunking.store;
        let stored = store.get(&id).map_err(|error| self.unreadable(error))?.ok_or_else(|| self.missing(&id))?;
        let why = match unpacker.unpack(stored.form, &stored.bytes, chunk) {
            Ok(()) if fits(chunk) => return Ok(self.counted(&id, &stored)),
            Ok(()) => "its content does not match its id",
            Err(Wrong::Unsupported(why)) => return Err(self.wrong(&id, why, None)),
            // By another length it is the right one: then others need it, and it is the index that is wrong.
            Err(Wrong::Damaged(_)) if stored_is(stored.form, &stored.bytes, &id) => {
                let what = format!("the index is damaged: chunk {id} has another length than it says");
                return Err(Error::damaged(what).hint("run the step that uploads the artifact again"));
            }
            Err(Wrong::Damaged(why)) => why,
        };
        Err(self.wrong(&id, why, Some(store.discard(&id))))
    }

    fn counted(&self, id: &ChunkId, stored: &Stored) -> u64 {
        if let Some(cache) = &self.chunking.cache {
            cache.put(id, stored);
        }
        self.counts.moved_bytes.fetch_add(stored.bytes.len() as u64, Ordering::Relaxed);
        self.counts.moved.fetch_add(1, Ordering::Relaxed)
    }

    fn wrong(&self, id: &ChunkId, why: &str, discarded: Option<Result<&'static str>>) -> Error {
        let what = format!("chunk {id} in `{}` is wrong: {why}", self.chunking.store.place());
        let error = Error::damaged(what);
        match discarded {
            None => error,
            Some(Ok(done)) => error.hint(format!("{done}: run the step that uploads the artifact again")),
            Some(Err(failed)) => error.hint(format!(
                "remove that chunk ({}), and run the step that uploads the artifact again",
                failed.chain()
            )),
        }
    }

    fn missing(&self, id: &ChunkId) -> Error {
        let place = self.chunking.store.place();
        Error::damaged(format_args!("chunk {id} is missing from `{place}`"))
            .hint("run the step that uploads the artifact again; was the store cleaned up, or is it another one?")
    }

    fn unreadable(&self, error: Error) -> Error {
        if error.class() != Class::Unavailable {
            return error;
        }
        let total = self.index.items.len();
        let here = |id: &ChunkId| {
            self.seed.as_ref().is_some_and(|seed| seed.has(id))
                || self.chunking.cache.as_ref().is_some_and(|cache| cache.has(id))
        };
        let missing = self.index.items.iter().filter(|item| !here(&item.id)).count();
        error.context(format_args!("{} of {total} are not on this machine", Count(missing as u64, "chunk")))
    }

    fn finish(&self) -> (ChunkCounts, Vec<String>) {
        let mut warnings = std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        let new_seed = self.new_seed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(seeds), Some(new_seed)) = (&self.chunking.seeds, new_seed) {
            warnings.extend(seeds.publish(&new_seed, &self.index));
        }
        // The next download makes another one.
        let bad = self.bad_in_seed.load(Ordering::Relaxed);
        if let Some(seed) = &self.seed
            && bad > 0
        {
            seed.remove();
        }
        if let Some(cache) = &self.chunking.cache {
            warnings.extend(cache.tidy());
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = ChunkCounts {
            total: self.index.items.len() as u64,
            moved: count(&self.counts.moved),
            moved_bytes: count(&self.counts.moved_bytes),
            from_seed: count(&self.counts.from_seed),
            from_cache: count(&self.counts.from_cache),
        };
        (counts, warnings)
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
