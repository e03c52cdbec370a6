use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::chunk::{Digest, Form, Item, Packer, Sizes};
use crate::chunk_store::{About, Cache, ChunkStore, Listed};

/// A distant store in memory.
#[derive(Default)]
struct Distant(Mutex<HashMap<ChunkId, Vec<u8>>>);

/// What stands for a chunk that cannot be read.
const BROKEN: &[u8] = b"broken";

impl ChunkStore for Distant {
    fn place(&self) -> String {
        "far away".to_owned()
    }
    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        let bytes = self.0.lock().unwrap().get(id).cloned();
        if bytes.as_deref() == Some(BROKEN) {
            return Err(Error::new(Class::Unavailable, "reading a chunk failed").hint("look there"));
        }
        Ok(bytes.map(|bytes| Stored { form: Form::Compressed, bytes }))
    }
    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        let len = self.0.lock().unwrap().get(id).map(|bytes| bytes.len() as u64);
        Ok(len.map(|len| About { len, age: Duration::ZERO }))
    }
    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.0.lock().unwrap().insert(*id, packed.to_vec());
        Ok(())
    }
    fn keep_alive(&self, _id: &ChunkId) -> Result<bool> {
        Ok(false)
    }
    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        self.0.lock().unwrap().remove(id);
        Ok("it is gone")
    }
    fn survey(&self, _chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        Ok(None)
    }
    fn list(&self, _each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        Ok(())
    }
    fn remove(&self, _listed: &[Listed], _older_than: Duration) -> Result<u64> {
        Ok(0)
    }
    fn at_once(&self) -> usize {
        16
    }
}

/// An archive of so many chunks, of which most repeat, in a distant store.
fn repeating(chunks: usize) -> (Index, Vec<u8>, Arc<Chunking>) {
    let store = Distant::default();
    let mut packed = Vec::new();
    let mut items = Vec::new();
    let mut whole = Vec::new();
    for number in 0..chunks {
        let chunk = vec![if number % 7 == 0 { number as u8 } else { 0 }; 1000];
        let id = Digest::default().id(&chunk);
        Packer::new().unwrap().pack(&chunk, &mut packed).unwrap();
        store.put(&id, &packed).unwrap();
        whole.extend_from_slice(&chunk);
        items.push(Item { end: whole.len() as u64, id });
    }
    let (sizes, digest) = (Sizes::default(), Digest::default());
    let index = Index { flags: 0xb000_0000_0000_0000, sizes, digest, items };
    let chunking = Chunking { store: Arc::new(store), cache: None, seeds: None, sizes, digest };
    (index, whole, Arc::new(chunking))
}

fn read(index: Index, chunking: &Arc<Chunking>) -> (std::io::Result<Vec<u8>>, ChunkCounts) {
    let (mut content, fetched) = fetch(index, chunking, None, &Context::default()).unwrap();
    let mut bytes = Vec::new();
    let result = content.read_to_end(&mut bytes).map(|_| bytes);
    (result, fetched.finish().0)
}

#[test]
fn chunks_that_repeat_hold_nothing_up() {
    // Many more than are fetched ahead.
    let (index, whole, chunking) = repeating(5000);
    let (bytes, counts) = read(index, &chunking);
    assert!(bytes.unwrap() == whole);
    assert_eq!(counts.total, 5000);
    assert!(counts.moved < 5000);
}

#[test]
fn a_cache_that_fills_meanwhile_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let (index, whole, chunking) = repeating(3000);
    let cache = Cache::new(folder.path(), u64::MAX, crate::cancel::Cancel::new());
    let chunking = Arc::into_inner(chunking).unwrap();
    let chunking = Arc::new(Chunking { cache: Some(cache), ..chunking });
    for _ in 0..2 {
        assert!(read(index.clone(), &chunking).0.unwrap() == whole);
    }
    let (_, counts) = read(index, &chunking);
    assert_eq!(counts.moved, 0);
    assert!(counts.from_cache > 0);
}

#[test]
fn a_chunk_that_is_missing_far_away_is_named() {
    let (index, _, chunking) = repeating(2000);
    let gone = index.items[1999 / 7 * 7].id;
    chunking.store.discard(&gone).unwrap();
    let error = crate::error::from_io("", read(index, &chunking).0.unwrap_err());
    assert_eq!(error.class(), Class::Damaged);
    assert!(error.chain().contains(&gone.to_string()), "{}", error.chain());
}

#[test]
fn everybody_who_waits_is_told_why_the_store_failed() {
    for _ in 0..20 {
        let (index, _, chunking) = repeating(600);
        chunking.store.put(&index.items[301].id, BROKEN).unwrap();
        let error = crate::error::from_io("", read(index, &chunking).0.unwrap_err());
        assert_eq!(error.class(), Class::Unavailable, "{}", error.chain());
        assert_eq!(error.next_step(), Some("look there"));
        assert!(error.chain().contains("are not on this machine"), "{}", error.chain());
    }
}
