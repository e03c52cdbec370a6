//! `monofo cache verify` and `monofo cache invalidate`, and the cleaning up that `build` does now and then.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::cancel::Cancel;
use crate::cli::entries::CacheInvalidate;
use crate::commands::Commands;
use crate::config::entries::Keeping;
use crate::context::Context;
use crate::engine::entries::gc::{Collected, GcRequest, References, collect};
use crate::engine::entries::share::usable;
use crate::engine::entries::survey::survey;
use crate::engine::entries::verify::{Checked, verify};
use crate::entry::{HomeKind, Readers, Removal, facts, plain, remove};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::ComponentName;
use crate::remote::{Failure, Remote, Section, Trouble};
use crate::report::Report;
use crate::text::{Bytes, Count};

/// How often `build` cleans up, how long that may take, and what goes.
const OFTEN: Duration = Duration::from_secs(24 * 60 * 60);
pub(in crate::commands) const WITHIN: Duration = Duration::from_secs(2);
/// How far the clock of a file server may be ahead.
const SKEW: Duration = Duration::from_secs(60);
/// Entries of a component that are removed from a remote at once.
const MOST_REMOTE: usize = 100_000;
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
        let unread: Vec<_> = checked.unreadable.iter().map(|(name, _)| name.to_string()).collect();
        self.report.section("not_checked", json!(unread));
        for (name, error) in checked.damaged.iter().chain(&checked.unreadable) {
            self.report.warning(format_args!("{}: {}", name.short(), error.chain()));
        }
        let (damaged, entries) = (checked.damaged.len() as u64, Count(checked.checked, "entry"));
        let not_checked = match unread.len() {
            0 => String::new(),
            many => format!("; {many} could not be read, and not checked"),
        };
        if damaged > 0 {
            let moved = match checked.moved {
                all if all == damaged => "and moved away".to_owned(),
                some => format!("of which {some} could be moved away"),
            };
            return Err(Error::damaged(format_args!("{damaged} damaged of {entries}, {moved}{not_checked}"))
                .hint(format!("build and store them again; `monofo gc {word}` removes quarantine after 7 days")));
        }
        if let Some((_, first)) = checked.unreadable.first() {
            let error = Error::failed(format_args!("{} of {entries} could not be read, and not checked", unread.len()));
            return Err(match first.next_step() {
                Some(hint) => error.hint(hint),
                None => error.hint("see what is said of each"),
            });
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
        let mut gone = self.remove_here(&keeping, asked, component.as_ref(), key)?;
        if let Some(remote) = remote.as_ref().filter(|_| gone.failed.is_none()) {
            let names = gone.removed.iter().chain(key.iter()).copied().collect();
            self.remove_there(remote, names, component.as_ref(), asked.dry_run, &mut gone);
            if asked.all {
                self.report.note("in the remote only what this machine has too goes: name a --component for all of it");
            }
        } else if !gone.removed.is_empty() {
            self.report.detail("copies in a remote stay: name it with --remote to remove them there");
        }
        let Gone { removed, bytes, there, failed } = gone;
        let all: Vec<_> = removed.iter().map(Hash::to_string).collect();
        self.report.section("dry_run", json!(asked.dry_run));
        self.report.section("removed", json!(all));
        self.report.section("bytes", json!(bytes));
        self.report.section("removed_in_remote", json!(there));
        if let Some(key) = key.filter(|key| !removed.contains(key) && there == 0 && failed.is_none()) {
            return Err(Error::new(Class::NotThere, format_args!("there is no entry {}", key.short()))
                .hint("see `monofo cache list`"));
        }
        let verb = if asked.dry_run { "would remove" } else { "removed" };
        let remotely = match &remote {
            Some(remote) => format!("; {} in {}", Count(there, "entry"), remote.place()),
            None => String::new(),
        };
        self.report.note(format_args!("{verb} {}, {}{remotely}", Count(removed.len() as u64, "entry"), Bytes(bytes)));
        failed.map_or(Ok(()), Err)
    }

    /// Removes entries of this machine.
    fn remove_here(
        &self,
        keeping: &Keeping,
        asked: &CacheInvalidate,
        component: Option<&ComponentName>,
        key: Option<Hash>,
    ) -> Result<Gone> {
        let found = survey(&keeping.cache)?;
        let mut gone = Gone::default();
        let mut names: Vec<(Hash, u64)> = found
            .entries
            .iter()
            .filter(|entry| component.is_none_or(|name| entry.record.inputs.component() == name))
            .map(|entry| (entry.name, entry.disk))
            .collect();
        if component.is_none() {
            // What nobody can read is nobody's either.
            names.extend(found.damaged.iter().map(|name| (*name, 0)));
        }
        names.retain(|(name, _)| key.is_none_or(|key| key == *name));
        for (name, disk) in names {
            let removed = self.cancel.check().and_then(|()| {
                if asked.dry_run {
                    return Ok(true);
                }
                match remove(&keeping.cache, &name, Readers::LetFinish, || Ok(true), self.cancel)? {
                    Removal::Removed => Ok(true),
                    Removal::Left(error) => {
                        self.report.warning(format_args!("something of an entry stays: {}", error.chain()));
                        Ok(true)
                    }
                    // Whoever writes it right now makes a new entry.
                    Removal::InUse | Removal::Kept | Removal::Gone => Ok(false),
                }
            });
            match removed {
                Ok(true) => {
                    gone.bytes += disk;
                    gone.removed.push(name);
                }
                Ok(false) => {}
                Err(error) if matches!(error.class(), Class::Interrupted { .. }) => {
                    gone.failed = Some(error);
                    return Ok(gone);
                }
                // It keeps no other back.
                Err(error) => drop(gone.failed.get_or_insert(error)),
            }
        }
        if asked.all && !asked.dry_run && gone.failed.is_none() {
            for (path, _) in facts::all(&keeping.cache)? {
                // Losable, and perhaps gone already.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(gone)
    }

    /// Removes entries of these names from a remote, and what else its index says of a component. What fails is told with
    /// what was done before it.
    fn remove_there(
        &self,
        remote: &Remote,
        mut names: BTreeSet<Hash>,
        component: Option<&ComponentName>,
        dry_run: bool,
        gone: &mut Gone,
    ) {
        let mut indexed = BTreeSet::new();
        if let Some(component) = component {
            // What other machines stored there, too.
            match remote.of_component(component, MOST_REMOTE) {
                Ok(found) => indexed = found,
                Err(failure) => gone.failed = Some(failure.error),
            }
            names.extend(&indexed);
        }
        for name in &names {
            let removed = self.cancel.check().map_err(Failure::from).and_then(|()| {
                // A marker is only a hint, and may name another component's entry.
                if let Some(component) = component.filter(|_| indexed.contains(name) && !gone.removed.contains(name))
                    && !is_of(remote, name, component)?
                {
                    return Ok(false);
                }
                if dry_run { remote.would_remove(Section::Cache, name) } else { remote.remove(Section::Cache, name) }
            });
            match removed {
                Ok(removed) => gone.there += u64::from(removed),
                Err(failure) => {
                    let goes_on = failure.trouble != Trouble::Local && !remote.is_given_up();
                    gone.failed.get_or_insert(failure.error);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
    }
}

/// What `cache invalidate` did, or would do.
#[derive(Default)]
struct Gone {
    removed: Vec<Hash>,
    bytes: u64,
    there: u64,
    /// The first that failed.
    failed: Option<Error>,
}

/// Whether an entry of the own scope is a component's, as its record says. One that cannot be read is nobody else's.
fn is_of(remote: &Remote, name: &Hash, component: &ComponentName) -> Result<bool, Failure> {
    let Some(scope) = &remote.scopes().write else { return Ok(false) };
    match usable(remote, HomeKind::Cache, name, scope, Instant::now()) {
        Ok(record) => Ok(record.is_some_and(|record| record.inputs.component() == component)),
        Err(failure) if failure.trouble == Trouble::Refused => Ok(true),
        Err(failure) => Err(failure),
    }
}

impl Commands<'_> {
    /// Cleans up the cache now and then.
    pub(in crate::commands) fn clean_up_cache(&self, keeping: &Keeping) {
        clean_up_cache(keeping, self.cancel, self.report);
    }
}

/// Whether the cache is to be cleaned up, which is so once a day. Whoever asks cleans it.
pub(in crate::commands) fn is_cleaning_due(keeping: &Keeping) -> bool {
    // Where no cache is there is nothing to clean, and nothing is made.
    if !keeping.cache.exists().unwrap_or(false) {
        return false;
    }
    let mark = keeping.cache.root().join("counters").join("cleaned");
    let age = std::fs::metadata(&mark)
        .and_then(|status| status.modified())
        // A clock that was ahead left it: that must not keep anything from being cleaned up until then.
        .map(|time| {
            time.elapsed().or_else(|ahead| if ahead.duration() < SKEW { Ok(Duration::ZERO) } else { Err(ahead) })
        });
    if matches!(age, Ok(Ok(age)) if age < OFTEN) {
        return false;
    }
    let _ = mark.parent().map(std::fs::create_dir_all);
    // Whatever lies there, nothing else is written to.
    plain::options().write(true).create(true).truncate(true).open(&mark).is_ok()
}

/// Cleans up the cache once a day, in little time. Trouble with it is no trouble of the command.
fn clean_up_cache(keeping: &Keeping, cancel: &Cancel, report: &Report) {
    if !is_cleaning_due(keeping) {
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
    match collect(&keeping.cache, &request, &|_| Ok(References::new()), cancel) {
        Ok(done) => {
            if !done.gone.is_empty() {
                report.note(format_args!(
                    "cleaned up the cache: {} not used for 30 days, {} freed",
                    Count(done.gone.len() as u64, "entry"),
                    Bytes(done.freed)
                ));
            }
            tell_not_cleaned(report, done);
        }
        Err(error) => report.detail(format_args!("the cache was not cleaned up: {}", error.chain())),
    }
}

/// Tells what automatic cleaning could not do, to who asks for details.
pub(in crate::commands) fn tell_not_cleaned(report: &Report, done: Collected) {
    for why in done.warnings.into_iter().chain(done.trouble.map(|error| error.chain())) {
        report.detail(format_args!("the cache was not cleaned up wholly: {why}"));
    }
}
