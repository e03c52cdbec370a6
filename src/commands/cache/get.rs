//! `monofo cache get` and `monofo cache explain`.

use serde_json::{Value, json};

use crate::cli::entries::{CacheExplain, CacheGet};
use crate::commands::Commands;
use crate::context::Context;
use crate::engine::entries::cache::{Got, get};
use crate::engine::entries::explain::{self, Explanation};
use crate::engine::entries::share::{Fetched, fetch};
use crate::engine::entries::target::Target;
use crate::engine::keys::Computed;
use crate::entry::usage::{Event, count};
use crate::entry::{Existing, HomeKind, Record, peek};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::remote::{Failure, Remote, Trouble};
use crate::text::{Bytes, Count, Shown};

impl Commands<'_> {
    /// A miss is an answer, and no error: its status says so, and the log shows no alarm.
    pub(super) fn cache_get(&self, asked: &CacheGet) -> u8 {
        self.report.schema("meta.cache-get/1");
        let mut looked = Ok(Ok(()));
        let status = self.status(self.watched(|context| {
            looked = self.look_for(asked, context);
            Ok(())
        }));
        let status = match looked {
            Ok(Ok(())) => status,
            Ok(Err(miss)) => {
                self.report.absent(&miss);
                miss.class().exit_status()
            }
            Err(error) => self.status(Err(error)),
        };
        self.report.finish(status)
    }

    /// The inner error is a miss.
    fn look_for(&self, asked: &CacheGet, context: &Context) -> Result<Result<()>> {
        let keeping = self.keeping()?;
        let name = keeping.component(&asked.key.component)?;
        let (remote, unusable) = keeping.remote(asked.remote.remote.as_deref(), self.cancel)?;
        let (key, computed) = match asked.this_key.as_deref() {
            Some(text) => (keeping.key_of_user(text)?, None),
            None => {
                let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
                self.warn(&computed.warnings);
                (computed.key, Some(computed))
            }
        };
        let path = keeping.artifact(&name, asked.target.as_deref(), "--target")?;
        let target = Target::new(&path, &keeping.guards())?;
        self.report.section("key", json!(key.to_string()));
        if asked.this_key.is_some()
            && let Some(record) = peek(&keeping.cache, &key)?.and_then(|peeked| peeked.record)
            && *record.inputs.component() != name
        {
            let other = record.inputs.component();
            return Err(Error::usage(format_args!("key {} is one of `{other}`, not of `{name}`", key.short()))
                .hint(format_args!("name {other}, or leave out --key")));
        }
        let look = || get(&keeping.cache, &key, &keeping.scopes, &target, context);
        let mut outcome = look()?;
        // What another scope stored here is not trusted, and gives way to what comes from ours.
        let existing = if matches!(outcome, Got::OtherScope) { Existing::Replace } else { Existing::Keep };
        if matches!(outcome, Got::OtherScope) {
            self.report.detail("an entry of another scope is here, and is not used");
            outcome = Got::Miss;
        }
        let mut damaged = false;
        if let Got::Damaged(error) = &outcome {
            damaged = true;
            self.report.warning(format_args!("{}; it was moved to quarantine and counts as a miss", error.chain()));
        }
        let mut failure = unusable;
        let mut source = "local";
        if let (Some(remote), Got::Miss | Got::Damaged(_)) = (&remote, &outcome) {
            let fetched = match fetch(remote, &keeping.cache, &key, existing, context) {
                // A cache that is full or read-only is no reason to fail: nothing was restored, and that is said.
                Err(error) if error.class() == Class::Failed => {
                    self.report.softened(&error.context("the remote's entry could not be kept here"));
                    Fetched::Absent
                }
                other => other?,
            };
            match fetched {
                Fetched::Here => {
                    source = "remote";
                    outcome = look()?;
                    // What came whole and adds up to no artifact is the remote's fault.
                    if let Got::Damaged(error) = outcome {
                        count(&keeping.cache, Event::Remote(Trouble::Damaged.name()), 0);
                        let hint = "remove it there with `monofo cache invalidate --key KEY --remote URL`";
                        let error = error.with_class(Class::Unavailable).with_hint(hint);
                        failure = Some(Failure { trouble: Trouble::Damaged, error });
                        outcome = Got::Miss;
                    }
                }
                Fetched::Absent => {}
                Fetched::Failed(failed) => failure = Some(failed),
            }
        }
        self.report.section("damaged", json!(damaged));
        self.report.section("remote", super::trouble(failure.as_ref()));
        if let Got::Hit { record, warnings } = outcome {
            let event = if source == "local" { Event::Hit } else { Event::RemoteHit };
            count(&keeping.cache, event, record.output.bytes);
            self.warn(&warnings);
            self.report.note(line(&record, source, &path));
            self.report.section("result", json!("hit"));
            self.report.section("source", json!(source));
            self.report.section("entry", record.value(HomeKind::Cache));
            return Ok(Ok(()));
        }
        if keeping.cache.exists()? {
            count(&keeping.cache, Event::Miss, 0);
        }
        self.report.section("result", json!("miss"));
        if let Some(failure) = failure {
            self.remote_failed(failure, HomeKind::Cache, asked.remote.remote_required)?;
        }
        let why = match &computed {
            Some(computed) => self.why(&keeping.cache, computed, remote.as_ref())?,
            None => None,
        };
        self.report.section("reason", why.as_ref().map_or(Value::Null, Explanation::document));
        Ok(Err(miss(&name, &key, why.as_ref())))
    }

    pub(super) fn cache_explain(&self, asked: &CacheExplain, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let name = keeping.component(&asked.key.component)?;
        let (remote, unusable) = keeping.remote(asked.remote.remote.as_deref(), self.cancel)?;
        let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
        self.warn(&computed.warnings);
        context.cancel.check()?;
        let here = crate::entry::open(&keeping.cache, &computed.key).is_ok_and(|opened| opened.is_some());
        self.report.section("key", json!(computed.key.to_string()));
        self.report.section("hit", json!(here));
        if here {
            return self
                .report
                .answer(format_args!("{name} {}: an entry with exactly this key is here", computed.key.short()));
        }
        let (found, failure) = explain::explain(&keeping.cache, &computed, remote.as_ref())?;
        let failure = if found.is_none() { failure.or(unusable) } else { failure };
        self.report.section("reason", found.as_ref().map_or(Value::Null, Explanation::document));
        self.report.section("remote", super::trouble(failure.as_ref()));
        if let Some(failure) = failure {
            self.remote_failed(failure, HomeKind::Cache, asked.remote.remote_required)?;
        }
        match found {
            Some(found) => found.lines().into_iter().try_for_each(|line| self.report.answer(line)),
            None => self.report.answer(format_args!(
                "{name} {}: nothing of this component was ever stored here, so there is nothing to compare with",
                computed.key.short()
            )),
        }
    }

    /// Why there was no entry. That the remote does not help here either is no news.
    fn why(
        &self,
        cache: &crate::entry::Home,
        computed: &Computed,
        remote: Option<&Remote>,
    ) -> Result<Option<Explanation>> {
        let (found, failure): (_, Option<Failure>) = explain::explain(cache, computed, remote)?;
        if let Some(failure) = failure {
            self.report.detail(format_args!("no explanation from the remote: {}", failure.error.chain()));
        }
        Ok(found)
    }
}

fn miss(name: &crate::key::ComponentName, key: &Hash, why: Option<&Explanation>) -> Error {
    let reason =
        why.map_or_else(|| "nothing to compare with: no entry of this component".to_owned(), Explanation::first_line);
    Error::new(Class::NotThere, format_args!("miss: {name} {}: {reason}", key.short())).hint(format_args!(
        "build it, then store it with `monofo cache build`; `monofo cache explain` says more: give both the same arguments"
    ))
}

/// `hit a 1d6a7fabe5cb  12 files  34.6 kB  from local to out`.
fn line(record: &Record, source: &str, path: &std::path::Path) -> String {
    format!(
        "hit {} {}  {}  {}  from {source} to {}",
        record.inputs.component(),
        record.key.short(),
        Count(record.output.files + record.output.links, "file"),
        Bytes(record.output.bytes),
        Shown::path(path)
    )
}
