//! After the command: what was missing is stored.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::restore::worse;
use super::state::{Hit, State};
use super::{CacheBlock, Place};
use crate::commands::cache::upkeep::{MAX_AGE, WITHIN, is_cleaning_due, tell_not_cleaned};
use crate::config::cache_block::{PluginCache, Save};
use crate::config::job_scopes::is_default_branch;
use crate::engine::entries::bundle::{self, Look, Saved};
use crate::engine::entries::gc::{GcRequest, References, collect};
use crate::engine::entries::share::{Shared, share};
use crate::error::{Class, Error, Result};
use crate::key::KeyRecord;
use crate::remote::{Remote, Section};
use crate::text::{Bytes, Count, Took};

/// What is younger is not removed to make room.
const GRACE: Duration = Duration::from_secs(60);

/// An entry that is to be stored.
struct Due<'a> {
    entry: &'a PluginCache,
    inputs: KeyRecord,
    /// Whether the remote's own entry of this key is to be replaced.
    spoiled: bool,
}

impl CacheBlock<'_> {
    /// Stores what was not hit exactly. Returns the exit status.
    pub(in crate::commands) fn save(&self, entries: &[PluginCache], command_failed: bool) -> Result<u8> {
        let Some(state) = State::read(self.env, &self.state_name())? else {
            self.report.warning("the pre-command hook left no keys, so nothing is stored");
            return Ok(0);
        };
        let due: Vec<Due<'_>> = entries.iter().filter_map(|entry| self.due(entry, &state, command_failed)).collect();
        let place = self.place_of(&state);
        let stored = match (&place, due.is_empty()) {
            (_, true) => Ok((0, false)),
            (Ok(place), false) => self.store_all(&due, &state, place),
            (Err(_), false) => return place.map(|_| 0),
        };
        // A machine where all is hit, or that may store nothing, would never be cleaned, and what comes from a remote grows.
        if let (Ok(place), Ok((_, new))) = (&place, &stored)
            && place.keeping.cleans_up()
            && !self.env.switch("BUILDKITE_JOB_CANCELLED")
            && (*new || state.fetched || is_cleaning_due(&place.keeping))
        {
            self.make_room(place, &state);
        }
        stored.map(|(status, _)| status)
    }

    /// Stores what is due. Returns the exit status, and whether anything is new on this machine.
    fn store_all(&self, due: &[Due<'_>], state: &State, place: &Place) -> Result<(u8, bool)> {
        if let Some(why) = &place.stores_nothing {
            self.report.note(format_args!("cache: nothing is stored: {why}"));
            return Ok((0, false));
        }
        self.report.group(format_args!("storing {}", Count(due.len() as u64, "cache entry")));
        let (remote, mut unusable) = match state.remote_is_dead {
            // It was told of before the command, and would take as long again.
            true => (None, None),
            false => place.keeping.remote(None, self.cancel)?,
        };
        let (mut status, mut stored) = (0, Vec::new());
        for one in due {
            if let Some(failure) = unusable.take() {
                status = worse(status, self.tell_remote(one.entry, &failure));
            }
            let remote = remote.as_ref().filter(|remote| !remote.is_given_up());
            match self.store(one, place, remote) {
                Ok((new, own)) => {
                    stored.extend(new.then(|| one.entry.id.as_str()));
                    status = worse(status, own);
                }
                Err(error) if matches!(error.class(), Class::Interrupted { .. }) => return Err(error),
                Err(error) => status = worse(status, self.tell(one.entry, error)),
            }
        }
        self.report.section("stored", json!(stored));
        Ok((status, !stored.is_empty()))
    }

    /// Whether an entry is to be stored; says so where it is not, and might have been.
    fn due<'e>(&self, entry: &'e PluginCache, state: &State, command_failed: bool) -> Option<Due<'e>> {
        let id = &entry.id;
        let seen = state.seen.get(id.as_str()).filter(|seen| seen.hit != Hit::Exact)?;
        let cancelled = self.env.switch("BUILDKITE_JOB_CANCELLED") || self.env.switch("BUILDKITE_JOB_TIMED_OUT")
            // What the agent says of a command that it stopped.
            || self.env.text("BUILDKITE_COMMAND_EXIT_STATUS") == Some("-1");
        let why = match entry.save {
            Save::Never => Some("`save` is `never`"),
            _ if cancelled => Some("the job was cancelled"),
            Save::Success | Save::DefaultBranch if command_failed => Some("the command failed"),
            Save::DefaultBranch if !is_default_branch(self.env) => Some("this is not the default branch"),
            _ => None,
        };
        if let Some(why) = why {
            self.report.note(format_args!("{id}: not stored, {why}"));
            return None;
        }
        let inputs = seen.inputs.clone().filter(|inputs| self.is_of(entry, inputs));
        if inputs.is_none() {
            self.report.warning(format_args!(
                "{id}: not stored, the key that came from the pre-command hook is another entry's"
            ));
        }
        Some(Due { entry, inputs: inputs?, spoiled: seen.spoiled })
    }

    /// Whether a key can be one of an entry: variables travel through other hooks.
    fn is_of(&self, entry: &PluginCache, inputs: &KeyRecord) -> bool {
        let KeyRecord::Template(inputs) = inputs else { return false };
        let pipeline = self.env.text("BUILDKITE_PIPELINE_SLUG").unwrap_or_default();
        (&inputs.component, &inputs.paths, inputs.pipeline.as_str()) == (&entry.id, &entry.paths, pipeline)
    }

    /// Stores one entry here and in the remote. Returns whether it is new, and the exit status.
    fn store(&self, due: &Due<'_>, place: &Place, remote: Option<&Remote>) -> Result<(bool, u8)> {
        let (id, keeping) = (&due.entry.id, &place.keeping);
        let shown = match &due.inputs {
            KeyRecord::Template(inputs) => inputs.shown(),
            other => other.key().short(),
        };
        let (started, context) = (Instant::now(), self.context());
        let _watch = self.report.watch(vec![context.progress.clone()]);
        // A cache that lies in the checkout is no part of what is built there.
        let guards = keeping.guards();
        let Look { artifact, warnings, note } =
            bundle::look(&place.paths(due.entry)?, id.as_str(), &guards, self.cancel)?;
        for warning in warnings {
            self.report.warning(format_args!("{id}: {warning}"));
        }
        if let Some(note) = note {
            self.report.note(format_args!("{id}: {note}"));
        }
        let Some(artifact) = artifact else {
            self.report.warning(format_args!("{id}: nothing is stored, since none of its paths is there"));
            return Ok((false, 0));
        };
        let saved = bundle::save(&keeping.cache, &due.inputs, &artifact, keeping.encoding, &keeping.scopes, &context)?;
        let Saved::New(record) = saved else {
            self.report.note(format_args!("{id}: {shown} is there already, and stays"));
            return Ok((false, 0));
        };
        self.report.note(format_args!(
            "{id}: stored {shown}, {}, {} to {}, {}",
            Count(record.output.files + record.output.links, "file"),
            Bytes(record.output.bytes),
            Bytes(record.payload.map_or(0, |payload| payload.bytes)),
            Took(started.elapsed())
        ));
        let Some(remote) = remote else { return Ok((true, 0)) };
        let started = Instant::now();
        if let (true, Some(scope)) = (due.spoiled, &keeping.scopes.write) {
            remote.note_spoiled(Section::Cache, scope, &due.inputs.key());
        }
        match share(remote, &keeping.cache, &record, None, &context)? {
            Ok(Shared::Created) => {
                self.report.note(format_args!("{id}: shared in {}, {}", remote.place(), Took(started.elapsed())));
            }
            // Whoever was quicker has an entry of the same key: that is enough.
            Ok(Shared::Already | Shared::Other(_)) => {
                self.report.note(format_args!("{id}: is in {} already", remote.place()));
            }
            Ok(Shared::NotWritten) => {}
            Ok(Shared::Gone(warning)) => self.report.warning(format_args!("{id}: {warning}")),
            Err(failure) => return Ok((true, self.tell_remote(due.entry, &failure))),
        }
        Ok((true, 0))
    }

    /// Keeps the cache within its size. What this job restored stays, all its listings together: a last use is noted once an
    /// hour, so it may look like one of long ago. Trouble with that is no trouble of the job.
    fn make_room(&self, place: &Place, state: &State) {
        let others = State::of_others(self.env, &self.state_name());
        let seen = others.iter().chain([state]).flat_map(|state| state.seen.values());
        let used: References = seen.filter_map(|seen| Some((seen.used?, "used by this job"))).collect();
        let request = GcRequest {
            grace: GRACE,
            max_age: Some(MAX_AGE),
            max_size: Some(place.most),
            dry_run: false,
            within: Some(WITHIN),
            now: SystemTime::now(),
        };
        match collect(&place.keeping.cache, &request, &|_| Ok(used.clone()), self.cancel) {
            Ok(done) => {
                if !done.gone.is_empty() {
                    self.report.note(format_args!(
                        "cleaned up the cache: {}, {} freed",
                        Count(done.gone.len() as u64, "entry"),
                        Bytes(done.freed)
                    ));
                }
                tell_not_cleaned(self.report, done);
            }
            Err(error) => self.report.detail(format_args!("the cache was not cleaned up: {}", Error::chain(&error))),
        }
    }
}
