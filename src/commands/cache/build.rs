//! `monofo cache build` and `monofo cache key`.

use serde_json::json;

use crate::cli::entries::{CacheBuild, CacheKey};
use crate::commands::Commands;
use crate::context::Context;
use crate::engine::entries::cache::{Built, build};
use crate::engine::entries::pack::Artifact;
use crate::engine::entries::share::{Shared, share};
use crate::entry::{HomeKind, Record};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::ComponentName;
use crate::remote::Remote;
use crate::text::{Bytes, Count};

impl Commands<'_> {
    pub(super) fn cache_key(&self, asked: &CacheKey) -> Result<()> {
        let keeping = self.keeping()?;
        let name = keeping.component(&asked.key.component)?;
        let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
        self.warn(&computed.warnings);
        self.report.section("key", json!(computed.key.to_string()));
        self.report.section("record", computed.record.value());
        self.report.detail(format_args!("the record: {}", computed.record.value()));
        self.report.answer(computed.key)
    }

    pub(super) fn cache_build(&self, asked: &CacheBuild, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let name = keeping.component(&asked.key.component)?;
        let (remote, unusable) = self.remote(&keeping, &asked.remote)?;
        let expected = asked.expect_key.as_deref().map(|key| Hash::read("--expect-key", key)).transpose()?;
        let source = keeping.artifact(&name, asked.source.as_deref(), "--source");
        let not_in = keeping.not_in_artifacts_with(asked.remote.remote.as_deref());
        if let Ok(source) = &source {
            Artifact::contains_none(source, &not_in)?;
        }
        // Before the key, so that what was hashed for it is remembered.
        keeping.cache.create()?;
        let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
        self.warn(&computed.warnings);
        if let Some(expected) = expected.filter(|expected| *expected != computed.key) {
            return Err(Error::new(
                Class::Changed,
                format_args!("the key of `{name}` is {} now and not {}", computed.key.short(), expected.short()),
            )
            .hint("the inputs changed while it was built: build it again; nothing was stored"));
        }
        let artifact = Artifact::look(&source?, &not_in, self.cancel)?;
        let again = || Ok(keeping.key(&name, &asked.key.input, self.cancel)?.key);
        let Built { record, same, kept, warnings } =
            build(&keeping.cache, &computed, artifact, keeping.encoding, &keeping.scopes, &again, context)?;
        self.warn(&warnings);
        self.report.note(line(
            &record,
            if kept {
                "kept"
            } else if same {
                "already cached:"
            } else {
                "cached"
            },
        ));
        self.report.section("key", json!(record.key.to_string()));
        self.report.section("already_cached", json!(same));
        self.report.section("kept_other", json!(kept));
        self.report.section("entry", record.value(HomeKind::Cache));
        let mut shared = unusable;
        if let Some(remote) = &remote {
            match share(remote, &keeping.cache, &record, computed.sources(), context)? {
                Ok(done) => self.tell_shared(&done, &name, &record.key, remote),
                Err(failure) => shared = Some(failure),
            }
        }
        self.report.section("remote", super::trouble(shared.as_ref()));
        if keeping.cleans_up() {
            self.clean_up_cache(&keeping);
        }
        shared.map_or(Ok(()), |failure| self.remote_failed(failure, HomeKind::Cache, asked.remote.remote_required))
    }

    pub(in crate::commands) fn tell_shared(&self, done: &Shared, name: &ComponentName, hash: &Hash, remote: &Remote) {
        let place = remote.place();
        let word = match done {
            Shared::Created => {
                self.report.note(format_args!("shared {name} {} in {place}", hash.short()));
                "created"
            }
            Shared::Already => {
                self.report.note(format_args!("{name} {} is in {place} already", hash.short()));
                "already-there"
            }
            Shared::NotWritten => {
                self.report.note(format_args!("not shared: MONOFO_SCOPE says that this run writes nothing to {place}"));
                "not-written"
            }
            Shared::Gone(warning) => {
                self.report.warning(warning);
                "gone"
            }
            Shared::Other(warning) => {
                self.report.warning(warning);
                "other-output"
            }
        };
        self.report.section("shared", json!(word));
    }

    pub(in crate::commands) fn warn(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| self.report.warning(warning));
    }
}

/// `cached a 1d6a7fabe5cb  12 files  34.6 kB to 9.9 kB  (linux-x86_64)`.
fn line(record: &Record, word: &str) -> String {
    let payload = record.payload.map_or(0, |payload| payload.bytes);
    format!(
        "{word} {} {}  {}  {} to {}  ({})",
        record.inputs.component(),
        record.key.short(),
        Count(record.output.files + record.output.links, "file"),
        Bytes(record.output.bytes),
        Bytes(payload),
        record.inputs.platform()
    )
}
