//! From a workspace to keys: sources hashed, dependencies first, each key covering those below it.

mod sources;
pub mod template;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use self::sources::{Hashed, Hashing};
use crate::cancel::Cancel;
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
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
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
    pub listings: HashMap<Hash, Listing>,
    /// Files and bytes of its own sources.
    pub source: (u64, u64),
    /// When its newest source was changed, seconds since 1970.
    pub newest: i64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

impl Computed {
    /// Texts of all listings and records, for later explanations.
    pub fn texts(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let records = self.closure.values().map(KeyRecord::canonical);
        records.chain(self.listings.values().map(Listing::text))
    }
}

/// Computes the key of one component. Reads files; writes nothing. Blocks.
///
/// An unreadable source is an error, never a key. Class `Workspace` for a component that the manifest does not have.
pub fn compute(request: &KeyRequest<'_>, name: &ComponentName) -> Result<Computed> {
    if request.workspace.manifests.is_none() {
        return files_key(request, name);
    }
    let mut done: BTreeMap<&ComponentName, One> = BTreeMap::new();
    for component in order(request.workspace, name)? {
        let one = component_key(request, component, component.name == *name, &done)?;
        done.insert(&component.name, one);
    }
    let mut warnings = Vec::new();
    let (mut closure, mut listings) = (BTreeMap::new(), HashMap::new());
    let wanted = done.remove(name).ok_or_else(|| unknown(request.workspace, name))?;
    let (source, newest) = (wanted.source, wanted.newest);
    let (record, key) = (wanted.record.clone(), wanted.record.key());
    for one in done.into_values().chain([wanted]) {
        closure.insert(one.record.key(), one.record);
        listings.extend(one.listings);
        warnings.extend(one.warnings);
    }
    Ok(Computed { record, key, closure, listings, source, newest, warnings })
}

struct One {
    record: KeyRecord,
    listings: Vec<(Hash, Listing)>,
    source: (u64, u64),
    newest: i64,
    warnings: Vec<String>,
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
        listings.insert(digest, hashed.listing);
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
    Ok(Computed { record, key, closure, listings, source, newest, warnings })
}

fn component_key(
    request: &KeyRequest<'_>,
    component: &Component,
    asked: bool,
    done: &BTreeMap<&ComponentName, One>,
) -> Result<One> {
    let about = |error: Error| error.context(format_args!("cannot compute the key of `{}`", component.name));
    let pinned = request.pinned.get(&component.name);
    let mut warnings = Vec::new();
    let mut listings = Vec::new();
    let (mut size, mut newest) = ((0, 0), i64::MIN);
    let folder = request.workspace.root.join(&component.path);
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
            listings.push((digest, listing));
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
    let extra = if globs.is_empty() {
        None
    } else {
        let hashed = sources::named(&request.workspace.root, &globs, hashing(request)).map_err(about)?;
        warnings.extend(hashed.warnings.into_iter().map(|text| format!("{}: {text}", component.name)));
        newest = newest.max(hashed.newest);
        let digest = hashed.listing.digest();
        listings.push((digest, hashed.listing));
        Some(digest)
    };
    let env = component.env.iter().map(|name| {
        let value = (request.variable)(name);
        (name.clone(), value.map(|value| Hash::of(value.as_bytes())))
    });
    let dependency = |name: &ComponentName| {
        let one = done.get(name).ok_or_else(|| unknown(request.workspace, name))?;
        let version = one.record.version().to_owned();
        Ok(Dependency { name: name.clone(), version, key: one.record.key() })
    };
    let record = KeyRecord::Component(ComponentKey {
        component: component.name.clone(),
        version: pinned.and_then(|pin| pin.version.clone()).unwrap_or_else(|| component.version.clone()),
        kind: component.kind.clone(),
        build_target: component.build_target.clone(),
        platform: match component.platform {
            Platform::Native => native_platform(),
            Platform::Any => "any".to_owned(),
        },
        source,
        extra,
        env: env.collect(),
        dependencies: component.depends_on.iter().map(dependency).collect::<Result<_>>()?,
        salt: request.salt.to_owned(),
    });
    Ok(One { record, listings, source: size, newest, warnings })
}

/// A component and all that it needs, each after what it needs itself.
fn order<'a>(workspace: &'a Workspace, name: &ComponentName) -> Result<Vec<&'a Component>> {
    let find = |name: &ComponentName| workspace.components.get(name).ok_or_else(|| unknown(workspace, name));
    let mut ordered = Vec::new();
    let (mut entered, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut stack = vec![find(name)?];
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
