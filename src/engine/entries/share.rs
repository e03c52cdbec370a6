//! Entries to a remote, and what its records say.

use std::time::{Instant, SystemTime};

use serde_json::json;

use super::cache::set_aside;
use super::pack;
use super::stored;
use crate::context::Context;
use crate::entry::usage::{Event, count};
use crate::entry::{Home, HomeKind, Record, RootKind, Staging, facts, is_newer, is_of_this_version, open, seconds};
use crate::error::{Class, Error, Result};
use crate::hash::{Hash, Listing};
use crate::remote::{Content, Failure, Marker, Published, Remote, Scope, Section, Trouble};

/// The listing of an entry's sources, in a remote.
pub(super) const SOURCES: &str = "source.listing.zst";

/// What to do about an entry of a remote that is no good: nobody else can tell a bad one from a good one.
pub(super) fn remove_it(kind: HomeKind, name: &Hash, scope: &Scope) -> String {
    let again = "a build that misses it then stores it again";
    if kind == HomeKind::Store {
        return format!("remove entry {name} of scope `{scope}` there; {again}");
    }
    let scope = match scope.as_str() {
        Scope::SHARED => String::new(),
        other => format!("MONOFO_SCOPE={other} "),
    };
    format!("remove it there with `{scope}monofo cache invalidate --key {name} --remote URL`; {again}")
}

/// Says how what lies in a record's place is removed, where that is what was refused.
fn removable(failure: Failure, kind: HomeKind, name: &Hash, scope: &Scope) -> Failure {
    if failure.trouble != Trouble::Refused {
        return failure;
    }
    let hint = format!("is it a store for objects that answers there? If so, {}", remove_it(kind, name, scope));
    Failure { error: failure.error.with_hint(hint), ..failure }
}

/// Looks in each of the scopes that are read until one has something good. What is bad in one does not hide what is good in a
/// later one; the first failure is returned too.
pub(super) fn in_scopes<T>(
    remote: &Remote,
    mut look: impl FnMut(&Scope, Instant) -> Result<Option<T>, Failure>,
) -> (Option<T>, Option<Failure>) {
    let mut failed = None;
    let mut started = Instant::now();
    for scope in &remote.scopes().read {
        match look(scope, started) {
            Ok(None) => {}
            Ok(found) => return (found, failed),
            Err(failure) => {
                let goes_on =
                    !matches!(failure.trouble, Trouble::Unreachable | Trouble::Local) && !remote.is_given_up();
                let was_damaged = failure.trouble == Trouble::Damaged;
                failed.get_or_insert(failure);
                if !goes_on {
                    break;
                }
                // A payload came in between, and is no part of the lookup.
                if was_damaged {
                    started = Instant::now();
                }
            }
        }
    }
    (None, failed)
}

/// The part of a remote that an entry belongs to.
pub fn section(kind: HomeKind) -> Section {
    match kind {
        HomeKind::Cache => Section::Cache,
        HomeKind::Store => Section::Store,
    }
}

/// What a failure means, in one line for the log.
pub fn failure_line(failure: &Failure) -> String {
    let why = failure.error.chain();
    match failure.trouble {
        Trouble::Unreachable => format!("remote unreachable: {why}"),
        Trouble::Denied => format!("remote refused us: {why}"),
        Trouble::Refused => format!("remote entry refused: {why}"),
        Trouble::Dangling => format!("remote record without payload: {why}"),
        Trouble::Damaged => format!("remote payload damaged: {why}"),
        Trouble::Local => format!("the remote entry could not be used: {why}"),
    }
}

/// The same where the command goes on all the same, and how.
pub fn report_line(failure: &Failure, kind: HomeKind) -> String {
    let line = failure_line(failure);
    match failure.trouble {
        Trouble::Dangling => format!("{line}; treated as a miss, the next build repairs it"),
        _ => format!("{line}; using the local {}", kind.word()),
    }
}

/// A record of a remote, if it is one: nothing that it says is believed before it adds up.
pub fn read_record(text: &[u8], kind: HomeKind, name: &Hash, scope: &Scope) -> Result<Record, Failure> {
    let refused = |error: Error| {
        let hint = match is_newer(text, kind) {
            true => "a later version of monofo stored it, and it stays: use that version here, too".to_owned(),
            false => remove_it(kind, name, scope),
        };
        let what = Error::new(Class::Unavailable, format_args!("the record of {} is not usable", name.short()));
        Failure { trouble: Trouble::Refused, error: what.caused_by(error.chain()).hint(hint) }
    };
    let mut record = Record::parse(text, kind, name).map_err(refused)?;
    // Another machine's clock must not make it the newest for ever.
    record.created = record.created.min(seconds(SystemTime::now()));
    if record.scope != scope.as_str() {
        return Err(refused(Error::damaged("it is of another scope than the one it lies in")));
    }
    if record.payload.is_none() {
        return Err(refused(Error::damaged("it names no payload")));
    }
    Ok(record)
}

/// The record of a cache's entry in a remote, if there is one that adds up. Its payload is not looked for.
pub fn foresee(remote: &Remote, key: &Hash) -> Result<Option<Record>, Failure> {
    match in_scopes(remote, |scope, started| usable(remote, HomeKind::Cache, key, scope, started)) {
        (None, Some(failure)) => Err(failure),
        (found, _) => Ok(found),
    }
}

/// The record of an entry in one scope. One that does not add up, and may be replaced, is kept in mind.
pub fn usable(
    remote: &Remote,
    kind: HomeKind,
    name: &Hash,
    scope: &Scope,
    started: Instant,
) -> Result<Option<Record>, Failure> {
    let section = section(kind);
    let text = remote.record_of(section, scope, name, started);
    let text = text.inspect_err(|failure| {
        if is_none_of_ours(remote, failure) {
            remote.note_spoiled(section, scope, name);
        }
    });
    let Some(text) = text.map_err(|failure| removable(failure, kind, name, scope))? else { return Ok(None) };
    read_record(&text, kind, name, scope).map(Some).inspect_err(|_| {
        if is_replaceable(remote, &text, kind) {
            remote.note_spoiled(section, scope, name);
        }
    })
}

/// What came of uploading an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shared {
    /// It is in the remote now.
    Created,
    /// The same was there already.
    Already,
    /// This run may not write to the remote.
    NotWritten,
    /// Another output of the same inputs is there, and stays. A warning.
    Other(String),
    /// Somebody replaced or removed it here meanwhile, so there is nothing to share. A warning.
    Gone(String),
}

/// Uploads an entry of this machine. What is there already stays. The inner error is the remote's.
pub fn share(
    remote: &Remote,
    home: &Home,
    record: &Record,
    sources: Option<&Listing>,
    context: &Context,
) -> Result<Result<Shared, Failure>> {
    let Some(scope) = remote.scopes().write.clone() else { return Ok(Ok(Shared::NotWritten)) };
    let name = record.name(home.kind());
    let staging = Staging::new(home)?;
    let (payload, file) = match (&record.payload, home.kind()) {
        (Some(payload), HomeKind::Cache) => {
            let file = home.folder(&name).join(payload.file());
            // What rotted here must not spread.
            let digest = match stored::digest_of(&file, &context.cancel) {
                Err(error) if is_missing(&error) => return Ok(Ok(gone(&name))),
                other => other?,
            };
            if digest != payload.sha256 {
                let opened = open(home, &name).unwrap_or(None);
                let aside = set_aside(home, &name, opened.as_ref());
                let error = format!("cache entry {} is damaged, and was not shared", name.short());
                return Err(aside.told(Error::damaged(error).hint("build and store it again")));
            }
            (*payload, file)
        }
        _ => {
            let file = staging.join("payload");
            let path = match record.output.root {
                RootKind::Dir => home.folder(&name),
                RootKind::File => stored::only_file(&home.folder(&name))?,
            };
            let artifact = pack::Artifact::look(&path, &[], &context.cancel)?;
            let (payload, listing) = pack::payload(&artifact, crate::entry::Encoding::TarZst, &file, context)?;
            if listing.digest() != record.output.tree {
                return Err(Error::damaged(format_args!("store entry {} is not what was stored", name.short())));
            }
            (payload, file)
        }
    };
    let mut told = record.clone();
    told.payload = Some(payload);
    told.origin = json!({ "kind": "local" });
    told.scope = scope.as_str().to_owned();
    let mut extras = Vec::new();
    if let Some(sources) = sources {
        extras.push((SOURCES, facts::pack(&sources.text())?));
    }
    let component = record.inputs.component().as_str();
    let shelf = record.inputs.shelf();
    let marker = Marker { component, platform: &shelf };
    let marker = (home.kind() == HomeKind::Cache).then_some(&marker);
    let (object, text) = (payload.object(), told.text(home.kind()));
    let section = section(home.kind());
    let content = Content { record: &text, payload: (&object, &file), extras: &extras, marker };
    let publish = || remote.publish(section, &name, &content);
    let spoiled = remote.is_spoiled(section, &name);
    // What is there may be good by now, and is then as good as ours; but what a later version wrote, or another service, stays.
    let stays = |theirs: &[u8]| {
        read_record(theirs, home.kind(), &name, &scope).is_err() && !is_replaceable(remote, theirs, home.kind())
    };
    let anew = || remote.replace(section, &name, &content, &stays);
    // What is there is of no use to anybody.
    let mut published = if spoiled { anew() } else { publish() };
    published = match published {
        Err(failure) if is_none_of_ours(remote, &failure) && !spoiled => anew(),
        // A record without its payload has no output that could be kept, and would only mislead.
        Ok(Published::Exists(theirs)) if is_empty_shell(remote, home.kind(), &theirs, &name, &scope) => anew(),
        published => published,
    };
    if spoiled && published.is_ok() {
        remote.forget_spoiled(section, &name);
    }
    Ok(match published {
        Ok(Published::Created) => Ok(Shared::Created),
        Ok(Published::Exists(theirs)) => Ok(match read_record(&theirs, home.kind(), &name, &scope) {
            Ok(theirs) if theirs.output.tree == record.output.tree => Shared::Already,
            Ok(theirs) => Shared::Other(format!(
                "the remote has another output for the same inputs, and keeps it: {} there, {} here",
                theirs.output.tree.short(),
                record.output.tree.short()
            )),
            Err(failure) => return Ok(Err(failure)),
        }),
        Err(failure) if failure.trouble == Trouble::Local && is_missing(&failure.error) => Ok(gone(&name)),
        Err(failure) if failure.trouble == Trouble::Local => return Err(failure.error),
        Err(failure) => {
            count(home, Event::Remote(failure.trouble.name()), 0);
            Err(removable(failure, home.kind(), &name, &scope))
        }
    })
}

/// Whether what lies in the place of a record or a payload is none. Where a server answers, that may be a proxy's word.
fn is_none_of_ours(remote: &Remote, failure: &Failure) -> bool {
    failure.trouble == Trouble::Refused && remote.is_folder()
}

/// Whether what is no usable record may be replaced. One of a later version is good for others, and where a server answers,
/// what does not even claim to be a record may be the answer of a proxy.
fn is_replaceable(remote: &Remote, text: &[u8], kind: HomeKind) -> bool {
    !is_newer(text, kind) && (remote.is_folder() || is_of_this_version(text, kind))
}

/// Whether a record is good and its payload is not there, or is none of this size.
fn is_empty_shell(remote: &Remote, kind: HomeKind, text: &[u8], name: &Hash, scope: &Scope) -> bool {
    let payload = read_record(text, kind, name, scope).ok().and_then(|record| record.payload);
    payload.is_some_and(|payload| match remote.holds(section(kind), scope, name, &payload.object(), payload.bytes) {
        Ok(holds) => !holds,
        Err(failure) => is_none_of_ours(remote, &failure),
    })
}

/// Whether a file of this machine was not there.
fn is_missing(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound)
}

fn gone(name: &Hash) -> Shared {
    let why = "somebody replaced or removed it here meanwhile";
    Shared::Gone(format!("the entry {} was not shared: {why}; whoever stored the other one shares that", name.short()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::cancel::Cancel;
    use crate::remote::{Limits, Scopes};

    #[test]
    fn all_scopes_share_the_time_of_one_lookup_but_for_what_a_payload_takes() {
        let read = ["a", "b", "c"].map(|name| Scope::new(name).unwrap()).to_vec();
        let store = Arc::new(InMemory::new());
        let remote = Remote::over(store, "", Scopes { write: None, read }, Limits::default(), &Cancel::new()).unwrap();
        for (trouble, is_new) in [(Trouble::Denied, false), (Trouble::Refused, false), (Trouble::Damaged, true)] {
            let seen = RefCell::new(Vec::new());
            let (found, failure) = in_scopes(&remote, |_, started| -> Result<Option<()>, Failure> {
                seen.borrow_mut().push(started);
                std::thread::sleep(std::time::Duration::from_millis(2));
                Err(Failure { trouble, error: Error::damaged("x") })
            });
            assert!(found.is_none() && failure.is_some());
            let seen = seen.into_inner();
            assert_eq!(seen.len(), 3);
            assert_eq!(seen[2] > seen[0], is_new, "{trouble}");
        }
    }
}
