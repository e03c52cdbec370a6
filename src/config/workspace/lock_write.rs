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
use crate::config::mistakes::At;
use crate::config::yaml::{Content, Key, Node};
use crate::entry::{now_text, sync_dir};
use crate::error::{Error, IoContext, Result};
use crate::hash::Hash;
use crate::key::{Component, ComponentName, Lock, LockedComponent, Mode, Workspace};
use crate::text::Shown;

const HEADER: &str = "\
# Written by `monofo lock`: versions, commits and sources of the components as they were at `generated_at`.
# Run it again to bring this up to date. Fields that it does not know stay; comments do not.
";

const KEPT_HINT: &str =
    "the file is written anew, and its other fields are kept: write this one in a plainer way, or take it out";

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
    let shown = Shown::path(path.strip_prefix(&workspace.root).unwrap_or(&path)).to_string();
    let unreadable =
        |error: Error| error.context(format_args!("`{shown}` stays as it is: it would hold what cannot be read"));
    let (_, written) = Reader::parse(text.clone().into_bytes(), &shown).map_err(unreadable)?;
    if let Some(before) = before {
        before.check_kept(&written)?;
    }
    write(&path, &text)?;
    Ok(Updated { path, components, changes })
}

/// A lock file as it is, with what is not known here as text.
struct Before {
    reader: Reader,
    root: Node,
    lock: Lock,
    /// Fields at the top.
    top: Vec<String>,
    /// Fields of each component, and its artifacts.
    components: BTreeMap<String, (Vec<String>, Option<String>)>,
}

impl Before {
    fn read(path: &Path) -> Result<Before> {
        let (reader, root, lock) = lock::read(path)?;
        let others = |node: &Node, known: &[&str], indent| -> Vec<String> {
            others(node, known).map(|(key, node)| field(&reader, key, node, indent)).collect()
        };
        let of_component = |node: &Node| {
            let artifact = node.entries().iter().find(|(key, _)| key.text == ARTIFACT);
            let artifact = artifact.map(|(key, artifact)| field(&reader, key, artifact, 4));
            (others(node, &KNOWN_BELOW, 4), artifact)
        };
        let components = root.field("components").map(Node::entries).unwrap_or_default();
        let components = components.iter().map(|(key, node)| (key.text.clone(), of_component(node))).collect();
        Ok(Before { top: others(&root, &KNOWN, 0), components, lock, reader, root })
    }

    /// Refuses what would not say the same any more to whoever reads it: it stays, or nothing is written.
    fn check_kept(mut self, written: &Node) -> Result<()> {
        let mut pairs: Vec<(Node, Node, &[&str])> = vec![(self.root.clone(), written.clone(), KNOWN.as_slice())];
        let mut rewritten = Vec::new();
        let all = self.root.entries().iter().find(|(key, _)| key.text == "components");
        for (key, old) in all.iter().flat_map(|(_, all)| all.entries()) {
            // What is not in the manifest any more goes.
            if let Some(new) = written.field("components").and_then(|all| all.field(&key.text)) {
                pairs.push((old.clone(), new.clone(), KNOWN_BELOW.as_slice()));
                rewritten.push((key.clone(), old.clone()));
            }
        }
        rewritten.extend(all.cloned());
        for (key, node) in rewritten {
            // The fields in it are judged by themselves.
            if let Some(tag) = self.reader.key_tag(&key).or_else(|| self.reader.tag(&node.written)).map(str::to_owned) {
                let problem = format!("found the tag `{}`, which would be lost", Shown(tag.as_bytes()));
                self.reader.wrong(&At::top().key(&key.text), key.place, problem, KEPT_HINT);
            }
        }
        for (old, new, known) in pairs {
            for (key, node) in others(&old, known) {
                let tag = self.reader.key_tag(key).or_else(|| lost_tag(&self.reader, node)).map(str::to_owned);
                let problem = match tag {
                    Some(tag) => format!("found the tag `{}`, which would be lost", Shown(tag.as_bytes())),
                    None if new.field(&key.text).map(Node::to_json) != Some(node.to_json()) => {
                        "it would not stay the same".to_owned()
                    }
                    None => continue,
                };
                self.reader.wrong(&At::top().key(&key.text), key.place, problem, KEPT_HINT);
            }
        }
        self.reader.finish().map(drop)
    }
}

/// The fields that this program writes itself, at the top.
const KNOWN: [&str; 5] = ["lock_version", "generated_at", "mode", "environment", "components"];

/// Artifacts are kept or left out, as they are.
const ARTIFACT: &str = "artifact";

/// Those in a component.
const KNOWN_BELOW: [&str; 8] = ["version", "type", "build_target", "repo", "commit", "source", "depends_on", ARTIFACT];

/// The other fields.
fn others<'n>(node: &'n Node, known: &[&str]) -> impl Iterator<Item = &'n (Key, Node)> {
    node.entries().iter().filter(move |(key, _)| !known.contains(&key.text.as_str()))
}

/// A tag of a value, or of anything below it.
fn lost_tag<'r>(reader: &'r Reader, node: &Node) -> Option<&'r str> {
    reader.tag(&node.written).or_else(|| match &node.content {
        Content::List(items) => items.iter().find_map(|item| lost_tag(reader, item)),
        Content::Map(fields) => {
            fields.iter().find_map(|(key, node)| reader.key_tag(key).or_else(|| lost_tag(reader, node)))
        }
        _ => None,
    })
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
fn field(reader: &Reader, key: &Key, node: &Node, indent: usize) -> String {
    // `5` without quotes is a number to other tools.
    let key = reader.plain_key(key).map_or_else(|| plain_or_quoted(&key.text), str::to_owned);
    let mut text = format!("{:indent$}{key}:", "");
    value(reader, node, indent + 2, &mut text);
    text
}

fn value(reader: &Reader, node: &Node, indent: usize, text: &mut String) {
    match &node.content {
        Content::List(items) if !items.is_empty() => {
            for item in items {
                text.push_str(&format!("\n{:indent$}-", ""));
                let fields = item.entries().iter().map(|(key, node)| field(reader, key, node, indent + 2));
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
                text.push_str(&field(reader, key, node, indent));
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

/// Text in the quotes that YAML shares with JSON, with the characters escaped that only JSON takes as they are.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    for character in serde_json::Value::from(text).to_string().chars() {
        match character {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            plain => quoted.push(plain),
        }
    }
    quoted
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
