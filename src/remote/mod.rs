//! Entries of cache and store that machines share: a folder, S3 or Google Cloud Storage.
//!
//! | part | what it does |
//! |---|---|
//! | [`Remote`] | records and payloads under hashes: looked up, read, published, removed |
//! | [`Scopes`] | whose entries are read, and where own ones go |
//! | [`Failure`] | what went wrong, in the classes that decide what happens next |
//! | [`Limits`] | how long a remote is waited for |
//! | `breaker` | when to stop asking |
//! | `names` | the layout |
//!
//! A record makes an entry: it is written last, only where none is or over one that is of no use, and read first. What a remote holds is somebody else's:
//! records are bounded here and checked by who reads them, and payloads have the length that their record says. Nothing here
//! knows what a record says.

mod breaker;
mod failure;
mod limits;
mod names;
mod payload;
mod publish;
mod scope;

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use object_store::ObjectStore;

use self::breaker::{Ask, Breaker};
pub use self::failure::{Failure, Trouble};
pub use self::limits::{LONGEST_LOOK, Limits};
use self::names::Home;
use self::payload::{Payload, other_length};
pub use self::publish::{Content, Published};
pub use self::scope::{Scope, Scopes};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Class, Error, Result, Why};
use crate::hash::Hash;
use crate::location::Location;
use crate::transport::{self, BucketShelf, Shelf, open_shelf};

/// The longest record that is read or written.
pub const LONGEST_RECORD: u64 = 1 << 20;

/// The longest other file that is read in one piece, such as a listing.
pub const LONGEST_EXTRA: u64 = 256 << 20;

/// Which of the two an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    /// The build cache, by key.
    Cache,
    /// The store, by address.
    Store,
}

/// What an entry of the cache is a build of, for finding the newest one.
#[derive(Debug, Clone, Copy)]
pub struct Marker<'a> {
    /// The component's name.
    pub component: &'a str,
    /// The platform that it was built for, such as `linux-x86_64`.
    pub platform: &'a str,
}

/// What is done when a record is read, for messages.
const LOOKING: &str = "looking for a record";

type Reopen = dyn Fn() -> Result<Arc<dyn Shelf>> + Send + Sync;

/// A place with entries of cache and store. Its methods block and may be called by many threads at once.
///
/// Once the remote proves dead, every later call fails without asking it: see [`Remote::is_given_up`].
pub struct Remote {
    shelf: Arc<dyn Shelf>,
    scopes: Scopes,
    limits: Limits,
    breaker: Arc<Breaker>,
    /// Entries of the own scope that proved to be no good: the next of their name replaces them.
    spoiled: Mutex<BTreeSet<(Section, Hash)>>,
    /// Opens it once more, to look whether it is back.
    reopen: Option<Box<Reopen>>,
}

impl Remote {
    /// The folder in a remote that all of it lies in.
    pub const FOLDER: &str = names::LAYOUT;

    /// The remote at a location. The agent's storage cannot be one, which is an error of class `Usage`. Opens no connection.
    pub fn open(location: &Location, scopes: Scopes, env: &Env, cancel: &Cancel) -> Result<Self> {
        Self::with_limits(location, scopes, env, Limits::default(), cancel)
    }

    /// As [`Remote::open`], with other limits.
    pub fn with_limits(
        location: &Location,
        scopes: Scopes,
        env: &Env,
        limits: Limits,
        cancel: &Cancel,
    ) -> Result<Self> {
        let shelf = open_shelf(location, env, limits.transfers.clone(), cancel)?;
        let look = Some(LONGEST_LOOK);
        let transfers =
            transport::Limits { connect: LONGEST_LOOK, first_byte: look, retries: 0, ..limits.transfers.clone() };
        let (location, env, cancel) = (location.clone(), env.clone(), cancel.clone());
        let reopen = move || open_shelf(&location, &env, transfers.clone(), &cancel);
        Ok(Remote { reopen: limits.probe.map(|_| Box::new(reopen) as _), ..Self::on(shelf, scopes, limits) })
    }

    /// A remote over any object store.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        scopes: Scopes,
        limits: Limits,
        cancel: &Cancel,
    ) -> Result<Self> {
        let shelf = BucketShelf::over(store, prefix, limits.transfers.clone(), cancel.clone())?;
        Ok(Self::on(Arc::new(shelf), scopes, limits))
    }

    fn on(shelf: Arc<dyn Shelf>, scopes: Scopes, limits: Limits) -> Self {
        let breaker = Arc::new(Breaker::new(limits.patience, limits.probe));
        Remote { shelf, scopes, limits, breaker, spoiled: Mutex::default(), reopen: None }
    }

    /// The place, for messages; never a credential.
    pub fn place(&self) -> String {
        self.shelf.place()
    }

    /// Whether it is a folder, where nobody answers in its place.
    pub fn is_folder(&self) -> bool {
        self.shelf.is_folder()
    }

    /// The scopes that it was opened with.
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// Whether a series of questions that began then may go on: together they get the time of one lookup, and what is under
    /// way is ended by its own limit.
    pub fn has_time(&self, started: Instant) -> bool {
        started.elapsed() < self.limits.record
    }

    /// Whether the remote proved dead, so that nothing is asked any more.
    pub fn is_given_up(&self) -> bool {
        self.breaker.open().is_some()
    }

    /// The record of an entry, and the first of the scopes to read that has one. It is an object in braces of at most
    /// [`LONGEST_RECORD`] bytes; everything else about it is for the caller to check.
    ///
    /// A scope that denies access or has something else in the record's place does not hide the scopes after it; its failure
    /// is returned if none of them has the entry.
    pub fn record(&self, section: Section, hash: &Hash) -> Result<Option<(Scope, Vec<u8>)>, Failure> {
        self.asking(|| {
            let started = Instant::now();
            let mut failed = None;
            for scope in &self.scopes.read {
                match self.record_in(&Home::new(section, scope, hash), started) {
                    Ok(Some(record)) => return Ok(Some((scope.clone(), record))),
                    Ok(None) => {}
                    Err(failure) if matches!(failure.trouble, Trouble::Denied | Trouble::Refused) => {
                        failed.get_or_insert(failure);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            failed.map_or(Ok(None), Err)
        })
    }

    /// The record of an entry in one scope, for whoever checks it and goes on with the next; a lookup `started` then. What a
    /// writer left that broke off is noted as spoiled; anything else that is no record may be the answer of a proxy.
    pub fn record_of(
        &self,
        section: Section,
        scope: &Scope,
        hash: &Hash,
        started: Instant,
    ) -> Result<Option<Vec<u8>>, Failure> {
        self.asking(|| {
            let found = self.raw_record(&Home::new(section, scope, hash), started)?;
            if found.as_deref().is_some_and(is_broken_off) {
                self.note_spoiled(section, scope, hash);
            }
            self.only_record(found)
        })
    }

    /// Takes note that an entry of a scope is no good. That counts where this run may replace it: in the own scope.
    pub fn note_spoiled(&self, section: Section, scope: &Scope, hash: &Hash) {
        if self.scopes.write.as_ref() == Some(scope) {
            self.spoiled().insert((section, *hash));
        }
    }

    /// Whether an entry of the own scope proved to be no good.
    pub fn is_spoiled(&self, section: Section, hash: &Hash) -> bool {
        self.spoiled().contains(&(section, *hash))
    }

    /// It was replaced by a good one.
    pub(crate) fn forget_spoiled(&self, section: Section, hash: &Hash) {
        self.spoiled().remove(&(section, *hash));
    }

    fn spoiled(&self) -> MutexGuard<'_, BTreeSet<(Section, Hash)>> {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record, within what is left of the time for a lookup.
    fn record_in(&self, home: &Home, started: Instant) -> Result<Option<Vec<u8>>, Failure> {
        self.only_record(self.raw_record(home, started)?)
    }

    /// What lies in a record's place.
    fn raw_record(&self, home: &Home, started: Instant) -> Result<Option<Vec<u8>>, Failure> {
        let left = self.limits.record.saturating_sub(started.elapsed());
        let read = self.shelf.get(LOOKING, &home.record(), LONGEST_RECORD, Some(left)).map_err(|error| {
            // Who may not list a bucket gets the same answer about what is not there.
            match error.next_step() {
                Some(hint) if error.to_string().contains("status 403") => {
                    let hint = format!("{hint}; to whom may not list it, a record that is not there looks the same");
                    error.with_hint(hint)
                }
                _ => error,
            }
        });
        Ok(read?)
    }

    fn only_record(&self, found: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Failure> {
        match found {
            Some(record) if !is_in_braces(&record) => Err(self.no_record().into()),
            found => Ok(found),
        }
    }

    fn no_record(&self) -> Error {
        Error::refused(format_args!("{LOOKING} in {} failed: what is there is no record", self.place()))
            .hint("is it a store for objects that answers there? If so, remove that entry")
            .because(Why::Strange)
    }

    /// Opens the payload of an entry in the scope where its record was found. `size` is what the record says: a payload of
    /// another size is [`Trouble::Damaged`], one that is missing [`Trouble::Dangling`]. It comes in ranges as it is read,
    /// never as a whole; what fails then is for [`Failure::of_read`].
    pub fn payload(
        &self,
        section: Section,
        scope: &Scope,
        hash: &Hash,
        file: &str,
        size: u64,
    ) -> Result<Box<dyn Read + Send>, Failure> {
        let name = Home::new(section, scope, hash).file(file)?;
        self.asking(|| {
            let Some(opened) = self.shelf.open("reading a payload", &name)? else {
                return Err(self.without_payload().into());
            };
            if opened.size != size {
                return Err(other_length(&self.place(), size, Some(opened.size)).into());
            }
            let breaker = Arc::clone(&self.breaker);
            Ok(Box::new(Payload::new(opened.reader, self.place(), size, breaker)) as Box<dyn Read + Send>)
        })
    }

    fn without_payload(&self) -> Error {
        Error::new(
            Class::Unavailable,
            format_args!("a record in {} speaks of a payload that is not there", self.place()),
        )
        .hint("the next build stores it again; keep lifecycle rules from removing payloads before records")
        .because(Why::Gone)
    }

    /// Whether the payload of an entry is there, with this size. It is not read.
    pub fn holds(&self, section: Section, scope: &Scope, hash: &Hash, file: &str, size: u64) -> Result<bool, Failure> {
        let name = Home::new(section, scope, hash).file(file)?;
        self.asking(|| Ok(self.shelf.size("looking for a payload", &name)? == Some(size)))
    }

    /// Another file of an entry, such as the listing of its sources, if it has it. One of more than `most` bytes, or of more
    /// than [`LONGEST_EXTRA`], is [`Trouble::Refused`] and not read.
    pub fn extra(
        &self,
        section: Section,
        scope: &Scope,
        hash: &Hash,
        name: &str,
        most: u64,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let (doing, most) = ("reading a file of an entry", most.min(LONGEST_EXTRA));
        let name = Home::new(section, scope, hash).file(name)?;
        self.asking(|| Ok(self.shelf.get(doing, &name, most, None)?))
    }

    /// Whether a remote that was given up answers again, whatever it says.
    fn is_back(&self) -> bool {
        let Some(shelf) = self.reopen.as_ref().and_then(|reopen| reopen().ok()) else { return false };
        let looked = shelf.get("looking whether it is back", names::NOTHING, LONGEST_RECORD, Some(LONGEST_LOOK));
        let answered = |error: Error| {
            !matches!(Failure::of(error).error.why(), None | Some(Why::Silent | Why::Busy | Why::Nameless))
        };
        let back = looked.map_or_else(answered, |_| true);
        if back {
            self.breaker.close();
        }
        back
    }

    /// Asks the remote something, unless it was given up, and takes note of what became of it.
    fn asking<T>(&self, ask: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.check_given_up()?;
        let done = ask();
        self.breaker.note(Ask::Read, done.as_ref().err());
        done
    }

    /// As [`Remote::asking`], for what changes the remote.
    fn storing<T>(&self, store: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.check_given_up()?;
        if let Some(why) = self.breaker.unwritable(Instant::now()) {
            return Err(given_up(format_args!("storing in {} was given up", self.place()), why));
        }
        let done = store();
        self.breaker.note(Ask::Write, done.as_ref().err());
        done
    }

    fn check_given_up(&self) -> Result<(), Failure> {
        match self.breaker.open() {
            Some(why) if !(self.breaker.is_to_look(Instant::now()) && self.is_back()) => {
                Err(given_up(format_args!("{} was given up", self.place()), why))
            }
            _ => Ok(()),
        }
    }
}

fn given_up(what: fmt::Arguments<'_>, why: Why) -> Failure {
    let error = Error::new(Class::Unavailable, format_args!("{what} earlier in this run"));
    error.hint("look at what was said about it first").because(why).into()
}

fn is_in_braces(record: &[u8]) -> bool {
    record.trim_ascii_start().starts_with(b"{")
}

/// Whether this is what stays of a record whose writer, or whose disk, broke off: nothing, blanks, NUL bytes, or `null`.
fn is_broken_off(record: &[u8]) -> bool {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    record.iter().all(blank) || record.trim_ascii() == b"null"
}
