//! A step's checkout: a copy of the working tree as an agent would have it, uncommitted edits included.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ignore::WalkBuilder;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::cancel::Cancel;
use crate::error::{Error, IoContext, Result};
use crate::text::Shown;

/// The tree that steps get copies of.
#[derive(Debug, Clone)]
pub(super) struct WorkingTree {
    /// Its top folder: the git checkout that the current folder is in, or else the current folder.
    pub(super) root: PathBuf,
    /// Whether it is a git checkout.
    pub(super) git: bool,
}

impl WorkingTree {
    /// Finds the tree around a folder.
    pub(super) fn around(folder: &Path) -> Self {
        match folder.ancestors().find(|ancestor| ancestor.join(".git").exists()) {
            Some(root) => WorkingTree { root: root.to_path_buf(), git: true },
            None => WorkingTree { root: folder.to_path_buf(), git: false },
        }
    }

    /// Asks git about this tree; `None` when git is missing or says no.
    pub(super) fn ask_git(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let mut command = Command::new("git");
        for variable in super::environment::GIT_LOCATIONS {
            command.env_remove(variable);
        }
        let output = command.arg("-C").arg(&self.root).args(arguments).stdin(Stdio::null()).output().ok()?;
        (self.git && output.status.success()).then_some(output.stdout)
    }

    /// Copies the tree into a folder that does not exist yet and returns the number of files. Nothing is written to the
    /// tree. Files that git ignores stay out unless they are tracked; without git all but `.git` and `.monofo` goes in.
    ///
    /// The copy shares blocks with the original where the file system can: [`fs::copy`] asks the kernel for that.
    pub(super) fn copy(&self, into: &Path, leave_out: &Path, cancel: &Cancel) -> Result<u64> {
        let mut copy = Copy { from: &self.root, into, folders: BTreeSet::new(), files: 0 };
        fs::create_dir(into).or_fail(|| format!("creating `{}`", into.display()))?;
        for entry in self.walk(leave_out) {
            cancel.check()?;
            let entry = entry.map_err(|error| Error::failed("reading the working tree").caused_by(error))?;
            let relative = entry.path().strip_prefix(&self.root).unwrap_or(entry.path());
            match entry.file_type() {
                Some(kind) if kind.is_dir() => {
                    // git keeps no empty folders, so neither does a checkout.
                    if !self.git {
                        copy.folder(relative)?;
                    }
                }
                _ => copy.file(relative)?,
            }
        }
        let ignored = ["ls-files", "-z", "--cached", "--ignored", "--exclude-standard"];
        for name in self.ask_git(&ignored).unwrap_or_default().split(|byte| *byte == 0) {
            let name = Path::new(OsStr::from_bytes(name));
            if !name.as_os_str().is_empty() {
                copy.file(name)?;
            }
        }
        copy.finish()
    }

    fn walk(&self, leave_out: &Path) -> ignore::Walk {
        let leave_out = leave_out.to_path_buf();
        WalkBuilder::new(&self.root)
            .hidden(false)
            .ignore(false)
            .parents(false)
            .git_ignore(self.git)
            .git_exclude(self.git)
            .git_global(self.git)
            .filter_entry(move |entry| {
                let ours = entry.depth() == 1 && entry.file_name() == ".monofo";
                !ours && entry.file_name() != ".git" && entry.path() != leave_out
            })
            .build()
    }
}

struct Copy<'a> {
    from: &'a Path,
    into: &'a Path,
    folders: BTreeSet<PathBuf>,
    files: u64,
}

impl Copy<'_> {
    fn folder(&mut self, relative: &Path) -> Result<()> {
        if relative.as_os_str().is_empty() || self.folders.contains(relative) {
            return Ok(());
        }
        if let Some(parent) = relative.parent() {
            self.folder(parent)?;
        }
        fs::create_dir(self.into.join(relative)).or_fail(|| copying(relative))?;
        self.folders.insert(relative.to_path_buf());
        Ok(())
    }

    fn file(&mut self, relative: &Path) -> Result<()> {
        let (from, into) = (self.from.join(relative), self.into.join(relative));
        // What git knows may lie in a folder that a link has replaced since, and what it calls ignored may be here already.
        if self.is_below_link(relative) || into.symlink_metadata().is_ok() {
            return Ok(());
        }
        let facts = match from.symlink_metadata() {
            // People edit while steps run; what vanished since it was listed might as well not have been there.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            facts => facts.or_fail(|| copying(relative))?,
        };
        if let Some(parent) = relative.parent() {
            self.folder(parent)?;
        }
        if facts.is_symlink() {
            let target = fs::read_link(&from).or_fail(|| copying(relative))?;
            std::os::unix::fs::symlink(target, &into).or_fail(|| copying(relative))?;
        } else if facts.is_file() {
            fs::copy(&from, &into).or_fail(|| copying(relative))?;
        } else {
            // Sockets, pipes and devices are no part of a checkout.
            return Ok(());
        }
        self.files += 1;
        keep_time(&into, &facts).or_fail(|| copying(relative))
    }

    fn is_below_link(&self, relative: &Path) -> bool {
        let folders = relative.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty());
        folders.map(|folder| self.from.join(folder)).any(|folder| folder.is_symlink())
    }

    /// Folders get their modes and times last: a read-only one could not be filled, and filling changes the time.
    fn finish(self) -> Result<u64> {
        for relative in self.folders.iter().rev() {
            let Ok(facts) = self.from.join(relative).symlink_metadata() else { continue };
            let into = self.into.join(relative);
            fs::set_permissions(&into, facts.permissions()).or_fail(|| copying(relative))?;
            keep_time(&into, &facts).or_fail(|| copying(relative))?;
        }
        Ok(self.files)
    }
}

fn copying(relative: &Path) -> String {
    format!("copying `{}` from the working tree", Shown::path(relative))
}

fn keep_time(path: &Path, facts: &fs::Metadata) -> std::result::Result<(), rustix::io::Errno> {
    let time = Timespec { tv_sec: facts.mtime(), tv_nsec: facts.mtime_nsec() as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = walkdir::WalkDir::new(folder)
            .min_depth(1)
            .into_iter()
            .map(|entry| entry.unwrap().path().strip_prefix(folder).unwrap().display().to_string())
            .collect();
        names.sort();
        names
    }

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("a.txt", "a"),
            (".hidden/b", "b"),
            ("out/big.o", "o"),
            ("out/kept.o", "k"),
            (".gitignore", "*.o\n/empty.d\n"),
            (".git/HEAD", "ref: refs/heads/x\n"),
            (".monofo/artifacts/x", "x"),
            ("sub/.monofo/y", "y"),
        ] {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::create_dir(tree.path().join("empty")).unwrap();
        symlink("nowhere", tree.path().join("link")).unwrap();
        tree
    }

    fn copied(tree: &WorkingTree) -> (tempfile::TempDir, Vec<String>) {
        let place = tempfile::tempdir().unwrap();
        tree.copy(&place.path().join("copy"), Path::new("/nowhere"), &Cancel::new()).unwrap();
        let names = names(&place.path().join("copy"));
        (place, names)
    }

    #[test]
    fn without_git_everything_but_our_own_folders_is_copied() {
        let tree = tree();
        let found = WorkingTree { root: tree.path().to_path_buf(), git: false };
        let (_place, names) = copied(&found);
        for name in ["a.txt", ".hidden/b", "out/big.o", "empty", "link", "sub/.monofo/y"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with(".git/") || name.starts_with(".monofo")), "{names:?}");
    }

    /// The tree as a checkout, in which a file that is ignored was added all the same.
    fn tracked() -> tempfile::TempDir {
        let tree = tree();
        fs::remove_dir_all(tree.path().join(".git")).unwrap();
        for arguments in [&["init", "-q"][..], &["add", "-f", "out/kept.o"]] {
            let done = Command::new("git").arg("-C").arg(tree.path()).args(arguments).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        }
        tree
    }

    #[test]
    fn in_a_checkout_ignored_files_stay_out_unless_tracked() {
        let tree = tracked();
        let (_place, names) = copied(&WorkingTree::around(&tree.path().join("sub")));
        for (name, there) in [
            ("a.txt", true),
            (".hidden/b", true),
            ("out/kept.o", true),
            ("out/big.o", false),
            ("empty", false),
            (".git", false),
        ] {
            assert_eq!(names.iter().any(|known| known == name), there, "{name}: {names:?}");
        }
    }

    #[test]
    fn a_tracked_folder_that_became_a_link_is_copied_as_the_link() {
        let tree = tracked();
        fs::rename(tree.path().join("out"), tree.path().join("moved")).unwrap();
        symlink("moved", tree.path().join("out")).unwrap();
        let (place, names) = copied(&WorkingTree::around(tree.path()));
        assert_eq!(fs::read_link(place.path().join("copy/out")).unwrap(), Path::new("moved"));
        assert!(!names.iter().any(|name| name == "moved/kept.o"), "{names:?}");
    }

    #[test]
    fn modes_times_and_links_are_kept() {
        let tree = tree();
        let tool = tree.path().join(".hidden/b");
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(tree.path().join(".hidden"), fs::Permissions::from_mode(0o555)).unwrap();
        let (place, _) = copied(&WorkingTree { root: tree.path().to_path_buf(), git: false });
        for name in [".hidden/b", "link", ".hidden"] {
            let before = tree.path().join(name).symlink_metadata().unwrap();
            let after = place.path().join("copy").join(name).symlink_metadata().unwrap();
            assert_eq!(
                (before.mode(), before.mtime(), before.mtime_nsec()),
                (after.mode(), after.mtime(), after.mtime_nsec()),
                "{name}"
            );
        }
        assert_eq!(fs::read_link(place.path().join("copy/link")).unwrap(), Path::new("nowhere"));
        for folder in [tree.path().join(".hidden"), place.path().join("copy/.hidden")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}
