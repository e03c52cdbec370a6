//! Writing to a remote: what is read first is written last, and a record that is there stays.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::names::{self, Home};
use super::{Failure, LONGEST_RECORD, Marker, Remote, Scope, Section};
use crate::error::{Class, Error, IoContext, Result, Why};
use crate::hash::Hash;
use crate::key::ComponentName;
use crate::text::Shown;
use crate::transport::Made;

/// Files of one entry that are removed together; no entry of ours has so many.
const FILES: usize = 100;

/// How far another machine's clock may be ahead.
const SKEW: Duration = Duration::from_secs(60 * 60);

/// What became of an entry that was to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// It is there now, and its record is ours.
    Created,
    /// An entry of this hash was there, or somebody else was faster, and this is its record. It is our own, byte for byte,
    /// where the answer to storing it was lost.
    Exists(Vec<u8>),
}

impl Remote {
    /// Stores an entry in the own scope: payload, extras, the marker in the index, and last the record, if none is there. A
    /// run that breaks off before leaves only files that no record speaks of; the next one completes the entry.
    ///
    /// `payload` is the name that it gets, derived from its digest, and the file that has it. An entry that is there already
    /// is left as it is, except that a payload of the same name is stored again where it is missing or has another size.
    pub fn publish(
        &self,
        section: Section,
        hash: &Hash,
        record: &[u8],
        payload: (&str, &Path),
        extras: &[(&str, Vec<u8>)],
        marker: Option<&Marker<'_>>,
    ) -> Result<Published, Failure> {
        let scope = self.own_scope()?;
        let home = Home::new(section, scope, hash);
        let (payload_name, source) = (home.file(payload.0)?, payload.1);
        let extras: Vec<(String, &Vec<u8>)> =
            extras.iter().map(|(name, bytes)| Ok((home.file(name)?, bytes))).collect::<Result<_>>()?;
        let marker = marker.map(|marker| names::index(scope, marker)).transpose()?;
        if record.len() as u64 > LONGEST_RECORD {
            return Err(Error::failed(format_args!("the record of {} is too long for a remote", hash.short())).into());
        }
        let store_files = || -> Result<()> {
            self.shelf.put_file("storing a payload", &payload_name, source)?;
            extras
                .iter()
                .try_for_each(|(name, bytes)| self.shelf.put("storing a file of an entry", name, bytes.to_vec()))
        };
        let found = self.asking(|| {
            self.shelf.prepare()?;
            let Some(there) = self.record_in(&home, Instant::now())? else { return Ok(None) };
            let is_whole = !speaks_of(&there, payload.0) || self.is_whole(&payload_name, source)?;
            Ok(Some((there, is_whole)))
        })?;
        if let Some((there, is_whole)) = found {
            if !is_whole {
                tracing::debug!(%hash, "storing the payload of a record again");
                self.storing(|| Ok(store_files()?))?;
            }
            return Ok(Published::Exists(there));
        }
        self.storing(|| {
            store_files()?;
            if let Some(folder) = &marker {
                let name = format!("{folder}/{}", names::marker(SystemTime::now(), hash));
                self.shelf.put("storing a marker", &name, Vec::new())?;
            }
            self.create(&home, record)
        })
    }

    /// Writes the record where none is. An answer that leaves it open is settled by looking.
    fn create(&self, home: &Home, record: &[u8]) -> Result<Published, Failure> {
        let doing = "storing a record";
        for attempt in 0..=self.limits.transfers.retries {
            let made = self.shelf.create(doing, &home.record(), record.to_vec())?;
            if made == Made::Created {
                return Ok(Published::Created);
            }
            match self.record_in(home, Instant::now())? {
                // The answer was lost, and the record is ours.
                Some(there) if made == Made::Unsure && there == record => return Ok(Published::Created),
                Some(there) => return Ok(Published::Exists(there)),
                None => self.pause(attempt),
            }
        }
        let why = format!("{doing} in {} failed: it is neither there nor can it be made", self.place());
        Err(Error::new(Class::Unavailable, why).hint("try again later").because(Why::Busy).into())
    }

    /// Waits a moment that differs from that of others who want the same.
    fn pause(&self, attempt: usize) {
        let most = self.limits.transfers.backoff * 2u32.saturating_pow(attempt.min(3) as u32 + 1);
        let share = (RandomState::new().hash_one(attempt) % 1024) as f64 / 1024.0;
        thread::sleep(most.mul_f64(share).max(self.limits.transfers.backoff));
    }

    /// Whether a payload is there, as long as the file that it was made from.
    fn is_whole(&self, name: &str, source: &Path) -> Result<bool> {
        let len = fs::metadata(source).or_fail(|| format!("cannot read `{}`", Shown::path(source)))?.len();
        Ok(self.shelf.size("looking for a payload", name)? == Some(len))
    }

    /// The newest entries of a component on a platform, newest first, at most `most` from each scope and in all; each hash
    /// once, with the first of the scopes to read that has it. They are hints: an entry may be gone since, or another
    /// component's. What says that it is of the future comes last, as nobody knows how old it is.
    pub fn newest(&self, component: &str, platform: &str, most: usize) -> Result<Vec<(Scope, Hash)>, Failure> {
        let marker = Marker { component, platform };
        self.asking(|| {
            let started = Instant::now();
            let mut found: Vec<(u64, &Scope, Hash)> = Vec::new();
            for scope in &self.scopes.read {
                let left = self.limits.record.saturating_sub(started.elapsed());
                let listed = self.shelf.first("listing the index", &names::index(scope, &marker)?, most, left)?;
                for (time, hash) in listed.iter().filter_map(|name| names::parse_marker(name)) {
                    if !found.iter().any(|(_, _, known)| *known == hash) {
                        found.push((time, scope, hash));
                    }
                }
            }
            // Times are inverse: the newest is the smallest.
            let now = names::inverse(SystemTime::now() + SKEW);
            found.sort_by_key(|(time, _, _)| (*time < now, *time));
            found.truncate(most);
            Ok(found.into_iter().map(|(_, scope, hash)| (scope.clone(), hash)).collect())
        })
    }

    /// The entries of a component in the own scope, of every platform, as far as the index knows them. Whoever wrote a marker
    /// may have named another one's.
    pub fn of_component(&self, component: &ComponentName, most: usize) -> Result<BTreeSet<Hash>, Failure> {
        let folder = names::indexes(self.own_scope()?, component);
        self.asking(|| {
            let listed = self.shelf.second("listing the index", &folder, most, self.limits.record)?;
            let marker = |name: &String| names::parse_marker(name.rsplit_once('/')?.1);
            Ok(listed.iter().filter_map(marker).map(|(_, hash)| hash).collect())
        })
    }

    /// Whether the own scope has an entry, or something else in the place of its record.
    pub fn is_there(&self, section: Section, hash: &Hash) -> Result<bool, Failure> {
        let home = Home::new(section, self.own_scope()?, hash);
        self.asking(|| Ok(self.has_record("looking for an entry", &home)?))
    }

    fn has_record(&self, doing: &str, home: &Home) -> Result<bool> {
        match self.shelf.size(doing, &home.record()) {
            Err(error) if error.why() == Some(Why::Strange) => Ok(true),
            size => Ok(size?.is_some()),
        }
    }

    /// Removes an entry from the own scope: its record first, so that nobody meets a part of it, then everything else of it.
    /// Returns whether it had a record. Markers in the index stay.
    pub fn remove(&self, section: Section, hash: &Hash) -> Result<bool, Failure> {
        let (doing, home) = ("removing an entry", Home::new(section, self.own_scope()?, hash));
        self.storing(|| {
            let record = home.record();
            let was_there = self.has_record(doing, &home)?;
            if was_there {
                self.shelf.remove(doing, std::slice::from_ref(&record))?;
            }
            let names = self.shelf.first(doing, home.folder(), FILES, self.limits.record)?;
            let names: Vec<String> = names.iter().map(|name| format!("{}/{name}", home.folder())).collect();
            if !names.is_empty() {
                self.shelf.remove(doing, &names)?;
            }
            Ok(was_there)
        })
    }

    fn own_scope(&self) -> Result<&Scope> {
        self.scopes.write.as_ref().ok_or_else(|| {
            Error::usage(format_args!("this run may not write to {}", self.place()))
                .hint("MONOFO_SCOPE names the scope to write to; `-` stands for none")
        })
    }
}

/// Whether a record speaks of the payload of this name, which begins with its digest.
fn speaks_of(record: &[u8], payload: &str) -> bool {
    let digest = payload.split('.').next().unwrap_or(payload).as_bytes();
    record.windows(digest.len()).any(|part| part == digest)
}
