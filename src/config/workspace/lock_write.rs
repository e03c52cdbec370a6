//! A lock file brought up to date with the manifest and the source trees.
//!
//! What this program does not know of stays, at the top and in each component. Comments do not, since the file is written anew;
//! one that would say the same is left alone, comments and all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::file::Reader;
use super::lock::{self, LOCK_VERSION, lock_path};
use crate::config::yaml::{Content, Node};
use crate::entry::{now_text, sync_dir};
use crate::error::{IoContext, Result};
use crate::hash::Hash;
use crate::key::{Component, ComponentName, Lock, LockedComponent, Mode, Workspace};
use crate::text::Shown;

const HEADER: &str = "\
# Written by `monofo lock`: versions, commits and sources of the components as they were at `generated_at`.
# Run it again to bring this up to date. Fields that it does not know stay; comments do not.
";

/// What is found where a component's sources are.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The digest of their listing; `None` when they are not here.
    pub source: Option<Hash>,
    /// The commit of the checkout that they are.
    pub commit: Option<String>,
}

/// What became of a lock file.
#[derive(Debug)]
pub struct Updated {
    /// The file.
    pub path: PathBuf,
    /// How many components it locks.
    pub components: usize,
    /// What changed, one sentence each; nothing was written when there is none.
    pub changes: Vec<String>,
}

/// Brings the lock of an environment, or the general one, up to date, and writes it if anything changed: beside the old one, and
/// then in its place. One that is there and cannot be understood is an error of class `Workspace`.
pub fn update_lock(
    workspace: &Workspace,
    environment: Option<&str>,
    found: &BTreeMap<ComponentName, Sources>,
) -> Result<Updated> {
    let path = lock_path(workspace, environment)?;
    let before = if super::exists(&path)? { Some(Before::read(&path)?) } else { None };
    let old = before.as_ref().map(|before| &before.lock);
    let mut new: BTreeMap<&ComponentName, LockedComponent> = BTreeMap::new();
    for (name, component) in &workspace.components {
        let known = old.and_then(|old| old.components.get(name));
        let sources = found.get(name).cloned().unwrap_or_default();
        new.insert(name, locked(component, workspace.mode, sources, known));
    }
    let changes = changes(workspace, environment, old, &new);
    let components = new.len();
    if changes.is_empty() {
        return Ok(Updated { path, components, changes });
    }
    let stale = stale(workspace, old, &new);
    let text = text(workspace, environment, before.as_ref(), &new, &stale);
    write(&path, &text)?;
    Ok(Updated { path, components, changes })
}

/// A lock file as it is, with what is not known here as text.
struct Before {
    lock: Lock,
    /// Fields at the top.
    top: Vec<String>,
    /// Fields of each component, and its artifacts.
    components: BTreeMap<String, (Vec<String>, Option<String>)>,
}

impl Before {
    fn read(path: &Path) -> Result<Before> {
        let (reader, root, lock) = lock::read(path)?;
        let known = ["lock_version", "generated_at", "mode", "environment", "components"];
        let others = |node: &Node, known: &[&str], indent| -> Vec<String> {
            let entries = node.entries().iter().filter(|(key, _)| !known.contains(&key.text.as_str()));
            entries.map(|(key, node)| field(&reader, &key.text, node, indent)).collect()
        };
        let known_below =
            ["version", "type", "build_target", "repo", "commit", "source", "depends_on", "artifact"].as_slice();
        let of_component = |node: &Node| {
            let artifact = node.field("artifact").map(|artifact| field(&reader, "artifact", artifact, 4));
            (others(node, known_below, 4), artifact)
        };
        let components = root.field("components").map(Node::entries).unwrap_or_default();
        let components = components.iter().map(|(key, node)| (key.text.clone(), of_component(node))).collect();
        Ok(Before { top: others(&root, &known, 0), components, lock })
    }
}

/// What a lock says about a component now.
fn locked(component: &Component, mode: Mode, found: Sources, known: Option<&LockedComponent>) -> LockedComponent {
    let Sources { mut source, mut commit } = found;
    if let Some(known) = known.filter(|known| known.version == component.version) {
        match source {
            // What is not here cannot be told: what was locked of the same version stays.
            None => (source, commit) = (known.source, known.commit.clone()),
            // The same sources without git's files are still those of that commit.
            Some(_) if source == known.source => commit = commit.or_else(|| known.commit.clone()),
            Some(_) => {}
        }
    }
    LockedComponent {
        version: component.version.clone(),
        kind: component.kind.clone(),
        build_target: component.build_target.clone(),
        repo: component.repo.clone(),
        depends_on: component.depends_on.clone(),
        commit: commit.filter(|_| mode == Mode::Reference),
        source,
        ..LockedComponent::default()
    }
}

/// In what two locks differ of a component, as far as this program writes it.
fn differences(old: &LockedComponent, new: &LockedComponent) -> Vec<String> {
    let mut found = Vec::new();
    let hash = |hash: &Option<Hash>| hash.map(|hash| hash.short()).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let list = |names: &[ComponentName]| names.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(", ");
    for (what, old, new) in [
        ("version", old.version.clone(), new.version.clone()),
        ("type", old.kind.clone(), new.kind.clone()),
        ("build_target", old.build_target.clone(), new.build_target.clone()),
        ("repo", old.repo.clone(), new.repo.clone()),
        ("commit", text(&old.commit), text(&new.commit)),
        ("source", hash(&old.source), hash(&new.source)),
        ("depends_on", list(&old.depends_on), list(&new.depends_on)),
    ] {
        let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { Shown(text.as_bytes()).to_string() };
        if old != new {
            found.push(format!("{what} was {} and is {}", or_none(&old), or_none(&new)));
        }
    }
    found
}

fn changes(
    workspace: &Workspace,
    environment: Option<&str>,
    old: Option<&Lock>,
    new: &BTreeMap<&ComponentName, LockedComponent>,
) -> Vec<String> {
    let Some(old) = old else { return vec!["the file is new".to_owned()] };
    let mut found = Vec::new();
    if old.mode != workspace.mode {
        found.push(format!("mode is {}", word_of(workspace.mode)));
    }
    if let Some(environment) = environment.filter(|environment| old.environment.as_deref() != Some(environment)) {
        found.push(format!("environment is {environment}"));
    }
    for (name, locked) in new {
        match old.components.get(*name) {
            None => found.push(format!("{name}: is new")),
            Some(known) => found.extend(differences(known, locked).iter().map(|text| format!("{name}: {text}"))),
        }
    }
    let gone = old.components.keys().filter(|name| !new.contains_key(name));
    found.extend(gone.map(|name| format!("{name}: is not in the manifest any more")));
    found
}

/// Components whose artifact is of other inputs than are locked now: they changed, or something that they need did.
fn stale<'a>(
    workspace: &'a Workspace,
    old: Option<&Lock>,
    new: &BTreeMap<&'a ComponentName, LockedComponent>,
) -> BTreeSet<&'a ComponentName> {
    let changed = |name: &ComponentName, locked: &LockedComponent| {
        let known = old.and_then(|old| old.components.get(name));
        known.is_none_or(|known| !differences(known, locked).is_empty())
    };
    let mut stale: BTreeSet<_> =
        new.iter().filter(|(name, locked)| changed(name, locked)).map(|(name, _)| *name).collect();
    let mut needed_by: BTreeMap<&ComponentName, Vec<&ComponentName>> = BTreeMap::new();
    for (name, component) in &workspace.components {
        component.depends_on.iter().for_each(|needed| needed_by.entry(needed).or_default().push(name));
    }
    let mut open: Vec<_> = stale.iter().copied().collect();
    while let Some(name) = open.pop() {
        open.extend(needed_by.get(name).into_iter().flatten().copied().filter(|dependent| stale.insert(dependent)));
    }
    stale
}

fn word_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Reference => "reference",
        Mode::Vendored => "vendored",
    }
}

fn text(
    workspace: &Workspace,
    environment: Option<&str>,
    before: Option<&Before>,
    new: &BTreeMap<&ComponentName, LockedComponent>,
    stale: &BTreeSet<&ComponentName>,
) -> String {
    let mut lines = vec![format!("{HEADER}lock_version: {LOCK_VERSION}")];
    lines.push(format!("generated_at: {}", quoted(&now_text())));
    lines.push(format!("mode: {}", word_of(workspace.mode)));
    let environment = environment.or_else(|| before?.lock.environment.as_deref());
    lines.extend(environment.map(|environment| format!("environment: {}", quoted(environment))));
    lines.extend(before.iter().flat_map(|before| before.top.iter().cloned()));
    lines.push(if new.is_empty() { "components: {}".to_owned() } else { "components:".to_owned() });
    for (name, locked) in new {
        let kept = before.and_then(|before| before.components.get(name.as_str()));
        lines.push(format!("  {}:", plain_or_quoted(name.as_str())));
        let hash = locked.source.map(|hash| hash.to_string());
        for (what, value) in [
            ("version", Some(&locked.version)),
            ("type", Some(&locked.kind)),
            ("build_target", Some(&locked.build_target)),
            ("repo", Some(&locked.repo)),
            ("commit", locked.commit.as_ref()),
            ("source", hash.as_ref()),
        ] {
            let value = value.filter(|value| !value.is_empty());
            lines.extend(value.map(|value| format!("    {what}: {}", quoted(value))));
        }
        if !locked.depends_on.is_empty() {
            let names: Vec<_> = locked.depends_on.iter().map(|name| plain_or_quoted(name.as_str())).collect();
            lines.push(format!("    depends_on: [{}]", names.join(", ")));
        }
        if let Some((others, artifact)) = kept {
            lines.extend(artifact.iter().filter(|_| !stale.contains(name)).cloned());
            lines.extend(others.iter().cloned());
        }
    }
    lines.join("\n") + "\n"
}

/// A field as it was written, with everything below it.
fn field(reader: &Reader, key: &str, node: &Node, indent: usize) -> String {
    let mut text = format!("{:indent$}{}:", "", plain_or_quoted(key));
    value(reader, node, indent + 2, &mut text);
    text
}

fn value(reader: &Reader, node: &Node, indent: usize, text: &mut String) {
    match &node.content {
        Content::List(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&format!("\n{:indent$}-", ""));
                let fields = item.entries().iter().map(|(key, node)| field(reader, &key.text, node, indent + 2));
                let fields = fields.collect::<Vec<_>>().join("\n");
                match fields.is_empty() {
                    true => value(reader, item, indent + 2, text),
                    // The first of its fields stands beside the dash.
                    false => text.push_str(&fields[indent + 1..]),
                }
            }
        }
        Content::Map(entries) if !entries.is_empty() => {
            for (key, node) in entries {
                text.push('\n');
                text.push_str(&field(reader, &key.text, node, indent));
            }
        }
        content => {
            text.push(' ');
            // A date without quotes is one for other tools, so it stays without them.
            let written = reader.plain(node).filter(|written| !written.contains('\n'));
            match (content, written) {
                (Content::List(_), _) => text.push_str("[]"),
                (Content::Map(_), _) => text.push_str("{}"),
                (Content::Null, _) => text.push_str("null"),
                (_, Some(written)) => text.push_str(written),
                (Content::Text(content), None) => text.push_str(&quoted(content)),
                (_, None) => text.push_str(&node.to_json().to_string()),
            }
        }
    }
}

/// Text in the quotes that YAML shares with JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A word that nobody takes for something else stands for itself.
fn plain_or_quoted(text: &str) -> String {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let reserved = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let plain = text.bytes().all(known)
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && !reserved.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { quoted(text) }
}

/// Writes a file beside its place, and then into it. A link there stays one.
fn write(path: &Path, text: &str) -> Result<()> {
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = place.parent().unwrap_or(Path::new("/"));
    let doing = || format!("cannot write `{}`", Shown::path(path));
    let mut file = tempfile::Builder::new()
        .prefix(".monofo-lock-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .or_fail(doing)?;
    file.write_all(text.as_bytes()).or_fail(doing)?;
    if let Ok(there) = std::fs::metadata(&place) {
        file.as_file().set_permissions(there.permissions()).or_fail(doing)?;
    }
    file.as_file().sync_all().or_fail(doing)?;
    file.persist(&place).map_err(|error| error.error).or_fail(doing)?;
    sync_dir(folder)
}
