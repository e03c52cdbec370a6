//! The entry of a key, wherever it is: on this machine, else in the remote.

use super::cache::{Got, get};
use super::fetch::{Through, restore_through};
use super::restore::{Restore, from_payload};
use super::target::Target;
use crate::context::Context;
use crate::entry::usage::{Event, count};
use crate::entry::{Existing, Home, Record};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::remote::{Failure, Remote, Scopes};

/// Where an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// On this machine.
    Local,
    /// In the remote.
    Remote,
}

impl Tier {
    /// Its word in logs and documents.
    pub fn word(self) -> &'static str {
        match self {
            Tier::Local => "local",
            Tier::Remote => "remote",
        }
    }
}

/// An entry that was restored.
#[derive(Debug)]
pub struct Found {
    /// Its metadata.
    pub record: Box<Record>,
    /// Where it was.
    pub tier: Tier,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// What came of looking. All but `found` is to be told, whatever came.
#[derive(Debug, Default)]
pub struct Looked {
    /// What was restored; `None` is a miss.
    pub found: Option<Found>,
    /// An entry of this machine proved to be damaged. The error says what became of it.
    pub damaged: Option<Error>,
    /// An entry of this machine is here and could not be read.
    pub unreadable: Option<Error>,
    /// An entry of a scope that this run does not read is here.
    pub other_scope: bool,
    /// The remote did not help, or one of its scopes did not.
    pub failure: Option<Failure>,
    /// What the remote has could not be kept here: this machine's own trouble.
    pub unkept: Option<Error>,
}

/// Looks for the entry of a key here and then in the remote, restores it and counts what came of it. The remote is not asked
/// when the entry is here. Errors are this machine's own. Blocks.
pub fn look_up(
    cache: &Home,
    remote: Option<&Remote>,
    scopes: &Scopes,
    key: &Hash,
    restore: &Restore<'_>,
    context: &Context,
) -> Result<Looked> {
    let mut looked = Looked::default();
    match get(cache, key, scopes, restore)? {
        Got::Hit { record, warnings } => looked.found = Some(Found { record, tier: Tier::Local, warnings }),
        Got::Miss => {}
        Got::OtherScope => looked.other_scope = true,
        Got::Damaged(error) => looked.damaged = Some(error),
        Got::Unreadable(error) => looked.unreadable = Some(error),
    }
    if let (Some(remote), None) = (remote, &looked.found) {
        // What another scope stored here is not trusted, and gives way to what comes from ours.
        let in_the_way = |there: &Record| !scopes.accepts(&there.scope) && scopes.may_replace(&there.scope);
        match restore_through(remote, cache, key, Existing::ReplaceIf(&in_the_way), restore, context)? {
            Through::Restored { record, warnings, unkept, failure } => {
                looked.failure = failure;
                looked.found = Some(Found { record, tier: Tier::Remote, warnings });
                looked.unkept = unkept.map(not_kept);
            }
            Through::Absent => {}
            Through::Failed(failure) => looked.failure = Some(failure),
            Through::NotTaken(error) => looked.unkept = Some(not_kept(error)),
        }
    }
    match &looked.found {
        Some(found) => {
            let event = if found.tier == Tier::Local { Event::Hit } else { Event::RemoteHit };
            count(cache, event, found.record.output.bytes);
        }
        None if cache.exists()? => count(cache, Event::Miss, 0),
        None => {}
    }
    Ok(looked)
}

fn not_kept(error: Error) -> Error {
    error.context("the remote's entry could not be kept here")
}

/// Restores into one target, which is replaced by a swap.
pub fn into_target<'a>(target: &'a Target, cache: &'a Home, context: &'a Context) -> Box<Restore<'a>> {
    Box::new(move |payload, record, whole| from_payload(payload, &record.output, target, cache, whole, context))
}
