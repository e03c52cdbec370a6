//! `monofo cache get` and `monofo cache explain`.

use serde_json::{Value, json};

use crate::cli::entries::{CacheExplain, CacheGet};
use crate::commands::Commands;
use crate::context::Context;
use crate::engine::entries::explain::{self, Explanation};
use crate::engine::entries::lookup::{Found, Looked, into_target, look_up};
use crate::engine::entries::target::Target;
use crate::engine::keys::Computed;
use crate::entry::{HomeKind, Record, peek};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::remote::{Failure, Remote};
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
        let restore = into_target(&target, &keeping.cache, context);
        let looked = look_up(&keeping.cache, remote.as_ref(), &keeping.scopes, &key, &restore, context)?;
        self.tell_looked(&looked);
        let failure = looked.failure.or(unusable);
        self.report.section("damaged", json!(looked.damaged.is_some()));
        self.report.section("remote", super::trouble(failure.as_ref()));
        if let Some(Found { record, tier, warnings }) = looked.found {
            self.warn(&warnings);
            self.report.note(line(&record, tier.word(), &path));
            self.report.section("result", json!("hit"));
            self.report.section("source", json!(tier.word()));
            self.report.section("entry", record.value(HomeKind::Cache));
            return Ok(Ok(()));
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

    /// What is to be said of a lookup, whatever came of it.
    pub(in crate::commands) fn tell_looked(&self, looked: &Looked) {
        if looked.other_scope {
            self.report.detail("an entry of another scope is here, and is not used");
        }
        if let Some(error) = &looked.damaged {
            self.report.warning(format_args!("{}; it was moved to quarantine and counts as a miss", error.chain()));
        }
        if let Some(error) = &looked.unkept {
            self.report.softened(error);
        }
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
