//! `monofo cache get` and `monofo cache explain`.

use serde_json::{Value, json};

use crate::cli::entries::{CacheExplain, CacheGet};
use crate::commands::Commands;
use crate::context::Context;
use crate::engine::apply::check_target;
use crate::engine::entries::explain::{self, Explanation};
use crate::engine::entries::kin::{self, Kin, Told};
use crate::engine::entries::lookup::{Found, Looked, into_target, look_up};
use crate::engine::entries::restore::Restore;
use crate::engine::entries::target::Target;
use crate::engine::keys::Computed;
use crate::entry::{HomeKind, Record};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::ComponentName;
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
        let (remote, unusable) = self.remote(&keeping, &asked.remote)?;
        let (key, computed) = match asked.this_key.as_deref() {
            Some(text) => (keeping.key_of_user(text)?, None),
            None => {
                let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
                self.warn(&computed.warnings);
                (computed.key, Some(computed))
            }
        };
        let path = keeping.artifact(&name, asked.target.as_deref(), "--target")?;
        let target = Target::new(&path, &keeping.guards_with(asked.remote.remote.as_deref()))?;
        check_target(&keeping.workspace, &path)?;
        self.report.section("key", json!(key.to_string()));
        let place = into_target(&target, &keeping.cache, context);
        let restore: Box<Restore<'_>> = Box::new(|payload, record, whole| {
            // A key that a user names may be anything's.
            let other = record.inputs.component();
            if *other != name {
                return Err(Error::usage(format_args!("key {} is one of `{other}`, not of `{name}`", key.short()))
                    .hint(format_args!("name {other}, or leave out --key")));
            }
            place(payload, record, whole)
        });
        let mut looked = look_up(&keeping.cache, remote.as_ref(), &keeping.scopes, &key, &restore, context)?;
        // The remote has it, and did its part: what is missing is room here.
        let unkept = looked.unkept.take_if(|_| looked.found.is_none() && asked.remote.remote_required);
        self.tell_looked(&looked);
        let scope_failed = looked.failure.is_some();
        let failure = looked.failure.or(unusable);
        self.report.section("damaged", json!(looked.damaged.is_some()));
        self.report.section("unreadable", json!(looked.unreadable.is_some()));
        self.report.section("other_scope", json!(looked.other_scope));
        self.report.section("remote", super::trouble(failure.as_ref()));
        if let Some(Found { record, tier, warnings }) = looked.found {
            if let Some(failure) = failure.filter(|_| scope_failed) {
                self.remote_failed(failure, HomeKind::Cache, false)?;
            }
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
        if let Some(error) = unkept {
            return Err(error);
        }
        let why = match &computed {
            Some(computed) if !looked.other_scope && looked.unkept.is_none() => {
                self.why(&keeping.cache, computed, remote.as_ref())?
            }
            _ => None,
        };
        self.report.section("reason", why.as_ref().map_or(Value::Null, Explanation::document));
        let reason = match (&why, &computed) {
            (Some(why), _) => why.first_line(),
            (None, _) if looked.other_scope => "the entry of this key is none that this run reads".to_owned(),
            (None, _) if looked.unkept.is_some() => "the remote has this key, and it could not be kept here".to_owned(),
            (None, _) if looked.unreadable.is_some() => "the entry of this key cannot be read".to_owned(),
            (None, _) if looked.damaged.is_some() => "the entry of this key was damaged".to_owned(),
            (None, Some(_)) => "nothing to compare with: no entry of this component".to_owned(),
            (None, None) if remote.is_some() => "no entry has this key, here or in the remote".to_owned(),
            (None, None) => "no entry here has this key".to_owned(),
        };
        Ok(Err(miss(&name, &key, &reason, computed.is_some())))
    }

    /// What is to be said of a lookup, whatever came of it.
    pub(in crate::commands) fn tell_looked(&self, looked: &Looked) {
        if looked.other_scope {
            self.report.note(OTHER_SCOPE);
        }
        if let Some(error) = &looked.damaged {
            self.report.warning(format_args!("{}; this counts as a miss", error.chain()));
        }
        if let Some(error) = &looked.unreadable {
            self.report.warning(format_args!("{}; this counts as a miss", error.chain()));
            if let Some(hint) = error.next_step() {
                self.report.detail(format_args!("hint: {hint}"));
            }
        }
        if let Some(error) = &looked.unkept {
            self.report.softened(error);
        }
    }

    pub(super) fn cache_explain(&self, asked: &CacheExplain, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let name = keeping.component(&asked.key.component)?;
        // What files or a manifest say is a component's; all else is of a job that this is not.
        let is_component = !asked.key.input.is_empty() || keeping.is_of_manifest(&name);
        let of_block = if is_component { Vec::new() } else { kin::of_block(&keeping.cache, &name)? };
        let (remote, unusable) = self.remote(&keeping, &asked.remote)?;
        if !of_block.is_empty() {
            return self.explain_block(&name, of_block, (remote.as_ref(), unusable), asked.remote.remote_required);
        }
        let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
        self.warn(&computed.warnings);
        context.cancel.check()?;
        let opened = crate::entry::open(&keeping.cache, &computed.key).unwrap_or_else(|error| {
            self.report.warning(format_args!("{}; this counts as a miss", error.chain()));
            None
        });
        let short = computed.key.short();
        let accepted = opened.map(|opened| keeping.scopes.accepts(&opened.record.scope));
        self.report.section("key", json!(computed.key.to_string()));
        self.report.section("hit", json!(accepted == Some(true)));
        self.report.section("other_scope", json!(accepted == Some(false)));
        match accepted {
            Some(true) => {
                return self.report.answer(format_args!("{name} {short}: an entry with exactly this key is here"));
            }
            Some(false) => return self.report.answer(format_args!("{name} {short}: {OTHER_SCOPE}")),
            None => {}
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
                "{name} {}: {}, so there is nothing to compare with",
                computed.key.short(),
                match remote {
                    Some(_) => "no entry of this component was found, here or in the remote",
                    None => "nothing of this component was ever stored here",
                }
            )),
        }
    }

    /// Entries of the `cache:` block: only a job knows what key it looks for. The document has the fields of every other.
    fn explain_block(
        &self,
        name: &ComponentName,
        mut found: Vec<Kin>,
        (remote, unusable): (Option<&Remote>, Option<Failure>),
        required: bool,
    ) -> Result<()> {
        // Those of other machines, as far as they are kin of the newest here.
        let asked = match (remote, found.first().map(|newest| newest.inputs.clone())) {
            (Some(remote), Some(newest)) => kin::add_remote(remote, &newest, &mut found),
            _ => Ok(()),
        };
        let failure = asked.err().or(unusable);
        let lines = kin::told(&found);
        for (field, value) in [("key", Value::Null), ("hit", json!(false)), ("other_scope", json!(false))] {
            self.report.section(field, value);
        }
        self.report.section("reason", Value::Null);
        self.report.section("remote", super::trouble(failure.as_ref()));
        let document = |one: &Told| json!({ "key": one.key.to_string(), "text": one.text, "created_at": one.made, "change": one.change });
        self.report.section("block", lines.iter().map(document).collect());
        if let Some(failure) = failure {
            self.remote_failed(failure, HomeKind::Cache, required)?;
        }
        self.report.answer(format_args!(
            "{name}: {} of the `cache:` block; a job computes its key, and its log says what changed since the newest:",
            Count(lines.len() as u64, "entry")
        ))?;
        lines.iter().take(MOST_LINES).try_for_each(|line| self.report.answer(format_args!("  {line}")))
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

/// Entries of the `cache:` block that are told of.
const MOST_LINES: usize = 20;

/// What is said of an entry whose scope is not read.
const OTHER_SCOPE: &str = "an entry of another scope is here, and is not used: MONOFO_READ_SCOPES says which are";

fn miss(name: &ComponentName, key: &Hash, reason: &str, computed: bool) -> Error {
    Error::new(Class::NotThere, format_args!("miss: {name} {}: {reason}", key.short())).hint(if computed {
        "build it, then store it with `monofo cache build`; `monofo cache explain` says more: give both the same arguments"
    } else {
        "see `monofo cache list`; without --key, the key is that of the sources as they are"
    })
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
