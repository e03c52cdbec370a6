//! `components.lock.yaml` and `components.lock.<environment>.yaml`: what was released, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::file::Reader;
use super::manifest::{mode, names, version, wanted};
use crate::config::mistakes::At;
use crate::config::yaml::{Content, Mistake, Node};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::component::is_name;
use crate::key::{ComponentName, Lock, LockedComponent, Workspace};
use crate::text::Shown;

/// The form of lock files that is understood, as they say it in `lock_version`.
pub(super) const LOCK_VERSION: &str = "1";

/// The longest name of an environment.
const LONGEST_ENVIRONMENT: usize = 64;

/// The longest name of a platform.
const LONGEST_PLATFORM: usize = 64;

/// How a hash is written.
const WHOLE_HASH: &str = "write all 64 hexadecimal digits, in lower case";

/// Reads a lock file. One that cannot be read, or not be understood, is an error of class `Workspace` that names it.
pub fn read_lock(path: &Path) -> Result<Lock> {
    read(path).map(|(_, _, lock)| lock)
}

/// Reads a lock file, and keeps its text and tree.
pub(super) fn read(path: &Path) -> Result<(Reader, Node, Lock)> {
    // The last two parts say which one it is; the rest is this machine's.
    let parts: Vec<_> = path.iter().collect();
    let shown: PathBuf = parts[parts.len().saturating_sub(2)..].iter().collect();
    let (mut reader, root) = Reader::open(path, &Shown::path(&shown).to_string())?;
    let lock = lock(&mut reader, path, &root);
    Ok((reader.finish()?, root, lock))
}

/// All lock files in a folder of manifests, in the order of their names. One that cannot be understood is an error, and so
/// is a missing folder: what they name may not be deleted, so none may be passed over.
pub fn all_locks(manifests: &Path) -> Result<Vec<Lock>> {
    let failed = |error: std::io::Error| {
        Error::new(Class::Workspace, format_args!("looking for lock files in `{}`", Shown::path(manifests)))
            .caused_by(error)
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(manifests).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if is_lock(entry.file_name().as_bytes()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths.iter().map(|path| read_lock(path)).collect()
}

fn is_lock(name: &[u8]) -> bool {
    let between = name.strip_prefix(b"components.lock.").and_then(|rest| rest.strip_suffix(b"yaml"));
    between.is_some_and(|environment| environment.is_empty() || environment.ends_with(b"."))
}

/// Where the lock file of an environment, or the general one, is or would be.
pub(super) fn lock_path(workspace: &Workspace, environment: Option<&str>) -> Result<PathBuf> {
    let name = match environment {
        None => "components.lock.yaml".to_owned(),
        Some(environment) if is_name(environment, LONGEST_ENVIRONMENT) => format!("components.lock.{environment}.yaml"),
        Some(environment) => {
            let shown = Shown(environment.as_bytes());
            return Err(Error::usage(format_args!("`{shown}` is not a possible name of an environment"))
                .hint("use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 64"));
        }
    };
    let Some(manifests) = &workspace.manifests else {
        return Err(Error::new(
            Class::Workspace,
            format_args!("`{name}` is needed, but this is no workspace: there is no `manifests/components.yaml`"),
        )
        .hint("run it inside of a workspace, or without a lock"));
    };
    Ok(manifests.join(name))
}

/// The lock file of an environment, or the general one. There is no falling back from one to the other: a missing one is
/// an error of class `Workspace`.
pub fn lock_for(workspace: &Workspace, environment: Option<&str>) -> Result<Lock> {
    let path = lock_path(workspace, environment)?;
    if !super::exists(&path)? {
        let shown = path.strip_prefix(&workspace.root).unwrap_or(&path);
        let command =
            environment.map_or("monofo lock".to_owned(), |environment| format!("monofo lock --env {environment}"));
        return Err(Error::new(Class::Workspace, format_args!("there is no `{}`", Shown::path(shown))).hint(
            format_args!("`{command}` makes one from the manifest and the sources; no other lock is used in its place"),
        ));
    }
    read_lock(&path)
}

/// In what a lock and the manifest differ: version, type, build target or dependencies of a component that both have, a
/// sentence each, as far as these components go. What only one of them has is no difference; [`Lock::component`] tells what is
/// needed and not locked.
pub fn drift<'a>(
    workspace: &Workspace,
    lock: &Lock,
    names: impl IntoIterator<Item = &'a ComponentName>,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, component) in names.into_iter().filter_map(|name| workspace.components.get_key_value(name)) {
        let Some(locked) = lock.components.get(name) else { continue };
        for (what, manifest, lock) in [
            ("version", &component.version, &locked.version),
            ("type", &component.kind, &locked.kind),
            ("build_target", &component.build_target, &locked.build_target),
        ] {
            if manifest != lock {
                let (manifest, lock) = (Shown(manifest.as_bytes()), Shown(lock.as_bytes()));
                differences.push(format!("`{name}`: {what} is `{manifest}` in the manifest and `{lock}` in the lock"));
            }
        }
        let needed: BTreeSet<_> = component.depends_on.iter().collect();
        let locked: BTreeSet<_> = locked.depends_on.iter().collect();
        for (only, place, other) in [(&needed - &locked, "manifest", "lock"), (&locked - &needed, "lock", "manifest")] {
            differences.extend(
                only.iter()
                    .map(|needed| format!("`{name}`: depends on `{needed}` in the {place} and not in the {other}")),
            );
        }
    }
    differences
}

fn lock(reader: &mut Reader, path: &Path, root: &Node) -> Lock {
    let top = At::top();
    let mut lock = Lock {
        path: path.to_owned(),
        digest: reader.digest,
        generated_at: None,
        mode: Default::default(),
        environment: None,
        promoted_from: None,
        promoted_at: None,
        components: BTreeMap::new(),
    };
    if root.field("components").is_none() {
        // An empty file is what a write that was cut short leaves; nothing it names would be kept.
        reader.add(
            Mistake::new(root.place, "there is no `components`: this is not a whole lock file")
                .hint("restore the file, or write `components: {}` if it locks nothing"),
        );
    }
    for (key, node) in root.entries() {
        let at = top.key(&key.text);
        match key.text.as_str() {
            "lock_version" => {
                let version = reader.text(&at, node);
                if version.is_some_and(|version| version != LOCK_VERSION) {
                    reader.unexpected(&at, node, "`1`", "a newer version of this program wrote it: use that one");
                }
            }
            "generated_at" => lock.generated_at = reader.verbatim(&at, node),
            "mode" => lock.mode = mode(reader, &at, node),
            "environment" => lock.environment = reader.verbatim(&at, node),
            "promoted_from" => lock.promoted_from = reader.verbatim(&at, node),
            "promoted_at" => lock.promoted_at = reader.verbatim(&at, node),
            "components" => lock.components = components(reader, &at, node),
            _ => {}
        }
    }
    lock
}

fn components(reader: &mut Reader, at: &At, node: &Node) -> BTreeMap<ComponentName, LockedComponent> {
    let mut components = BTreeMap::new();
    for (key, value) in reader.map(at, node) {
        let at = at.key(&key.text);
        let component = component(reader, &at, value);
        if let Some(name) = reader.name(&at, key)
            && components.insert(name, component).is_some()
        {
            let problem = format!("duplicate key `{}`", Shown(key.text.as_bytes()));
            reader.wrong(&at, key.place, problem, "remove or rename one of the two");
        }
    }
    components
}

fn component(reader: &mut Reader, at: &At, node: &Node) -> LockedComponent {
    let mut component = LockedComponent { version: "latest".to_owned(), ..LockedComponent::default() };
    for (key, node) in reader.map(at, node) {
        let at = at.key(&key.text);
        match key.text.as_str() {
            "version" => {
                if let Some(version) = version(reader, &at, node) {
                    component.version = version;
                }
            }
            "type" => component.kind = reader.text(&at, node).unwrap_or_default(),
            "build_target" => component.build_target = reader.text(&at, node).unwrap_or_default(),
            "repo" => component.repo = reader.text(&at, node).unwrap_or_default(),
            "depends_on" => {
                let mut all = Vec::new();
                for (index, item) in reader.list(&at, node).iter().enumerate() {
                    all.extend(wanted(reader, &at.index(index), item));
                }
                component.depends_on = names(&all);
            }
            "commit" => component.commit = reader.verbatim(&at, node).filter(|commit| !commit.is_empty()),
            "vendored_at" => component.vendored_at = reader.verbatim(&at, node),
            "environment" => component.environment = reader.verbatim(&at, node),
            "source" => component.source = hash(reader, &at, node),
            "artifact" => {
                for (index, item) in reader.list(&at, node).iter().enumerate() {
                    component.artifacts.extend(artifact(reader, &at.index(index), item));
                }
            }
            _ => {}
        }
    }
    component
}

fn artifact(reader: &mut Reader, at: &At, node: &Node) -> Option<(String, Hash)> {
    let (Some(platform), Some(address)) = (node.field("platform"), node.field("hash")) else {
        reader.unexpected(at, node, "`platform` and `hash`", "write `{platform: linux-x86_64, hash: <64 digits>}`");
        return None;
    };
    let at_platform = at.key("platform");
    let name = reader.text(&at_platform, platform);
    if name.as_deref().map_or(matches!(platform.content, Content::Null), |name| !is_name(name, LONGEST_PLATFORM)) {
        let hint = "write an operating system and a processor, `linux-x86_64`, or `any`";
        reader.unexpected(&at_platform, platform, "a platform", hint);
    }
    let at_hash = at.key("hash");
    let hash = hash(reader, &at_hash, address);
    if matches!(address.content, Content::Null) {
        reader.unexpected(&at_hash, address, "a hash", WHOLE_HASH);
    }
    Some((name?, hash?))
}

/// A digest; nothing at all means none.
fn hash(reader: &mut Reader, at: &At, node: &Node) -> Option<Hash> {
    // One that is all digits is still one, so what YAML takes it for does not matter.
    let hash = reader.verbatim(at, node).as_deref().and_then(Hash::parse);
    if hash.is_none() && !matches!(node.content, Content::Null) {
        reader.unexpected(at, node, "a hash", WHOLE_HASH);
    }
    hash
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
