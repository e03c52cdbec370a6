//! Several stores as one, as desync combines them: asked in order, or one in place of another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        self.all().find_map(|store| store.get(id).transpose()).transpose()
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
            if store.get(id)?.is_some() {
                return store.discard(id);
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
}

/// Stores that hold the same chunks. An error moves on to the next one for good; a chunk that is not there is not there.
pub struct Failover {
    stores: Vec<Arc<dyn ChunkStore>>,
    current: AtomicUsize,
    /// The one that was listed last: what it told holds for no other.
    listed: AtomicUsize,
}

impl Failover {
    /// These stores, of which there is one at least, beginning with the first.
    pub fn new(first: Arc<dyn ChunkStore>, others: Vec<Arc<dyn ChunkStore>>) -> Self {
        let stores = std::iter::once(first).chain(others).collect();
        Failover { stores, current: AtomicUsize::new(0), listed: AtomicUsize::new(0) }
    }

    fn at(&self, number: usize) -> &dyn ChunkStore {
        &*self.stores[number % self.stores.len()]
    }

    /// Asks the current store, and the others once it fails. The error is that of the last one.
    fn ask<T>(&self, question: impl Fn(&dyn ChunkStore) -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let number = self.current.load(Ordering::SeqCst);
            let error = match question(self.at(number)) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tries += 1;
            if tries >= self.stores.len() || matches!(error.class(), Class::Interrupted { .. }) {
                return Err(error);
            }
            self.leave(number, &error);
        }
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

    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        self.ask(|store| store.about(id))
    }

    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.ask(|store| store.put(id, packed))
    }

    fn keep_alive(&self, id: &ChunkId) -> Result<bool> {
        self.ask(|store| store.keep_alive(id))
    }

    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        self.ask(|store| store.discard(id))
    }

    fn survey(&self, chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        self.ask(|store| store.survey(chunks))
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
}

#[cfg(test)]
mod tests;
