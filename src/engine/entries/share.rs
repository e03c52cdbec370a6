//! Entries from and to a remote: fetched into this machine's cache or store first, and checked on the way.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::json;

use super::cache::{is_damage, set_aside};
use super::pack;
use super::stored;
use super::tree;
use crate::archive::codec;
use crate::archive::restore::{Given, restore};
use crate::context::Context;
use crate::entry::usage::{Event, count};
use crate::entry::{Existing, Home, HomeKind, Payload, Record, RootKind, Staging, facts, open, publish, sync_file};
use crate::error::{Error, IoContext, Result};
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
    /// It is in this machine's cache or store now.
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
        error: Error::new(
            crate::error::Class::Unavailable,
            format_args!("the record of {} is not usable", name.short()),
        )
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

/// Looks for an entry in a remote and brings it here. Failures of the remote are an answer; errors are this machine's own.
///
/// An entry that is here meanwhile is kept or replaced, by `existing`.
pub fn fetch(remote: &Remote, home: &Home, name: &Hash, existing: Existing, context: &Context) -> Result<Fetched> {
    let fetched = try_fetch(remote, home, name, existing, context);
    let again = match &fetched {
        // Once more, in case it was the way here that damaged it.
        Ok(Fetched::Failed(failure)) => failure.trouble == Trouble::Damaged,
        _ => false,
    };
    let fetched = if again { try_fetch(remote, home, name, existing, context)? } else { fetched? };
    if let Fetched::Failed(failure) = &fetched {
        count(home, Event::Remote(failure.trouble.name()), 0);
    }
    Ok(fetched)
}

fn try_fetch(remote: &Remote, home: &Home, name: &Hash, existing: Existing, context: &Context) -> Result<Fetched> {
    let section = section(home.kind());
    let (scope, text) = match remote.record(section, name) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Fetched::Absent),
        Err(failure) => return failed(failure),
    };
    let mut record = match read_record(&text, home.kind(), name, &scope) {
        Ok(record) => record,
        Err(failure) => return failed(failure),
    };
    let Some(payload) = record.payload else { return Ok(Fetched::Absent) };
    let reader = match remote.payload(section, &scope, name, &payload.object(), payload.bytes) {
        Ok(reader) => reader,
        Err(failure) => return failed(failure),
    };
    home.create()?;
    let staging = Staging::new(home)?;
    let file = staging.join("payload");
    if let Err(failure) = download(reader, &payload, &file, context)? {
        return failed(failure);
    }
    record.origin = json!({ "kind": "remote", "place": without_path(&remote.place()) });
    match home.kind() {
        HomeKind::Cache => drop(publish(home, &staging, &record, &file, existing, &context.cancel)?),
        HomeKind::Store => {
            record.payload = None;
            match unpack(&file, &record, home, &staging, context) {
                Ok(()) => {}
                Err(error) if is_damage(&error) => {
                    return failed(Failure { trouble: Trouble::Damaged, error });
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Fetched::Here)
}

/// An interruption is nobody's failure.
fn failed(failure: Failure) -> Result<Fetched> {
    if failure.trouble == Trouble::Local { Err(failure.error) } else { Ok(Fetched::Failed(failure)) }
}

/// A folder of this machine is nobody else's business.
fn without_path(place: &str) -> &str {
    if place.starts_with("s3://") || place.starts_with("gs://") { place } else { "folder" }
}

/// Reads a payload into a file, and makes it durable. The inner result is about the remote.
fn download(
    mut reader: Box<dyn Read + Send>,
    payload: &Payload,
    place: &Path,
    context: &Context,
) -> Result<Result<(), Failure>> {
    let doing = || format!("cannot write `{}`", Shown::path(place));
    let mut file = File::create(place).or_fail(doing)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    context.progress.expect(payload.bytes);
    loop {
        context.cancel.check()?;
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(Failure::of_read(error))),
        };
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).or_fail(doing)?;
        context.progress.add(n as u64);
    }
    if hasher.finish() != payload.sha256 {
        let error = Error::damaged("the payload has not the digest that its record states");
        return Ok(Err(Failure { trouble: Trouble::Damaged, error: error.hint(REMOVE_IT) }));
    }
    sync_file(&file)?;
    Ok(Ok(()))
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
    let shelf = record.inputs.shelf();
    let marker = Marker { component, platform: &shelf };
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
