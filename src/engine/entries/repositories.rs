//! Repositories in what is to be replaced: what somebody works on, in a place where an artifact goes.

use std::fs;
use std::path::{Path, PathBuf};

use super::target::Target;
use crate::error::{Error, Result};
use crate::text::Shown;

impl Target {
    /// Refuses to replace a folder with a repository anywhere below it that what is ready does not bring along itself.
    pub(super) fn check_repositories(&self, ready: &Path) -> Result<()> {
        if !fs::symlink_metadata(self.real()).is_ok_and(|there| there.is_dir()) {
            return Ok(());
        }
        let Some(found) = lost(self.real(), ready) else { return Ok(()) };
        let place = self.path().join(found.strip_prefix(self.real()).unwrap_or(&found));
        let (path, place) = (Shown::path(self.path()), Shown::path(&place));
        Err(Error::refused(format_args!("`{path}` holds a git repository, `{place}`, and is not replaced"))
            .hint("move that out of it, or name a folder of its own for the artifact with --target"))
    }
}

/// The first folder with a `.git` that has none at the same place in the other tree. Reads the names of folders alone, which the
/// removal of the old tree has to read as well; what cannot be read holds nothing that could be told.
fn lost(old: &Path, new: &Path) -> Option<PathBuf> {
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(old.join(&below)).into_iter().flatten().flatten() {
            if entry.file_name() == ".git" {
                if fs::symlink_metadata(new.join(&below).join(".git")).is_err() {
                    return Some(old.join(below));
                }
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(below.join(entry.file_name()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_lost_unless_the_new_tree_has_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let make = |path: &str| fs::create_dir_all(at(path)).unwrap();
        make("old/a/b/c");
        make("new");
        assert_eq!(lost(&at("old"), &at("new")), None);
        make("old/a/b/c/.git/objects/.git");
        assert_eq!(lost(&at("old"), &at("new")), Some(at("old/a/b/c")));
        make("new/a/b/c/.git");
        assert_eq!(lost(&at("old"), &at("new")), None);
        fs::write(at("old/a/.git"), "gitdir: ../x\n").unwrap();
        assert_eq!(lost(&at("old"), &at("new")), Some(at("old/a")));
        fs::remove_file(at("old/a/.git")).unwrap();
        make("elsewhere/.git");
        std::os::unix::fs::symlink(at("elsewhere"), at("old/link")).unwrap();
        assert_eq!(lost(&at("old"), &at("new")), None, "a link was followed");
    }
}
