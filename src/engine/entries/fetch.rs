//! Entries from a remote: through this machine's cache or store, and checked on the way.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;

use super::cache::is_damage;
use super::restore::Restore;
use super::share::{in_scopes, remove_it, section, usable};
use super::spool::{Spool, spool};
use super::stored;
use super::tree;
use crate::archive::codec;
use crate::archive::restore::{Given, restore};
use crate::context::{Context, Progress};
use crate::entry::usage::{Event, count};
use crate::entry::{Existing, Home, Payload, Record, RootKind, Staging, facts, publish, sync_file};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Hasher};
use crate::remote::{Failure, Remote, Scope, Trouble};
use crate::text::Shown;

/// What came of looking in a remote.
#[derive(Debug)]
pub enum Fetched {
    /// It is in this machine's store now. The failure is that of another scope, which had a bad one.
    Here(Option<Failure>),
    /// The remote has no such entry.
    Absent,
    /// The remote did not help.
    Failed(Failure),
}

/// Looks for an artifact in a remote and brings it to the store. Failures of the remote are an answer; errors are this machine's
/// own. One that is here meanwhile is kept.
pub fn fetch(remote: &Remote, store: &Home, name: &Hash, context: &Context) -> Result<Fetched> {
    let (here, failure) = in_scopes(remote, |scope, started| {
        let once = || match try_fetch(remote, store, name, (scope, started), context) {
            Ok(Fetched::Absent) => Ok(None),
            Ok(Fetched::Failed(failure)) => Err(failure),
            Ok(Fetched::Here(_)) => Ok(Some(Ok(()))),
            Err(error) => Ok(Some(Err(error))),
        };
        twice(remote, store, name, scope, once)
    });
    Ok(match (here.transpose()?, failure) {
        (Some(()), failure) => Fetched::Here(failure),
        (None, Some(failure)) => Fetched::Failed(failure),
        (None, None) => Fetched::Absent,
    })
}

/// Does something once more when what came was damaged, in case it was the way here that did it, or was gone, in case somebody
/// removed the entry at this moment. What it leads to is counted, and kept in mind.
fn twice<T>(
    remote: &Remote,
    home: &Home,
    name: &Hash,
    scope: &Scope,
    once: impl Fn() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let done = match once() {
        Err(failure) if matches!(failure.trouble, Trouble::Damaged | Trouble::Dangling) => once(),
        done => done,
    };
    if let Err(failure) = &done {
        count(home, Event::Remote(failure.trouble.name()), 0);
        if matches!(failure.trouble, Trouble::Damaged | Trouble::Dangling) {
            remote.note_spoiled(section(home.kind()), scope, name);
        }
    }
    done
}

fn try_fetch(
    remote: &Remote,
    store: &Home,
    name: &Hash,
    (scope, started): (&Scope, Instant),
    context: &Context,
) -> Result<Fetched> {
    let Offer { mut record, payload, reader } = match offer(remote, store, name, scope, started) {
        Ok(Some(offer)) => offer,
        Ok(None) => return Ok(Fetched::Absent),
        Err(failure) => return failed(failure),
    };
    let (staging, file) = place_for_payload(store)?;
    context.progress.expect(payload.bytes);
    let (spool, _) = spool(file);
    let go_on = || context.cancel.check().map(|()| true);
    let hint = remove_it(store.kind(), name, scope);
    if let Err(failure) = download(reader, &payload, spool, Some(&context.progress), &go_on, &hint)? {
        return failed(failure);
    }
    record.payload = None;
    match unpack(&staging.join(PAYLOAD), &record, store, &staging, context) {
        Ok(()) => Ok(Fetched::Here(None)),
        Err(error) if is_damage(&error) => failed(Failure { trouble: Trouble::Damaged, error }),
        Err(error) => Err(error),
    }
}

/// An entry of a remote, its payload about to come.
struct Offer {
    record: Record,
    payload: Payload,
    reader: Box<dyn Read + Send>,
}

/// Looks for an entry in a scope of a remote, and opens its payload.
fn offer(remote: &Remote, home: &Home, name: &Hash, scope: &Scope, started: Instant) -> Result<Option<Offer>, Failure> {
    let Some(mut record) = usable(remote, home.kind(), name, scope, started)? else { return Ok(None) };
    let Some(payload) = record.payload else { return Ok(None) };
    let reader = remote.payload(section(home.kind()), scope, name, &payload.object(), payload.bytes)?;
    record.origin = json!({ "kind": "remote", "place": without_path(&remote.place()) });
    Ok(Some(Offer { record, payload, reader }))
}

/// What came of restoring an entry straight from a remote.
#[derive(Debug)]
pub(super) enum Through {
    /// It was restored, and is in this machine's cache now, unless that failed.
    Restored {
        /// Its metadata.
        record: Box<Record>,
        /// What the user should know.
        warnings: Vec<String>,
        /// Why it could not be kept here.
        unkept: Option<Error>,
        /// What was wrong with one of another scope.
        failure: Option<Failure>,
    },
    /// The remote has no such entry.
    Absent,
    /// The remote did not help.
    Failed(Failure),
    /// This machine's cache, which a payload passes through, did not take it.
    NotTaken(Error),
}

/// Restores an entry of a remote while it arrives, and keeps it in the cache. Failures of the remote are an answer; errors are
/// this machine's own.
pub(super) fn restore_through(
    remote: &Remote,
    cache: &Home,
    name: &Hash,
    existing: Existing<'_>,
    restore: &Restore<'_>,
    context: &Context,
) -> Result<Through> {
    let (through, before) = in_scopes(remote, |scope, started| {
        let once = || match try_through(remote, cache, name, (scope, started), existing, restore, context) {
            Ok(Through::Absent) => Ok(None),
            Ok(Through::Failed(failure)) => Err(failure),
            other => Ok(Some(other)),
        };
        twice(remote, cache, name, scope, once)
    });
    Ok(match (through.transpose()?, before) {
        (Some(Through::Restored { record, warnings, unkept, .. }), failure) => {
            Through::Restored { record, warnings, unkept, failure }
        }
        (Some(other), _) => other,
        (None, Some(failure)) => Through::Failed(failure),
        (None, None) => Through::Absent,
    })
}

fn try_through(
    remote: &Remote,
    cache: &Home,
    name: &Hash,
    (scope_there, started): (&Scope, Instant),
    existing: Existing<'_>,
    restore: &Restore<'_>,
    context: &Context,
) -> Result<Through> {
    let hint = remove_it(cache.kind(), name, scope_there);
    let Offer { record, payload, reader } = match offer(remote, cache, name, scope_there, started) {
        Ok(Some(offer)) => offer,
        Ok(None) => return Ok(Through::Absent),
        Err(failure) if failure.trouble == Trouble::Local => return Err(failure.error),
        Err(failure) => return Ok(Through::Failed(failure)),
    };
    let (staging, file) = match place_for_payload(cache) {
        Ok(made) => made,
        Err(error) => return not_taken(error),
    };
    let place = staging.join(PAYLOAD);
    let (spool, spooled) = spool(file);
    // Nobody waits for the rest of what is not wanted any more.
    let unwanted = AtomicBool::new(false);
    let go_on = || context.cancel.check().map(|()| !unwanted.load(Ordering::Relaxed));
    let (came, restored) = thread::scope(|scope| {
        let mut coming = Some(scope.spawn(|| download(reader, &payload, spool, None, &go_on, &hint)));
        let mut came = Ok(Ok(()));
        let mut whole = || {
            if let Some(coming) = coming.take() {
                came = coming.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
            match &came {
                Ok(Ok(())) => Ok(()),
                _ => Err(Error::damaged("the payload did not come whole")),
            }
        };
        let restored = restore(Box::new(spooled), &record, &mut whole);
        unwanted.store(restored.is_err(), Ordering::Relaxed);
        let restored = whole().and(restored);
        (came, restored)
    });
    match came {
        Ok(Ok(())) => {}
        // An interruption is nobody's failure.
        Ok(Err(failure)) if failure.trouble == Trouble::Local => return Err(failure.error),
        Ok(Err(failure)) => return Ok(Through::Failed(failure)),
        Err(error) => return not_taken(error),
    }
    let warnings = match restored {
        Ok(warnings) => warnings,
        // What came whole and adds up to no artifact is the remote's fault.
        Err(error) if is_damage(&error) => {
            let error = error.with_class(Class::Unavailable).with_hint(hint);
            return Ok(Through::Failed(Failure { trouble: Trouble::Damaged, error }));
        }
        Err(error) => return Err(error),
    };
    let unkept = publish(cache, &staging, &record, &place, existing, &context.cancel).err();
    Ok(Through::Restored { record: Box::new(record), warnings, unkept, failure: None })
}

/// A cache that is full or read-only is no reason to fail: nothing was restored, and that is said.
fn not_taken(error: Error) -> Result<Through> {
    if error.class() == Class::Failed { Ok(Through::NotTaken(error)) } else { Err(error) }
}

/// An interruption is nobody's failure.
fn failed(failure: Failure) -> Result<Fetched> {
    if failure.trouble == Trouble::Local { Err(failure.error) } else { Ok(Fetched::Failed(failure)) }
}

/// A folder of this machine is nobody else's business.
fn without_path(place: &str) -> &str {
    if place.starts_with("s3://") || place.starts_with("gs://") { place } else { "folder" }
}

/// Reads a payload into a file, and makes it durable. The inner result is about the remote. Ends early, and says nothing of it,
/// once `go_on` says no.
fn download(
    mut reader: Box<dyn Read + Send>,
    payload: &Payload,
    mut spool: Spool,
    progress: Option<&Progress>,
    go_on: &dyn Fn() -> Result<bool>,
    hint: &str,
) -> Result<Result<(), Failure>> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if !go_on()? {
            return Ok(Ok(()));
        }
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(Failure::of_read(error))),
        };
        hasher.update(&buffer[..n]);
        spool.write(&buffer[..n]).or_fail(|| "cannot keep a payload")?;
        if let Some(progress) = progress {
            progress.add(n as u64);
        }
    }
    if hasher.finish() != payload.sha256 {
        let error = Error::damaged("the payload has not the digest that its record states");
        return Ok(Err(Failure { trouble: Trouble::Damaged, error: error.hint(hint) }));
    }
    // Whoever unpacks it need not wait for the disk.
    spool.finish();
    sync_file(spool.file())?;
    Ok(Ok(()))
}

/// The name of a payload in its staging.
const PAYLOAD: &str = "payload";

/// A folder of its own for a payload, and a new file in it.
fn place_for_payload(home: &Home) -> Result<(Staging, File)> {
    home.create()?;
    let staging = Staging::new(home)?;
    let place = staging.join(PAYLOAD);
    let made = File::options().read(true).write(true).create_new(true).open(&place);
    Ok((staging, made.or_fail(|| format!("cannot write `{}`", Shown::path(&place)))?))
}

/// A payload to a tree in the store.
fn unpack(payload: &Path, record: &Record, store: &Home, staging: &Staging, context: &Context) -> Result<()> {
    let folder = staging.join("tree");
    let file = File::open(payload).or_fail(|| "cannot open the payload")?;
    std::fs::create_dir(&folder).or_fail(|| "cannot make a folder in the store")?;
    let content = codec::decode(Box::new(file), context)?;
    let (kind, time) = (super::restore::kind_of(&record.output), tree::STORE_TIME);
    let (listing, digest) = restore(content, &folder, kind, Given::Same(time.0, time.1), record.output.bytes, context)?;
    super::restore::check(&listing, &digest, &record.output)?;
    if record.output.root == RootKind::File {
        super::restore::check_name(&folder, &record.output)?;
    }
    stored::settle(&folder)?;
    if let Err(error) = facts::put(store, staging, &listing.text()) {
        tracing::debug!(error = %error.chain(), "a listing was not kept");
    }
    publish(store, staging, record, &folder, Existing::Keep, &context.cancel)?;
    Ok(())
}
