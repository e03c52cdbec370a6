//! `monofo apply`.

mod summary;
mod tell;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde_json::{Value, json};

use self::tell::Tell;
use super::Commands;
use super::cache::{required, trouble};
use super::lock::no_manifest;
use crate::cli::apply::Apply;
use crate::config::entries::Keeping;
use crate::config::workspace::{drift, head, lock_for};
use crate::context::Context;
use crate::engine::apply::{
    ApplyRequest, Done, ReleaseRequest, Saying, Status, apply, check, nothing_to_release, outputs, plan, release,
};
use crate::engine::keys::{Keys, Pinned};
use crate::entry::StatCache;
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::{ComponentName, Lock, Mode};
use crate::remote::Scopes;
use crate::report::{Style, Verbosity};
use crate::text::{Count, Shown};

/// The shortest commit that a lock may name: what git shows of one.
const SHORTEST_COMMIT: usize = 7;

impl Commands<'_> {
    pub(super) fn apply(&self, asked: &Apply) -> u8 {
        self.report.schema("meta.apply/1");
        let status = self.status(self.apply_workspace(asked));
        self.report.finish(status)
    }

    fn apply_workspace(&self, asked: &Apply) -> Result<()> {
        let nothing = "there is nothing to apply";
        // Two that build in the same folders would spoil each other's outputs.
        let (keeping, held) = match asked.dry_run {
            false => self.held(nothing).map(|(keeping, held)| (keeping, Some(held)))?,
            true => (self.keeping()?, None),
        };
        let workspace = &keeping.workspace;
        if workspace.manifests.is_none() {
            return Err(no_manifest(nothing));
        }
        self.report.section("environment", json!(asked.env));
        self.report.section("dry_run", json!(asked.dry_run));
        let flag = asked.remote.remote.as_deref();
        let (remote, unusable) = required(keeping.remote_for_long(flag, self.cancel)?, &asked.remote)?;
        let lock = if asked.locked { Some(lock_for(workspace, asked.env.as_deref())?) } else { None };
        let names = match asked.component.as_slice() {
            [] => workspace.components.keys().cloned().collect(),
            named => named.iter().map(|name| keeping.component(name)).collect::<Result<Vec<_>>>()?,
        };
        let pinned = lock.as_ref().map(pinned).unwrap_or_default();
        let keys = self.workspace_keys(&keeping, &names, &pinned, asked.dry_run)?;
        check(workspace, &keys.order)?.iter().for_each(|warning| self.report.softened(warning));
        let releases = lock.is_some() && asked.env.is_some();
        if releases && asked.component.is_empty() {
            // What would stop the release at its end is told before anything is built.
            if keys.order.iter().all(|name| outputs(workspace, name).is_none()) {
                return Err(nothing_to_release());
            }
            let unwritable = |error: Error| error.context("nothing could be released");
            if !asked.dry_run {
                keeping.store.check_writable().map_err(unwritable)?;
            } else {
                keeping.store.exists()?;
            }
        }
        let troubles = match &lock {
            Some(lock) => {
                is_of(lock, asked.env.as_deref())?;
                self.compare(&keeping, lock, &keys, asked.allow_drift)?;
                self.troubles(&keeping, lock, &keys)
            }
            None => BTreeMap::new(),
        };
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let jobs = asked.jobs.unwrap_or(cores).get().min(keys.order.len().max(1));
        let again = |name: &ComponentName| {
            let known = keeping.known_digests()?;
            let keys = keeping.keys(std::slice::from_ref(name), &pinned, &known, self.cancel)?;
            let key = keys.get(name).map(|(key, _)| key);
            key.ok_or_else(|| {
                Error::new(Class::Changed, format_args!("the key of `{name}` cannot be computed any more"))
            })
        };
        let tell = Tell::new(self, asked.dry_run, keys.order.len(), unusable.as_ref());
        let request = ApplyRequest {
            workspace,
            keys: &keys,
            troubles: &troubles,
            again: &again,
            cache: &keeping.cache,
            remote: remote.as_ref(),
            scopes: &keeping.scopes,
            encoding: keeping.encoding,
            guards: keeping.guards_with(flag),
            not_in: keeping.not_in_artifacts_with(flag),
            jobs,
            look: !asked.no_cache,
            remote_required: asked.remote.remote_required,
            releases,
            saying: self.saying(jobs),
            held: held.as_ref(),
            cancel: self.cancel,
        };
        let done = {
            let _line = (request.saying == Saying::Kept).then(|| self.report.watch_line(tell.progress()));
            if asked.dry_run { plan(&request, &tell) } else { apply(&request, &tell) }
        };
        let failure = tell.into_failure().or(unusable);
        self.report.section("remote", trouble(failure.as_ref()));
        let environment = asked.env.as_deref();
        self.summarize(&done, environment, asked.dry_run, remote.is_some().then_some(failure.as_ref()))?;
        self.cancel.check()?;
        let unhelped = asked.remote.remote_required.then_some(failure).flatten();
        summary::judge(&done, unhelped)?;
        if let (Some(profile), Some(lock), false) = (environment, &lock, asked.dry_run) {
            if asked.component.is_empty() {
                self.switch(&keeping, profile, lock, &keys, &done, &again)?;
            } else {
                self.report.note(format_args!("profile {profile} stays as it is: not all components were applied"));
            }
        }
        if !asked.dry_run && keeping.cleans_up() {
            self.clean_up_cache(&keeping);
        }
        drop(held);
        Ok(())
    }

    /// One build at a time may speak for itself, where nobody wants quiet.
    fn saying(&self, jobs: usize) -> Saying {
        match jobs == 1 && self.report.mode().verbosity > Verbosity::Quiet {
            // No line of it may open or close a group of the log.
            true if self.in_job() => Saying::Followed,
            true => Saying::Through,
            false => Saying::Kept,
        }
    }

    /// All keys; what was read for them is remembered, unless nothing is to change.
    fn workspace_keys(
        &self,
        keeping: &Keeping,
        names: &[ComponentName],
        pinned: &BTreeMap<ComponentName, Pinned>,
        dry_run: bool,
    ) -> Result<Keys> {
        if !dry_run {
            match keeping.cache.create() {
                // Without a cache everything is built, which is what the user came for.
                Err(error) if error.class() == Class::Failed => self.report.softened(&error),
                made => made?,
            }
        }
        let known = keeping.known_digests()?;
        let keys = keeping.keys(names, pinned, &known, self.cancel)?;
        if !dry_run {
            known.save();
        }
        keys.warnings().for_each(|warning| self.report.warning(warning));
        Ok(keys)
    }

    /// Refuses a lock that lacks a component, or differs from the manifest.
    fn compare(&self, keeping: &Keeping, lock: &Lock, keys: &Keys, allow_drift: bool) -> Result<()> {
        for name in &keys.order {
            lock.component(name)?;
        }
        self.has_whole_commits(keeping, lock, keys)?;
        let differences = drift(&keeping.workspace, lock, &keys.order);
        if differences.is_empty() {
            return Ok(());
        }
        if allow_drift {
            differences.iter().for_each(|difference| self.report.warning(difference));
            return Ok(());
        }
        let shown = lock.path.strip_prefix(&keeping.workspace.root).unwrap_or(&lock.path);
        let text = format!("`{}` differs from the manifest:\n{}", Shown::path(shown), differences.join("\n"));
        Err(Error::new(Class::Workspace, text)
            .hint("bring it up to date with `monofo lock`, or go on with its versions: --allow-drift"))
    }

    /// Refuses commits that are too short to mean one.
    fn has_whole_commits(&self, keeping: &Keeping, lock: &Lock, keys: &Keys) -> Result<()> {
        for name in keys.order.iter().filter(|_| lock.mode == Mode::Reference) {
            let Some(commit) = lock.components.get(name).and_then(|locked| locked.commit.as_deref()) else { continue };
            if commit.len() < SHORTEST_COMMIT || !commit.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                let shown = lock.path.strip_prefix(&keeping.workspace.root).unwrap_or(&lock.path);
                let (shown, commit) = (Shown::path(shown), Shown(commit.as_bytes()));
                let text = format!("`{shown}` locks `{name}` at `{commit}`, which names no commit");
                return Err(Error::new(Class::Workspace, text)
                    .hint("write at least 7 hexadecimal digits, or lock it anew with `monofo lock`"));
            }
        }
        Ok(())
    }

    /// Components whose sources are not those that are locked.
    fn troubles(&self, keeping: &Keeping, lock: &Lock, keys: &Keys) -> BTreeMap<ComponentName, String> {
        let mut troubles = BTreeMap::new();
        for name in &keys.order {
            let (Some(component), Some(locked)) = (keeping.workspace.components.get(name), lock.components.get(name))
            else {
                continue;
            };
            let here = keys.source(name);
            if let (Some(here), Some(locked)) = (here, locked.source)
                && here != locked
            {
                let (here, locked) = (here.short(), locked.short());
                let text = format!("its sources are not those that are locked: {here} here, {locked} in the lock");
                troubles.insert(name.clone(), text);
                continue;
            }
            let Some(commit) = locked.commit.as_deref().filter(|_| lock.mode == Mode::Reference) else { continue };
            match head(&keeping.workspace.folder(component)) {
                Ok(Some(here)) if here.to_ascii_lowercase().starts_with(&commit.to_ascii_lowercase()) => {}
                Ok(Some(here)) => {
                    let text = format!("it is not at the commit that is locked: {here} here, {commit} in the lock");
                    troubles.insert(name.clone(), text);
                }
                Ok(None) if here.is_some() && locked.source.is_none() => self.report.warning(format_args!(
                    "{name}: it is no checkout, so whether it is at the locked commit cannot be told; `monofo lock` locks its content as well"
                )),
                Ok(None) => {}
                Err(error) => _ = troubles.insert(name.clone(), error.chain()),
            }
        }
        troubles
    }

    fn switch(
        &self,
        keeping: &Keeping,
        profile: &str,
        lock: &Lock,
        keys: &Keys,
        done: &[Done],
        again: &(dyn Fn(&ComponentName) -> Result<Hash> + Sync),
    ) -> Result<()> {
        let known = StatCache::load(&keeping.store);
        let request = ReleaseRequest {
            known: &known,
            workspace: &keeping.workspace,
            keys,
            store: &keeping.store,
            scope: keeping.scopes.write.as_ref().map_or(Scopes::LOCAL, |scope| scope.as_str()),
            not_in: &keeping.not_in_artifacts(),
            profile,
            lock: lock.digest,
            again,
        };
        let context = Context { cancel: self.cancel.clone(), ..Context::default() };
        let released = release(&request, done, &context)?;
        self.warn(&released.warnings);
        let (number, count) = (released.generation.number, released.generation.artifacts.len() as u64);
        self.report.section(
            "profile",
            json!({ "name": profile, "switched": released.switched, "generation": released.generation.document() }),
        );
        if released.switched {
            self.report.note(format_args!("{profile} is at generation {number}, {}", Count(count, "artifact")));
        } else {
            self.report.note(format_args!("{profile} was at generation {number} with these artifacts already"));
        }
        Ok(())
    }

    /// Whether lines of a job's log are to be kept apart from what builds said.
    pub(super) fn in_job(&self) -> bool {
        self.report.mode().style == Style::Job
    }
}

/// Refuses a lock that says it is for another environment.
fn is_of(lock: &Lock, environment: Option<&str>) -> Result<()> {
    match (lock.environment.as_deref(), environment) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            let (file, theirs) = (Shown::path(&lock.path), Shown(theirs.as_bytes()));
            Err(Error::new(Class::Workspace, format_args!("`{file}` says that it is for the environment `{theirs}`"))
                .hint(format_args!("lock it anew with `monofo lock --env {ours}`, or correct its `environment`")))
        }
        _ => Ok(()),
    }
}

/// What a lock pins.
fn pinned(lock: &Lock) -> BTreeMap<ComponentName, Pinned> {
    let pin = |(name, locked): (&ComponentName, &crate::key::LockedComponent)| {
        let pinned = Pinned { version: Some(locked.version.clone()), commit: locked.commit.clone() };
        (name.clone(), pinned)
    };
    lock.components.iter().map(pin).collect()
}

/// What became of a component, for documents.
fn document(done: &Done) -> Value {
    let seconds = |time: std::time::Duration| (time.as_secs_f64() * 1000.0).round() / 1000.0;
    let (word, source, missed, error, needs) = match &done.status {
        Status::Hit(tier, _) => ("hit", Some(tier.word()), None, None, None),
        Status::Built(missed, _) => ("built", None, Some(missed), None, None),
        Status::WouldBuild(missed) => ("build", None, Some(missed), None, None),
        Status::Sources => ("sources", None, None, None, None),
        Status::NeedsBuild(missed) => ("needs-build", None, Some(missed), None, None),
        Status::Failed(error) => ("failed", None, None, Some(error), None),
        Status::Skipped(failed) => ("skipped", None, None, None, Some(failed.as_str())),
        Status::Interrupted => ("interrupted", None, None, None, None),
    };
    let record = match &done.status {
        Status::Hit(_, record) => Some(record),
        Status::Built(_, record) => record.as_ref(),
        _ => None,
    };
    json!({
        "component": done.name.as_str(),
        "key": done.key.map(|key| key.to_string()),
        "status": word,
        "source": source,
        "cached": record.is_some(),
        "tree": record.map(|record| record.output.tree.to_string()),
        "seconds": seconds(done.took),
        "build_seconds": done.built_in.map(seconds),
        "why": missed.map(tell::why),
        "reason": match missed {
            Some(crate::engine::apply::Missed::Because(found)) => found.document(),
            _ => Value::Null,
        },
        "failed": needs,
        "error": error.map(|error| {
            let mut told = crate::report::describe(error);
            json!({
                "code": error.class().exit_status(), "kind": told["class"].take(), "message": told["message"].take(),
                "hint": told["hint"].take(),
            })
        }),
    })
}
