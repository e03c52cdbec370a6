//! A workspace's files: where its root is, its manifest, and its lock files.
//!
//! | part | what it reads |
//! |---|---|
//! | [`find`], [`at_root`], [`with_manifests`] | the root and `components.yaml`, to a [`Workspace`] |
//! | [`all_locks`], [`lock_for`], [`read_lock`] | `components.lock.yaml`, `components.lock.<environment>.yaml` |
//! | [`drift`] | in what a lock and the manifest differ |
//! | [`update_lock`] | nothing: it writes a lock |
//! | [`head`] | the commit that a checkout is at |
//!
//! Nothing that is wrong is guessed around, because keys and what may be deleted depend on it: every mistake is an error
//! of class `Workspace` that tells file and line.

mod checkout;
mod dependencies;
mod file;
mod lock;
mod lock_write;
mod manifest;
#[cfg(test)]
mod manifest_tests;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component as Part, Path, PathBuf};

pub use self::checkout::head;
pub use self::lock::{all_locks, drift, lock_for, read_lock};
pub use self::lock_write::{Sources, Updated, update_lock};
use crate::error::{Class, Error, Result};
use crate::key::{Mode, Workspace};
use crate::text::Shown;

/// The folder of manifest and lock files, unless another is named.
const MANIFESTS: &str = "manifests";

/// The manifest in that folder.
const MANIFEST: &str = "components.yaml";

/// The workspace around a directory: the nearest one, from there upward, that holds `manifests/components.yaml`. Without
/// any, the directory itself is the root, and components are just names.
pub fn find(directory: &Path) -> Result<Workspace> {
    let directory = absolute(directory)?;
    for root in directory.ancestors() {
        let manifests = root.join(MANIFESTS);
        if has_manifest(&manifests)? {
            return read(root.to_owned(), manifests);
        }
    }
    Ok(without_manifest(directory))
}

/// The workspace whose root is this directory, whether it has a manifest or not.
pub fn at_root(root: &Path) -> Result<Workspace> {
    let root = absolute(root)?;
    let manifests = root.join(MANIFESTS);
    if has_manifest(&manifests)? { read(root, manifests) } else { Ok(without_manifest(root)) }
}

/// The workspace whose manifest and lock files are in this folder; the folder above is its root.
pub fn with_manifests(manifests: &Path) -> Result<Workspace> {
    let manifests = absolute(manifests)?;
    match manifests.parent() {
        Some(root) => read(root.to_owned(), manifests),
        None => Err(Error::usage("`/` cannot be the folder of manifests").hint("name a folder below the root")),
    }
}

fn read(root: PathBuf, manifests: PathBuf) -> Result<Workspace> {
    let path = manifests.join(MANIFEST);
    // Messages do not tell where on this machine the workspace is.
    let shown = Shown::path(path.strip_prefix(&root).unwrap_or(&path)).to_string();
    if !exists(&path)? {
        return Err(Error::new(Class::Workspace, format_args!("there is no `{shown}`"))
            .hint("write one, or name the folder that holds it"));
    }
    let (components, mode) = manifest::read(&path, &shown)?;
    Ok(Workspace { root, manifests: Some(manifests), mode, components })
}

/// A folder, absolute, as a workspace whose components are just names, whatever lies in it.
pub fn without_manifest(root: PathBuf) -> Workspace {
    Workspace { root, manifests: None, mode: Mode::default(), components: BTreeMap::new() }
}

/// Whether a folder holds a manifest. A link that leads nowhere in its place is an error: what lay there is not known.
fn has_manifest(manifests: &Path) -> Result<bool> {
    if exists(&manifests.join(MANIFEST))? {
        return Ok(true);
    }
    if exists(manifests)? && !manifests.try_exists().unwrap_or(false) {
        let shown = Shown::path(manifests);
        return Err(Error::new(Class::Workspace, format_args!("`{shown}` is a link that leads nowhere"))
            .hint("put back what it leads to, or remove it"));
    }
    Ok(false)
}

/// Whether something is there, even if it is a link to nothing. A folder that cannot be looked into is an error: with its
/// manifest unseen, the same sources would have another key.
fn exists(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => {
            Err(Error::new(Class::Workspace, format_args!("looking for `{}`", Shown::path(path))).caused_by(error))
        }
    }
}

/// The path from `/` on. Links stay as they were typed, unless a `..` has to go where they lead.
fn absolute(path: &Path) -> Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let climbs = path.components().any(|part| part == Part::ParentDir);
    let absolute = if climbs { path.canonicalize() } else { std::path::absolute(path) };
    absolute.map_err(|error| {
        Error::new(Class::Workspace, format_args!("looking for `{}`", Shown::path(path))).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with these files.
    pub(super) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_nearest_folder_with_a_manifest_is_the_root() {
        let folder = folder(&[
            ("manifests/components.yaml", "components: {outer: }"),
            ("in/manifests/components.yaml", "components: {inner: }"),
            ("in/a/b/x", ""),
            ("other/manifests/readme", ""),
        ]);
        let root = folder.path();
        for (from, found, name) in [
            ("", "", "outer"),
            ("other", "", "outer"),
            ("other/manifests", "", "outer"),
            ("in", "in", "inner"),
            ("in/a/b", "in", "inner"),
            ("in/a/../..", "", "outer"),
        ] {
            let workspace = find(&root.join(from)).unwrap();
            let found = root.join(found);
            assert_eq!(workspace.root.components().as_path(), found.components().as_path(), "{from}");
            assert_eq!(workspace.manifests, Some(workspace.root.join("manifests")), "{from}");
            assert!(workspace.components.contains_key(name), "{from}");
        }
    }

    #[test]
    fn without_a_manifest_the_directory_is_the_root() {
        let folder = folder(&[("a/x", "")]);
        let root = folder.path().join("a");
        assert_eq!(find(&root).unwrap(), without_manifest(root.clone()));
        assert_eq!(at_root(&root).unwrap(), without_manifest(root));
        assert!(find(Path::new("")).unwrap().root.is_absolute());
    }

    #[test]
    fn a_named_root_is_not_left() {
        let folder = folder(&[("manifests/components.yaml", "components: {a: }"), ("in/x", "")]);
        assert_eq!(at_root(&folder.path().join("in")).unwrap().manifests, None);
        assert_eq!(at_root(folder.path()).unwrap().components.len(), 1);
    }

    #[test]
    fn another_folder_of_manifests_can_be_named_and_needs_a_manifest() {
        let folder = folder(&[("m/components.yaml", "components: {a: }"), ("bad/components.yaml", "a"), ("e/x", "")]);
        let workspace = with_manifests(&folder.path().join("m")).unwrap();
        assert_eq!((workspace.root.as_path(), workspace.components.len()), (folder.path(), 1));
        for (name, text) in [("bad", "bad/components.yaml:1: "), ("e", "`e/components.yaml`")] {
            let error = with_manifests(&folder.path().join(name)).unwrap_err();
            assert_eq!(error.class(), Class::Workspace);
            assert!(error.chain().contains(text), "{}", error.chain());
            assert!(error.next_step().is_some());
        }
    }

    #[test]
    fn a_manifest_that_is_there_but_no_file_is_an_error() {
        let folder = folder(&[("a/manifests/components.yaml/x", ""), ("b/manifests/x", "")]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("b/manifests/components.yaml")).unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("d/manifests")).unwrap();
        for (name, says) in
            [("a", "`manifests/components.yaml`"), ("b", "`manifests/components.yaml`"), ("d", "/d/manifests`")]
        {
            let root = folder.path().join(name);
            for error in [find(&root).unwrap_err(), at_root(&root).unwrap_err()] {
                assert_eq!(error.class(), Class::Workspace, "{name}");
                assert!(error.chain().contains(says), "{}", error.chain());
            }
        }
    }
}
