//! What an index says, and how much of what it names lies where.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use super::parallel::in_parallel;
use crate::chunk::{ChunkId, Digest, Index, MOST_INDEX_BYTES, Sizes};
use crate::chunk_store::{About, Cache, ChunkStore, Seeds};
use crate::context::Context;
use crate::error::{Error, Result, from_io};

/// A number of chunks, and the bytes of the archive in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
}

impl Held {
    fn add(&mut self, chunk: &Unique) {
        self.chunks += 1;
        self.bytes += chunk.len as u64;
    }

    fn of<'a>(chunks: impl IntoIterator<Item = &'a Unique>) -> Self {
        let mut held = Held::default();
        chunks.into_iter().for_each(|chunk| held.add(chunk));
        held
    }
}

/// What an index says, and what this machine has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Chunks of the archive, and its length.
    pub all: Held,
    /// How it was cut.
    pub sizes: Sizes,
    /// What the ids are.
    pub digest: Digest,
    /// Those that differ.
    pub unique: Held,
    /// What lies in seeds; `None` when there is no place for any.
    pub seeds: Option<Held>,
    /// What lies in the local cache; `None` when there is none.
    pub cache: Option<Held>,
}

/// What a store has of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    /// The store.
    pub place: String,
    /// What is there.
    pub there: Held,
    /// Bytes that it takes there.
    pub packed_bytes: u64,
    /// What is not.
    pub missing: Held,
}

/// A chunk that an index names, however often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unique {
    pub(super) id: ChunkId,
    pub(super) len: usize,
}

/// Reads an index, strictly, from the start of its file to the end.
pub fn read_index(input: impl Read) -> Result<Index> {
    let mut bytes = Vec::new();
    input.take(MOST_INDEX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| from_io("cannot read the index", e))?;
    if bytes.len() as u64 > MOST_INDEX_BYTES {
        return Err(Error::damaged("the index is larger than 512 MiB"));
    }
    Index::read(&bytes)
}

/// The chunks of an index, each once, in the order in which they come first.
pub(super) fn unique(index: &Index) -> Result<Vec<Unique>> {
    let mut lens = HashMap::with_capacity(index.items.len());
    let mut chunks = Vec::new();
    for (number, item) in index.items.iter().enumerate() {
        let chunk = Unique { id: item.id, len: index.chunk_len(number) };
        match lens.entry(chunk.id) {
            Entry::Vacant(free) => {
                free.insert(chunk.len);
                chunks.push(chunk);
            }
            Entry::Occupied(known) if *known.get() != chunk.len => {
                let what = format!("the index is damaged: it gives chunk {} two lengths", chunk.id);
                return Err(Error::damaged(what));
            }
            Entry::Occupied(_) => {}
        }
    }
    Ok(chunks)
}

/// What an index says, and what cache and seeds of this machine have of it. Changes nothing there.
pub fn inspect(index: &Index, cache: Option<&Cache>, seeds: Option<&Seeds>) -> Result<Inspection> {
    let chunks = unique(index)?;
    let in_seeds = |seeds: &Seeds| {
        let mut ids = HashSet::new();
        seeds.each_index(|seed| ids.extend(seed.items.iter().map(|item| item.id)));
        Held::of(chunks.iter().filter(|chunk| ids.contains(&chunk.id)))
    };
    Ok(Inspection {
        all: Held { chunks: index.items.len() as u64, bytes: index.len() },
        sizes: index.sizes,
        digest: index.digest,
        unique: Held::of(&chunks),
        seeds: seeds.map(in_seeds),
        cache: cache.map(|cache| Held::of(chunks.iter().filter(|chunk| cache.has(&chunk.id)))),
    })
}

/// What a store has of an index. Not being able to tell is an error, and not a missing chunk. Blocks.
pub fn stock(index: &Index, store: &dyn ChunkStore, context: &Context) -> Result<Stock> {
    let chunks = unique(index)?;
    context.progress.expect(Held::of(&chunks).bytes);
    let known = match store.survey(chunks.len())? {
        Some(known) => known,
        None => ask(&chunks, store, context)?,
    };
    let mut stock = Stock { place: store.place(), there: Held::default(), packed_bytes: 0, missing: Held::default() };
    for chunk in &chunks {
        match known.get(&chunk.id) {
            Some(about) => {
                stock.there.add(chunk);
                stock.packed_bytes += about.len;
            }
            None => stock.missing.add(chunk),
        }
    }
    // With nothing there, the store itself may not be there, and only reading tells that.
    if let (0, Some(first)) = (stock.there.chunks, chunks.first()) {
        store.get(&first.id)?;
    }
    Ok(stock)
}

/// Asks for chunks one by one, several at a time.
fn ask(chunks: &[Unique], store: &dyn ChunkStore, context: &Context) -> Result<HashMap<ChunkId, About>> {
    let known = Mutex::new(HashMap::new());
    in_parallel(store.at_once(), chunks.len(), context, |number| {
        let Unique { id, len } = chunks[number];
        if let Some(about) = store.about(&id)? {
            known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, about);
        }
        context.progress.add(len as u64);
        Ok(())
    })?;
    Ok(known.into_inner().unwrap_or_else(PoisonError::into_inner))
}
