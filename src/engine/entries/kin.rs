//! Entries of the `cache:` block beside the exact one: which to fall back to, and which tells what changed.

use std::cmp::Reverse;
use std::fmt;
use std::time::{Instant, SystemTime};

use super::share::read_record;
use super::survey::{survey, survey_readable};
use crate::entry::{Home, HomeKind, Record, time_text};
use crate::error::Result;
use crate::hash::Hash;
use crate::key::{ComponentName, KeyRecord, TemplateKey};
use crate::remote::{Failure, Remote, Scopes, Section, Trouble};

/// Entries of a remote whose records are read to find one that fits.
const MOST_REMOTE: usize = 50;

/// An entry of the same block entry with another key.
#[derive(Debug, Clone)]
pub struct Kin {
    /// Its key.
    pub key: Hash,
    /// What it was made from.
    pub inputs: TemplateKey,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// The same as far as this machine knows, to tell entries of one second apart.
    changed: SystemTime,
}

impl Kin {
    fn of(record: &Record, changed: SystemTime, wanted: &TemplateKey) -> Option<Kin> {
        match &record.inputs {
            KeyRecord::Template(inputs) if inputs.is_kin(wanted) => {
                Some(Kin { key: record.key, inputs: inputs.clone(), created: record.created, changed })
            }
            _ => None,
        }
    }

    /// When it was made, as text.
    pub fn made(&self) -> String {
        time_text(self.created)
    }
}

/// All kin of this machine that this run may read and that is whole, newest first.
pub fn local(cache: &Home, scopes: &Scopes, wanted: &TemplateKey) -> Result<Vec<Kin>> {
    if !cache.exists()? {
        return Ok(Vec::new());
    }
    let entries = survey(cache)?.entries;
    let usable = entries.iter().filter(|entry| entry.whole && scopes.accepts(&entry.record.scope));
    let mut found: Vec<Kin> = usable.filter_map(|entry| Kin::of(&entry.record, entry.changed, wanted)).collect();
    sort(&mut found);
    Ok(found)
}

/// The newest kin of a remote, added to what is known. A listing that fails is a failure, and no entry. A record that cannot be
/// read, or is another's, is passed over.
pub fn add_remote(remote: &Remote, wanted: &TemplateKey, found: &mut Vec<Kin>) -> Result<(), Failure> {
    let added = add(remote, wanted, found);
    // What came before a failure counts, in its place.
    sort(found);
    added
}

fn add(remote: &Remote, wanted: &TemplateKey, found: &mut Vec<Kin>) -> Result<(), Failure> {
    let started = Instant::now();
    let newest = remote.newest(wanted.component.as_str(), &wanted.shelf(), MOST_REMOTE)?;
    for (_, key) in newest {
        if found.iter().any(|known| known.key == key) {
            continue;
        }
        if !remote.has_time(started) {
            break;
        }
        let text = match remote.record(Section::Cache, &key) {
            Ok(text) => text,
            // One that was damaged says nothing of the others.
            Err(failure) if matches!(failure.trouble, Trouble::Refused | Trouble::Damaged) => continue,
            Err(failure) => return Err(failure),
        };
        let Some((scope, text)) = text else { continue };
        let record = read_record(&text, HomeKind::Cache, &key, &scope);
        found.extend(record.ok().and_then(|record| Kin::of(&record, SystemTime::UNIX_EPOCH, wanted)));
    }
    Ok(())
}

fn sort(found: &mut [Kin]) {
    found.sort_by_key(|kin| (Reverse(kin.created), Reverse(kin.changed), kin.key));
}

/// Those that a list of prefixes falls back to, in the order in which they are tried: by prefix, then newest first.
pub fn fallbacks<'a>(found: &'a [Kin], prefixes: &'a [String]) -> impl Iterator<Item = &'a Kin> + 'a {
    let first = move |kin: &Kin| {
        let text = kin.inputs.text();
        prefixes.iter().position(|prefix| text.starts_with(prefix.as_str()))
    };
    (0..prefixes.len()).flat_map(move |at| found.iter().filter(move |kin| first(kin) == Some(at)))
}

/// Why there is no exact entry, in a few words: what differs from the newest one.
pub fn reason(found: &[Kin], wanted: &TemplateKey) -> String {
    match found.first() {
        None => "no entry to compare with".to_owned(),
        Some(kin) => {
            let change = wanted.change_since(&kin.inputs).unwrap_or_else(|| "that one is of an older time".to_owned());
            format!("{change} since {}", kin.made())
        }
    }
}

/// An entry of the block, and how it differs from the newest of its name.
#[derive(Debug)]
pub struct Told {
    /// The entry's key.
    pub key: Hash,
    /// The key as a reader knows it.
    pub text: String,
    /// When it was made.
    pub made: String,
    /// What changed between it and the newest, or that it is that.
    pub change: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}: {}", self.text, self.made, self.change)
    }
}

/// The entries of the block that this machine has of a name, newest first. None where the name has entries of another kind:
/// those are compared with a key that is computed now.
pub fn of_block(cache: &Home, name: &ComponentName) -> Result<Vec<Kin>> {
    if !cache.exists()? {
        return Ok(Vec::new());
    }
    let entries = survey_readable(cache)?.entries;
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry.record.inputs.component() == name) {
        let KeyRecord::Template(inputs) = &entry.record.inputs else { return Ok(Vec::new()) };
        let (key, created) = (entry.record.key, entry.record.created);
        found.push(Kin { key, inputs: inputs.clone(), created, changed: entry.changed });
    }
    sort(&mut found);
    Ok(found)
}

/// What changed between each of them and the newest, which is the first.
pub fn told(found: &[Kin]) -> Vec<Told> {
    let Some(newest) = found.first() else { return Vec::new() };
    let one = |kin: &Kin| {
        let change = match &kin.inputs {
            _ if kin.key == newest.key => "the newest".to_owned(),
            inputs if !inputs.is_kin(&newest.inputs) => "of another pipeline, other paths or another salt".to_owned(),
            inputs => match newest.inputs.change_since(inputs) {
                Some(change) => format!("{change} since"),
                None => "the parts of its key are other ones".to_owned(),
            },
        };
        Told { key: kin.key, text: kin.inputs.shown(), made: kin.made(), change }
    };
    found.iter().map(one).collect()
}
