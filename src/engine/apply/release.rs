//! What was applied, as a generation of a profile: all artifacts into the store, then one switch.

use super::{Done, Status, outputs};
use crate::context::Context;
use crate::engine::entries::pack::Artifact;
use crate::engine::entries::store::{Added, Stock, add_to, has_sound};
use crate::engine::keys::Keys;
use crate::entry::profiles::{self, Generation};
use crate::entry::{Home, Record, StatCache};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::{ComponentName, Workspace};

/// What is to be released.
pub struct ReleaseRequest<'a> {
    /// The workspace.
    pub workspace: &'a Workspace,
    /// The keys of its components.
    pub keys: &'a Keys,
    /// The store.
    pub store: &'a Home,
    /// The scope that artifacts are stored in.
    pub scope: &'a str,
    /// What no artifact may contain.
    pub not_in: &'a [std::path::PathBuf],
    /// The profile.
    pub profile: &'a str,
    /// The digest of the lock file.
    pub lock: Hash,
    /// Which files need not be read to know what is in them.
    pub known: &'a StatCache,
    /// Computes the key of a component once more.
    pub again: &'a (dyn Fn(&ComponentName) -> Result<Hash> + Sync),
}

/// What came of it.
#[derive(Debug)]
pub struct Released {
    /// The current generation.
    pub generation: Generation,
    /// Whether it is a new one.
    pub switched: bool,
    /// How many artifacts were not in the store before.
    pub added: usize,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Adds the artifacts of components that all went well to the store, and makes them the current generation of a profile, unless
/// they are that already: going back then leads to what was there before. Blocks.
pub fn release(request: &ReleaseRequest<'_>, done: &[Done], context: &Context) -> Result<Released> {
    request.store.create()?;
    let mut stock = None;
    let (mut hashes, mut added, mut warnings) = (Vec::new(), 0, Vec::new());
    for one in done {
        let record = match &one.status {
            Status::Hit(_, record) => Some(&**record),
            Status::Built(_, record) => record.as_deref(),
            _ => continue,
        };
        // What is there is what the profile will lead to, and may have rotted: what was put in place just now replaces it then.
        if let Some(record) = record
            && has_sound(request.store, &record.address(), context)?
        {
            hashes.push(record.address());
            continue;
        }
        let Added { hash, warnings: told, .. } = store(request, &mut stock, &one.name, record, context)?;
        warnings.extend(told.into_iter().map(|text| format!("{}: {text}", one.name)));
        hashes.push(hash);
        added += 1;
    }
    request.known.save();
    if hashes.is_empty() {
        return Err(nothing_to_release());
    }
    if let Some(generation) = current(request.store, request.profile, &hashes)? {
        return Ok(Released { generation, switched: false, added, warnings });
    }
    let generation = profiles::switch(request.store, request.profile, &hashes, Some(request.lock), &context.cancel)?;
    Ok(Released { generation, switched: true, added, warnings })
}

/// The error when no component has an artifact.
pub fn nothing_to_release() -> Error {
    Error::new(Class::Workspace, "there is no artifact to switch to")
        .hint("set `outputs` of the components in manifests/components.yaml")
}

/// The current generation, if it is made of these artifacts and leads to each.
fn current(store: &Home, profile: &str, hashes: &[Hash]) -> Result<Option<Generation>> {
    let Some(number) = profiles::current(store, profile)? else { return Ok(None) };
    let known = profiles::generations(store, profile)?;
    let same = |generation: &Generation| {
        let mut there: Vec<Hash> = generation.artifacts.iter().map(|(_, hash)| *hash).collect();
        let mut wanted = hashes.to_vec();
        there.sort();
        wanted.sort();
        generation.number == number && there == wanted
    };
    Ok(known.into_iter().find(same).filter(|generation| profiles::leads_to_all(store, profile, generation)))
}

fn store<'a>(
    request: &ReleaseRequest<'a>,
    stock: &mut Option<Stock<'a>>,
    name: &ComponentName,
    record: Option<&Record>,
    context: &Context,
) -> Result<Added> {
    let about = |error: Error| error.context(format_args!("cannot add the artifact of `{name}` to the store"));
    let lost = || Error::failed(format_args!("`{name}` has no artifact"));
    let computed = request.keys.computed(name).ok_or_else(lost)?;
    let place = outputs(request.workspace, name).ok_or_else(lost)?;
    let again = || (request.again)(name);
    let stock = match stock {
        Some(stock) => stock,
        None => stock.insert(Stock::read(request.store, request.known)?),
    };
    let mut add = || {
        let artifact = Artifact::look(&place, request.not_in, &context.cancel)?;
        add_to(request.store, stock, &computed, artifact, request.scope, &again, context)
    };
    let mut added = add().map_err(about)?;
    // The files that it shares with others may have rotted there: it is replaced when it is added again.
    if added.shared > 0 && !has_sound(request.store, &added.hash, context)? {
        added = add().map_err(about)?;
    }
    if record.is_some_and(|record| record.output.tree != added.record.output.tree) {
        let changed = format_args!("the artifact of `{name}` was changed after it was put in place").to_string();
        return Err(
            Error::new(Class::Changed, changed).hint("run it again, and let nothing write to `outputs` meanwhile")
        );
    }
    Ok(added)
}
