//! Lock files of a workspace: which version of each component was released, and with which artifact.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::ComponentName;
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// How the sources of components get into the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are checkouts; a lock pins their commits.
    #[default]
    Reference,
    /// They are copies that belong to the workspace.
    Vendored,
}

/// A lock file, every field validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The digest of that file as it was read.
    pub digest: Hash,
    /// When it was made, as written.
    pub generated_at: Option<String>,
    /// Where sources come from.
    pub mode: Mode,
    /// The environment that it says it is for.
    pub environment: Option<String>,
    /// The environment whose lock it was copied from.
    pub promoted_from: Option<String>,
    /// When it was copied, as written.
    pub promoted_at: Option<String>,
    /// Its components, by name.
    pub components: BTreeMap<ComponentName, LockedComponent>,
}

/// What a lock file says about a component.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockedComponent {
    /// Its version, `latest` when the lock has none.
    pub version: String,
    /// `type`: what kind of build it is, possibly empty.
    pub kind: String,
    /// What the build system is asked for, possibly empty.
    pub build_target: String,
    /// Where its sources come from, possibly empty.
    pub repo: String,
    /// Names of the components that it needs directly, sorted, each once.
    pub depends_on: Vec<ComponentName>,
    /// The commit of its sources, in reference mode.
    pub commit: Option<String>,
    /// When its sources were copied, as written, in vendored mode.
    pub vendored_at: Option<String>,
    /// The environment that it was locked for.
    pub environment: Option<String>,
    /// The digest of the listing of its sources.
    pub source: Option<Hash>,
    /// Platform and store address of each of its artifacts, in the order of the file.
    pub artifacts: Vec<(String, Hash)>,
}

impl Lock {
    /// What it says about a component that is needed. None is an error of class `Workspace`: a component that a lock does
    /// not pin must not float silently.
    pub fn component(&self, name: &ComponentName) -> Result<&LockedComponent> {
        self.components.get(name).ok_or_else(|| {
            Error::new(Class::Workspace, format_args!("`{}` has no component `{name}`", Shown::path(&self.path)))
                .hint("lock it, or run without `--locked`")
        })
    }

    /// Every store address that it names.
    pub fn artifacts(&self) -> impl Iterator<Item = Hash> {
        self.components.values().flat_map(|component| component.artifacts.iter().map(|(_, hash)| *hash))
    }
}
