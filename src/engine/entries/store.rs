//! The content-addressed store: an artifact under the hash of all that went in and all that came out, and back.

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use super::cache::{differing, inputs_changed, is_damage, named, remember, set_aside};
use super::pack::{Artifact, output};
use super::restore::{check, check_name, kind_of, place, time_of};
use super::sharing::Sharing;
use super::survey::{Entry, survey};
use super::target::Target;
use super::tree::{self, Link};
use crate::archive::restore::listing;
use crate::context::Context;
use crate::engine::keys::Computed;
use crate::entry::{Existing, Home, Published, Record, RootKind, Staging, StatCache, facts, open, publish};
use crate::error::{Class, Error, Result};
use crate::hash::escape::unescape;
use crate::hash::{Hash, Listing, ListingKind};
use crate::text::{Count, Shown};

/// Files of other entries that are looked at for sharing.
const MOST_SHARED: usize = 1_000_000;

/// What came of adding an artifact.
#[derive(Debug)]
pub struct Added {
    /// Its metadata.
    pub record: Record,
    /// Its address.
    pub hash: Hash,
    /// Whether it was there already.
    pub same: bool,
    /// Bytes of files that it shares with others.
    pub shared: u64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// What a store holds, read once for adding many artifacts.
pub struct Stock<'a> {
    entries: Vec<Entry>,
    /// Listings of artifacts by their digest, as far as they were asked for; `None` for those that are lost. Nothing is kept here
    /// for one artifact alone.
    listings: Option<HashMap<Hash, Option<Listing>>>,
    /// Which files need not be read to know what is in them.
    known: &'a StatCache,
}

impl<'a> Stock<'a> {
    /// What is there now.
    pub fn read(store: &Home, known: &'a StatCache) -> Result<Self> {
        Ok(Stock { entries: survey(store)?.entries, listings: Some(HashMap::new()), known })
    }
}

/// Adds an artifact; `known` tells which of its files need not be read to know what is in them. `again` computes the key once
/// more when it was read: class `Changed` when that gives another. Blocks.
pub fn add(
    store: &Home,
    computed: &Computed,
    artifact: Artifact,
    known: &StatCache,
    scope: &str,
    again: &dyn Fn() -> Result<Hash>,
    context: &Context,
) -> Result<Added> {
    store.create()?;
    let mut stock = Stock { entries: survey(store)?.entries, listings: None, known };
    let added = add_to(store, &mut stock, computed, artifact, scope, again, context);
    known.save();
    added
}

/// Adds one of many artifacts. They share files with what was there before, and not with each other. What is learned of files is
/// not saved.
pub fn add_to(
    store: &Home,
    stock: &mut Stock<'_>,
    computed: &Computed,
    artifact: Artifact,
    scope: &str,
    again: &dyn Fn() -> Result<Hash>,
    context: &Context,
) -> Result<Added> {
    let sharing = sharing(store, stock, computed);
    let staging = Staging::new(store)?;
    context.progress.expect(artifact.bytes());
    let folder = staging.join("tree");
    let listing = copied(&artifact, &folder, &sharing, stock.known, context)?;
    if again()? != computed.key {
        return Err(inputs_changed(computed));
    }
    let text = listing.text();
    let output = output(&listing, artifact.kind, artifact.name.clone(), Hash::of(&text));
    let record = Record::new(computed.record.clone(), output, computed.source, scope);
    let mut warnings = artifact.warnings.clone();
    let others = stock.entries.iter().filter(|entry| entry.record.key == record.key && entry.name != record.address());
    if let Some(other) = others.max_by_key(|entry| entry.record.created) {
        let was = facts::get(store, &other.record.output.tree).and_then(|text| Listing::parse(&text).ok());
        let paths = was.map(|was| differing(&was, &listing)).unwrap_or_default();
        let detail = match paths.first() {
            Some(first) => format!(" in {}, first `{}`", Count(paths.len() as u64, "path"), Shown(first)),
            None => String::new(),
        };
        warnings.push(format!(
            "the same inputs gave another output before, different{detail}: the build is not reproducible, or an input is not declared. Both are kept"
        ));
    }
    let published = thread::scope(|scope| {
        scope.spawn(|| remember(store, computed, &text));
        publish(store, &staging, &record, &folder, Existing::Replace, &context.cancel)
    })?;
    let mut published = published;
    // What was there may go while it is looked at: then this is stored after all.
    let wrong = loop {
        let Published::Same(there) = &published else { break None };
        match damage(store, there, context)? {
            Some(error) if error.class() == Class::NotThere => {
                context.cancel.check()?;
                published = publish(store, &staging, &record, &folder, Existing::Replace, &context.cancel)?;
            }
            other => break other,
        }
    };
    // What is there may have rotted, or been written to: then what is read now takes its place. What was copied at first may have
    // further names of the very files that rotted, here or in another entry, so nothing is shared and nothing is believed unread.
    let repaired = wrong.is_some();
    let published = match (published, wrong) {
        (Published::Same(there), Some(error)) => {
            let opened = open(store, &record.address()).unwrap_or(None);
            let aside = set_aside(store, &record.address(), opened.as_ref());
            drop(opened);
            let error = aside.told(named(store, &record.address(), &there, error));
            let whole = staging.join("whole");
            context.progress.expect(artifact.bytes());
            let read = copied(&artifact, &whole, &Sharing::default(), &StatCache::default(), context)?;
            if read.text() != text {
                return Err(Error::new(Class::Changed, "the artifact changed while it was added")
                    .caused_by(error)
                    .hint("make sure that nothing writes there meanwhile, and add it again"));
            }
            let published = publish(store, &staging, &record, &whole, Existing::Replace, &context.cancel)?;
            // Somebody else may have stored it meanwhile, or it could not be moved.
            if let Published::Same(there) = &published
                && damage(store, there, context)?.is_some()
            {
                return Err(error.with_class(Class::Damaged).with_hint("remove it by hand, and add it again"));
            }
            warnings.push(format!("{}; the artifact was stored again", error.chain()));
            published
        }
        (published, _) => published,
    };
    let same = matches!(published, Published::Same(_));
    let shared = if same || repaired { 0 } else { sharing.shared() };
    Ok(Added { hash: record.address(), record, same, shared, warnings })
}

/// Copies an artifact into a new folder of a store. Returns its listing.
fn copied(
    artifact: &Artifact,
    folder: &Path,
    sharing: &Sharing,
    known: &StatCache,
    context: &Context,
) -> Result<Listing> {
    match artifact.kind {
        RootKind::Dir => {
            Ok(Listing::new(ListingKind::Dir, tree::add(&artifact.root, folder, sharing, known, context)?))
        }
        RootKind::File => {
            let name = artifact.files.entries().first().map(|entry| artifact.files.name(entry).to_vec());
            let name = name.ok_or_else(|| Error::failed("an artifact that is a file has one"))?;
            let path = artifact.root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name));
            Ok(Listing::new(ListingKind::File, vec![tree::add_file(&path, folder, sharing, known, context)?]))
        }
    }
}

/// Reads an artifact that is there. Class `Damaged`, `Refused` or `Changed` when it is not what its metadata say.
pub(super) fn sound(content: &Path, record: &Record, context: &Context) -> Result<()> {
    let output = &record.output;
    let listing = listing(tree::hash(content, &context.cancel)?, kind_of(output));
    check(&listing, &listing.digest(), output)?;
    if output.root == RootKind::File { check_name(content, output) } else { Ok(()) }
}

/// Whether a store has an artifact, read again just now. False for one that is damaged, which adding it replaces.
pub fn has_sound(store: &Home, hash: &Hash, context: &Context) -> Result<bool> {
    let checked = match open(store, hash) {
        Ok(Some(opened)) => sound(&opened.content, &opened.record, context),
        Ok(None) => return Ok(false),
        Err(error) => Err(error),
    };
    match checked {
        Ok(()) => Ok(true),
        Err(error) if is_wrong(&error) || error.class() == Class::NotThere => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error says that what lies in a store is wrong. What changes while it is read lies where nothing changes.
pub(super) fn is_wrong(error: &Error) -> bool {
    matches!(error.class(), Class::Damaged | Class::Refused | Class::Changed)
}

/// What is wrong with an artifact that is there; class `NotThere` when it is there no more.
fn damage(store: &Home, record: &Record, context: &Context) -> Result<Option<Error>> {
    // Held, so that nobody removes it meanwhile.
    let _held = open(store, &record.address());
    match sound(&store.folder(&record.address()), record, context) {
        Ok(()) => Ok(None),
        Err(error) if is_wrong(&error) || error.class() == Class::NotThere => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// What is there already: the newest entries of the same component first, then the others.
fn sharing(store: &Home, stock: &mut Stock<'_>, computed: &Computed) -> Sharing {
    let component = computed.record.component();
    let mut entries: Vec<_> = stock.entries.iter().filter(|entry| entry.whole).collect();
    entries
        .sort_by_key(|entry| (entry.record.inputs.component() != component, std::cmp::Reverse(entry.record.created)));
    let mut sharing = Sharing::default();
    let read = |tree: &Hash| facts::get(store, tree).and_then(|text| Listing::parse(&text).ok());
    for entry in entries {
        if sharing.known() >= MOST_SHARED {
            break;
        }
        let (folder, tree) = (store.folder(&entry.name), entry.record.output.tree);
        let once;
        let listing = match &mut stock.listings {
            Some(known) => known.entry(tree).or_insert_with(|| read(&tree)).as_ref(),
            None => {
                once = read(&tree);
                once.as_ref()
            }
        };
        if let Some(listing) = listing.filter(|listing| listing.kind() == ListingKind::Dir) {
            sharing.add(&folder, listing);
        }
    }
    sharing
}

/// What came of looking for an artifact.
#[derive(Debug)]
pub enum Found {
    /// It was restored.
    Restored {
        /// Its metadata.
        record: Box<Record>,
        /// What the user should know.
        warnings: Vec<String>,
    },
    /// There is none.
    Absent,
    /// There was one, and it proved to be damaged. The error says what became of it.
    Damaged(Error),
}

/// Restores an artifact. The target stays as it is unless all is right. `slashed`: the target is a folder that a file is to
/// go into. Blocks.
pub fn get(
    store: &Home,
    hash: &Hash,
    target: &Path,
    slashed: bool,
    link: Link,
    guards: &super::target::Guards,
    context: &Context,
) -> Result<Found> {
    if !store.exists()? {
        return Ok(Found::Absent);
    }
    let (opened, error) = match open(store, hash) {
        Ok(None) => return Ok(Found::Absent),
        Ok(Some(opened)) => {
            let output = &opened.record.output;
            let target = match output.root {
                RootKind::File if slashed => Target::inside(target, &unescape(output.name.as_bytes())?, guards)?,
                _ => Target::new(target, guards)?,
            };
            match give_out(store, &opened.content, &opened.record, &target, link, context) {
                Ok(warnings) => {
                    opened.touch();
                    return Ok(Found::Restored { record: Box::new(opened.record), warnings });
                }
                Err(error) => (Some(opened), error),
            }
        }
        Err(error) => (None, error),
    };
    // What changed while it was read lies in the store, where nothing changes.
    if !is_damage(&error) && error.class() != Class::Changed {
        return Err(error);
    }
    let aside = set_aside(store, hash, opened.as_ref());
    Ok(Found::Damaged(aside.told(match &opened {
        Some(opened) => named(store, hash, &opened.record, error).with_class(Class::Damaged),
        None => error,
    })))
}

fn give_out(
    store: &Home,
    content: &std::path::Path,
    record: &Record,
    target: &Target,
    link: Link,
    context: &Context,
) -> Result<Vec<String>> {
    target.check_kind(record.output.root)?;
    let beside = target.beside(store)?;
    context.progress.expect(record.output.bytes);
    let ready = beside.path.join("tree");
    let (lines, copied) = tree::give_out(content, &ready, link, time_of(&beside.path)?, context)?;
    let listing = listing(lines, kind_of(&record.output));
    check(&listing, &listing.digest(), &record.output)?;
    if record.output.root == RootKind::File {
        check_name(&ready, &record.output)?;
    }
    context.cancel.check()?;
    let mut warnings = place(&ready, &record.output, target, beside)?;
    if copied {
        warnings.push("files were copied: no links can be made from the store to there".to_owned());
    } else if link == Link::Hard {
        warnings
            .push("the files are the store's own, and read-only: whoever writes to them damages the store".to_owned());
    }
    Ok(warnings)
}
