//! `components.yaml`: the components of a workspace.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component as Part, Path, PathBuf};

use super::dependencies::{self, Wanted};
use super::file::Reader;
use crate::collect::Globs;
use crate::config::mistakes::At;
use crate::config::yaml::{Content, Key, Mistake, Node};
use crate::error::Result;
use crate::key::{Component, ComponentName, Mode, Platform};
use crate::text::{Number, Shown};

/// Components in one workspace.
const MOST_COMPONENTS: usize = 10_000;

/// What the name of a variable that holds a secret contains. A digest of a weak secret can be guessed.
const SECRETS: [&str; 5] = ["TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "PRIVATE_KEY"];

/// Reads a manifest, called `shown` in messages. The error tells everything that is wrong with it.
pub(super) fn read(path: &Path, shown: &str) -> Result<(BTreeMap<ComponentName, Component>, Mode)> {
    let (mut reader, root) = Reader::open(path, shown)?;
    let top = At::top();
    let mut manifest = Manifest { reader: &mut reader, globs: HashSet::new(), wanted: BTreeMap::new() };
    let mut components = BTreeMap::new();
    match (root.field("components"), &root.content) {
        (Some(node), _) => components = manifest.components(&top.key("components"), node),
        (None, Content::Map(_) | Content::Null) => manifest.reader.add(
            Mistake::new(root.place, "there is no `components`")
                .hint("write `components:` and a `name:` with what it needs below it"),
        ),
        (None, _) => manifest.reader.add(
            Mistake::new(root.place, "found something else than a map with `components`")
                .hint("write `components:` and a `name:` with what it needs below it"),
        ),
    }
    let mut sources = Mode::default();
    if let Some(meta) = root.field("meta") {
        let at = top.key("meta");
        manifest.reader.map(&at, meta);
        if let Some(node) = meta.field("mode") {
            sources = mode(manifest.reader, &at.key("mode"), node);
        }
    }
    let wanted = std::mem::take(&mut manifest.wanted);
    dependencies::check(&mut reader, &components, &wanted);
    reader.finish()?;
    Ok((components, sources))
}

/// How sources get into the workspace.
pub(super) fn mode(reader: &mut Reader, at: &At, node: &Node) -> Mode {
    match reader.text(at, node).as_deref() {
        Some("vendored") => Mode::Vendored,
        Some("reference") | None => Mode::Reference,
        Some(_) => {
            reader.unexpected(at, node, "`reference` or `vendored`", "`reference` is what is meant without it");
            Mode::Reference
        }
    }
}

/// A dependency as `depends_on` names it: `name` or `name:range`.
pub(super) fn wanted(reader: &mut Reader, at: &At, node: &Node) -> Option<Wanted> {
    if let Content::Map(entries) = &node.content {
        // `b: ^1` without quotes is a map, which is hardly what anybody means.
        let hint = match entries.as_slice() {
            [(key, value)] => format!(
                "write `\"{}:{}\"`, with quotes and no space after the colon",
                Shown(key.text.as_bytes()),
                Shown(value.scalar().unwrap_or_default().as_bytes())
            ),
            _ => "write `name` or `\"name:range\"`".to_owned(),
        };
        reader.unexpected(at, node, "`name` or `name:range`", &hint);
        return None;
    }
    let Some(text) = reader.text(at, node) else {
        if matches!(node.content, Content::Null) {
            reader.unexpected(at, node, "`name` or `name:range`", "write a name, or take the element out");
        }
        return None;
    };
    let (name, range) = match text.split_once(':') {
        None => (text.as_str(), None),
        Some((name, range)) => (name.trim_end(), Some(range.trim())),
    };
    let name = reader.named(at, node.place, name)?;
    if range == Some("") {
        reader.unexpected(at, node, "a range after the colon", "write `name` for any version, or `name:^1.2`");
    }
    Some(Wanted { name, range: range.map(str::to_owned), place: node.place })
}

struct Manifest<'a> {
    reader: &'a mut Reader,
    /// Globs found to be well formed: the same few stand in many components, and each costs a compilation.
    globs: HashSet<String>,
    wanted: BTreeMap<ComponentName, Vec<Wanted>>,
}

impl Manifest<'_> {
    fn components(&mut self, at: &At, node: &Node) -> BTreeMap<ComponentName, Component> {
        let entries = self.reader.map(at, node);
        let mut components = BTreeMap::new();
        if entries.len() > MOST_COMPONENTS {
            let (found, most) = (Number(entries.len() as u64), Number(MOST_COMPONENTS as u64));
            let problem = format!("found {found} components, expected {most} at most");
            self.reader.wrong(at, node.place, problem, "split the workspace");
            return components;
        }
        for (key, value) in entries {
            let at = at.key(&key.text);
            if let Some(name) = self.reader.name(&at, key)
                && let Some(earlier) = components.insert(name.clone(), self.component(&at, name, value))
            {
                let problem = format!("duplicate key `{}`", earlier.name);
                self.reader.wrong(&at, key.place, problem, "remove or rename one of the two");
            }
        }
        components
    }

    fn component(&mut self, at: &At, name: ComponentName, node: &Node) -> Component {
        self.reader.map(at, node);
        let mut component = Component {
            path: Path::new("components").join(name.as_str()),
            name,
            version: "latest".to_owned(),
            kind: String::new(),
            build_target: String::new(),
            repo: String::new(),
            depends_on: Vec::new(),
            outputs: None,
            inputs: Vec::new(),
            exclude: Vec::new(),
            env: Vec::new(),
            platform: Platform::Native,
            build: None,
        };
        for (key, value) in node.entries() {
            self.field(&mut component, &at.key(&key.text), key, value);
        }
        component
    }

    /// Reads one field. Fields that nobody here knows belong to other tools.
    fn field(&mut self, component: &mut Component, at: &At, key: &Key, node: &Node) {
        match key.text.as_str() {
            "version" => {
                if let Some(version) = version(self.reader, at, node) {
                    component.version = version;
                }
            }
            "type" => component.kind = self.reader.text(at, node).unwrap_or_default(),
            "build_target" => component.build_target = self.reader.text(at, node).unwrap_or_default(),
            "repo" => component.repo = self.reader.text(at, node).unwrap_or_default(),
            "build" => component.build = self.reader.text(at, node).filter(|command| !command.trim().is_empty()),
            "depends_on" => {
                let mut all = Vec::new();
                for (index, item) in self.reader.list(at, node).iter().enumerate() {
                    all.extend(wanted(self.reader, &at.index(index), item));
                }
                component.depends_on = names(&all);
                self.wanted.insert(component.name.clone(), all);
            }
            "path" => {
                if let Some(path) = self.path(at, node) {
                    component.path = path;
                }
            }
            "outputs" => {
                component.outputs = self.path(at, node);
                if component.outputs.as_deref() == Some(Path::new(".")) {
                    // What is built is no source, so there would be no sources left and every key would be the same.
                    self.reader.unexpected(at, node, "a path below `path`", "build into a folder of its own");
                }
            }
            "inputs" => component.inputs = self.globs(at, node, |glob| Globs::new(std::slice::from_ref(glob), &[])),
            "exclude" => component.exclude = self.globs(at, node, |glob| Globs::new(&[], std::slice::from_ref(glob))),
            "env" => component.env = self.env(at, node),
            "platform" => match self.reader.text(at, node).as_deref() {
                Some("any") => component.platform = Platform::Any,
                Some("native") | None => {}
                Some(_) => {
                    let hint = "`native` is what is meant without it, `any` is for what runs on every machine";
                    self.reader.unexpected(at, node, "`native` or `any`", hint);
                }
            },
            _ => {}
        }
    }

    fn path(&mut self, at: &At, node: &Node) -> Option<PathBuf> {
        let text = self.reader.text(at, node)?;
        match relative(&text) {
            Ok(path) => Some(path),
            Err(why) => {
                self.outside(at, node, &text, why);
                None
            }
        }
    }

    fn outside(&mut self, at: &At, node: &Node, text: &str, why: &str) {
        let problem = format!("found `{}`, which {why}, expected a relative path", Shown(text.as_bytes()));
        self.reader.wrong(at, node.place, problem, "write it relative and without `..`");
    }

    fn globs(&mut self, at: &At, node: &Node, compile: impl Fn(&String) -> Result<Globs>) -> Vec<String> {
        let mut globs = Vec::new();
        for (index, item) in self.reader.list(at, node).iter().enumerate() {
            let at = at.index(index);
            let Some(glob) = self.element(&at, item, "a glob") else { continue };
            let excluding = at.as_str().contains(".exclude[");
            let plain = match glob.strip_prefix('!') {
                Some(_) if excluding => {
                    let hint = "everything here is taken out already; name only what is no source";
                    self.reader.wrong(&at, item.place, "`!` has no meaning here", hint);
                    continue;
                }
                plain => plain.unwrap_or(&glob),
            };
            if let Err(why) = relative(plain) {
                self.outside(&at, item, &glob, why);
            } else if !self.globs.contains(&glob) {
                match compile(&glob) {
                    Ok(_) => _ = self.globs.insert(glob.clone()),
                    Err(error) => {
                        let hint = error.next_step().unwrap_or("`*`, `?`, `**`, `[a-z]` and `{a,b}` are known");
                        self.reader.wrong(&at, item.place, error.chain(), hint);
                    }
                }
            }
            globs.push(glob);
        }
        globs
    }

    fn env(&mut self, at: &At, node: &Node) -> Vec<String> {
        let mut names = Vec::new();
        for (index, item) in self.reader.list(at, node).iter().enumerate() {
            let at = at.index(index);
            let Some(name) = self.element(&at, item, "the name of a variable") else { continue };
            let upper = name.to_ascii_uppercase();
            if !is_variable(&name) {
                let hint = "use letters, digits and `_`, the first no digit";
                self.reader.unexpected(&at, item, "the name of a variable", hint);
            } else if let Some(word) = SECRETS.iter().find(|word| upper.contains(**word)) {
                let problem =
                    format!("`{name}` looks like a secret because of `{word}`: its digest would be in the key");
                let hint = "leave it out, since what is built must not depend on it; or rename the variable";
                self.reader.wrong(&at, item.place, problem, hint);
            }
            names.push(name);
        }
        names.sort();
        names.dedup();
        names
    }

    /// An element of a list, which has to be text.
    fn element(&mut self, at: &At, node: &Node, what: &str) -> Option<String> {
        let text = self.reader.text(at, node);
        if matches!(node.content, Content::Null) || text.as_deref() == Some("") {
            self.reader.unexpected(at, node, what, "write one, or take the element out");
            return None;
        }
        text
    }
}

/// A version, which is not empty.
pub(super) fn version(reader: &mut Reader, at: &At, node: &Node) -> Option<String> {
    let version = reader.text(at, node);
    if matches!(node.content, Content::Null) || version.as_deref() == Some("") {
        reader.unexpected(at, node, "a version", "write one in quotes, or leave the line out for `latest`");
        return None;
    }
    version
}

/// The names in a list of dependencies, sorted, each once.
pub(super) fn names(wanted: &[Wanted]) -> Vec<ComponentName> {
    let mut names: Vec<ComponentName> = wanted.iter().map(|wanted| wanted.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn is_variable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

/// A relative path without `..`, its `.` and doubled `/` taken out; `.` for nothing else.
fn relative(text: &str) -> Result<PathBuf, &'static str> {
    let mut path = PathBuf::new();
    if text.is_empty() {
        return Err("is empty");
    }
    if text.contains('\0') {
        return Err("contains a NUL byte");
    }
    for part in Path::new(text).components() {
        match part {
            Part::Normal(part) => path.push(part),
            Part::CurDir => {}
            Part::ParentDir => return Err("contains `..`"),
            Part::RootDir | Part::Prefix(_) => return Err("is absolute"),
        }
    }
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}
