//! What is wrong with a workspace before anything begins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::outputs;
use crate::engine::keys::will_be_source;
use crate::error::{Class, Error, Result};
use crate::key::{Component, ComponentName, Workspace};
use crate::text::Shown;

/// A name for what will be in outputs: rules may leave out all that is in a folder, and not the folder.
const SOMETHING: &str = "what is made";

/// Refuses builds whose artifact has no place, artifacts in each other, folders of components in artifacts, whoever's, since what
/// is put in place takes all away that was there. Returns warnings, for artifacts that are about to become sources of another
/// component.
pub fn check(workspace: &Workspace, names: &[ComponentName]) -> Result<Vec<Error>> {
    let places = places(workspace, names)?;
    not_in_each_other(workspace, &places)?;
    without_folders(workspace, &places)?;
    new_sources(workspace, names, &places)
}

type Places<'a> = Vec<(PathBuf, &'a ComponentName)>;

/// Where artifacts go, in the order of these places.
fn places<'a>(workspace: &Workspace, names: &'a [ComponentName]) -> Result<Places<'a>> {
    let mut places = Vec::new();
    for name in names {
        match (outputs(workspace, name), workspace.components.get(name).and_then(|known| known.build.as_ref())) {
            (Some(place), _) => places.push((place, name)),
            (None, Some(_)) => {
                let hint = "set `outputs` in manifests/components.yaml to what it makes, relative to its folder";
                return Err(wrong(format_args!("`{name}` has a `build` and no `outputs`"), hint));
            }
            (None, None) => {}
        }
    }
    places.sort();
    Ok(places)
}

fn not_in_each_other(workspace: &Workspace, places: &Places<'_>) -> Result<()> {
    for pair in places.windows(2) {
        let [(place, one), (other, another)] = pair else { continue };
        if other.starts_with(place) {
            let (other, place) = (shown(workspace, other), shown(workspace, place));
            let what = format_args!("the outputs of `{another}` (`{other}`) lie in those of `{one}` (`{place}`)");
            return Err(wrong(what, "give each component outputs of its own"));
        }
    }
    Ok(())
}

fn without_folders(workspace: &Workspace, places: &Places<'_>) -> Result<()> {
    // Also by the way that links take. A link in an artifact's place is replaced itself, so that is where it is.
    let real = |place: &Path| Some(place.parent()?.canonicalize().ok()?.join(place.file_name()?));
    let both = |(place, name): &(PathBuf, &'_ ComponentName)| {
        [Some(place.clone()), real(place)].map(|at| Some((at?, (*name).clone())))
    };
    let places: BTreeMap<PathBuf, ComponentName> = places.iter().flat_map(both).flatten().collect();
    for (name, component) in &workspace.components {
        let folder = workspace.folder(component);
        let real = folder.canonicalize().ok();
        let mut above = folder.ancestors().chain(real.iter().flat_map(|real| real.ancestors()));
        if let Some((place, one)) = above.find_map(|above| places.get_key_value(above)) {
            let (folder, place) = (shown(workspace, &folder), shown(workspace, place));
            let what = format_args!(
                "the folder of `{name}` (`{folder}`) lies in the outputs of `{one}` (`{place}`), which are replaced as a whole"
            );
            return Err(wrong(what, "let `outputs` name a folder that nobody's sources lie in"));
        }
    }
    Ok(())
}

/// Refuses a target that a component's folder is or lies in, where that is there: a restore takes all away that was.
pub fn check_target(workspace: &Workspace, target: &Path) -> Result<()> {
    let real = || Some(target.parent()?.canonicalize().ok()?.join(target.file_name()?));
    let places = [std::path::absolute(target).ok(), real()];
    let roots = [Some(workspace.root.clone()), workspace.root.canonicalize().ok()];
    for (name, component) in &workspace.components {
        let mut folders = roots.iter().flatten().map(|root| root.join(&component.path));
        let is_in = |folder: &PathBuf| places.iter().flatten().any(|place| folder.starts_with(place));
        if folders.any(|folder| is_in(&folder) && folder.exists()) {
            let (target, folder) = (Shown::path(target), shown(workspace, &workspace.folder(component)));
            return Err(Error::refused(format_args!(
                "`{target}` holds the folder of `{name}` (`{folder}`), and is not replaced"
            ))
            .hint("name a folder of its own for the artifact with --target"));
        }
    }
    Ok(())
}

/// What is not there yet, and will be once its component is applied, changes the key of a component that counts it among its
/// sources: what is stored under that could never be found again. What is there, checked in perhaps, may well stay as it is.
///
/// Rules may leave out all that is made and not the folder, and rules for folders say nothing of a file, so this is a guess: a
/// run tells for sure, since it computes the key again.
fn new_sources(workspace: &Workspace, names: &[ComponentName], places: &Places<'_>) -> Result<Vec<Error>> {
    let mut folders: BTreeMap<PathBuf, Vec<&Component>> = BTreeMap::new();
    for component in with_artifacts(workspace, names) {
        folders.entry(workspace.folder(component)).or_default().push(component);
    }
    let mut found = Vec::new();
    for (place, one) in places.iter().filter(|(place, _)| std::fs::symlink_metadata(place).is_err()) {
        let above = place.ancestors().filter_map(|above| folders.get_key_value(above));
        for (folder, component) in above.flat_map(|(folder, all)| all.iter().map(move |component| (folder, component)))
        {
            let below = place.strip_prefix(folder).unwrap_or(place);
            if component.name != **one && will_be_source(folder, component, &below.join(SOMETHING))? {
                let (name, place) = (&component.name, shown(workspace, place));
                let what = format_args!(
                    "the outputs of `{one}` (`{place}`) would be sources of `{name}`, whose key changes when they are made"
                );
                let hint = format!(
                    "set `exclude: [\"{}\"]` for `{name}`, or name it in a `.gitignore` there",
                    Shown::path(below)
                );
                found.push(wrong(what, &hint));
            }
        }
    }
    Ok(found)
}

/// Components that have an artifact, and those whose key such a one covers.
fn with_artifacts<'a>(workspace: &'a Workspace, names: &[ComponentName]) -> Vec<&'a Component> {
    let find = |name: &ComponentName| workspace.components.get(name);
    let mut open: Vec<_> = names.iter().filter_map(find).filter(|component| component.outputs.is_some()).collect();
    let mut met: BTreeSet<_> = open.iter().map(|component| &component.name).collect();
    let mut all = Vec::new();
    while let Some(component) = open.pop() {
        all.push(component);
        open.extend(component.depends_on.iter().filter_map(find).filter(|needed| met.insert(&needed.name)));
    }
    all
}

fn shown(workspace: &Workspace, path: &Path) -> String {
    Shown::path(path.strip_prefix(&workspace.root).unwrap_or(path)).to_string()
}

fn wrong(what: impl std::fmt::Display, hint: &str) -> Error {
    Error::new(Class::Workspace, what).hint(hint)
}
