//! What lies in the places of artifacts: what was put there, and whether it still is that.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::engine::entries::tree;
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Line, LineKind, Listing, ListingKind};
use crate::key::ComponentName;
use crate::text::Shown;

/// The trees of artifacts that were put in place in a run.
#[derive(Default)]
pub(super) struct Placed(Mutex<BTreeMap<ComponentName, Hash>>);

impl Placed {
    /// Takes note of one.
    pub(super) fn note(&self, name: &ComponentName, tree: Hash) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), tree);
    }

    /// Whether what lies there is something else now. What was never put there cannot be told, and neither can what no digest is
    /// made of, such as a socket.
    pub(super) fn is_other(&self, name: &ComponentName, place: &Path, cancel: &Cancel) -> Result<bool> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        let Some(known) = known else { return Ok(false) };
        match digest(place, cancel) {
            Ok(now) => Ok(now != known),
            Err(error) if matches!(error.class(), Class::Interrupted { .. }) => Err(error),
            Err(error) => Ok(error.class() != Class::Damaged),
        }
    }
}

/// The digest of the tree in a place, as the record of an entry has it.
pub(super) fn digest(place: &Path, cancel: &Cancel) -> Result<Hash> {
    let doing = || format!("cannot read `{}`", Shown::path(place));
    let real = place.canonicalize().or_fail(doing)?;
    let status = fs::metadata(&real).or_fail(doing)?;
    if status.is_dir() {
        return Ok(Listing::new(ListingKind::Dir, tree::hash(&real, cancel)?).digest());
    }
    if !status.is_file() {
        return Err(Error::damaged(format_args!("`{}` is neither file nor folder", Shown::path(place))));
    }
    let kind = if status.permissions().mode() & 0o100 != 0 { LineKind::Executable } else { LineKind::File };
    let line = Line { kind, hash: tree::hash_file(&real, cancel)?, size: status.len(), path: b".".to_vec() };
    Ok(Listing::new(ListingKind::File, vec![line]).digest())
}
