//! Plugin configuration (JSON) into validated requests.
//!
//! ```yaml
//! upload:
//!   NAME: GLOB | [GLOB…] | { globs: …, filesFrom: FILE, null: BOOL, when: …, soft-fail: BOOL, if-empty: … }
//! download:            # one, or a list
//!   - NAME | { name: NAME, step: KEY, build: ID, into: FOLDER, soft-fail: BOOL }
//! cache:               # one, or a list, see [`super::cache_block`]
//!   - { key: TEMPLATE, restore-keys: …, paths: …, id: NAME, save: …, soft-fail: BOOL }
//! ```
//!
//! `plugin.yml` states the same rules as a JSON schema; `tests/fixtures/plugin-config.json` holds both to the same
//! answers. An option whose value is null counts as absent. The agent does not keep the order of keys, so uploads are
//! sorted by name; downloads stay as listed. `MONOFO_ARTIFACT_<NAME>_SKIP`, `_SOFT_FAIL` and `_BUILD_ID`, where set,
//! win over the configuration.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::artifact::ArtifactName;
use crate::config::cache_block::{self, PluginCache};
use crate::config::fields::{self, Fields};
use crate::config::mistakes::{At, Mistakes};
use crate::config::switches::Switches;
use crate::engine::{DownloadRequest, IfEmpty, ListSource, Selection, UploadRequest};
use crate::env::Env;
use crate::error::Result;
use crate::transport::Pick;

/// After which commands an artifact is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Only after one that exited 0.
    #[default]
    Success,
    /// Only after one that did not.
    Failure,
    /// After both.
    Always,
}

impl When {
    /// Whether this asks for an upload after a command that failed, or did not.
    pub fn applies(self, command_failed: bool) -> bool {
        match self {
            When::Success => !command_failed,
            When::Failure => command_failed,
            When::Always => true,
        }
    }
}

/// One artifact of the `upload` block.
#[derive(Debug, Clone)]
pub struct PluginUpload {
    /// What to upload.
    pub request: UploadRequest,
    /// After which commands.
    pub when: When,
    /// Whether trouble is only a warning.
    pub soft_fail: bool,
    /// Whether `MONOFO_ARTIFACT_<NAME>_SKIP` leaves it out.
    pub skip: bool,
}

/// One artifact of the `download` block.
#[derive(Debug, Clone)]
pub struct PluginDownload {
    /// What to download.
    pub request: DownloadRequest,
    /// Whether trouble is only a warning.
    pub soft_fail: bool,
    /// Whether `MONOFO_ARTIFACT_<NAME>_SKIP` leaves it out.
    pub skip: bool,
}

/// The whole configuration, valid.
#[derive(Debug, Clone, Default)]
pub struct PluginConfig {
    /// The `upload` block, sorted by name.
    pub uploads: Vec<PluginUpload>,
    /// The `download` block, as listed.
    pub downloads: Vec<PluginDownload>,
    /// The `cache` block, as listed.
    pub caches: Vec<PluginCache>,
}

impl PluginConfig {
    /// Reads a configuration. Paths in the requests are relative to the working directory.
    ///
    /// The error tells every mistake; see [`Mistakes::into_result`] for its class.
    pub fn read(configuration: &Value, env: &Env) -> Result<Self> {
        let mut mistakes = Mistakes::default();
        let config = Self::read_into(configuration, env, &mut mistakes);
        mistakes.into_result().map(|()| config)
    }

    /// Reads as far as possible and adds every mistake to `mistakes`. The result may be used only if there was none.
    pub fn read_into(configuration: &Value, env: &Env, mistakes: &mut Mistakes) -> Self {
        let mut config = PluginConfig::default();
        let top = At::top();
        let Some(mut fields) = Fields::of(configuration, &top, "a map with `upload`, `download` and `cache`", mistakes)
        else {
            return config;
        };
        if let Some((at, value)) = fields.take(&["upload"], mistakes) {
            config.uploads = uploads(value, &at, env, mistakes);
        }
        if let Some((at, value)) = fields.take(&["download"], mistakes) {
            config.downloads = downloads(value, &at, env, mistakes);
        }
        if let Some((at, value)) = fields.take(&["cache"], mistakes) {
            config.caches = cache_block::read(value, &at, mistakes);
        }
        fields.finish(&["upload", "download", "cache"], mistakes);
        config
    }
}

fn uploads(value: &Value, at: &At, env: &Env, mistakes: &mut Mistakes) -> Vec<PluginUpload> {
    let Value::Object(map) = value else {
        mistakes.unexpected(at, value, "a map from artifact names to the files they are made of");
        return Vec::new();
    };
    let mut names: Vec<&String> = map.keys().collect();
    names.sort();
    names.into_iter().filter_map(|name| upload(name, &map[name], &at.key(name), env, mistakes)).collect()
}

fn upload(name: &str, value: &Value, at: &At, env: &Env, mistakes: &mut Mistakes) -> Option<PluginUpload> {
    let name = artifact_name(name, at, mistakes);
    let mut selection = Selection { root: PathBuf::from("."), ..Selection::default() };
    let (mut when, mut soft_fail, mut if_empty) = (None, None, None);
    if value.is_object() {
        let mut fields = Fields::of(value, at, "a map", mistakes)?;
        if let Some((at, value)) = fields.take(&["globs"], mistakes) {
            selection.globs = globs(value, &at, mistakes);
        }
        let list = fields.take(&["filesFrom", "files-from"], mistakes);
        let has_list = list.is_some();
        selection.list = list.and_then(|(at, value)| files_from(value, &at, mistakes));
        if let Some((at, value)) = fields.take(&["null"], mistakes) {
            selection.null_separated = fields::boolean(value, &at, mistakes).unwrap_or_default();
            if !has_list {
                mistakes.add(&at, "`null` says how the list of `filesFrom` is separated, and there is no `filesFrom`");
            }
        }
        when = fields.choice("when", &WHEN, mistakes);
        if_empty = fields.choice("if-empty", &IF_EMPTY, mistakes);
        soft_fail = fields.boolean("soft-fail", mistakes);
        let nothing = !has_list && !fields.has("globs");
        fields.finish(&["globs", "filesFrom", "null", "when", "soft-fail", "if-empty"], mistakes);
        if nothing {
            mistakes.add(at, "names no files, expected `globs` or `filesFrom`");
        } else if !has_list {
            something_selected(&selection, &at.key("globs"), mistakes);
        }
    } else if value.is_string() || value.is_array() {
        selection.globs = globs(value, at, mistakes);
        something_selected(&selection, at, mistakes);
    } else {
        mistakes.unexpected(at, value, "a glob, a list of globs, or a map with `globs` or `filesFrom`");
    }
    let name = name?;
    let switches = Switches::of(&name, env);
    Some(PluginUpload {
        when: when.unwrap_or_default(),
        soft_fail: switches.soft_fail.or(soft_fail).unwrap_or_default(),
        skip: switches.skip,
        request: UploadRequest { name, selection, level: None, if_empty: if_empty.unwrap_or_default() },
    })
}

const WHEN: [(&str, When); 3] = [("success", When::Success), ("failure", When::Failure), ("always", When::Always)];
const IF_EMPTY: [(&str, IfEmpty); 3] =
    [("warn", IfEmpty::Warn), ("error", IfEmpty::Error), ("ignore", IfEmpty::Ignore)];

fn downloads(value: &Value, at: &At, env: &Env, mistakes: &mut Mistakes) -> Vec<PluginDownload> {
    let mut found: Vec<PluginDownload> = Vec::new();
    let items: Vec<(At, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (at.index(i), item)).collect(),
        one => vec![(at.clone(), one)],
    };
    for (at, item) in items {
        let Some(download) = download(item, &at, env, mistakes) else { continue };
        if found.iter().any(|earlier| same_target(&earlier.request, &download.request)) {
            mistakes.add(&at, format!("`{}` is listed twice for the same folder", download.request.name));
        }
        found.push(download);
    }
    found
}

/// Whether two downloads are the same one, or would write the same plain file.
fn same_target(a: &DownloadRequest, b: &DownloadRequest) -> bool {
    let plain = |request: &DownloadRequest| request.name.format().is_ok_and(|format| !format.is_archive());
    let same_file = plain(a) && plain(b) && a.into.join(a.name.as_str()) == b.into.join(b.name.as_str());
    same_file || (a.name == b.name && a.into == b.into && a.pick == b.pick)
}

fn download(value: &Value, at: &At, env: &Env, mistakes: &mut Mistakes) -> Option<PluginDownload> {
    let (mut step, mut build, mut into, mut soft_fail) = (None, None, None, None);
    let name = match value {
        Value::String(name) => artifact_name(name, at, mistakes),
        Value::Object(_) => {
            let mut fields = Fields::of(value, at, "a map", mistakes)?;
            let name = fields.take(&["name"], mistakes);
            if name.is_none() {
                mistakes.add(at, "has no `name`, expected the name of an artifact");
            }
            step = fields.take(&["step"], mistakes).and_then(|(at, value)| fields::text(value, &at, mistakes));
            build = fields
                .take(&["build"], mistakes)
                .and_then(|(at, value)| fields::text(value, &at, mistakes).and_then(|id| build_id(&id, &at, mistakes)));
            into = fields.take(&["into"], mistakes).and_then(|(at, value)| {
                fields::text(value, &at, mistakes).and_then(|path| below(&path, &at, mistakes).then(|| tidy(&path)))
            });
            soft_fail = fields.boolean("soft-fail", mistakes);
            fields.finish(&["name", "step", "build", "into", "soft-fail"], mistakes);
            name.and_then(|(at, value)| {
                fields::text(value, &at, mistakes).and_then(|name| artifact_name(&name, &at, mistakes))
            })
        }
        other => {
            mistakes.unexpected(at, other, "the name of an artifact, or a map with `name`");
            None
        }
    }?;
    let switches = Switches::of(&name, env);
    let forced = switches.build.and_then(|(variable, id)| build_id(&id, &At::variable(&variable), mistakes));
    let build = forced.or(build).or_else(|| env.text("BUILDKITE_BUILD_ID").map(str::to_owned));
    Some(PluginDownload {
        soft_fail: switches.soft_fail.or(soft_fail).unwrap_or_default(),
        skip: switches.skip,
        request: DownloadRequest {
            name,
            pick: Pick { build: build.unwrap_or_else(|| "local".to_owned()), step },
            root: PathBuf::from("."),
            into: into.unwrap_or_else(|| PathBuf::from(".")),
            same_owner: false,
        },
    })
}

fn artifact_name(name: &str, at: &At, mistakes: &mut Mistakes) -> Option<ArtifactName> {
    match ArtifactName::new(name).and_then(|name| name.format().map(|_| name)) {
        Ok(name) => Some(name),
        Err(error) => {
            mistakes.error(at, &error);
            None
        }
    }
}

fn globs(value: &Value, at: &At, mistakes: &mut Mistakes) -> Vec<String> {
    let items: Vec<(At, &Value)> = match value {
        Value::Array(items) if items.is_empty() => {
            mistakes.unexpected(at, value, "at least one glob");
            return Vec::new();
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (at.index(i), item)).collect(),
        one => vec![(at.clone(), one)],
    };
    let mut found = Vec::new();
    for (at, item) in items {
        let Value::String(glob) = item else {
            mistakes.unexpected(&at, item, "a glob");
            continue;
        };
        let pattern = glob.strip_prefix('!').unwrap_or(glob);
        if pattern.is_empty() || glob.contains('\0') {
            mistakes.unexpected(&at, item, "a glob");
        } else if below(pattern, &at, mistakes) {
            found.push(glob.clone());
        }
    }
    found
}

/// Globs that only take out select nothing, and whoever wrote them meant something else.
fn something_selected(selection: &Selection, at: &At, mistakes: &mut Mistakes) {
    if !selection.globs.is_empty() && selection.globs.iter().all(|glob| glob.starts_with('!')) {
        mistakes.add(at, "found only globs that take out (`!…`), expected at least one that selects");
    }
}

fn files_from(value: &Value, at: &At, mistakes: &mut Mistakes) -> Option<ListSource> {
    let path = fields::text(value, at, mistakes)?;
    if path == "-" {
        mistakes.add(at, "found `-`, expected a file: a hook has no standard input to read a list from");
        return None;
    }
    below(&path, at, mistakes).then(|| ListSource::File(tidy(&path)))
}

/// Checks that a path stays below the working directory once its `.` and `..` are resolved as text.
pub(super) fn below(path: &str, at: &At, mistakes: &mut Mistakes) -> bool {
    if path.starts_with('/') {
        mistakes.refused(at, path, "is absolute");
        return false;
    }
    let mut depth = 0_usize;
    for part in path.split('/') {
        depth = match part {
            "" | "." => depth,
            ".." if depth == 0 => {
                mistakes.refused(at, path, "leads out of the working directory");
                return false;
            }
            ".." => depth - 1,
            _ => depth + 1,
        };
    }
    true
}

/// A path below the working directory with its `.` and `..` resolved as text; `.` when nothing is left.
pub(super) fn tidy(path: &str) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    match parts.is_empty() {
        true => PathBuf::from("."),
        false => parts.iter().collect::<PathBuf>(),
    }
}

/// A build id becomes part of a place in a bucket or folder, so it may be no path.
fn build_id(id: &str, at: &At, mistakes: &mut Mistakes) -> Option<String> {
    let fine =
        id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && Path::new(id).file_name().is_some();
    if !fine {
        mistakes.unexpected(at, &Value::String(id.to_owned()), "the id of a build (letters, digits, `-`, `_`, `.`)");
    }
    fine.then(|| id.to_owned())
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
