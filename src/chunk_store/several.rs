//! Several stores as one, as desync combines them: asked in order, or one in place of another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{About, ChunkStore, Listed, Stored};
use crate::chunk::ChunkId;
use crate::error::{Class, Error, Result};

/// Stores that are asked in order. What one lacks, the next may have; an error is nobody's to make up for. Uploads and
/// clean-ups are for the first one alone.
pub struct Ordered {
    first: Arc<dyn ChunkStore>,
    others: Vec<Arc<dyn ChunkStore>>,
}

impl Ordered {
    /// These stores, the one for uploads first.
    pub fn new(first: Arc<dyn ChunkStore>, others: Vec<Arc<dyn ChunkStore>>) -> Self {
        Ordered { first, others }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn ChunkStore>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl ChunkStore for Ordered {
    fn place(&self) -> String {
        self.all().map(|store| store.place()).collect::<Vec<_>>().join(", ")
    }

    /// A folder of this machine that cannot be read, because nothing was stored there yet, holds nobody up.
    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        let mut unusable = None;
        for store in self.all() {
            match store.get(id) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) if store.is_local() && error.class() == Class::Unavailable => {
                    unusable.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        unusable.map_or(Ok(None), Err)
    }

    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        self.all().find_map(|store| store.about(id).transpose()).transpose()
    }

    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.first.put(id, packed)
    }

    /// In the one that [`ChunkStore::about`] tells about.
    fn keep_alive(&self, id: &ChunkId) -> Result<bool> {
        for store in self.all() {
            if store.about(id)?.is_some() {
                return store.keep_alive(id);
            }
        }
        Ok(false)
    }

    /// In the one that [`ChunkStore::get`] read it from.
    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        for store in self.all() {
            match store.get(id) {
                Ok(Some(_)) => return store.discard(id),
                Ok(None) => {}
                Err(error) if store.is_local() && error.class() == Class::Unavailable => {}
                Err(error) => return Err(error),
            }
        }
        Ok("it is gone already")
    }

    fn survey(&self, chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        let mut found = HashMap::new();
        for store in self.all() {
            let Some(chunks) = store.survey(chunks)? else { return Ok(None) };
            for (id, about) in chunks {
                found.entry(id).or_insert(about);
            }
        }
        Ok(Some(found))
    }

    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.first.list(each)
    }

    fn remove(&self, listed: &[Listed], older_than: Duration) -> Result<u64> {
        self.first.remove(listed, older_than)
    }

    fn at_once(&self) -> usize {
        self.all().map(|store| store.at_once()).max().unwrap_or(1)
    }

    fn is_local(&self) -> bool {
        self.all().all(|store| store.is_local())
    }

    fn is_at(&self, folder: &Path) -> bool {
        self.all().any(|store| store.is_at(folder))
    }
}

/// Stores that hold the same chunks. One that cannot be used is left for the next one for good; a chunk that is not there is
/// not there. An upload stays with the store that it began with: half of its chunks here and half there would be none.
pub struct Failover {
    stores: Vec<Arc<dyn ChunkStore>>,
    current: AtomicUsize,
    /// The one that uploads go to, once one has begun.
    writing: OnceLock<usize>,
    /// The one that was listed last: what it told holds for no other.
    listed: AtomicUsize,
}

impl Failover {
    /// These stores, of which there is one at least, beginning with the first.
    pub fn new(first: Arc<dyn ChunkStore>, others: Vec<Arc<dyn ChunkStore>>) -> Self {
        let stores = std::iter::once(first).chain(others).collect();
        Failover { stores, current: AtomicUsize::new(0), writing: OnceLock::new(), listed: AtomicUsize::new(0) }
    }

    fn at(&self, number: usize) -> &dyn ChunkStore {
        &*self.stores[number % self.stores.len()]
    }

    /// Asks the current store, and the others once it fails. The error is that of the last one.
    fn ask<T>(&self, question: impl Fn(&dyn ChunkStore) -> Result<T>) -> Result<T> {
        self.ask_numbered(question).map(|(_, answer)| answer)
    }

    /// The same, with the number of the store that answered.
    fn ask_numbered<T>(&self, question: impl Fn(&dyn ChunkStore) -> Result<T>) -> Result<(usize, T)> {
        let mut tries = 0;
        loop {
            let number = self.current.load(Ordering::SeqCst);
            let error = match question(self.at(number)) {
                Ok(answer) => return Ok((number, answer)),
                Err(error) => error,
            };
            tries += 1;
            if tries >= self.stores.len() || error.class() != Class::Unavailable {
                return Err(error);
            }
            self.leave(number, &error);
        }
    }

    /// The store that uploads go to.
    fn writer(&self) -> &dyn ChunkStore {
        self.at(*self.writing.get_or_init(|| self.current.load(Ordering::SeqCst)))
    }

    /// Moves on, unless another thread has already.
    fn leave(&self, number: usize, error: &Error) {
        let moved = self.current.compare_exchange(number, number.wrapping_add(1), Ordering::SeqCst, Ordering::SeqCst);
        if moved.is_ok() {
            let (from, to) = (self.at(number).place(), self.at(number.wrapping_add(1)).place());
            tracing::warn!("chunk store {from} fails, going on with {to}: {}", error.chain());
        }
    }
}

impl ChunkStore for Failover {
    fn place(&self) -> String {
        self.stores.iter().map(|store| store.place()).collect::<Vec<_>>().join(" | ")
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        self.ask(|store| store.get(id))
    }

    /// The store that answers first is the one that an upload stays with.
    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        if self.writing.get().is_none() {
            let (number, about) = self.ask_numbered(|store| store.about(id))?;
            if *self.writing.get_or_init(|| number) == number {
                return Ok(about);
            }
        }
        self.writer().about(id)
    }

    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.writer().put(id, packed)
    }

    fn keep_alive(&self, id: &ChunkId) -> Result<bool> {
        self.writer().keep_alive(id)
    }

    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        self.ask(|store| store.discard(id))
    }

    /// What every upload begins with. An answer settles where it goes; that there is none, because it would cost too much,
    /// tells nothing about the store.
    fn survey(&self, chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        if self.writing.get().is_none() {
            let (number, found) = self.ask_numbered(|store| store.survey(chunks))?;
            if found.is_none() || *self.writing.get_or_init(|| number) == number {
                return Ok(found);
            }
        }
        self.writer().survey(chunks)
    }

    /// Of the current store alone: half a list of one and half of another would be none.
    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let number = self.current.load(Ordering::SeqCst);
        self.listed.store(number, Ordering::SeqCst);
        self.at(number).list(each)
    }

    /// From the store that was listed.
    fn remove(&self, listed: &[Listed], older_than: Duration) -> Result<u64> {
        self.at(self.listed.load(Ordering::SeqCst)).remove(listed, older_than)
    }

    fn at_once(&self) -> usize {
        self.stores.iter().map(|store| store.at_once()).max().unwrap_or(1)
    }

    fn is_local(&self) -> bool {
        self.stores.iter().all(|store| store.is_local())
    }

    fn is_at(&self, folder: &Path) -> bool {
        self.stores.iter().any(|store| store.is_at(folder))
    }
}

#[cfg(test)]
mod tests;
