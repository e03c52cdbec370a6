//! `monofo store add`, `query` and `get`.

use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use super::address;
use crate::cli::entries::{LinkKind, StoreAdd, StoreGet, StoreQuery};
use crate::commands::Commands;
use crate::commands::cache::trouble;
use crate::context::Context;
use crate::engine::apply::check_target;
use crate::engine::entries::fetch::{Fetched, fetch};
use crate::engine::entries::pack::Artifact;
use crate::engine::entries::share::{read_record, section, share};
use crate::engine::entries::store::{Added, Found, add, get};
use crate::engine::entries::target::Target;
use crate::engine::entries::tree::Link;
use crate::entry::{HomeKind, Record, StatCache, open};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::text::{Bytes, Count, Shown};

impl Commands<'_> {
    pub(super) fn store_add(&self, asked: &StoreAdd, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let name = keeping.component(&asked.key.component)?;
        let (remote, unusable) = self.remote(&keeping, &asked.remote)?;
        let computed = keeping.key(&name, &asked.key.input, self.cancel)?;
        self.warn(&computed.warnings);
        let source = keeping.artifact(&name, asked.source.as_deref(), "--source")?;
        let artifact =
            Artifact::look(&source, &keeping.not_in_artifacts_with(asked.remote.remote.as_deref()), self.cancel)?;
        let known = StatCache::load(&keeping.store);
        let again = || Ok(keeping.key(&name, &asked.key.input, self.cancel)?.key);
        let Added { record, hash, same, shared, warnings } =
            add(&keeping.store, &computed, artifact, &known, keeping.scopes.own(), &again, context)?;
        self.warn(&warnings);
        let sharing = if shared > 0 { format!(", {} shared with others", Bytes(shared)) } else { String::new() };
        self.report.note(format_args!(
            "{} {name} {}  {}  {}{sharing}",
            if same { "already in the store:" } else { "added" },
            hash.short(),
            Count(record.output.files + record.output.links, "file"),
            Bytes(record.output.bytes),
        ));
        self.report.section("hash", json!(hash.to_string()));
        self.report.section("already_there", json!(same));
        self.report.section("shared_bytes", json!(shared));
        self.report.section("entry", record.value(HomeKind::Store));
        self.report.answer(hash)?;
        let mut failed = unusable;
        if let Some(remote) = &remote {
            match share(remote, &keeping.store, &record, None, context)? {
                Ok(done) => self.tell_shared(&done, &name, &hash, remote),
                Err(failure) => failed = Some(failure),
            }
        }
        self.report.section("remote", trouble(failed.as_ref()));
        failed.map_or(Ok(()), |failure| self.remote_failed(failure, HomeKind::Store, asked.remote.remote_required))
    }

    /// With `--json`, prints the metadata itself.
    pub(super) fn store_query(&self, asked: &StoreQuery) -> u8 {
        match self.queried(asked) {
            Ok(record) if self.report.mode().json => match self.report.json(&record.value(HomeKind::Store)) {
                Ok(()) => 0,
                Err(error) => self.status(Err(Error::failed("cannot print the metadata").caused_by(error))),
            },
            Ok(record) => self.status(self.report.answer(described(&record))),
            Err(error) => {
                self.report.schema("meta.store-query/1");
                let status = self.status(Err(error));
                self.report.finish(status)
            }
        }
    }

    fn queried(&self, asked: &StoreQuery) -> Result<Record> {
        let keeping = self.keeping()?;
        let (remote, unusable) = self.remote(&keeping, &asked.remote)?;
        let hash = address(&keeping, &asked.hash)?;
        if let Some(opened) = open(&keeping.store, &hash)? {
            return Ok(opened.record);
        }
        if let Some(remote) = &remote {
            let found = remote.record(section(HomeKind::Store), &hash).and_then(|found| {
                found.map(|(scope, text)| read_record(&text, HomeKind::Store, &hash, &scope)).transpose()
            });
            match found {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {}
                Err(failure) => self.remote_failed(failure, HomeKind::Store, asked.remote.remote_required)?,
            }
        }
        if let Some(failure) = unusable {
            self.remote_failed(failure, HomeKind::Store, asked.remote.remote_required)?;
        }
        Err(absent(&hash))
    }

    pub(super) fn store_get(&self, asked: &StoreGet, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let (remote, unusable) = self.remote(&keeping, &asked.remote)?;
        let hash = address(&keeping, &asked.hash)?;
        let guards = keeping.guards_with(asked.remote.remote.as_deref());
        let slashed = asked.target.as_os_str().as_bytes().ends_with(b"/");
        let link = match asked.link {
            LinkKind::Reflink => Link::Reflink,
            LinkKind::Hard => Link::Hard,
            LinkKind::Copy => Link::Copy,
        };
        self.report.section("hash", json!(hash.to_string()));
        // Of a folder that a file goes into, the file's place alone is judged, once its name is known.
        if !slashed {
            Target::new(&asked.target, &guards)?;
            check_target(&keeping.workspace, &asked.target)?;
        }
        let restore = || get(&keeping.store, &hash, &asked.target, slashed, link, &guards, context);
        let mut found = restore()?;
        let mut damage = None;
        if let Found::Damaged(error) = found {
            self.report.warning(error.chain());
            damage = Some(error);
            found = Found::Absent;
        }
        let mut source = "local";
        if let (Some(remote), Found::Absent) = (&remote, &found) {
            match fetch(remote, &keeping.store, &hash, context)? {
                Fetched::Here(failure) => {
                    if let Some(failure) = failure {
                        self.remote_failed(failure, HomeKind::Store, false)?;
                    }
                    source = "remote";
                    found = restore()?;
                }
                Fetched::Absent => {}
                Fetched::Failed(failure) => {
                    self.report.section("remote", trouble(Some(&failure)));
                    self.remote_failed(failure, HomeKind::Store, asked.remote.remote_required)?;
                }
            }
        }
        if let (Found::Absent, Some(failure)) = (&found, unusable) {
            self.report.section("remote", trouble(Some(&failure)));
            self.remote_failed(failure, HomeKind::Store, asked.remote.remote_required)?;
        }
        match found {
            Found::Restored { record, warnings } => {
                self.warn(&warnings);
                self.report.note(format_args!(
                    "got {} {}  {}  {}  from {source} to {}",
                    record.inputs.component(),
                    hash.short(),
                    Count(record.output.files + record.output.links, "file"),
                    Bytes(record.output.bytes),
                    Shown::path(&asked.target)
                ));
                self.report.section("source", json!(source));
                self.report.section("entry", record.value(HomeKind::Store));
                Ok(())
            }
            Found::Damaged(error) => Err(error.context("no good copy is left").with_hint(ADD_AGAIN)),
            Found::Absent => match damage {
                Some(error) => Err(error.context("no good copy is left").with_hint(ADD_AGAIN)),
                None => Err(absent(&hash)),
            },
        }
    }
}

/// What to do about an artifact that is damaged.
const ADD_AGAIN: &str = "build it and add it again";

fn absent(hash: &Hash) -> Error {
    Error::new(Class::NotThere, format_args!("there is no artifact {hash} in the store"))
        .hint("see `monofo store list`, or name the remote that has it with --remote")
}

/// An entry for people, a line for each fact.
fn described(record: &Record) -> String {
    let mut lines =
        vec![format!("hash       {}", record.address()), format!("component  {}", record.inputs.component())];
    for (word, text) in [("version", record.inputs.version()), ("target", record.inputs.build_target())] {
        if !text.is_empty() {
            lines.push(format!("{word:<10} {}", Shown(text.as_bytes())));
        }
    }
    lines.push(format!("platform   {}", record.inputs.platform()));
    lines.push(format!("created    {}", crate::entry::time_text(record.created)));
    lines.push(format!("inputs     {}", record.key));
    lines.push(format!("output     {}", record.output.tree));
    lines.push(format!(
        "content    {}, {}, {}",
        Count(record.output.files, "file"),
        Count(record.output.links, "link"),
        Bytes(record.output.bytes)
    ));
    lines.join("\n")
}
