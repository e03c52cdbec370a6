//! One component: looked for, else built and stored.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::build::{Ran, Saying, build};
use super::placed::digest;
use super::{Done, Event, Missed, Run, Status, outputs};
use crate::context::{Context, Progress};
use crate::engine::entries::cache::{Built, build as store};
use crate::engine::entries::explain::{Others, explain_among};
use crate::engine::entries::lookup::{Found, Tier, into_target, look_up};
use crate::engine::entries::pack::Artifact;
use crate::engine::entries::repositories::is_kept;
use crate::engine::entries::share::{foresee, share};
use crate::engine::entries::target::Target;
use crate::engine::keys::Computed;
use crate::entry::{Record, open};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::{Component, ComponentName};
use crate::remote::{Failure, Trouble};
use crate::text::Shown;

/// What is known of a component before it is looked for.
struct Ready<'a> {
    component: &'a Component,
    key: Hash,
    /// Its artifact's place; `None` where there is nothing to restore or to build.
    place: Option<PathBuf>,
}

/// What became of it so far, on the way to a [`Done`].
#[derive(Default)]
struct Notes {
    built_in: Option<Duration>,
    unshared: bool,
}

impl Run<'_> {
    /// Brings a component up to date.
    pub(super) fn bring(&self, name: &ComponentName) -> Done {
        self.timed(name, |notes| self.get_or_build(name, notes))
    }

    /// Tells what would become of a component.
    pub(super) fn foresee(&self, name: &ComponentName) -> Done {
        self.timed(name, |_| {
            let Ready { component, key, place } = self.ready(name)?;
            let Some(place) = place else { return Ok(Status::Sources) };
            let target = self.target(&place)?;
            let hit = |tier, record: Record| {
                target.check_kind(record.output.root).map_err(without_target)?;
                Ok(Status::Hit(tier, Box::new(record)))
            };
            if self.request.look {
                if let Ok(Some(opened)) = open(self.request.cache, &key)
                    && self.request.scopes.accepts(&opened.record.scope)
                {
                    return hit(Tier::Local, opened.record);
                }
                match self.request.remote.map(|remote| foresee(remote, &key)) {
                    Some(Ok(Some(record))) => return hit(Tier::Remote, record),
                    Some(Err(failure)) => self.remote_failed(name, failure)?,
                    Some(Ok(None)) | None => {}
                }
            }
            let missed = self.why(name)?;
            Ok(if component.build.is_some() { Status::WouldBuild(missed) } else { Status::NeedsBuild(missed) })
        })
    }

    fn timed(&self, name: &ComponentName, work: impl FnOnce(&mut Notes) -> Result<Status>) -> Done {
        let (started, mut notes) = (Instant::now(), Notes::default());
        let status = work(&mut notes).unwrap_or_else(|error| match error.class() {
            Class::Interrupted { .. } => Status::Interrupted,
            _ => Status::Failed(error),
        });
        let key = self.request.keys.get(name).map(|(key, _)| key);
        let Notes { built_in, unshared } = notes;
        Done { name: name.clone(), key, status, took: started.elapsed(), built_in, unshared }
    }

    fn get_or_build(&self, name: &ComponentName, notes: &mut Notes) -> Result<Status> {
        let Ready { component, key, place } = self.ready(name)?;
        let Some(place) = place else { return Ok(Status::Sources) };
        let target = self.target(&place)?;
        let looked = match self.request.look {
            true => self.look(name, &key, &target),
            false => Ok(None),
        };
        // Its own build decides about what it left there before.
        let (found, passed_over) = match looked {
            // A release has to lead to what was built before, and not to what somebody put beside it.
            Err(error) if is_kept(&error) && component.build.is_some() && !self.request.releases => (None, Some(error)),
            looked => (looked?, None),
        };
        if let Some(Found { record, tier, warnings }) = found {
            warnings.into_iter().for_each(|warning| self.observer.tell(Event::Warning(name, warning)));
            self.placed.note(name, record.output.tree);
            return Ok(Status::Hit(tier, record));
        }
        let missed = match passed_over {
            Some(error) => {
                let text = format!("its entry is passed over, and it is built instead: {}", error.chain());
                self.observer.tell(Event::Warning(name, text));
                Missed::PassedOver
            }
            None => self.why(name)?,
        };
        let Some(command) = &component.build else { return Ok(Status::NeedsBuild(missed)) };
        self.observer.tell(Event::Building(name, &missed, self.request.saying != Saying::Kept));
        let folder = self.request.workspace.folder(component);
        let follow = |said: &mut dyn std::io::Read| self.observer.tell(Event::Says(said));
        let started = Instant::now();
        let Ran { log, result, left } =
            build(command, &folder, self.request.saying, &follow, self.request.held, self.request.cancel)?;
        let took = started.elapsed();
        // What it made has to be what the next run may replace.
        let result = result.and_then(|()| self.is_made(&place, &folder)).and_then(|()| self.target(&place).map(drop));
        self.observer.tell(Event::Built(name, log, result.as_ref().map(|()| took)));
        if left {
            let text = "its build ended and left processes behind, which were stopped: let it wait for them";
            self.observer.tell(Event::Warning(name, text.to_owned()));
        }
        result?;
        notes.built_in = Some(took);
        let record = self.keep(name, &place, took, notes)?;
        match &record {
            Some(record) => self.placed.note(name, record.output.tree),
            // What cannot be read now is told by whoever needs it.
            None => _ = digest(&place, self.request.cancel).map(|tree| self.placed.note(name, tree)),
        }
        Ok(Status::Built(missed, record))
    }

    /// Judges a component by what is known before.
    fn ready(&self, name: &ComponentName) -> Result<Ready<'_>> {
        self.request.cancel.check()?;
        if let Some(trouble) = self.request.troubles.get(name) {
            return Err(Error::new(Class::Workspace, trouble)
                .hint("check out what is locked, or lock what is here with `monofo lock`"));
        }
        let known = self.request.workspace.components.get(name);
        let component = known.ok_or_else(|| Error::failed("it is not in the manifest"))?;
        let place = outputs(self.request.workspace, name);
        let folder = self.request.workspace.folder(component);
        if !folder.is_dir() {
            let shown = Shown::path(&component.path);
            return Err(Error::new(
                Class::NotThere,
                format_args!("its sources are not here: there is no folder `{shown}`"),
            )
            .hint("check them out, or set `path` in manifests/components.yaml"));
        }
        match (self.request.keys.get(name), self.request.keys.failed.get(name)) {
            (Some((key, _)), _) => Ok(Ready { component, key, place }),
            (None, Some(error)) => Err(again(error)),
            (None, None) => Err(Error::failed("it has no key")),
        }
    }

    /// Its artifact's place, if it is one that may be replaced.
    fn target(&self, place: &Path) -> Result<Target> {
        Target::new(place, &self.request.guards).map_err(without_target)
    }

    /// Looks for its artifact here, then in the remote. Trouble with the cache is told, and counts as a miss.
    fn look(&self, name: &ComponentName, key: &Hash, target: &Target) -> Result<Option<Found>> {
        let (request, context) = (self.request, self.context());
        let restore = into_target(target, request.cache, &context);
        let looked = look_up(request.cache, request.remote, request.scopes, key, &restore, &context);
        let mut looked = match looked {
            Ok(looked) => looked,
            Err(error) if matches!(error.class(), Class::Failed | Class::Locked) => {
                let text = format!("its entry could not be used: {}; it counts as a miss", error.chain());
                self.observer.tell(Event::Warning(name, text));
                return Ok(None);
            }
            Err(error) => return Err(without_target(error)),
        };
        let (found, failure) = (looked.found.take(), looked.failure.take());
        self.observer.tell(Event::Looked(&looked));
        if let (Some(failure), None) = (failure, &found) {
            self.remote_failed(name, failure)?;
        }
        Ok(found)
    }

    /// A failure of the remote is told, unless it is an error.
    fn remote_failed(&self, name: &ComponentName, mut failure: Failure) -> Result<()> {
        // Whoever is to remove an entry has to know which one.
        if let (Trouble::Damaged | Trouble::Refused, Some((key, _))) = (failure.trouble, self.request.keys.get(name)) {
            failure.error = failure.error.context(format_args!("{name} {key}"));
        }
        self.observer.tell(Event::RemoteFailed(&failure));
        if self.request.remote_required {
            return Err(failure.error.context("the remote did not help"));
        }
        Ok(())
    }

    /// Why there is no entry.
    fn why(&self, name: &ComponentName) -> Result<Missed> {
        if !self.request.look {
            return Ok(Missed::NotLooked);
        }
        let Some(computed) = self.request.keys.computed(name) else { return Ok(Missed::First) };
        let others = match self.others.get() {
            Some(others) => others,
            None => {
                // What cannot be listed explains nothing, and is no reason to stop.
                let read = Others::read(self.request.cache).unwrap_or_default();
                self.others.get_or_init(|| read)
            }
        };
        let (found, _) = explain_among(others, self.request.cache, &computed, self.request.remote)?;
        Ok(found.map_or(Missed::First, |found| Missed::Because(Box::new(found))))
    }

    /// Whether a build made what it was to make: something of its own, and not a link to what others have elsewhere.
    fn is_made(&self, place: &Path, folder: &Path) -> Result<()> {
        let root = &self.request.workspace.root;
        let shown = Shown::path(place.strip_prefix(root).unwrap_or(place)).to_string();
        match place.canonicalize() {
            Ok(real) => {
                let holds = |known: &Path| known.canonicalize().is_ok_and(|known| real.starts_with(known));
                // A link on the way is gone through by a hit as well; one in the artifact's own place is replaced.
                if holds(root) || holds(folder) || place.parent().is_some_and(holds) {
                    return Ok(());
                }
                let real = Shown::path(&real);
                Err(Error::refused(format_args!(
                    "its build made `{shown}` a link that leads out of the workspace, to `{real}`"
                ))
                .hint("let the build copy what belongs to it: a hit would put a folder or file there, and no link"))
            }
            Err(error) => {
                let is_link = std::fs::symlink_metadata(place).is_ok_and(|there| there.is_symlink());
                let what = if is_link { "is a link that leads nowhere" } else { "is not there" };
                Err(Error::failed(format_args!("its build ended well, but `{shown}` {what}"))
                    .caused_by(error)
                    .hint("let the build make it, or set `outputs` to what it makes"))
            }
        }
    }

    /// Stores what was built, and shares it. That is no reason to fail, unless the artifact is one that must not be stored.
    fn keep(
        &self,
        name: &ComponentName,
        place: &Path,
        took: Duration,
        notes: &mut Notes,
    ) -> Result<Option<Box<Record>>> {
        let request = self.request;
        let Some(computed) = request.keys.computed(name) else { return Ok(None) };
        if let Some(needed) = self.spoiled(name)? {
            let changed = format!("the outputs of `{needed}` changed after they were put in place");
            if request.releases {
                let error = format!("{changed}; what came out of `{name}` is not what is locked");
                return Err(
                    Error::new(Class::Changed, error).hint("let no build write to the outputs of another component")
                );
            }
            self.observer.tell(Event::Warning(name, format!("{changed}; what came out of `{name}` was not cached")));
            return Ok(None);
        }
        let mut artifact = Artifact::look(place, &request.not_in, request.cancel)?;
        artifact.built_in = Some(took);
        let again = || (request.again)(name);
        let (scopes, context) = (request.scopes, self.context());
        let stored = store(request.cache, &computed, artifact, request.encoding, scopes, &again, &context);
        let Built { record, kept, warnings, .. } = match stored {
            Ok(built) => built,
            Err(error) if matches!(error.class(), Class::Changed) && request.releases => {
                let text = "its inputs changed while it was built, so what came out is not what is locked";
                return Err(Error::new(Class::Changed, text)
                    .hint("let neither its build nor that of another component write to its sources"));
            }
            Err(error) if matches!(error.class(), Class::Changed) => {
                let text = "its inputs changed while it was built, so what came out was not cached: does its build, or that of \
                            another component, write to its sources?";
                self.observer.tell(Event::Warning(name, text.to_owned()));
                return Ok(None);
            }
            Err(error) if matches!(error.class(), Class::Failed | Class::Locked) => {
                self.observer.tell(Event::Warning(name, format!("it was not cached: {}", error.chain())));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        warnings.into_iter().for_each(|warning| self.observer.tell(Event::Warning(name, warning)));
        // What is in the cache is not what was built: a warning said so.
        if kept {
            return Ok(None);
        }
        self.share(name, &computed, &record, notes)?;
        Ok(Some(Box::new(record)))
    }

    /// A component that it needs and whose outputs are not what was put in place any more.
    fn spoiled(&self, name: &ComponentName) -> Result<Option<&ComponentName>> {
        let Some(component) = self.request.workspace.components.get(name) else { return Ok(None) };
        for needed in &component.depends_on {
            if let Some(place) = outputs(self.request.workspace, needed)
                && self.placed.is_other(needed, &place, self.request.cancel)?
            {
                return Ok(Some(needed));
            }
        }
        Ok(None)
    }

    fn share(&self, name: &ComponentName, computed: &Computed, record: &Record, notes: &mut Notes) -> Result<()> {
        let Some(remote) = self.request.remote else { return Ok(()) };
        match share(remote, self.request.cache, record, computed.sources(), &self.context()) {
            Ok(Ok(shared)) => self.observer.tell(Event::Shared(name, &record.key, &shared)),
            Ok(Err(failure)) => {
                notes.unshared = true;
                self.observer.tell(Event::RemoteFailed(&failure));
            }
            Err(error) if matches!(error.class(), Class::Interrupted { .. }) => return Err(error),
            Err(error) => {
                notes.unshared = true;
                self.observer.tell(Event::Warning(name, format!("it was not shared: {}", error.chain())));
            }
        }
        Ok(())
    }

    fn context(&self) -> Context {
        Context { cancel: self.request.cancel.clone(), progress: Progress::default(), at_once: self.request.jobs }
    }
}

/// An error about a target, for a command that has no `--target`.
fn without_target(error: Error) -> Error {
    let Some(hint) = error.next_step().filter(|hint| hint.contains("--target")) else { return error };
    let first = hint.split_once(", or ").map(|(first, _)| format!("{first}, or ")).unwrap_or_default();
    error.with_hint(format!("{first}set `outputs` to another folder"))
}

/// The same error once more: keys are computed once, and told about once.
fn again(error: &Error) -> Error {
    let again = Error::new(error.class(), error.chain());
    match error.next_step() {
        Some(hint) => again.hint(hint),
        None => again,
    }
}
