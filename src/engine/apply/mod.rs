//! A whole workspace brought up to date: each component after those that it needs, from the cache, the remote, or its build.
//!
//! | part | what it does |
//! |---|---|
//! | [`check`] | what is wrong with a workspace before anything begins |
//! | `schedule` | who comes when |
//! | `component` | one component: looked for, built, stored |
//! | `build` | one build's processes |
//! | `said` | what a build says, while it says it |
//! | `placed` | whether artifacts still are what was put in place |
//! | [`release`] | what was applied, as a generation of a profile |
//!
//! Nothing here prints: what happens is told to an [`Observer`].

mod build;
mod check;
mod component;
mod placed;
mod release;
mod said;
mod schedule;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

pub use self::build::Saying;
pub use self::check::{check, check_target};
use self::placed::Placed;
pub use self::release::{ReleaseRequest, Released, nothing_to_release, release};
use self::schedule::Graph;
use crate::cancel::Cancel;
use crate::engine::entries::explain::{Explanation, Others};
use crate::engine::entries::lookup::{Looked, Tier};
use crate::engine::entries::share::Shared;
use crate::engine::entries::target::Guards;
use crate::engine::keys::Keys;
use crate::entry::{Encoding, Home, Record};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::{ComponentName, Workspace};
use crate::remote::{Failure, Remote, Scopes};

/// What is to be brought up to date, and how.
pub struct ApplyRequest<'a> {
    /// The workspace.
    pub workspace: &'a Workspace,
    /// The components, in their order, with their keys.
    pub keys: &'a Keys,
    /// What is wrong with components before anything begins.
    pub troubles: &'a BTreeMap<ComponentName, String>,
    /// Computes the key of a component once more.
    pub again: &'a (dyn Fn(&ComponentName) -> Result<Hash> + Sync),
    /// The cache.
    pub cache: &'a Home,
    /// Where entries are shared.
    pub remote: Option<&'a Remote>,
    /// Whose entries count.
    pub scopes: &'a Scopes,
    /// How payloads are compressed.
    pub encoding: Encoding,
    /// What is never replaced.
    pub guards: Guards,
    /// What no artifact may contain.
    pub not_in: Vec<PathBuf>,
    /// How many at once.
    pub jobs: usize,
    /// Whether to look for what was built before.
    pub look: bool,
    /// Whether it is an error when the remote does not help.
    pub remote_required: bool,
    /// Whether all this is to be released: what does not belong to its key is an error then.
    pub releases: bool,
    /// Where what builds say goes.
    pub saying: Saying,
    /// What keeps others from building in the same folders, for as long as anything of a build may run.
    pub held: Option<&'a File>,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// What happens, as it happens. Called by several threads.
pub trait Observer: Sync {
    /// Takes note of an event.
    fn tell(&self, event: Event<'_>);
}

/// Something that happened to a component.
pub enum Event<'a> {
    /// Its entry was looked for; what to say of that beside the result.
    Looked(&'a Looked),
    /// The remote did not help.
    RemoteFailed(&'a Failure),
    /// It is not in the cache and will be built. What that says may go straight through.
    Building(&'a ComponentName, &'a Missed, bool),
    /// What its build says, until that is over.
    Says(&'a mut dyn Read),
    /// Its build ended, and this is what it said, unless that went through. The error is that it failed.
    Built(&'a ComponentName, Option<File>, Result<Duration, &'a Error>),
    /// What was built was shared.
    Shared(&'a ComponentName, &'a Hash, &'a Shared),
    /// Something the user should know.
    Warning(&'a ComponentName, String),
    /// It is done with.
    Done(&'a Done),
}

/// Why a component is not taken from the cache.
#[derive(Debug)]
pub enum Missed {
    /// The cache was not asked.
    NotLooked,
    /// There is an entry, and what lies in its place is not to be replaced.
    PassedOver,
    /// Nothing of this component was ever stored, as far as is known here.
    First,
    /// What differs from the nearest entry.
    Because(Box<Explanation>),
}

/// What became of a component, or would become of it.
#[derive(Debug)]
pub enum Status {
    /// Its artifact came from an entry.
    Hit(Tier, Box<Record>),
    /// It was built; with its entry, if one could be made.
    Built(Missed, Option<Box<Record>>),
    /// It would be built.
    WouldBuild(Missed),
    /// There is nothing to build or to restore: other components use its sources.
    Sources,
    /// It is not in the cache, and nothing says how to build it.
    NeedsBuild(Missed),
    /// It failed.
    Failed(Error),
    /// This component failed, which it needs.
    Skipped(ComponentName),
    /// It was not done when all was to stop.
    Interrupted,
}

/// A component that is done with.
#[derive(Debug)]
pub struct Done {
    /// Its name.
    pub name: ComponentName,
    /// Its key, if it has one.
    pub key: Option<Hash>,
    /// What became of it.
    pub status: Status,
    /// How long that took.
    pub took: Duration,
    /// How long its build took.
    pub built_in: Option<Duration>,
    /// Whether it was to be shared and could not be.
    pub unshared: bool,
}

impl Done {
    /// Whether those that need it can go on.
    pub fn is_good(&self) -> bool {
        matches!(self.status, Status::Hit(..) | Status::Built(..) | Status::WouldBuild(_) | Status::Sources)
    }
}

/// Brings the components up to date. Blocks until all are done with, or all that runs is stopped. The results stand in the order
/// of the components.
pub fn apply(request: &ApplyRequest<'_>, observer: &dyn Observer) -> Vec<Done> {
    each(request, observer, |run, name| run.bring(name))
}

/// What [`apply`] would do. Changes nothing.
pub fn plan(request: &ApplyRequest<'_>, observer: &dyn Observer) -> Vec<Done> {
    each(request, observer, |run, name| run.foresee(name))
}

struct Run<'a> {
    request: &'a ApplyRequest<'a>,
    observer: &'a dyn Observer,
    /// The cache's entries, to explain misses by; read at the first of them.
    others: OnceLock<Others>,
    /// What was put in place so far.
    placed: Placed,
}

fn each(
    request: &ApplyRequest<'_>,
    observer: &dyn Observer,
    work: impl Fn(&Run<'_>, &ComponentName) -> Done + Sync,
) -> Vec<Done> {
    let order = &request.keys.order;
    let numbers: BTreeMap<&ComponentName, usize> = order.iter().enumerate().map(|(at, name)| (name, at)).collect();
    let needs = order.iter().map(|name| {
        let component = request.workspace.components.get(name);
        let needs = component.map(|component| component.depends_on.as_slice()).unwrap_or_default();
        needs.iter().filter_map(|needed| numbers.get(needed).copied()).collect()
    });
    let run = Run { request, observer, others: OnceLock::new(), placed: Placed::default() };
    let tell = |done: Done| {
        observer.tell(Event::Done(&done));
        done
    };
    let work = |number: usize| {
        let done = tell(work(&run, &order[number]));
        (done.is_good(), done)
    };
    let without = |number: usize, status: Status| {
        let name = order[number].clone();
        let key = request.keys.get(&name).map(|(key, _)| key);
        tell(Done { name, key, status, took: Duration::ZERO, built_in: None, unshared: false })
    };
    let skip = |number: usize, failed: usize| {
        // What was stopped did not fail.
        let stopped = request.cancel.signal().is_some();
        without(number, if stopped { Status::Interrupted } else { Status::Skipped(order[failed].clone()) })
    };
    let done = Graph::new(needs.collect()).run(request.jobs, request.cancel, &work, &skip);
    let done = done.into_iter().enumerate();
    done.map(|(number, done)| done.unwrap_or_else(|| without(number, Status::Interrupted))).collect()
}

/// Where a component's artifact lies, if it has one.
pub fn outputs(workspace: &Workspace, name: &ComponentName) -> Option<PathBuf> {
    let component = workspace.components.get(name)?;
    Some(workspace.folder(component).join(component.outputs.as_ref()?))
}
