//! From a workspace to keys: sources hashed, dependencies first, each key covering those below it.

mod sources;
pub mod template;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::sources::will_be_source;
use self::sources::{Hashed, Hashing};
use crate::cancel::Cancel;
use crate::engine::parts::in_parts;
use crate::entry::StatCache;
use crate::error::{Class, Error, Result};
use crate::hash::{Hash, Listing};
use crate::key::{
    Component, ComponentKey, ComponentName, Dependency, FilesKey, KeyRecord, Platform, Sources, Workspace,
    native_platform,
};

/// What a key is computed from.
pub struct KeyRequest<'a> {
    /// The workspace.
    pub workspace: &'a Workspace,
    /// Globs of further inputs, relative to the root.
    pub inputs: &'a [String],
    /// Versions and commits that a lock file pins, by component; none where the manifest decides.
    pub pinned: &'a BTreeMap<ComponentName, Pinned>,
    /// Values of variables.
    pub variable: &'a (dyn Fn(&str) -> Option<OsString> + Sync),
    /// A deliberate fresh start.
    pub salt: &'a str,
    /// Folders of cache and store, which are never sources.
    pub own: &'a [PathBuf],
    /// Digests that are known already.
    pub known: &'a StatCache,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// What a lock file says of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Its version.
    pub version: Option<String>,
    /// The commit of its sources.
    pub commit: Option<String>,
}

/// A key, with everything that went into it.
#[derive(Debug, Clone)]
pub struct Computed {
    /// The record.
    pub record: KeyRecord,
    /// Its digest.
    pub key: Hash,
    /// The records of everything below it, itself included, by key.
    pub closure: BTreeMap<Hash, KeyRecord>,
    /// The listings that these cover, by digest.
    pub listings: HashMap<Hash, Arc<Listing>>,
    /// Files and bytes of its own sources.
    pub source: (u64, u64),
    /// When its newest source was changed, seconds since 1970.
    pub newest: i64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    absent: BTreeSet<ComponentName>,
}

impl Computed {
    /// The listing of its own sources, where they are here.
    pub fn sources(&self) -> Option<&Listing> {
        self.listings.get(self.record.listings().first()?).map(|listing| &**listing)
    }

    /// A component among those that the key covers whose sources are not here: its folder is missing, or has nothing in it, as
    /// that of what is mounted or checked out elsewhere, and no `inputs` of it are here either.
    pub fn without_sources(&self) -> Option<&ComponentName> {
        self.absent.first()
    }

    /// Texts of all listings and records, for later explanations.
    pub fn texts(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let records = self.closure.values().map(KeyRecord::canonical);
        records.chain(self.listings.values().map(|listing| listing.text()))
    }
}

/// Computes the key of one component. Reads files; writes nothing. Blocks.
///
/// An unreadable source is an error, never a key. Class `Workspace` for a component that the manifest does not have.
pub fn compute(request: &KeyRequest<'_>, name: &ComponentName) -> Result<Computed> {
    if request.workspace.manifests.is_none() {
        return files_key(request, name);
    }
    let Keys { known, failed, .. } = compute_all(request, std::slice::from_ref(name))?;
    if let Some(error) = failed.into_values().next() {
        return Err(error);
    }
    gather(&known, name).ok_or_else(|| unknown(request.workspace, name))
}

/// The keys of several components, and of all that they need.
#[derive(Debug)]
pub struct Keys {
    /// The components, each after those that it needs.
    pub order: Vec<ComponentName>,
    /// Why there is no key of some. Those that need them have none either, and are not named here.
    pub failed: BTreeMap<ComponentName, Error>,
    known: BTreeMap<ComponentName, One>,
}

impl Keys {
    /// The key of a component, and its record.
    pub fn get(&self, name: &ComponentName) -> Option<(Hash, &KeyRecord)> {
        self.known.get(name).map(|one| (one.key, &one.record))
    }

    /// The key of a component with everything that went into it, its dependencies' share included.
    pub fn computed(&self, name: &ComponentName) -> Option<Computed> {
        gather(&self.known, name)
    }

    /// The digest of a component's own sources, where they are here.
    pub fn source(&self, name: &ComponentName) -> Option<Hash> {
        match &self.known.get(name)?.record {
            KeyRecord::Component(ComponentKey { source: Sources::Listing(digest), .. }) => Some(*digest),
            _ => None,
        }
    }

    /// What the user should know, one sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.known.values().flat_map(|one| &one.warnings)
    }
}

/// Computes the keys of several components of a workspace in one pass: what they share is hashed once. Reads files; writes
/// nothing. Blocks. Class `Workspace` for a component that the manifest does not have.
pub fn compute_all(request: &KeyRequest<'_>, names: &[ComponentName]) -> Result<Keys> {
    let ordered = order(request.workspace, names)?;
    let read = read_all(request, &ordered, names);
    let (mut known, mut failed): (BTreeMap<ComponentName, One>, _) = (BTreeMap::new(), BTreeMap::new());
    for (component, read) in ordered.iter().zip(read) {
        match read {
            Err(error) if matches!(error.class(), Class::Interrupted { .. }) => return Err(error),
            Err(error) => _ = failed.insert(component.name.clone(), error),
            Ok(_) if component.depends_on.iter().any(|needed| !known.contains_key(needed)) => {}
            Ok(read) => _ = known.insert(component.name.clone(), component_key(request, component, read, &known)?),
        }
    }
    let order = ordered.into_iter().map(|component| component.name.clone()).collect();
    Ok(Keys { order, failed, known })
}

/// What was read for a key, in the order of the components; several at once.
fn read_all(request: &KeyRequest<'_>, ordered: &[&Component], names: &[ComponentName]) -> Vec<Result<Read>> {
    let read = |component: &Component| read(request, component, names.contains(&component.name));
    let parts = in_parts(ordered, |part| part.iter().map(|component| read(component)).collect::<Vec<_>>());
    parts.into_iter().flatten().collect()
}

/// The key of a component, and the share of all below it.
fn gather(known: &BTreeMap<ComponentName, One>, name: &ComponentName) -> Option<Computed> {
    let wanted = known.get(name)?;
    let (mut closure, mut listings, mut warnings) = (BTreeMap::new(), HashMap::new(), Vec::new());
    let mut absent = BTreeSet::new();
    let mut below: BTreeSet<&ComponentName> = BTreeSet::from([name]);
    let mut open = vec![name];
    while let Some(one) = open.pop().and_then(|name| known.get(name)) {
        closure.insert(one.key, one.record.clone());
        listings.extend(one.listings.iter().cloned());
        if one.is_absent {
            absent.insert(one.record.component().clone());
        }
        if let KeyRecord::Component(record) = &one.record {
            open.extend(record.dependencies.iter().map(|needed| &needed.name).filter(|needed| below.insert(needed)));
        }
    }
    for name in below.into_iter().filter(|below| *below != name).chain([name]) {
        warnings.extend(known.get(name)?.warnings.iter().cloned());
    }
    let One { record, key, source, newest, .. } = wanted;
    let (record, key, source, newest) = (record.clone(), *key, *source, *newest);
    Some(Computed { record, key, closure, listings, source, newest, warnings, absent })
}

/// What is read of a component.
struct Read {
    source: Sources,
    extra: Option<Hash>,
    listings: Vec<(Hash, Arc<Listing>)>,
    size: (u64, u64),
    newest: i64,
    warnings: Vec<String>,
    is_absent: bool,
}

#[derive(Debug)]
struct One {
    record: KeyRecord,
    key: Hash,
    listings: Vec<(Hash, Arc<Listing>)>,
    source: (u64, u64),
    newest: i64,
    warnings: Vec<String>,
    is_absent: bool,
}

/// A component's own files, without a manifest.
fn files_key(request: &KeyRequest<'_>, name: &ComponentName) -> Result<Computed> {
    let mut warnings = Vec::new();
    let mut listings = HashMap::new();
    let (mut source, mut newest) = ((0, 0), i64::MIN);
    let files = if request.inputs.is_empty() {
        warnings.push(format!(
            "the key of `{name}` covers only its name and the platform: name its sources with --input GLOB, or describe it in manifests/components.yaml"
        ));
        None
    } else {
        let hashed = sources::named(&request.workspace.root, request.inputs, hashing(request))?;
        let digest = hashed.listing.digest();
        source = (hashed.listing.lines().len() as u64, hashed.listing.bytes());
        newest = hashed.newest;
        warnings.extend(hashed.warnings);
        listings.insert(digest, Arc::new(hashed.listing));
        Some(digest)
    };
    let record = KeyRecord::Files(FilesKey {
        component: name.clone(),
        platform: native_platform(),
        files,
        salt: request.salt.to_owned(),
    });
    let key = record.key();
    let closure = BTreeMap::from([(key, record.clone())]);
    Ok(Computed { record, key, closure, listings, source, newest, warnings, absent: BTreeSet::new() })
}

fn read(request: &KeyRequest<'_>, component: &Component, asked: bool) -> Result<Read> {
    let about = |error: Error| error.context(format_args!("cannot compute the key of `{}`", component.name));
    let pinned = request.pinned.get(&component.name);
    let mut warnings = Vec::new();
    let mut listings = Vec::new();
    let (mut size, mut newest) = ((0, 0), i64::MIN);
    let folder = request.workspace.folder(component);
    let source = match std::fs::metadata(&folder) {
        Ok(there) if !there.is_dir() => {
            let path = crate::text::Shown::path(&component.path).to_string();
            return Err(about(
                Error::new(Class::Workspace, format_args!("its sources are to be in `{path}`, which is no folder"))
                    .hint(
                        "let `path` in manifests/components.yaml name the folder, and `inputs` single files elsewhere",
                    ),
            ));
        }
        Ok(_) => {
            let Hashed { listing, newest: changed, warnings: told, .. } =
                sources::sources(&folder, component, hashing(request)).map_err(about)?;
            (size, newest) = ((listing.lines().len() as u64, listing.bytes()), changed);
            warnings.extend(told.into_iter().map(|text| format!("{}: {text}", component.name)));
            let digest = listing.digest();
            listings.push((digest, Arc::new(listing)));
            Sources::Listing(digest)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match pinned.and_then(|pin| pin.commit.clone()) {
            Some(commit) => Sources::Commit(commit),
            None => {
                warnings.push(format!(
                    "the sources of `{}` are not here (`{}`): its key does not cover them",
                    component.name,
                    component.path.display()
                ));
                Sources::Absent
            }
        },
        Err(error) => {
            return Err(about(Error::failed("its folder cannot be read").caused_by(error)));
        }
    };
    let mut globs = component.inputs.clone();
    if asked {
        globs.extend_from_slice(request.inputs);
    }
    // An empty folder is what is left of one that is not mounted or not checked out.
    let is_absent = match &source {
        Sources::Absent => true,
        Sources::Listing(_) => size.0 == 0 && !has_none_by_design(component),
        Sources::Commit(_) => false,
    };
    let extra = if globs.is_empty() {
        None
    } else {
        let hashed = sources::named(&request.workspace.root, &globs, hashing(request)).map_err(about)?;
        warnings.extend(hashed.warnings.into_iter().map(|text| format!("{}: {text}", component.name)));
        newest = newest.max(hashed.newest);
        let digest = hashed.listing.digest();
        listings.push((digest, Arc::new(hashed.listing)));
        Some(digest)
    };
    Ok(Read { source, extra, listings, size, newest, warnings, is_absent })
}

/// Whether a component's manifest says that nothing in its folder is a source.
fn has_none_by_design(component: &Component) -> bool {
    component.exclude.iter().any(|glob| matches!(glob.as_str(), "*" | "**" | "**/*"))
}

fn component_key(
    request: &KeyRequest<'_>,
    component: &Component,
    read: Read,
    known: &BTreeMap<ComponentName, One>,
) -> Result<One> {
    let env = component.env.iter().map(|name| {
        let value = (request.variable)(name);
        (name.clone(), value.map(|value| Hash::of(value.as_bytes())))
    });
    let dependency = |name: &ComponentName| {
        let one = known.get(name).ok_or_else(|| unknown(request.workspace, name))?;
        let version = one.record.version().to_owned();
        Ok(Dependency { name: name.clone(), version, key: one.key })
    };
    let record = KeyRecord::Component(ComponentKey {
        component: component.name.clone(),
        version: request
            .pinned
            .get(&component.name)
            .and_then(|pin| pin.version.clone())
            .unwrap_or_else(|| component.version.clone()),
        kind: component.kind.clone(),
        build_target: component.build_target.clone(),
        platform: match component.platform {
            Platform::Native => native_platform(),
            Platform::Any => "any".to_owned(),
        },
        source: read.source,
        extra: read.extra,
        env: env.collect(),
        dependencies: component.depends_on.iter().map(dependency).collect::<Result<_>>()?,
        salt: request.salt.to_owned(),
    });
    let key = record.key();
    let Read { listings, size, newest, warnings, is_absent, .. } = read;
    Ok(One { record, key, listings, source: size, newest, warnings, is_absent })
}

/// Components and all that they need, each after what it needs itself.
fn order<'a>(workspace: &'a Workspace, names: &[ComponentName]) -> Result<Vec<&'a Component>> {
    let find = |name: &ComponentName| workspace.components.get(name).ok_or_else(|| unknown(workspace, name));
    let mut ordered = Vec::new();
    let (mut entered, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut stack: Vec<&Component> = names.iter().rev().map(find).collect::<Result<_>>()?;
    while let Some(component) = stack.last().copied() {
        let missing: Vec<_> =
            component.depends_on.iter().filter(|needed| !left.contains(*needed)).map(find).collect::<Result<_>>()?;
        if missing.is_empty() || !entered.insert(&component.name) {
            stack.pop();
            if left.insert(&component.name) {
                ordered.push(component);
            }
            continue;
        }
        stack.extend(missing);
    }
    Ok(ordered)
}

fn unknown(workspace: &Workspace, name: &ComponentName) -> Error {
    let error = Error::new(Class::Workspace, format_args!("the manifest has no component `{name}`"));
    let similar = |known: &&ComponentName| strsim::damerau_levenshtein(known.as_str(), name.as_str());
    match workspace.components.keys().min_by_key(similar).filter(|known| similar(known) <= 3) {
        Some(known) => error.hint(format_args!("did you mean `{known}`?")),
        None => error.hint("add it to manifests/components.yaml"),
    }
}

fn hashing<'a>(request: &KeyRequest<'a>) -> Hashing<'a> {
    Hashing { own: request.own, known: request.known, cancel: request.cancel, follow: false }
}
