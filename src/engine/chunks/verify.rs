//! Whether a store has every chunk that an index names, whole and right.
//!
//! Chunks come from the store alone, are unpacked and held against their ids. They are fetched and named in batches, several
//! batches at a time, and as few as memory asks for where chunks are large.

use std::sync::{Mutex, PoisonError};

use super::inspect::{Unique, unique};
use super::parallel::in_parallel;
use crate::chunk::{ChunkId, Digest, Index, Unpacker, Wrong};
use crate::chunk_store::ChunkStore;
use crate::context::Context;
use crate::error::Result;

/// A batch ends when it has this many bytes or chunks: enough to name several chunks at a time.
const BATCH_BYTES: usize = 768 << 10;
const BATCH_CHUNKS: usize = 16;

/// What all batches under way may take.
const MOST_BYTES: usize = 512 << 20;

/// What a look at every chunk found. Chunks stand in the order of the index, each once.
#[derive(Debug, Default)]
pub struct Verified {
    /// Chunks that the index names.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are not there.
    pub missing: Vec<ChunkId>,
    /// Those that are not what their id says.
    pub wrong: Vec<WrongChunk>,
}

/// A chunk that is not what its id says.
#[derive(Debug)]
pub struct WrongChunk {
    /// Its id.
    pub id: ChunkId,
    /// What is wrong with it.
    pub why: &'static str,
    /// What became of it, when it was to be taken out of the way.
    pub repaired: Option<Result<&'static str>>,
}

impl Verified {
    /// Chunks that are there and right.
    pub fn right(&self) -> u64 {
        self.chunks - (self.missing.len() + self.wrong.len()) as u64
    }
}

/// Fetches and checks every chunk that an index names. With `repair`, those that are wrong are taken out of the way, so that
/// the next upload stores them again. A store that cannot be used is an error. Blocks.
pub fn verify(index: &Index, store: &dyn ChunkStore, repair: bool, context: &Context) -> Result<Verified> {
    let chunks = unique(index)?;
    let bytes = chunks.iter().map(|chunk| chunk.len as u64).sum();
    context.progress.expect(bytes);
    let batches = batches(&chunks);
    // A batch lies there unpacked, and one chunk of it packed as well.
    let largest = chunks.iter().map(|chunk| chunk.len).max().unwrap_or(0);
    let threads = store.at_once().min(MOST_BYTES / (largest.max(BATCH_BYTES) + largest));
    let most = usize::try_from(index.sizes.max).unwrap_or(usize::MAX);
    let check =
        Check { store, digest: index.digest, most, repair, tools: Mutex::default(), found: Mutex::default(), context };
    in_parallel(threads, batches.len(), context, |number| check.batch(batches[number]))?;
    let mut found = check.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Their numbers; batches end in any order.
    found.sort_by_key(|(first, _)| *first);
    let mut verified = Verified { chunks: chunks.len() as u64, bytes, ..Verified::default() };
    for (_, fault) in found {
        match fault {
            Fault::Missing(id) => verified.missing.push(id),
            Fault::Wrong(wrong) => verified.wrong.push(wrong),
        }
    }
    Ok(verified)
}

fn batches(chunks: &[Unique]) -> Vec<(usize, &[Unique])> {
    let (mut batches, mut first, mut len) = (Vec::new(), 0, 0);
    for (number, chunk) in chunks.iter().enumerate() {
        if number > first && (len + chunk.len > BATCH_BYTES || number - first == BATCH_CHUNKS) {
            batches.push((first, &chunks[first..number]));
            (first, len) = (number, 0);
        }
        len += chunk.len;
    }
    if first < chunks.len() {
        batches.push((first, &chunks[first..]));
    }
    batches
}

enum Fault {
    Missing(ChunkId),
    Wrong(WrongChunk),
}

struct Check<'a> {
    store: &'a dyn ChunkStore,
    digest: Digest,
    /// Length of the largest chunk that the index allows.
    most: usize,
    repair: bool,
    /// Of threads between two batches.
    tools: Mutex<Vec<(Unpacker, Vec<u8>)>>,
    /// With the numbers of the chunks.
    found: Mutex<Vec<(usize, Fault)>>,
    context: &'a Context,
}

impl Check<'_> {
    fn batch(&self, (first, chunks): (usize, &[Unique])) -> Result<()> {
        let tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut unpacker, mut buffer) = match tools {
            Some(tools) => tools,
            None => (Unpacker::new()?, Vec::new()),
        };
        buffer.resize(chunks.iter().map(|chunk| chunk.len).sum(), 0);
        let mut rest = buffer.as_mut_slice();
        let mut unpacked = Vec::with_capacity(chunks.len());
        let mut doubtful = Vec::new();
        for (number, chunk) in (first..).zip(chunks) {
            self.context.cancel.check()?;
            let place = rest.split_off_mut(..chunk.len).unwrap_or_default();
            match self.store.get(&chunk.id)? {
                None => self.found(number, Fault::Missing(chunk.id)),
                Some(stored) => match unpacker.unpack(stored.form, &stored.bytes, place) {
                    Ok(()) => unpacked.push((number, chunk, &*place)),
                    Err(_) => doubtful.push((number, chunk)),
                },
            }
            self.context.progress.add(chunk.len as u64);
        }
        let ids = self.digest.ids(&unpacked.iter().map(|(_, _, bytes)| *bytes).collect::<Vec<_>>());
        for ((number, chunk, bytes), id) in unpacked.into_iter().zip(ids) {
            if id != chunk.id && !self.fits_other(chunk, bytes) {
                doubtful.push((number, chunk));
            }
        }
        for (number, chunk) in doubtful {
            if let Some(fault) = self.again(chunk, &mut unpacker, &mut buffer)? {
                self.found(number, fault);
            }
        }
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).push((unpacker, buffer));
        Ok(())
    }

    /// Some indexes of SHA-256 ids say that they are SHA-512/256, see the fetching of archives.
    fn fits_other(&self, chunk: &Unique, bytes: &[u8]) -> bool {
        self.digest.other().id(bytes) == chunk.id
    }

    /// Fetches a chunk that proved to be wrong once more: it may have been changed on its way.
    fn again(&self, chunk: &Unique, unpacker: &mut Unpacker, buffer: &mut [u8]) -> Result<Option<Fault>> {
        let Some(stored) = self.store.get(&chunk.id)? else { return Ok(Some(Fault::Missing(chunk.id))) };
        // At least as long: the chunk has a place in it.
        let place = &mut buffer[..chunk.len];
        let (why, repairable) = match unpacker.unpack(stored.form, &stored.bytes, place) {
            Ok(()) if self.digest.id(place) == chunk.id || self.fits_other(chunk, place) => return Ok(None),
            Ok(()) => ("its content does not match its id", true),
            // The index may be the one that is wrong: no reason to take a good chunk from everybody else.
            Err(Wrong::Damaged(_))
                if self.is_right(chunk, unpacker.unpack_any(stored.form, &stored.bytes, self.most)) =>
            {
                ("it is right, and has another length than the index says", false)
            }
            Err(Wrong::Damaged(why)) => (why, true),
            // Some other program reads it.
            Err(Wrong::Unsupported(why)) => (why, false),
        };
        let repaired = (self.repair && repairable).then(|| self.store.discard(&chunk.id));
        Ok(Some(Fault::Wrong(WrongChunk { id: chunk.id, why, repaired })))
    }

    /// Whether this is the chunk, whatever its length.
    fn is_right(&self, chunk: &Unique, content: Option<Vec<u8>>) -> bool {
        content.is_some_and(|bytes| self.digest.id(&bytes) == chunk.id || self.fits_other(chunk, &bytes))
    }

    fn found(&self, number: usize, fault: Fault) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push((number, fault));
    }
}
