//! Components of a workspace, as their manifest describes them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Mode;
use crate::error::{Error, Result};

/// The name of a component: 1 to 128 of `A-Z a-z 0-9 . _ -`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentName(String);

impl ComponentName {
    /// Checks a name. A wrong one is an error of class `Usage`.
    pub fn new(name: &str) -> Result<Self> {
        if is_name(name, 128) {
            return Ok(ComponentName(name.to_owned()));
        }
        Err(Error::usage(format_args!("`{}` is not a possible name of a component", shown(name)))
            .hint("use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 128"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that can be a part of a path: letters, digits, `.`, `_`, `-`, beginning with a letter or digit.
pub fn is_name(name: &str, most: usize) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=most).contains(&name.len())
        && name.bytes().all(known)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// The beginning of what a user typed, fit for a message.
fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ComponentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which machines an artifact is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Platform {
    /// Those of the same system and processor as the one that builds it.
    #[default]
    Native,
    /// All.
    Any,
}

/// One component, every field validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its name.
    pub name: ComponentName,
    /// Its version, `latest` when the manifest has none.
    pub version: String,
    /// `type` of the manifest: what kind of build it is, possibly empty.
    pub kind: String,
    /// What the build system is asked for, possibly empty.
    pub build_target: String,
    /// Where its sources come from, possibly empty.
    pub repo: String,
    /// Names of the components that it needs directly, sorted, each once.
    pub depends_on: Vec<ComponentName>,
    /// The folder with its sources, relative to the root; `components/<name>` unless said otherwise.
    pub path: PathBuf,
    /// Its artifact, relative to `path`.
    pub outputs: Option<PathBuf>,
    /// Globs of further inputs, relative to the root.
    pub inputs: Vec<String>,
    /// Globs of files in `path` that are no sources, relative to `path`.
    pub exclude: Vec<String>,
    /// Names of variables whose values belong to the key, sorted, each once.
    pub env: Vec<String>,
    /// Which machines its artifact is for.
    pub platform: Platform,
    /// The command that builds it, for `apply`.
    pub build: Option<String>,
}

/// A workspace: where it is, and its components. Every dependency is one of them, and there is no cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// The root, absolute.
    pub root: PathBuf,
    /// The folder of manifests and lock files; `None` for a folder without a manifest, whose components are just names.
    pub manifests: Option<PathBuf>,
    /// How sources get into the workspace.
    pub mode: Mode,
    /// The components, by name; none without a manifest.
    pub components: BTreeMap<ComponentName, Component>,
}

impl Workspace {
    /// The folder of a component.
    pub fn folder(&self, component: &Component) -> PathBuf {
        // A `.` would stay in what is shown of all that lies below.
        if component.path == Path::new(".") { self.root.clone() } else { self.root.join(&component.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_can_be_part_of_a_path() {
        for name in ["a", "scraper-capabilities", "A1._-", "0", &"x".repeat(128)] {
            assert!(ComponentName::new(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "-a", "_a", "a/b", "../x", "a\0", "ä", "a b", &"x".repeat(129)] {
            assert!(ComponentName::new(name).is_err(), "{name}");
        }
    }
}
