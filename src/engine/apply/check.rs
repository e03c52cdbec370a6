//! What is wrong with a workspace before anything begins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::outputs;
use crate::error::{Class, Error, Result};
use crate::key::{ComponentName, Workspace};
use crate::text::Shown;

/// Refuses builds whose artifact has no place, artifacts in each other, and folders of components in artifacts, whoever's: what
/// is put in place takes all away that was there.
pub fn check<'a>(workspace: &Workspace, names: impl IntoIterator<Item = &'a ComponentName>) -> Result<()> {
    let mut places: Vec<(PathBuf, &ComponentName)> = Vec::new();
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
    let shown = |path: &Path| Shown::path(path.strip_prefix(&workspace.root).unwrap_or(path)).to_string();
    for pair in places.windows(2) {
        let [(place, one), (other, another)] = pair else { continue };
        if other.starts_with(place) {
            let (other, place) = (shown(other), shown(place));
            let what = format_args!("the outputs of `{another}` (`{other}`) lie in those of `{one}` (`{place}`)");
            return Err(wrong(what, "give each component outputs of its own"));
        }
    }
    // Also by the way that links take. A link in an artifact's place is replaced itself, so that is where it is.
    let real = |place: &Path| Some(place.parent()?.canonicalize().ok()?.join(place.file_name()?));
    let places: BTreeMap<PathBuf, &ComponentName> = places
        .into_iter()
        .flat_map(|(place, name)| real(&place).into_iter().chain([place]).map(move |at| (at, name)))
        .collect();
    for (name, component) in &workspace.components {
        let folder = workspace.folder(component);
        let real = folder.canonicalize().ok();
        let mut above = folder.ancestors().chain(real.iter().flat_map(|real| real.ancestors()));
        if let Some((place, one)) = above.find_map(|above| places.get_key_value(above)) {
            let (folder, place) = (shown(&folder), shown(place));
            let what = format_args!(
                "the folder of `{name}` (`{folder}`) lies in the outputs of `{one}` (`{place}`), which are replaced as a whole"
            );
            return Err(wrong(what, "let `outputs` name a folder that nobody's sources lie in"));
        }
    }
    Ok(())
}

fn wrong(what: impl std::fmt::Display, hint: &str) -> Error {
    Error::new(Class::Workspace, what).hint(hint)
}
