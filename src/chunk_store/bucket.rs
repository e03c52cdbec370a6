//! Chunks in a bucket, as desync lays them out there: `<prefix>/<first 4 digits>/<id>.cacnk`.
//!
//! Nothing in a bucket can be touched: a chunk that is to be kept is stored again. Keys are uniformly distributed digits, so
//! one page of a listing tells how many there are, and disjoint ranges of keys can be listed side by side.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{About, ChunkStore, Listed, Stored, id_of, name_of};
use crate::chunk::{ChunkId, Form};
use crate::error::Result;
use crate::transport::{Keyed, Object};

/// Objects that a service lists with one request.
const PAGE: usize = 1000;

/// A listing of so few pages is always worth it.
const FEW_PAGES: u64 = 4;

/// A listing of more is not worth it: what it found would take more than some 50 MiB.
const MOST_PAGES: u64 = 500;

/// How many questions for single chunks, side by side, cost as much as a page of a listing.
const QUESTIONS_PER_PAGE: usize = 8;

/// How many chunks are asked for and then removed together.
const REMOVED_AT_ONCE: usize = 256;

/// A store in a bucket.
pub struct BucketStore {
    objects: Keyed,
}

impl BucketStore {
    /// A store over the objects of a bucket.
    pub fn new(objects: Keyed) -> Self {
        BucketStore { objects }
    }
}

impl ChunkStore for BucketStore {
    fn place(&self) -> String {
        self.objects.place()
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        // The second request is for the rare chunk that is missing.
        for form in [Form::Compressed, Form::Plain] {
            if let Some(bytes) = self.objects.get("reading a chunk", &name_of(id, form))? {
                return Ok(Some(Stored { form, bytes }));
            }
        }
        Ok(None)
    }

    /// Only the compressed form is looked for: one request for each chunk that an upload has to store.
    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        let found = self.objects.head("looking for a chunk", &name_of(id, Form::Compressed))?;
        Ok(found.as_ref().map(about).filter(|about| about.len > 0))
    }

    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.objects.put("storing a chunk", &name_of(id, Form::Compressed), "application/zstd", packed.to_vec())
    }

    fn keep_alive(&self, _id: &ChunkId) -> Result<bool> {
        Ok(false)
    }

    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        let doing = "removing a damaged chunk";
        for form in [Form::Compressed, Form::Plain] {
            let name = name_of(id, form);
            if self.objects.head(doing, &name)?.is_some() {
                self.objects.remove(doing, &[&name])?;
                return Ok("it was removed, and the next upload that needs it stores it again");
            }
        }
        Ok("it is gone already")
    }

    fn survey(&self, chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        let mut found = HashMap::new();
        let mut take = |object: &Object| {
            if let Some((id, Form::Compressed)) = id_of(&object.name)
                && object.len > 0
            {
                found.insert(id, about(object));
            }
        };
        let first = self.objects.first("listing chunks", &all(), PAGE)?;
        if first.len() < PAGE {
            first.iter().for_each(&mut take);
            return Ok(Some(found));
        }
        let pages = first.iter().rev().find_map(|object| id_of(&object.name)).map(|(last, _)| pages(&last));
        let worth = FEW_PAGES.max((chunks / QUESTIONS_PER_PAGE) as u64).min(MOST_PAGES);
        let Some(pages) = pages.filter(|pages| *pages <= worth) else { return Ok(None) };
        self.objects.list("listing chunks", &ranges(pages), &mut |object| {
            take(&object);
            Ok(())
        })?;
        Ok(Some(found))
    }

    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.objects.list("listing chunks", &ranges(u64::MAX), &mut |object| match id_of(&object.name) {
            Some((id, _)) => each(Listed { id: Some(id), about: about(&object), name: object.name }),
            None => Ok(()),
        })
    }

    /// Asks for each chunk once more, and removes a few hundred at a time: an upload may have stored one again since the
    /// listing. What is left is the moment between the answer and the removal.
    fn remove(&self, listed: &[Listed], older_than: Duration) -> Result<u64> {
        let mut gone = 0;
        for some in listed.chunks(REMOVED_AT_ONCE) {
            let old = self.still_old(some, older_than)?;
            gone += self.objects.remove("removing chunks", &old)?;
        }
        Ok(gone)
    }

    fn at_once(&self) -> usize {
        64
    }
}

impl BucketStore {
    /// Those that are there and were not written lately.
    fn still_old<'a>(&self, listed: &'a [Listed], older_than: Duration) -> Result<Vec<&'a str>> {
        let next = AtomicUsize::new(0);
        let ask = || -> Result<Vec<&'a str>> {
            let mut old = Vec::new();
            while let Some(one) = listed.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = self.objects.head("looking for a chunk", &one.name)?;
                old.extend(found.is_some_and(|found| found.age >= older_than).then_some(one.name.as_str()));
            }
            Ok(old)
        };
        let threads = self.at_once().min(listed.len());
        let answers: Result<Vec<Vec<&str>>> = thread::scope(|scope| {
            let asking: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
            let ended = asking.into_iter().map(|thread| thread.join());
            ended.map(|answer| answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        Ok(answers?.concat())
    }
}

fn about(object: &Object) -> About {
    About { len: object.len, age: object.age }
}

/// What lies between the first digit and the first letter that is none.
fn all() -> Range<String> {
    bound(0)..bound(16)
}

/// What no name with this first digit comes before.
fn bound(digit: u32) -> String {
    char::from_digit(digit, 16).unwrap_or('g').to_string()
}

/// How many pages a listing has, when the first page ends at this chunk.
fn pages(last: &ChunkId) -> u64 {
    let [first, second, third, fourth, ..] = last.0;
    let reached = u64::from(u32::from_be_bytes([first, second, third, fourth])) + 1;
    (1_u64 << 32).div_ceil(reached)
}

/// Ranges of equal size that cover all chunks, at least two pages each, sixteen at most.
fn ranges(pages: u64) -> Vec<Range<String>> {
    let count = (pages / 2).clamp(1, 16) as u32;
    let cut = |part: u32| bound(part * 16 / count);
    (0..count).map(|part| cut(part)..cut(part + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all_digits_without_overlap() {
        for pages in [0, 1, 2, 5, 7, 13, 31, 32, u64::MAX] {
            let ranges = ranges(pages);
            assert_eq!((ranges[0].start.as_str(), ranges[ranges.len() - 1].end.as_str()), ("0", "g"));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
            assert!(ranges.iter().all(|range| range.start < range.end), "{ranges:?}");
        }
        assert_eq!(super::ranges(u64::MAX).len(), 16);
    }

    #[test]
    fn the_reach_of_a_page_tells_the_number_of_pages() {
        let id = |first: u8| ChunkId([first; 32]);
        assert_eq!(pages(&id(0xff)), 1);
        assert_eq!(pages(&id(0x7f)), 3);
        assert_eq!(pages(&id(0x0f)), 17);
        assert_eq!(pages(&id(0)), 1 << 32);
    }
}
