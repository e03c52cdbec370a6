//! Which texts for explanations belong to which entries: they go with the last entry that speaks of them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use super::gc::GcRequest;
use super::inodes::disk;
use super::survey::Entry;
use crate::entry::{Home, facts};
use crate::error::Result;
use crate::hash::Hash;
use crate::key::KeyRecord;

/// A text that lies in a cache or store.
struct Text {
    path: PathBuf,
    disk: u64,
    /// Whether it is old enough to go once nobody speaks of it.
    old: bool,
    /// How many entries speak of it.
    spoken: usize,
}

/// All texts, and which entries speak of them, directly or through their dependencies.
pub(super) struct Texts {
    texts: HashMap<Hash, Text>,
    entries: HashMap<Hash, BTreeSet<Hash>>,
}

impl Texts {
    pub(super) fn of(home: &Home, request: &GcRequest, entries: &[Entry]) -> Result<Self> {
        let mut texts = HashMap::new();
        for (path, status) in facts::all(home)? {
            let age = status.modified().ok().and_then(|time| request.now.duration_since(time).ok()).unwrap_or_default();
            if let Some(name) = path.file_stem().and_then(|name| Hash::parse(name.to_str()?)) {
                texts.insert(name, Text { path, disk: disk(&status), old: age >= request.grace, spoken: 0 });
            }
        }
        let mut all = Texts { texts, entries: HashMap::new() };
        if all.texts.is_empty() {
            return Ok(all);
        }
        let mut records: HashMap<Hash, Option<KeyRecord>> = HashMap::new();
        for entry in entries {
            records.insert(entry.record.key, Some(entry.record.inputs.clone()));
        }
        for entry in entries {
            let mut spoken = BTreeSet::from([entry.record.output.tree]);
            let mut open = vec![entry.record.key];
            while let Some(key) = open.pop() {
                if !spoken.insert(key) {
                    continue;
                }
                let read = || KeyRecord::parse(&serde_json::from_slice(&facts::get(home, &key)?).ok()?).ok();
                let Some(record) = records.entry(key).or_insert_with(read) else { continue };
                spoken.extend(record.listings());
                if let KeyRecord::Component(record) = record {
                    open.extend(record.dependencies.iter().map(|dependency| dependency.key));
                }
            }
            for name in &spoken {
                if let Some(text) = all.texts.get_mut(name) {
                    text.spoken += 1;
                }
            }
            all.entries.insert(entry.name, spoken);
        }
        Ok(all)
    }

    /// Bytes on disk of those that stay as long as all entries do.
    pub(super) fn disk(&self) -> u64 {
        self.texts.values().filter(|text| text.spoken > 0 || !text.old).map(|text| text.disk).sum()
    }

    /// An entry goes: the bytes on disk that go with it.
    pub(super) fn forget(&mut self, entry: &Hash) -> u64 {
        let mut gone = 0;
        for name in self.entries.remove(entry).into_iter().flatten() {
            if let Some(text) = self.texts.get_mut(&name) {
                text.spoken -= 1;
                if text.spoken == 0 && text.old {
                    gone += text.disk;
                }
            }
        }
        gone
    }

    /// The files of those that go now.
    pub(super) fn lost(&self) -> impl Iterator<Item = &PathBuf> {
        self.texts.values().filter(|text| text.spoken == 0 && text.old).map(|text| &text.path)
    }
}
