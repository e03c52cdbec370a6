//! Before the command: what is there is restored.

use std::io::Read;
use std::time::{Instant, SystemTime};

use serde_json::json;

use super::state::{Hit, Seen, State};
use super::{CacheBlock, Place};
use crate::config::cache_block::PluginCache;
use crate::context::Context;
use crate::engine::entries::bundle::{self, Newer, Targets};
use crate::engine::entries::kin::{self, Kin};
use crate::engine::entries::lookup::{Found, Looked, Tier, look_up};
use crate::engine::keys::template::{Evaluator, Facts};
use crate::entry::{Record, StatCache, seconds};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::{KeyRecord, TemplateKey, text_of};
use crate::remote::{Failure, Remote, Scope, Section, Trouble};
use crate::text::{Bytes, Count, Shown, Took};

/// Fallbacks that are tried when the first prove to be no good.
const MOST_TRIED: usize = 3;

/// What became of one entry so far.
#[derive(Default)]
struct Course {
    /// The exit status that its failures lead to.
    status: u8,
    /// What the remote's failures were told as: nobody wants to read the same twice.
    told: Vec<String>,
    /// Whether the remote did not let us.
    denied: bool,
    /// Whether an entry of the remote was kept on this machine.
    fetched: bool,
    /// The key of the entry that was restored.
    used: Option<Hash>,
}

impl Course {
    /// The remote, if it is worth asking once more.
    fn ask<'r>(&self, remote: Option<&'r Remote>) -> Option<&'r Remote> {
        remote.filter(|remote| !self.denied && !remote.is_given_up())
    }
}

/// An entry that is to be looked for.
struct Wanted<'a> {
    entry: &'a PluginCache,
    inputs: TemplateKey,
    prefixes: Vec<String>,
    /// Where it goes; of class `Failed` where that cannot be told, which is trouble like any other.
    targets: Result<Targets>,
}

impl CacheBlock<'_> {
    /// Restores all entries, and hands on what became of them. Returns the exit status; an error is one of the configuration,
    /// or of what keys are computed from.
    pub(in crate::commands) fn restore(&self, entries: &[PluginCache]) -> Result<u8> {
        let place = self.place()?;
        let paths = place.paths_apart(entries, &State::of_others(self.env, &self.state_name()))?;
        let wanted = self.wanted(&place, entries)?;
        let mut state = State { paths, ..place.state()? };
        // Whatever is hit: a cold cache must not be the first to find out.
        for one in &wanted {
            let inputs = Some(KeyRecord::Template(one.inputs.clone()));
            let used = inputs.as_ref().map(KeyRecord::key);
            state.seen.insert(one.entry.id.to_string(), Seen { hit: Hit::Miss, inputs, used, spoiled: true });
        }
        state.check_length()?;
        self.report.group(format_args!("restoring {}", Count(wanted.len() as u64, "cache entry")));
        let scopes = &place.keeping.scopes;
        let read: Vec<&str> = scopes.read.iter().map(Scope::as_str).collect();
        self.report.detail(format_args!(
            "the cache is in {}; this job stores for {} and reads {}",
            Shown::path(place.keeping.cache.root()),
            scopes.write.as_ref().map_or("nobody", Scope::as_str),
            read.join(", ")
        ));
        let (remote, mut unusable) = place.keeping.remote(None, self.cancel)?;
        let named_but_unusable = unusable.is_some();
        let mut status = 0;
        for one in &wanted {
            if let Some(failure) = unusable.take() {
                status = worse(status, self.tell_remote(one.entry, &failure));
            }
            // One that proved dead was told of, and is not asked again.
            let remote = remote.as_ref().filter(|remote| !remote.is_given_up());
            let mut course = Course::default();
            let looked = match &one.targets {
                Ok(_) => self.look_for(one, &place, remote, &mut course),
                Err(error) => {
                    course.status = self.block.tell(error, one.entry.soft_fail);
                    Ok(Hit::Miss)
                }
            };
            let hit = match looked {
                Ok(hit) => hit,
                Err(error) if matches!(error.class(), Class::Interrupted { .. }) => return Err(error),
                Err(error) => {
                    course.status = worse(course.status, self.tell(one.entry, error));
                    let (id, shown) = (&one.entry.id, one.inputs.shown());
                    self.report.note(format_args!("{id}: miss {shown}: it could not be looked for or put in place"));
                    Hit::Miss
                }
            };
            status = worse(status, course.status);
            state.fetched |= course.fetched;
            let inputs = (hit != Hit::Exact).then(|| KeyRecord::Template(one.inputs.clone()));
            let is_spoiled = |inputs: &KeyRecord| remote.is_some_and(|r| r.is_spoiled(Section::Cache, &inputs.key()));
            let spoiled = inputs.as_ref().is_some_and(is_spoiled);
            state.seen.insert(one.entry.id.to_string(), Seen { hit, inputs, used: course.used, spoiled });
        }
        state.remote_is_dead = remote.as_ref().is_some_and(Remote::is_given_up) || named_but_unusable;
        let told = |one: &Wanted<'_>| {
            let id = one.entry.id.as_str();
            json!({ "id": id, "key": one.inputs.text(), "hit": state.seen.get(id).map(|seen| seen.hit.word()) })
        };
        self.report.section("caches", wanted.iter().map(told).collect());
        if !state.export(&self.state_name(), entries, self.env)? {
            self.report.warning("the hook's shell takes no variables: hits are not told, and nothing will be stored");
        }
        Ok(status)
    }

    fn wanted<'e>(&self, place: &Place, entries: &'e [PluginCache]) -> Result<Vec<Wanted<'e>>> {
        let keeping = &place.keeping;
        let known = if keeping.cache.exists().unwrap_or(false) {
            StatCache::load(&keeping.cache)
        } else {
            StatCache::default()
        };
        let own = [keeping.cache.root().to_owned(), keeping.store.root().to_owned()];
        let variable = |name: &str| self.env.raw(name);
        let evaluator = Evaluator::new(Facts {
            root: &place.directory,
            branch: self.env.text("BUILDKITE_BRANCH"),
            default_branch: self.env.text("BUILDKITE_PIPELINE_DEFAULT_BRANCH"),
            pipeline: self.env.text("BUILDKITE_PIPELINE_SLUG"),
            variable: &variable,
            now: seconds(SystemTime::now()),
            own: &own,
            known: &known,
            cancel: self.cancel,
        });
        let guards = keeping.guards();
        let wanted = |entry: &'e PluginCache| {
            let about = |error: Error| error.context(format_args!("{}", entry.id));
            let parts = evaluator.evaluate(&entry.key).map_err(about)?;
            if text_of(&parts).is_empty() {
                let empty = Error::usage("the key is empty: every job would have the same");
                return Err(about(empty.hint("set the variable that it is made of, or write a word into it")));
            }
            let prefix = |template| Ok(text_of(&evaluator.evaluate(template).map_err(about)?));
            let targets = match Targets::new(&place.paths(entry)?, &guards).map_err(about) {
                Err(error) if error.class() != Class::Failed => return Err(error),
                targets => targets,
            };
            let inputs = TemplateKey {
                component: entry.id.clone(),
                pipeline: self.env.text("BUILDKITE_PIPELINE_SLUG").unwrap_or_default().to_owned(),
                parts,
                paths: entry.paths.clone(),
                salt: self.env.text("MONOFO_CACHE_SALT").unwrap_or_default().to_owned(),
            };
            let prefixes = entry.restore_keys.iter().map(prefix).collect::<Result<_>>()?;
            Ok(Wanted { entry, inputs, prefixes, targets })
        };
        let wanted = entries.iter().map(wanted).collect::<Result<_>>()?;
        for name in evaluator.unset() {
            self.report.warning(format_args!("a key asks for {name}, which is not set"));
        }
        known.save();
        Ok(wanted)
    }

    fn look_for(&self, one: &Wanted<'_>, place: &Place, remote: Option<&Remote>, course: &mut Course) -> Result<Hit> {
        let (id, shown) = (&one.entry.id, one.inputs.shown());
        let cache = &place.keeping.cache;
        let started = Instant::now();
        let key = KeyRecord::Template(one.inputs.clone()).key();
        if let Some(found) = self.look(one, (&key, Newer::IsReplaced), place, remote, course)? {
            self.report.note(format_args!("{id}: exact hit {shown}, {}", told(&found, started)));
            return Ok(Hit::Exact);
        }
        let mut others = kin::local(cache, &place.keeping.scopes, &one.inputs)?;
        if let (Some(remote), false) = (course.ask(remote), one.prefixes.is_empty())
            && let Err(failure) = kin::add_remote(remote, &one.inputs, &mut others)
        {
            self.tell_of(one, &failure, course);
        }
        others.retain(|kin| kin.key != key);
        let why = kin::reason(&others, &one.inputs);
        let fallbacks: Vec<&Kin> = kin::fallbacks(&others, &one.prefixes).take(MOST_TRIED).collect();
        for kin in fallbacks {
            let started = Instant::now();
            if let Some(found) = self.look(one, (&kin.key, Newer::Stays), place, remote, course)? {
                self.report.note(format_args!("{id}: no entry {shown}: {why}"));
                self.report.note(format_args!(
                    "{id}: partial hit {} of {}, {}",
                    kin.inputs.shown(),
                    kin.made(),
                    told(&found, started)
                ));
                return Ok(Hit::Partial);
            }
        }
        self.report.note(format_args!("{id}: miss {shown}: {why}"));
        Ok(Hit::Miss)
    }

    /// Looks for an entry here and in the remote, and tells what came in between. Beside its key stands what becomes of newer
    /// files below `~`.
    fn look(
        &self,
        one: &Wanted<'_>,
        (key, newer): (&Hash, Newer),
        place: &Place,
        remote: Option<&Remote>,
        course: &mut Course,
    ) -> Result<Option<Found>> {
        let (remote, id) = (course.ask(remote), &one.entry.id);
        let (cache, context) = (&place.keeping.cache, self.context());
        let Ok(targets) = &one.targets else { return Ok(None) };
        let restore = into(targets, place, newer, &context);
        let _watch = self.report.watch(vec![context.progress.clone()]);
        let Looked { found, damaged, unreadable, other_scope, failure, unkept } =
            look_up(cache, remote, &place.keeping.scopes, key, &*restore, &context)?;
        for error in damaged.iter().chain(&unreadable) {
            self.report.warning(format_args!("{id}: {}; this counts as a miss", error.chain()));
        }
        if other_scope {
            self.report.detail(format_args!("{id}: an entry of another scope is here, and is not used"));
        }
        if let Some(failure) = failure {
            self.tell_of(one, &failure, course);
        }
        course.used = found.as_ref().map(|found| found.record.key).or(course.used);
        course.fetched |= unkept.is_none() && found.as_ref().is_some_and(|found| found.tier == Tier::Remote);
        if let Some(error) = unkept {
            self.report.softened(&error.context(format_args!("{id}")));
        }
        for warning in found.iter().flat_map(|found| &found.warnings) {
            self.report.warning(format_args!("{id}: {warning}"));
        }
        Ok(found)
    }

    /// Tells of a failure of the remote, unless that was told of this entry before.
    fn tell_of(&self, one: &Wanted<'_>, failure: &Failure, course: &mut Course) {
        course.denied |= failure.trouble == Trouble::Denied;
        let text = failure.error.chain();
        if !course.told.contains(&text) {
            course.status = worse(course.status, self.tell_remote(one.entry, failure));
            course.told.push(text);
        }
    }
}

/// How an entry's payload becomes files.
fn into<'a>(
    targets: &'a Targets,
    place: &'a Place,
    newer: Newer,
    context: &'a Context,
) -> Box<crate::engine::entries::restore::Restore<'a>> {
    Box::new(move |payload: Box<dyn Read + Send>, record: &Record, whole: &mut dyn FnMut() -> Result<()>| {
        bundle::restore(payload, &record.output, targets, &place.keeping.cache, newer, whole, context)
    })
}

/// The first failure decides, a signal before all others.
pub(in crate::commands) fn worse(first: u8, then: u8) -> u8 {
    if first == 0 || then > 128 { then } else { first }
}

fn told(found: &Found, started: Instant) -> String {
    let output = &found.record.output;
    let from = match found.tier {
        Tier::Local => "from this machine",
        Tier::Remote => "from the remote",
    };
    format!(
        "{}, {}, {}, {from}",
        Count(output.files + output.links, "file"),
        Bytes(output.bytes),
        Took(started.elapsed())
    )
}
