//! Entries from and to a remote: fetched into this machine's cache or store first, and checked on the way.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::cache::{is_damage, set_aside};
use super::pack;
use super::restore::Restore;
use super::spool::{Spool, spool};
use super::stored;
use super::tree;
use crate::archive::codec;
use crate::archive::restore::restore;
use crate::context::{Context, Progress};
use crate::entry::usage::{Event, count};
use crate::entry::{Existing, Home, HomeKind, Payload, Record, RootKind, Staging, facts, open, publish, sync_file};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Hasher, Listing};
use crate::remote::{Failure, Marker, Published, Remote, Scope, Section, Trouble};
use crate::text::Shown;

/// The listing of an entry's sources, in a remote.
pub(super) const SOURCES: &str = "source.listing.zst";

/// What to do about an entry of a remote that is no good: nobody else can tell a bad one from a good one.
const REMOVE_IT: &str =
    "remove it there with `monofo cache invalidate --key KEY --remote URL`; the next build stores it again";

/// What came of looking in a remote.
#[derive(Debug)]
pub enum Fetched {
    /// It is in this machine's store now.
    Here,
    /// The remote has no such entry.
    Absent,
    /// The remote did not help.
    Failed(Failure),
}

/// The part of a remote that an entry belongs to.
pub fn section(kind: HomeKind) -> Section {
    match kind {
        HomeKind::Cache => Section::Cache,
        HomeKind::Store => Section::Store,
    }
}

/// What a failure means, in one line for the log.
pub fn report_line(failure: &Failure, kind: HomeKind) -> String {
    let why = failure.error.chain();
    let instead = format!("using the local {}", kind.word());
    match failure.trouble {
        Trouble::Unreachable => format!("remote unreachable: {why}; {instead}"),
        Trouble::Denied => format!("remote refused us: {why}; {instead}"),
        Trouble::Refused => format!("remote entry refused: {why}; {instead}"),
        Trouble::Dangling => {
            format!("remote record without payload: {why}; treated as a miss, the next build repairs it")
        }
        Trouble::Damaged => format!("remote payload damaged: {why}; {instead}"),
        Trouble::Local => format!("the remote entry could not be used: {why}; {instead}"),
    }
}

/// A record of a remote, if it is one: nothing that it says is believed before it adds up.
pub fn read_record(text: &[u8], kind: HomeKind, name: &Hash, scope: &Scope) -> Result<Record, Failure> {
    let refused = |error: Error| Failure {
        trouble: Trouble::Refused,
        error: Error::new(Class::Unavailable, format_args!("the record of {} is not usable", name.short()))
            .caused_by(error.chain())
            .hint(REMOVE_IT),
    };
    let record = Record::parse(text, kind, name).map_err(refused)?;
    if record.scope != scope.as_str() {
        return Err(refused(Error::damaged("it is of another scope than the one it lies in")));
    }
    if record.payload.is_none() {
        return Err(refused(Error::damaged("it names no payload")));
    }
    Ok(record)
}

/// Looks for an artifact in a remote and brings it to the store. Failures of the remote are an answer; errors are this machine's
/// own. One that is here meanwhile is kept.
pub fn fetch(remote: &Remote, store: &Home, name: &Hash, context: &Context) -> Result<Fetched> {
    let fetched = try_fetch(remote, store, name, context);
    let again = match &fetched {
        // Once more, in case it was the way here that damaged it.
        Ok(Fetched::Failed(failure)) => failure.trouble == Trouble::Damaged,
        _ => false,
    };
    let fetched = if again { try_fetch(remote, store, name, context)? } else { fetched? };
    if let Fetched::Failed(failure) = &fetched {
        count(store, Event::Remote(failure.trouble.name()), 0);
    }
    Ok(fetched)
}

fn try_fetch(remote: &Remote, store: &Home, name: &Hash, context: &Context) -> Result<Fetched> {
    let Offer { mut record, payload, reader } = match offer(remote, store, name) {
        Ok(Some(offer)) => offer,
        Ok(None) => return Ok(Fetched::Absent),
        Err(failure) => return failed(failure),
    };
    store.create()?;
    let staging = Staging::new(store)?;
    let file = staging.join("payload");
    context.progress.expect(payload.bytes);
    let (spool, _) = spool(new_file(&file)?);
    let go_on = || context.cancel.check().map(|()| true);
    if let Err(failure) = download(reader, &payload, spool, Some(&context.progress), &go_on)? {
        return failed(failure);
    }
    record.payload = None;
    match unpack(&file, &record, store, &staging, context) {
        Ok(()) => Ok(Fetched::Here),
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

/// Looks for an entry in a remote, and opens its payload.
fn offer(remote: &Remote, home: &Home, name: &Hash) -> Result<Option<Offer>, Failure> {
    let section = section(home.kind());
    let Some((scope, text)) = remote.record(section, name)? else { return Ok(None) };
    let mut record = read_record(&text, home.kind(), name, &scope)?;
    let Some(payload) = record.payload else { return Ok(None) };
    let reader = remote.payload(section, &scope, name, &payload.object(), payload.bytes)?;
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
    },
    /// The remote has no such entry.
    Absent,
    /// The remote did not help.
    Failed(Failure),
}

/// Restores an entry of a remote while it arrives, and keeps it in the cache. Failures of the remote are an answer; errors are
/// this machine's own.
pub(super) fn restore_through(
    remote: &Remote,
    cache: &Home,
    name: &Hash,
    existing: Existing,
    restore: &Restore<'_>,
    context: &Context,
) -> Result<Through> {
    let once = || try_through(remote, cache, name, existing, restore, context);
    let through = match once()? {
        // Once more, in case it was the way here that damaged it.
        Through::Failed(failure) if failure.trouble == Trouble::Damaged => once()?,
        through => through,
    };
    if let Through::Failed(failure) = &through {
        count(cache, Event::Remote(failure.trouble.name()), 0);
    }
    Ok(through)
}

fn try_through(
    remote: &Remote,
    cache: &Home,
    name: &Hash,
    existing: Existing,
    restore: &Restore<'_>,
    context: &Context,
) -> Result<Through> {
    let Offer { record, payload, reader } = match offer(remote, cache, name) {
        Ok(Some(offer)) => offer,
        Ok(None) => return Ok(Through::Absent),
        Err(failure) if failure.trouble == Trouble::Local => return Err(failure.error),
        Err(failure) => return Ok(Through::Failed(failure)),
    };
    cache.create()?;
    let staging = Staging::new(cache)?;
    let file = staging.join("payload");
    let (spool, spooled) = spool(new_file(&file)?);
    // Nobody waits for the rest of what is not wanted any more.
    let unwanted = AtomicBool::new(false);
    let go_on = || context.cancel.check().map(|()| !unwanted.load(Ordering::Relaxed));
    let (came, restored) = thread::scope(|scope| {
        let mut coming = Some(scope.spawn(|| download(reader, &payload, spool, None, &go_on)));
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
    if let Err(failure) = came? {
        return Ok(Through::Failed(failure));
    }
    let warnings = match restored {
        Ok(warnings) => warnings,
        // What came whole and adds up to no artifact is the remote's fault.
        Err(error) if is_damage(&error) => {
            let error = error.with_class(Class::Unavailable).with_hint(REMOVE_IT);
            return Ok(Through::Failed(Failure { trouble: Trouble::Damaged, error }));
        }
        Err(error) => return Err(error),
    };
    let unkept = publish(cache, &staging, &record, &file, existing, &context.cancel).err();
    Ok(Through::Restored { record: Box::new(record), warnings, unkept })
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
        return Ok(Err(Failure { trouble: Trouble::Damaged, error: error.hint(REMOVE_IT) }));
    }
    // Whoever unpacks it need not wait for the disk.
    spool.finish();
    sync_file(spool.file())?;
    Ok(Ok(()))
}

/// A new file for a payload.
fn new_file(place: &Path) -> Result<File> {
    let made = File::options().read(true).write(true).create_new(true).open(place);
    made.or_fail(|| format!("cannot write `{}`", Shown::path(place)))
}

/// A payload to a tree in the store.
fn unpack(payload: &Path, record: &Record, store: &Home, staging: &Staging, context: &Context) -> Result<()> {
    let folder = staging.join("tree");
    let file = File::open(payload).or_fail(|| "cannot open the payload")?;
    std::fs::create_dir(&folder).or_fail(|| "cannot make a folder in the store")?;
    let content = codec::decode(Box::new(file), context)?;
    let (kind, time) = (super::restore::kind_of(&record.output), tree::STORE_TIME);
    let (listing, digest) = restore(content, &folder, kind, time, record.output.bytes, context)?;
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
            if stored::digest_of(&file, &context.cancel)? != payload.sha256 {
                let opened = open(home, &name).unwrap_or(None);
                set_aside(home, &name, opened.as_ref());
                return Err(Error::damaged(format_args!(
                    "cache entry {} is damaged, and was not shared",
                    name.short()
                ))
                .hint("build and store it again"));
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
    let marker = Marker { component, platform: record.inputs.platform() };
    let marker = (home.kind() == HomeKind::Cache).then_some(&marker);
    let (object, text) = (payload.object(), told.text(home.kind()));
    let section = section(home.kind());
    let publish = || remote.publish(section, &name, &text, (&object, &file), &extras, marker);
    let mut published = publish();
    // The same output whose payload is gone is stored anew: its record would only mislead.
    if let Ok(Published::Exists(theirs)) = &published
        && let Ok(theirs) = read_record(theirs, home.kind(), &name, &scope)
        && let Some(payload) = theirs.payload.filter(|_| theirs.output.tree == record.output.tree)
        && let Ok(false) = remote.holds(section, &scope, &name, &payload.object(), payload.bytes)
    {
        published = remote.remove(section, &name).and_then(|_| publish());
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
        Err(failure) if failure.trouble == Trouble::Local => return Err(failure.error),
        Err(failure) => {
            count(home, Event::Remote(failure.trouble.name()), 0);
            Err(failure)
        }
    })
}
