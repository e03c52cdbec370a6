//! `monofo cache verify` and `monofo cache invalidate`, and the cleaning up that `build` does now and then.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::cli::entries::CacheInvalidate;
use crate::commands::Commands;
use crate::config::entries::Keeping;
use crate::context::Context;
use crate::engine::entries::gc::{GcRequest, References, collect};
use crate::engine::entries::survey::{Entry, survey};
use crate::engine::entries::verify::{Checked, verify};
use crate::entry::{Readers, Removal, facts, plain, remove};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::{ComponentName, native_platform};
use crate::remote::Section;
use crate::text::{Bytes, Count};

/// How often `build` cleans up, how long that may take, and what goes.
const OFTEN: Duration = Duration::from_secs(24 * 60 * 60);
pub(in crate::commands) const WITHIN: Duration = Duration::from_secs(2);
/// Entries of a component that are removed from a remote at once.
const MOST_REMOTE: usize = 10_000;
pub(in crate::commands) const CACHE_GRACE: Duration = Duration::from_secs(60 * 60);
pub(in crate::commands) const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Commands<'_> {
    pub(super) fn cache_verify(&self, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let checked = verify(&keeping.cache, context)?;
        self.tell_checked(&checked, "cache")
    }

    pub(in crate::commands) fn tell_checked(&self, checked: &Checked, word: &str) -> Result<()> {
        self.report.section("checked", json!(checked.checked));
        self.report.section("bytes", json!(checked.bytes));
        let names: Vec<_> = checked.damaged.iter().map(|(name, _)| name.to_string()).collect();
        self.report.section("damaged", json!(names));
        for (name, error) in &checked.damaged {
            self.report.warning(format_args!("{}: {}", name.short(), error.chain()));
        }
        if !checked.damaged.is_empty() {
            return Err(Error::damaged(format_args!(
                "{} damaged of {}, and moved away",
                checked.damaged.len(),
                Count(checked.checked, "entry")
            ))
            .hint(format!("build and store them again; `monofo gc {word}` removes quarantine after 7 days")));
        }
        self.report.note(format_args!(
            "{} checked, {}: all right",
            Count(checked.checked, "entry"),
            Bytes(checked.bytes)
        ));
        Ok(())
    }

    pub(super) fn cache_invalidate(&self, asked: &CacheInvalidate) -> Result<()> {
        let keeping = self.keeping()?;
        let component = asked.component.as_deref().map(ComponentName::new).transpose()?;
        let key = asked.key.as_deref().map(|text| keeping.key_of_user(text)).transpose()?;
        let remote = match asked.remote.as_deref().map(|url| keeping.remote(Some(url), self.cancel)).transpose()? {
            Some((_, Some(failure))) => return Err(failure.error),
            Some((remote, None)) => remote,
            None => None,
        };
        let found = survey(&keeping.cache)?;
        let (mut removed, mut bytes) = (Vec::new(), 0);
        let mut names: Vec<(Hash, u64)> = found
            .entries
            .iter()
            .filter(|entry| component.as_ref().is_none_or(|name| entry.record.inputs.component() == name))
            .map(|entry| (entry.name, entry.disk))
            .collect();
        if component.is_none() {
            // What nobody can read is nobody's either.
            names.extend(found.damaged.iter().map(|name| (*name, 0)));
        }
        names.retain(|(name, _)| key.is_none_or(|key| key == *name));
        let mut shelves = BTreeSet::from([native_platform(), "any".to_owned()]);
        let of_component = |entry: &&Entry| Some(entry.record.inputs.component()) == component.as_ref();
        shelves.extend(found.entries.iter().filter(of_component).map(|entry| entry.record.inputs.shelf()));
        for (name, disk) in names {
            self.cancel.check()?;
            let gone = asked.dry_run
                || match remove(&keeping.cache, &name, Readers::LetFinish, || Ok(true), self.cancel)? {
                    Removal::Removed => true,
                    // Whoever writes it right now makes a new entry.
                    Removal::InUse | Removal::Kept | Removal::Gone => false,
                };
            if gone {
                bytes += disk;
                removed.push(name);
            }
        }
        if asked.all && !asked.dry_run {
            for (path, _) in facts::all(&keeping.cache)? {
                // Losable, and perhaps gone already.
                let _ = std::fs::remove_file(path);
            }
        }
        let mut there = 0u64;
        if let Some(remote) = remote.as_ref().filter(|_| !asked.dry_run) {
            let mut names: BTreeSet<Hash> = removed.iter().chain(key.iter()).copied().collect();
            if let Some(component) = &component {
                // What other machines stored there, too.
                for shelf in &shelves {
                    let newest = remote.newest(component.as_str(), shelf, MOST_REMOTE);
                    names.extend(newest.map_err(|failure| failure.error)?.into_iter().map(|(_, key)| key));
                }
            }
            for name in &names {
                self.cancel.check()?;
                there += u64::from(remote.remove(Section::Cache, name).map_err(|failure| failure.error)?);
            }
            if asked.all {
                self.report
                    .note("in the remote only what this machine has too was removed: name a --component for all of it");
            }
        } else if !removed.is_empty() {
            self.report.detail("copies in a remote stay: name it with --remote to remove them there");
        }
        let all: Vec<_> = removed.iter().map(Hash::to_string).collect();
        self.report.section("dry_run", json!(asked.dry_run));
        self.report.section("removed", json!(all));
        self.report.section("bytes", json!(bytes));
        self.report.section("removed_in_remote", json!(there));
        if let Some(key) = key.filter(|key| !removed.contains(key) && there == 0) {
            return Err(Error::new(Class::NotThere, format_args!("there is no entry {}", key.short()))
                .hint("see `monofo cache list`"));
        }
        let verb = if asked.dry_run { "would remove" } else { "removed" };
        let remotely = match &remote {
            Some(remote) if !asked.dry_run => format!("; {} in {}", Count(there, "entry"), remote.place()),
            _ => String::new(),
        };
        self.report.note(format_args!("{verb} {}, {}{remotely}", Count(removed.len() as u64, "entry"), Bytes(bytes)));
        Ok(())
    }

    /// Cleans up the cache once a day, in little time. Trouble with it is no trouble of the command.
    pub(in crate::commands) fn clean_up_cache(&self, keeping: &Keeping) {
        let mark = keeping.cache.root().join("counters").join("cleaned");
        let age = std::fs::metadata(&mark)
            .and_then(|status| status.modified())
            .map(|time| time.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age < OFTEN) {
            return;
        }
        let _ = mark.parent().map(std::fs::create_dir_all);
        // Whatever lies there, nothing else is written to.
        if plain::options().write(true).create(true).truncate(true).open(&mark).is_err() {
            return;
        }
        let request = GcRequest {
            grace: CACHE_GRACE,
            max_age: Some(MAX_AGE),
            max_size: None,
            dry_run: false,
            within: Some(WITHIN),
            now: SystemTime::now(),
        };
        match collect(&keeping.cache, &request, &|_| Ok(References::new()), self.cancel) {
            Ok(done) if !done.gone.is_empty() => self.report.note(format_args!(
                "cleaned up the cache: {} not used for 30 days, {} freed",
                Count(done.gone.len() as u64, "entry"),
                Bytes(done.freed)
            )),
            Ok(_) => {}
            Err(error) => self.report.detail(format_args!("the cache was not cleaned up: {}", error.chain())),
        }
    }
}
