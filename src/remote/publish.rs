//! Writing to a remote: what is read first is written last, and a record that is there stays.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::names::{self, Home};
use super::{Failure, LONGEST_RECORD, Marker, Remote, Scope, Section, Trouble, is_broken_off, is_in_braces};
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

/// An entry that is to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Its record.
    pub record: &'a [u8],
    /// The name that its payload gets, derived from its digest, and the file that has it.
    pub payload: (&'a str, &'a Path),
    /// Its other files, by their names.
    pub extras: &'a [(&'a str, Vec<u8>)],
    /// What the index says of it.
    pub marker: Option<&'a Marker<'a>>,
}

/// The files of an entry, by their names in a remote.
struct Files<'a> {
    home: Home,
    payload: String,
    source: &'a Path,
    extras: Vec<(String, &'a [u8])>,
    /// The folder of its marker.
    index: Option<String>,
}

impl Remote {
    /// Stores an entry in the own scope: payload, extras, the marker in the index, and last the record, if none is there. A
    /// run that breaks off before leaves only files that no record speaks of; the next one completes the entry.
    ///
    /// An entry that is there already is left as it is, except that a payload of the same name is stored again where it is
    /// missing or has another size.
    pub fn publish(&self, section: Section, hash: &Hash, content: &Content<'_>) -> Result<Published, Failure> {
        let files = self.files(section, hash, content)?;
        let found = self.asking(|| {
            self.shelf.prepare()?;
            let Some(there) = self.record_in(&files.home, Instant::now())? else { return Ok(None) };
            let is_whole = !speaks_of(&there, content.payload.0) || self.is_whole(&files.payload, files.source)?;
            Ok(Some((there, is_whole)))
        })?;
        if let Some((there, is_whole)) = found {
            if !is_whole {
                tracing::debug!(%hash, "storing the payload of a record again");
                self.storing(|| Ok(self.store_content(&files, false)?))?;
            }
            return Ok(Published::Exists(there));
        }
        self.storing(|| {
            self.store_content(&files, false)?;
            self.store_marker(&files, hash)?;
            self.create(&files.home, content.record)
        })
    }

    /// As [`Remote::publish`], but what lies in the record's place is replaced, unless `stays` says of it that it is to stay.
    ///
    /// Nothing is removed first: payload and extras are stored beside what is there, their names being those of their
    /// content, and the record goes over the old one last. So whatever fails, nothing was lost, and of several who do this
    /// one wins. Where a server answers, what is no record may be somebody else's answer, and is an error; but not what a
    /// writer left that broke off.
    pub fn replace(
        &self,
        section: Section,
        hash: &Hash,
        content: &Content<'_>,
        stays: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Published, Failure> {
        let files = self.files(section, hash, content)?;
        let there = self.asking(|| {
            self.shelf.prepare()?;
            match self.raw_record(&files.home, Instant::now()) {
                Err(failure) if failure.trouble == Trouble::Refused && self.is_folder() => Ok(None),
                found => Ok(found?.filter(|there| !self.is_folder() || is_in_braces(there))),
            }
        })?;
        match there {
            Some(there) if is_broken_off(&there) => {}
            Some(there) if !is_in_braces(&there) => return Err(self.no_record().into()),
            Some(there) if stays(&there) => return Ok(Published::Exists(there)),
            _ => {}
        }
        self.storing(|| {
            self.store_content(&files, true)?;
            self.store_marker(&files, hash)?;
            let (doing, name) = ("storing a record", files.home.record());
            self.make_room(doing, &name)?;
            self.shelf.put(doing, &name, content.record.to_vec())?;
            Ok(Published::Created)
        })
    }

    fn files<'a>(&self, section: Section, hash: &Hash, content: &Content<'a>) -> Result<Files<'a>> {
        let scope = self.own_scope()?;
        let home = Home::new(section, scope, hash);
        if content.record.len() as u64 > LONGEST_RECORD {
            return Err(Error::failed(format_args!("the record of {} is too long for a remote", hash.short())));
        }
        let extras = content.extras.iter().map(|(name, bytes)| Ok((home.file(name)?, bytes.as_slice())));
        Ok(Files {
            payload: home.file(content.payload.0)?,
            source: content.payload.1,
            extras: extras.collect::<Result<_>>()?,
            index: content.marker.map(|marker| names::index(scope, marker)).transpose()?,
            home,
        })
    }

    /// Stores what a record speaks of.
    fn store_content(&self, files: &Files<'_>, replaces: bool) -> Result<()> {
        let doing = "storing a payload";
        if replaces {
            self.make_room(doing, &files.payload)?;
        }
        self.shelf.put_file(doing, &files.payload, files.source)?;
        for (name, bytes) in &files.extras {
            let doing = "storing a file of an entry";
            if replaces {
                self.make_room(doing, name)?;
            }
            self.shelf.put(doing, name, bytes.to_vec())?;
        }
        Ok(())
    }

    fn store_marker(&self, files: &Files<'_>, hash: &Hash) -> Result<()> {
        let Some(folder) = &files.index else { return Ok(()) };
        let name = format!("{folder}/{}", names::marker(SystemTime::now(), hash));
        self.shelf.put("storing a marker", &name, Vec::new())
    }

    /// Removes a link, an empty folder or the like in the place of a file, where it would be in the way.
    fn make_room(&self, doing: &str, name: &str) -> Result<()> {
        if !self.is_folder() {
            return Ok(());
        }
        match self.shelf.size(doing, name) {
            Err(error) if error.why() == Some(Why::Strange) => self.shelf.remove(doing, &[name.to_owned()]),
            size => size.map(drop),
        }
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

    /// What [`Remote::remove`] would say, as far as that can be told without removing anything.
    pub fn would_remove(&self, section: Section, hash: &Hash) -> Result<bool, Failure> {
        let (doing, home) = ("looking for an entry", Home::new(section, self.own_scope()?, hash));
        self.asking(|| {
            let was_there = self.has_record(doing, &home)?;
            for name in self.files_of(doing, &home)? {
                self.check_removable(doing, &name)?;
            }
            Ok(was_there)
        })
    }

    /// Whether a record is there, or in a folder something else in its place: what a server says then may be about nothing.
    fn has_record(&self, doing: &str, home: &Home) -> Result<bool> {
        match self.shelf.size(doing, &home.record()) {
            Err(error) if error.why() == Some(Why::Strange) && self.is_folder() => Ok(true),
            size => Ok(size?.is_some()),
        }
    }

    /// Everything of an entry, by its names in the remote.
    fn files_of(&self, doing: &str, home: &Home) -> Result<Vec<String>> {
        let names = self.shelf.first(doing, home.folder(), FILES, self.limits.record)?;
        Ok(names.iter().map(|name| format!("{}/{name}", home.folder())).collect())
    }

    /// Fails where a folder lies in the place of a file and holds something, which would stay.
    fn check_removable(&self, doing: &str, name: &str) -> Result<()> {
        if !self.is_folder() {
            return Ok(());
        }
        let Some(no_file) = self.shelf.size(doing, name).err() else { return Ok(()) };
        match self.shelf.first(doing, name, 1, self.limits.record) {
            Ok(inside) if inside.is_empty() => Ok(()),
            // A link or the like, which goes as a file does.
            Err(error) if error.why() == Some(Why::Strange) => Ok(()),
            Ok(_) => Err(no_file),
            Err(error) => Err(error),
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
            let names = self.files_of(doing, &home)?;
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
