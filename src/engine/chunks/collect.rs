//! Removing chunks that no kept index names.
//!
//! ```text
//! read the kept indexes -> list the store -> remove what nobody names and is old enough
//! ```
//!
//! Nothing is removed before all indexes have been read and the whole store has been listed. An index that is published
//! meanwhile is safe: an upload marks or stores again every chunk that it relies on, and what is young stays.

use std::collections::HashSet;
use std::time::Duration;

use super::keep::Kept;
use super::store::LATELY;
use crate::chunk_store::{ChunkStore, Listed};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::Count;

/// Below this, uploads that run now are not protected: what they leave unmarked may be three days old, and they take a while.
pub const SAFE_AGE: Duration = Duration::from_secs(LATELY.as_secs() + 24 * 60 * 60);

/// No leftover is removed that is younger: somebody may still write it.
const LEFTOVER_AGE: Duration = Duration::from_secs(60 * 60);

/// How many are removed between two looks whether to stop.
const AT_ONCE: usize = 1000;

/// What a clean-up did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that are gone.
    pub removed: u64,
    /// Temporary files that are gone.
    pub leftovers: u64,
    /// Bytes that all of these took in the store.
    pub bytes: u64,
    /// Chunks in the store that kept indexes name.
    pub in_use: u64,
    /// Others that are too young to be removed.
    pub young: u64,
    /// Those that were to be removed, and were used or removed by somebody else in the meantime.
    pub spared: u64,
    /// Chunks that kept indexes name and the store lacks.
    pub lacking: u64,
}

/// Removes the chunks that no kept index names and that nobody has written or used for so long, and leftovers. With
/// `dry_run`, only says what it would remove. Blocks.
pub fn collect(
    kept: &Kept,
    store: &dyn ChunkStore,
    older_than: Duration,
    dry_run: bool,
    context: &Context,
) -> Result<Collected> {
    let leftover_age = older_than.max(LEFTOVER_AGE);
    let mut done = Collected::default();
    let (mut old, mut leftovers) = (Vec::new(), Vec::new());
    let mut there = HashSet::new();
    store.list(&mut |listed| {
        context.cancel.check()?;
        match listed.id {
            Some(id) if kept.ids.contains(&id) => {
                done.in_use += 1;
                // What is empty is no chunk.
                if listed.about.len > 0 {
                    there.insert(id);
                }
            }
            Some(_) if listed.about.age < older_than => done.young += 1,
            Some(_) => old.push(listed),
            None if listed.about.age >= leftover_age => leftovers.push(listed),
            None => {}
        }
        Ok(())
    })?;
    done.lacking = (kept.ids.len() - there.len()) as u64;
    if there.is_empty() && !old.is_empty() {
        return Err(not_their_store(kept, store));
    }
    context.progress.expect([&old, &leftovers].into_iter().flatten().map(|listed| listed.about.len).sum());
    let mut remove = |listed: &[Listed], older_than| -> Result<u64> {
        let mut removed = 0;
        for part in listed.chunks(AT_ONCE) {
            context.cancel.check()?;
            let all = part.len() as u64;
            let gone = if dry_run { all } else { store.remove(part, older_than)?.min(all) };
            let bytes: u64 = part.iter().map(|listed| listed.about.len).sum();
            context.progress.add(bytes);
            // Which of them stayed is not told; that is rare, and they are much alike.
            done.bytes += if gone == all { bytes } else { bytes / all * gone };
            done.spared += all - gone;
            removed += gone;
        }
        Ok(removed)
    };
    let failed = |error: Error| error.context("the clean-up stopped halfway; no chunk in use is gone");
    let removed = remove(&old, older_than).map_err(failed)?;
    let leftovers = remove(&leftovers, leftover_age).map_err(failed)?;
    Ok(Collected { removed, leftovers, ..done })
}

/// Indexes without a single chunk in a store that has others are most likely of another store.
fn not_their_store(kept: &Kept, store: &dyn ChunkStore) -> Error {
    Error::refused(format_args!(
        "`{}` has none of the chunks that {} to be kept name, so everything in it would go",
        store.place(),
        Count(kept.indexes, "index"),
    ))
    .hint("check --store and --keep; to drop a whole store, remove its folder or prefix")
}
