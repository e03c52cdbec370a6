//! Looking into stores that answer as no folder does.

use std::collections::HashMap;
use std::time::Duration;

use super::collect::{Collected, collect};
use super::inspect::stock;
use super::keep::Kept;
use super::verify::verify;
use crate::chunk::{ChunkId, Digest, Index, Item, Sizes};
use crate::chunk_store::{About, ChunkStore, Listed, Stored};
use crate::context::Context;
use crate::error::{Class, Error, Result};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Chunks numbered from 0 to its length, of these ages; nothing can be read.
#[derive(Default)]
struct Fake {
    ages: Vec<Duration>,
    surveyed: bool,
    /// Of the chunks to be removed, how many are in use again.
    used: u64,
}

fn down() -> Error {
    Error::new(Class::Unavailable, "the store is down")
}

fn id(number: usize) -> ChunkId {
    ChunkId([u8::try_from(number).unwrap(); 32])
}

fn index(chunks: usize) -> Index {
    let items = (0..chunks).map(|number| Item { end: (number as u64 + 1) * 100, id: id(number) }).collect();
    Index { flags: 0, sizes: Sizes::default(), digest: Digest::default(), items }
}

impl ChunkStore for Fake {
    fn place(&self) -> String {
        "fake".to_owned()
    }
    fn get(&self, _: &ChunkId) -> Result<Option<Stored>> {
        Err(down())
    }
    fn about(&self, wanted: &ChunkId) -> Result<Option<About>> {
        if *wanted == id(2) {
            return Err(down());
        }
        Ok(None)
    }
    fn put(&self, _: &ChunkId, _: &[u8]) -> Result<()> {
        Err(down())
    }
    fn keep_alive(&self, _: &ChunkId) -> Result<bool> {
        Err(down())
    }
    fn discard(&self, _: &ChunkId) -> Result<&'static str> {
        Err(down())
    }
    fn survey(&self, _: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        let about = |age: &Duration| About { len: 10, age: *age };
        let all = self.ages.iter().enumerate().map(|(number, age)| (id(number), about(age)));
        Ok(self.surveyed.then(|| all.collect()))
    }
    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        for (number, age) in self.ages.iter().enumerate() {
            each(Listed { id: Some(id(number)), name: number.to_string(), about: About { len: 10, age: *age } })?;
        }
        each(Listed { id: None, name: "leftover".to_owned(), about: About { len: 1, age: HOUR } })
    }
    fn remove(&self, listed: &[Listed], _: Duration) -> Result<u64> {
        Ok((listed.len() as u64).saturating_sub(self.used))
    }
    fn at_once(&self) -> usize {
        4
    }
}

#[test]
fn a_survey_is_believed_and_an_error_is_one() {
    let surveyed = Fake { ages: vec![HOUR; 3], surveyed: true, ..Fake::default() };
    let found = stock(&index(5), &surveyed, &Context::default()).unwrap();
    assert_eq!((found.there.chunks, found.there.bytes, found.packed_bytes), (3, 300, 30));
    assert_eq!((found.missing.chunks, found.missing.bytes), (2, 200));
    let fake = Fake::default();
    for chunks in [5, 1] {
        let error = stock(&index(chunks), &fake, &Context::default()).unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{chunks}");
    }
    assert_eq!(verify(&index(1), &fake, true, &Context::default()).unwrap_err().class(), Class::Unavailable);
}

#[test]
fn what_was_used_since_it_was_listed_does_not_count_as_removed() {
    let fake = Fake { ages: vec![9 * HOUR, HOUR, 9 * HOUR, 2 * HOUR, 9 * HOUR], used: 1, ..Fake::default() };
    let kept = Kept { indexes: 1, ids: [id(0), id(200)].into(), links: 0 };
    let done = collect(&kept, &fake, 2 * HOUR, false, &Context::default()).unwrap();
    let expected = Collected { removed: 2, bytes: 20, in_use: 1, young: 1, spared: 1, lacking: 1, leftovers: 0 };
    assert_eq!(done, expected);
    let done = collect(&kept, &fake, Duration::ZERO, true, &Context::default()).unwrap();
    assert_eq!((done.removed, done.leftovers, done.bytes, done.spared), (4, 1, 41, 0));
    let stopped = Context::default();
    stopped.cancel.stop(15);
    let error = collect(&kept, &fake, HOUR, false, &stopped).unwrap_err();
    assert_eq!(error.class(), Class::Interrupted { signal: 15 });
}
