//! The keyed cache: an artifact under its key, and back.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::pack::{Artifact, payload_and};
use super::restore::Restore;
use crate::context::Context;
use crate::engine::keys::Computed;
use crate::entry::usage::{Event, count};
use crate::entry::{Encoding, Existing, Home, Published, Record, Staging, facts, open, publish, quarantine};
use crate::error::{Class, Error, Result};
use crate::hash::{Hash, Listing};
use crate::remote::Scopes;
use crate::text::{Count, Shown};

/// What came of storing an artifact.
#[derive(Debug)]
pub struct Built {
    /// The metadata of what is stored now under its key.
    pub record: Record,
    /// Whether the same was there already.
    pub same: bool,
    /// Whether another one was there that this run may not replace: it stays, and a warning says so.
    pub kept: bool,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Stores an artifact under a key. Nothing is stored when `again`, which computes the key once more when the artifact was
/// read, gives another: class `Changed`. An entry that is here may stay: [`Scopes::may_replace`]. Blocks.
pub fn build(
    cache: &Home,
    computed: &Computed,
    artifact: Artifact,
    encoding: Encoding,
    scopes: &Scopes,
    again: &dyn Fn() -> Result<Hash>,
    context: &Context,
) -> Result<Built> {
    cache.create()?;
    let staging = Staging::new(cache)?;
    context.progress.expect(artifact.bytes());
    let file = staging.join("payload");
    let may_replace = |there: &Record| scopes.may_replace(&there.scope);
    let (published, record, listing) = thread::scope(|scope| -> Result<_> {
        let (payload, (listing, tree)) = payload_and(&artifact, encoding, &file, context, |listing| {
            let text = Arc::new(listing.text());
            let theirs = Arc::clone(&text);
            scope.spawn(move || remember(cache, computed, &theirs));
            (listing, Hash::of(&text))
        })?;
        let output = artifact.output(&listing, tree);
        let mut record = Record::new(computed.record.clone(), output, computed.source, scopes.own());
        record.payload = Some(payload);
        if let Some(took) = artifact.built_in {
            record.remember_build(took);
        }
        if again()? != computed.key {
            return Err(inputs_changed(computed));
        }
        let existing = Existing::ReplaceIf(&may_replace);
        let published = publish(cache, &staging, &record, &file, existing, &context.cancel)?;
        Ok((published, record, listing))
    })?;
    let mut warnings = artifact.warnings;
    if computed.newest > artifact.newest && artifact.newest > i64::MIN {
        warnings.push("a source is newer than everything in the artifact: was it built from these sources?".to_owned());
    }
    // The same tree packed in another way, or by another scope, is no other output.
    let is_same = |there: &Record| there.output.tree == record.output.tree;
    let (same, kept) = match &published {
        Published::New => (false, false),
        Published::Same(there) if !scopes.accepts(&there.scope) => {
            warnings.push(format!(
                "nothing was stored: the entry that is here is of scope `{}`, which this run does not read, and a run that writes \
                 nothing (MONOFO_SCOPE) replaces nobody's",
                there.scope
            ));
            (false, true)
        }
        Published::Same(there) if is_same(there) => (true, false),
        Published::Same(there) => {
            let then = format!("The one of scope `{}` that was here stays: this run reads it", there.scope);
            warnings.push(irreproducible(cache, there, &listing, &then));
            (false, true)
        }
        Published::Replaced(before) => {
            let same = is_same(before);
            if !same {
                warnings.push(irreproducible(cache, before, &listing, "The new one replaced it"));
            }
            (same && scopes.accepts(&before.scope), false)
        }
    };
    let record = match published {
        Published::Same(there) => *there,
        Published::New | Published::Replaced(_) => record,
    };
    Ok(Built { record, same, kept, warnings })
}

/// The error for sources that changed while an artifact was stored.
pub(super) fn inputs_changed(computed: &Computed) -> Error {
    let component = computed.record.component();
    Error::new(Class::Changed, format_args!("the inputs of `{component}` changed while its artifact was stored"))
        .hint("build and store it again; nothing was stored")
}

/// Keeps the texts that explanations need. Best effort: they are losable.
pub(super) fn remember(home: &Home, computed: &Computed, output: &[u8]) {
    let put = || -> Result<()> {
        let staging = Staging::new(home)?;
        computed.texts().try_for_each(|text| facts::put(home, &staging, &text).map(drop))?;
        facts::put(home, &staging, output).map(drop)
    };
    if let Err(error) = put() {
        tracing::debug!(error = %error.chain(), "a text for explanations was not kept");
    }
}

/// The warning about the same inputs that gave another output.
fn irreproducible(home: &Home, before: &Record, now: &Listing, then: &str) -> String {
    let was = facts::get(home, &before.output.tree).and_then(|text| Listing::parse(&text).ok());
    let told = was.map(|was| differing(&was, now)).filter(|paths| !paths.is_empty());
    let detail = match told {
        Some(paths) => format!(" in {}, first `{}`", Count(paths.len() as u64, "path"), Shown(&paths[0])),
        None => String::new(),
    };
    format!(
        "the same inputs gave another output before, different{detail}: the build is not reproducible, or an input is not declared. {then}"
    )
}

/// Paths that are not the same in two listings.
pub(super) fn differing(a: &Listing, b: &Listing) -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<u8>> = a
        .lines()
        .iter()
        .filter(|line| {
            !b.lines().binary_search_by(|other| other.path.cmp(&line.path)).is_ok_and(|at| b.lines()[at] == **line)
        })
        .map(|line| line.path.clone())
        .collect();
    paths.extend(b.lines().iter().filter(|line| a.find(&line.path).is_none()).map(|line| line.path.clone()));
    paths.sort();
    paths.dedup();
    paths
}

/// What came of looking for an artifact.
#[derive(Debug)]
pub(super) enum Got {
    /// It was restored.
    Hit {
        /// Its metadata.
        record: Box<Record>,
        /// What the user should know.
        warnings: Vec<String>,
    },
    /// There is none.
    Miss,
    /// There is one of a scope that this run does not read.
    OtherScope,
    /// There was one, and it proved to be damaged, which counts as a miss. The error says what became of it.
    Damaged(Error),
    /// There is one, and it cannot be read: by this user, or now. It stays, and counts as a miss.
    Unreadable(Error),
}

/// Restores the artifact of a key from this machine. What is in its place stays as it is unless this is a hit. Blocks.
pub(super) fn get(cache: &Home, key: &Hash, scopes: &Scopes, restore: &Restore<'_>) -> Result<Got> {
    if !cache.exists()? {
        return Ok(Got::Miss);
    }
    let (opened, error) = match open(cache, key) {
        Ok(None) => return Ok(Got::Miss),
        Ok(Some(opened)) if !scopes.accepts(&opened.record.scope) => return Ok(Got::OtherScope),
        Ok(Some(opened)) => {
            let Some(file) = opened.payload.as_ref().and_then(|file| file.try_clone().ok()) else {
                return Err(Error::failed("cannot open the payload again"));
            };
            let failed = Arc::new(AtomicBool::new(false));
            let reading = Reading { inner: file, failed: Arc::clone(&failed) };
            match restore(Box::new(reading), &opened.record, &mut || Ok(())) {
                // A disk in trouble, and not the target's fault.
                Err(error) if failed.load(Ordering::Relaxed) && is_unreadable(&error) => {
                    return Ok(Got::Unreadable(error));
                }
                Ok(warnings) => {
                    opened.touch();
                    return Ok(Got::Hit { record: Box::new(opened.record), warnings });
                }
                Err(error) => (Some(opened), error),
            }
        }
        Err(error) if is_unreadable(&error) => return Ok(Got::Unreadable(error)),
        Err(error) => (None, error),
    };
    if !is_damage(&error) {
        return Err(error);
    }
    let aside = set_aside(cache, key, opened.as_ref());
    Ok(Got::Damaged(aside.told(match &opened {
        Some(opened) => named(cache, key, &opened.record, error),
        // Opening it said which.
        None => error,
    })))
}

/// Says which entry is damaged.
pub(super) fn named(home: &Home, name: &Hash, record: &Record, error: Error) -> Error {
    let component = record.inputs.component();
    error
        .context(format_args!("{} entry {} of {component} is damaged", home.kind().word(), name.short()))
        .with_hint("build and store it again")
}

/// Whether an error says that an entry itself is wrong, and not the place it was to go to.
pub(super) fn is_damage(error: &Error) -> bool {
    error.class() == Class::Damaged
}

/// A payload that takes note when it cannot be read.
struct Reading<R> {
    inner: R,
    failed: Arc<AtomicBool>,
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(out);
        if read.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::Interrupted) {
            self.failed.store(true, Ordering::Relaxed);
        }
        read
    }
}

/// Whether an error of opening an entry says nothing about the entry: no rights, no more files to open, a disk in trouble.
pub(super) fn is_unreadable(error: &Error) -> bool {
    error.class() == Class::Failed
}

/// What became of a damaged entry.
#[derive(Debug)]
pub(super) enum Aside {
    /// It is in quarantine.
    Moved,
    /// Somebody holds it, or was quicker.
    Left,
    /// It stays for this reason, and will be met again.
    Stays(Error),
}

impl Aside {
    /// The error about the entry, with what became of it.
    pub(super) fn told(&self, error: Error) -> Error {
        let then = match self {
            Aside::Moved => "it was moved to quarantine".to_owned(),
            Aside::Left => "it was not moved to quarantine: somebody else holds it, or has dealt with it".to_owned(),
            Aside::Stays(why) => format!("it could not be moved to quarantine: {}", why.chain()),
        };
        let told = Error::new(error.class(), format_args!("{}; {then}", error.chain()));
        match error.next_step() {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

/// Moves a damaged entry to quarantine, and counts it. One that cannot be moved is met again.
pub(super) fn set_aside(home: &Home, name: &Hash, seen: Option<&crate::entry::Opened>) -> Aside {
    count(home, Event::Damaged, 0);
    match quarantine(home, name, seen) {
        Ok(true) => Aside::Moved,
        Ok(false) => Aside::Left,
        Err(error) => Aside::Stays(error),
    }
}

/// Where an entry's payload is, for messages.
pub fn place(home: &Home) -> String {
    Shown::path(home.root() as &Path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_cannot_be_read_is_told_from_one_that_was() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()))
            }
        }
        let failed = Arc::new(AtomicBool::new(false));
        let mut bytes = Vec::new();
        Reading { inner: &b"all"[..], failed: Arc::clone(&failed) }.read_to_end(&mut bytes).unwrap();
        assert!(bytes == b"all" && !failed.load(Ordering::Relaxed));
        Reading { inner: Broken, failed: Arc::clone(&failed) }.read_to_end(&mut bytes).unwrap_err();
        assert!(failed.load(Ordering::Relaxed));
    }
}
