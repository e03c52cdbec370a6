//! The keyed cache: an artifact under its key, and back.

use std::path::Path;
use std::thread;

use super::pack::{Artifact, payload};
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
    /// Its metadata.
    pub record: Record,
    /// Whether the same was there already.
    pub same: bool,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Stores an artifact under a key. Nothing is stored when `again`, which computes the key once more when the artifact was
/// read, gives another: class `Changed`. Blocks.
pub fn build(
    cache: &Home,
    computed: &Computed,
    artifact: Artifact,
    encoding: Encoding,
    scope: &str,
    again: &dyn Fn() -> Result<Hash>,
    context: &Context,
) -> Result<Built> {
    cache.create()?;
    let staging = Staging::new(cache)?;
    context.progress.expect(artifact.bytes());
    let file = staging.join("payload");
    let (payload, listing) = payload(&artifact, encoding, &file, context)?;
    let text = listing.text();
    let output = artifact.output(&listing, Hash::of(&text));
    let mut record = Record::new(computed.record.clone(), output, computed.source, scope);
    record.payload = Some(payload);
    if let Some(took) = artifact.built_in {
        record.remember_build(took);
    }
    let mut warnings = artifact.warnings;
    if computed.newest > artifact.newest && artifact.newest > i64::MIN {
        warnings.push("a source is newer than everything in the artifact: was it built from these sources?".to_owned());
    }
    let published = thread::scope(|scope| {
        scope.spawn(|| remember(cache, computed, &text));
        if again()? != computed.key {
            return Err(inputs_changed(computed));
        }
        publish(cache, &staging, &record, &file, Existing::Replace, &context.cancel)
    })?;
    let (record, same) = match published {
        Published::New => (record, false),
        Published::Same(there) => (*there, true),
        Published::Replaced(before) => {
            // The same tree packed in another way, or by another scope, is no other output.
            let same = before.output.tree == record.output.tree;
            if !same {
                warnings.push(irreproducible(cache, &before, &listing));
            }
            (record, same)
        }
    };
    Ok(Built { record, same, warnings })
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
fn irreproducible(home: &Home, before: &Record, now: &Listing) -> String {
    let was = facts::get(home, &before.output.tree).and_then(|text| Listing::parse(&text).ok());
    let told = was.map(|was| differing(&was, now)).filter(|paths| !paths.is_empty());
    let detail = match told {
        Some(paths) => format!(" in {}, first `{}`", Count(paths.len() as u64, "path"), Shown(&paths[0])),
        None => String::new(),
    };
    format!(
        "the same inputs gave another output before, different{detail}: the build is not reproducible, or an input is not declared. The new one replaced it"
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
    /// There was one, and it proved to be damaged: it is out of the way now, and counts as a miss.
    Damaged(Error),
}

/// Restores the artifact of a key from this machine. What is in its place stays as it is unless this is a hit. Blocks.
pub(super) fn get(cache: &Home, key: &Hash, scopes: &Scopes, restore: &Restore<'_>) -> Result<Got> {
    if !cache.exists()? {
        return Ok(Got::Miss);
    }
    let restored = match open(cache, key) {
        Ok(None) => return Ok(Got::Miss),
        Ok(Some(opened)) if !scopes.accepts(&opened.record.scope) => return Ok(Got::OtherScope),
        Ok(Some(opened)) => {
            let Some(file) = opened.payload.as_ref().and_then(|file| file.try_clone().ok()) else {
                return Err(Error::failed("cannot open the payload again"));
            };
            match restore(Box::new(file), &opened.record, &mut || Ok(())) {
                Ok(warnings) => {
                    opened.touch();
                    return Ok(Got::Hit { record: Box::new(opened.record), warnings });
                }
                Err(error) => (Some(opened), error),
            }
        }
        Err(error) => (None, error),
    };
    match restored {
        (opened, error) if is_damage(&error) => {
            set_aside(cache, key, opened.as_ref());
            Ok(Got::Damaged(match &opened {
                Some(opened) => named(cache, key, &opened.record, error),
                // Opening it said which.
                None => error,
            }))
        }
        (_, error) => Err(error),
    }
}

/// Says which entry is damaged.
pub(super) fn named(home: &Home, name: &Hash, record: &Record, error: Error) -> Error {
    let component = record.inputs.component();
    error.context(format_args!("{} entry {} of {component} is damaged", home.kind().word(), name.short()))
}

/// Whether an error says that an entry itself is wrong, and not the place it was to go to.
pub(super) fn is_damage(error: &Error) -> bool {
    error.class() == Class::Damaged
}

/// Moves a damaged entry to quarantine, and counts it. One that cannot be moved is met again.
pub(super) fn set_aside(home: &Home, name: &Hash, seen: Option<&crate::entry::Opened>) {
    count(home, Event::Damaged, 0);
    if let Err(error) = quarantine(home, name, seen) {
        tracing::warn!("{}", error.chain());
    }
}

/// Where an entry's payload is, for messages.
pub fn place(home: &Home) -> String {
    Shown::path(home.root() as &Path).to_string()
}
