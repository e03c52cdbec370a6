//! What keeps entries of a store: pins, generations of profiles, lock files, current keys, and the newest of each component.
//!
//! What cannot be read keeps everything: any of these that is damaged is an error of class `Workspace`, before anything goes.
//! Where sources are not here, perhaps because something is not mounted or checked out, no current key is known, and everything
//! stays that is stored of the component and of those that need it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::cancel::Cancel;
use crate::config::entries::Keeping;
use crate::config::workspace::all_locks;
use crate::engine::entries::gc::References;
use crate::engine::entries::survey::{Entry, Survey};
use crate::entry::{pins, profiles};
use crate::error::{Class, Result};
use crate::hash::Hash;
use crate::key::{ComponentName, Lock};

/// What keeps entries of a store. Current keys are computed once; all else is read again whenever it is asked for, so that
/// what was pinned meanwhile stays.
pub struct Roots<'a> {
    keeping: &'a Keeping,
    cancel: &'a Cancel,
    current: OnceCell<Current>,
}

/// The current keys of the components that something is stored of.
#[derive(Debug, Default)]
struct Current {
    keys: BTreeSet<Hash>,
    /// Components whose key is not known, and whose sources are not here.
    unknown: BTreeMap<ComponentName, ComponentName>,
}

impl<'a> Roots<'a> {
    /// Reads nothing yet.
    pub fn new(keeping: &'a Keeping, cancel: &'a Cancel) -> Self {
        Roots { keeping, cancel, current: OnceCell::new() }
    }

    /// Everything that keeps an entry, and by what.
    pub fn references(&self, found: &Survey) -> Result<References> {
        self.read(found).map_err(|error| match error.class() {
            Class::Interrupted { .. } => error,
            _ => error.context("what keeps entries of the store cannot be read").with_class(Class::Workspace),
        })
    }

    fn read(&self, found: &Survey) -> Result<References> {
        let mut kept = References::new();
        let store = &self.keeping.store;
        for pin in pins::all(store)? {
            kept.entry(pin.hash).or_insert("by pins");
        }
        for hash in profiles::addresses(store)? {
            kept.entry(hash).or_insert("by profiles");
        }
        if let Some(manifests) = &self.keeping.workspace.manifests {
            for lock in all_locks(manifests)? {
                for hash in locked(&lock, found) {
                    kept.entry(hash).or_insert("by lock files");
                }
            }
            let current = match self.current.get() {
                Some(current) => current,
                None => {
                    let computed = self.current_keys(found)?;
                    self.current.get_or_init(|| computed)
                }
            };
            for entry in &found.entries {
                if current.keys.contains(&entry.record.key) {
                    kept.entry(entry.name).or_insert("by current keys");
                } else if current.unknown.contains_key(entry.record.inputs.component()) {
                    kept.entry(entry.name).or_insert("because sources are not here");
                }
            }
        }
        for entry in newest(found.entries.iter()).into_values() {
            kept.entry(entry.name).or_insert("newest of their component");
        }
        Ok(kept)
    }

    /// What the user should know, one sentence each, once references were read.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = self.current.get().map(|current| &current.unknown);
        let told = |(name, absent): (&ComponentName, &ComponentName)| {
            format!("the sources of `{absent}` are not here: everything that is stored of `{name}` stays")
        };
        unknown.into_iter().flatten().map(told).collect()
    }

    fn current_keys(&self, found: &Survey) -> Result<Current> {
        let mut current = Current::default();
        for name in self.keeping.workspace.components.keys() {
            self.cancel.check()?;
            if found.entries.iter().any(|entry| entry.record.inputs.component() == name) {
                let computed = self.keeping.key(name, &[], self.cancel)?;
                current.keys.insert(computed.key);
                if let Some(absent) = computed.without_sources() {
                    current.unknown.insert(name.clone(), absent.clone());
                }
            }
        }
        Ok(current)
    }
}

/// What a lock file names: artifacts by their addresses and, where it names none for a platform, the newest entry of the
/// component with its version.
fn locked(lock: &Lock, found: &Survey) -> Vec<Hash> {
    let mut hashes: Vec<_> = lock.artifacts().collect();
    for (name, locked) in &lock.components {
        let fits = |entry: &&Entry| {
            let inputs = &entry.record.inputs;
            inputs.component() == name
                && inputs.version() == locked.version
                && locked.artifacts.iter().all(|(platform, _)| platform != inputs.platform())
        };
        hashes.extend(newest(found.entries.iter().filter(fits)).into_values().map(|entry| entry.name));
    }
    hashes
}

/// The newest entry of each component and platform.
fn newest<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<(&'a ComponentName, &'a str), &'a Entry> {
    let mut newest: BTreeMap<_, &Entry> = BTreeMap::new();
    // One that lacks its files keeps nothing, and must not drive out one that has them.
    for entry in entries.filter(|entry| entry.whole) {
        let inputs = &entry.record.inputs;
        let known = newest.entry((inputs.component(), inputs.platform())).or_insert(entry);
        if (entry.record.created, entry.changed, entry.name) > (known.record.created, known.changed, known.name) {
            *known = entry;
        }
    }
    newest
}
