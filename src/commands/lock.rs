//! `monofo lock`.

use std::collections::BTreeMap;
use std::fs::File;

use serde_json::json;

use super::Commands;
use crate::cli::apply::Lock;
use crate::config::entries::Keeping;
use crate::config::workspace::{Sources, Updated, head, update_lock};
use crate::entry::hold_folder;
use crate::error::{Class, Error, Result};
use crate::key::{ComponentName, Mode};
use crate::text::{Count, Shown};

impl Commands<'_> {
    pub(super) fn lock(&self, asked: &Lock) -> u8 {
        self.answers("meta.lock/1", |_| self.update_lock(asked.env.as_deref()))
    }

    /// The workspace, held by the folder of its manifests: nobody else builds or locks in it until the file is dropped. `why` is
    /// for one without a manifest.
    pub(super) fn held(&self, why: &str) -> Result<(Keeping, File)> {
        let waiting = || self.report.note("waiting for another `apply` or `lock` in this workspace");
        loop {
            let Some(manifests) = self.keeping()?.workspace.manifests else { return Err(no_manifest(why)) };
            let held = hold_folder(&manifests, &waiting, self.cancel)?;
            // Who waits may do so while it is edited.
            let keeping = self.keeping()?;
            if keeping.workspace.manifests.as_ref() == Some(&manifests) {
                return Ok((keeping, held));
            }
        }
    }

    fn update_lock(&self, environment: Option<&str>) -> Result<()> {
        let (keeping, held) = self.held("there is nothing to lock")?;
        let workspace = &keeping.workspace;
        let names: Vec<ComponentName> = workspace.components.keys().cloned().collect();
        let known = keeping.known_digests()?;
        let mut keys = keeping.keys(&names, &BTreeMap::new(), &known, self.cancel)?;
        known.save();
        if let Some((_, error)) = keys.failed.pop_first() {
            return Err(error);
        }
        let mut found = BTreeMap::new();
        for (name, component) in &workspace.components {
            let folder = workspace.folder(component);
            if workspace.manifests.as_ref().is_some_and(|manifests| manifests.starts_with(&folder)) {
                self.report.warning(format_args!(
                    "the sources of `{name}` hold the lock itself, so neither they nor their commit are locked"
                ));
                continue;
            }
            let commit = match workspace.mode {
                Mode::Reference => head(&folder)?,
                Mode::Vendored => None,
            };
            let source = keys.source(name);
            if source.is_none() {
                let shown = Shown::path(&component.path);
                let text = format!("the sources of `{name}` are not here: there is no folder `{shown}`");
                return Err(Error::new(Class::Workspace, text)
                    .hint("check them out, or set `path` in manifests/components.yaml"));
            }
            found.insert(name.clone(), Sources { source, commit });
        }
        let Updated { path, components, changes } = update_lock(workspace, environment, &found)?;
        drop(held);
        let shown = Shown::path(path.strip_prefix(&workspace.root).unwrap_or(&path)).to_string();
        self.report.section("path", json!(shown));
        self.report.section("components", json!(components));
        self.report.section("changes", json!(changes));
        if changes.is_empty() {
            self.report.note(format_args!("{shown} is up to date: {}", Count(components as u64, "component")));
            return Ok(());
        }
        self.report.note(format_args!("wrote {shown}: {}", Count(components as u64, "component")));
        changes.iter().for_each(|change| self.report.note(format_args!("  {change}")));
        Ok(())
    }
}

/// The error for a folder that is no workspace.
pub(super) fn no_manifest(why: &str) -> Error {
    Error::new(Class::Workspace, format_args!("there is no `manifests/components.yaml`: {why}")).hint(
        "run it inside of a workspace, or write one with `components:` and a name with `build` and `outputs` below it",
    )
}
