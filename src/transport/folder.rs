//! Artifacts in a folder: `file://`, and the default outside a job.
//!
//! ```text
//! <root>/.tmp/…                                          uploads under way
//! <root>/<build id>/<artifact name>/<step or ->.<job id>  see `layout`
//! ```
//!
//! An upload is written below the root itself and renamed into place, so that it appears at once and whole wherever the
//! folder is mounted. Nothing is synced to the disk: a machine that loses power loses the build that needed the artifact
//! too, and archives notice when they are cut short. Links are never followed inside the root.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use super::layout::{self, Seen};
use super::{Download, Origin, Pick, Transport, Upload};
use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::error::{Class, Error, Result};
use crate::location::create_folder;
use crate::text::Shown;

/// The folder below the root where uploads are written; no build's part starts with a dot.
const STAGING: &str = ".tmp";

/// How old something in the staging folder must be to be a leftover of a process that was killed.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many builds are looked at to say which of them have an artifact.
const BUILDS_LOOKED_AT: usize = 1000;

/// The transport over a folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    origin: Origin,
    cancel: Cancel,
}

impl Folder {
    /// A transport over this folder, which the first upload creates.
    pub fn new(root: impl Into<PathBuf>, origin: Origin, cancel: Cancel) -> Self {
        Folder { root: root.into(), origin, cancel }
    }

    fn home(&self, build: &str, name: &ArtifactName) -> PathBuf {
        self.root.join(layout::part(build)).join(name.as_str())
    }

    /// Everything else that could explain why an artifact is missing; failures here only make the hint shorter.
    fn look_around(&self, name: &ArtifactName, pick: &Pick, leaves: Vec<String>) -> Seen {
        let mut seen = Seen { leaves, ..Seen::default() };
        if seen.leaves.is_empty() {
            seen.names = names_in(&self.root.join(layout::part(&pick.build))).into_iter().flatten().collect();
        }
        if seen.names.is_empty() {
            let builds = names_in(&self.root).into_iter().flatten().take(BUILDS_LOOKED_AT);
            let has = |build: &String| {
                let home = self.root.join(build).join(name.as_str());
                names_in(&home).is_ok_and(|mut leaves| leaves.any(|leaf| home.join(leaf).is_file()))
            };
            seen.builds = builds.filter(has).collect();
        }
        seen
    }
}

impl Transport for Folder {
    fn place(&self) -> String {
        Shown::path(&self.root).to_string()
    }

    fn upload(&self, name: &ArtifactName) -> Result<Box<dyn Upload>> {
        self.cancel.check()?;
        let staging = self.root.join(STAGING);
        let file = create_folder(&staging).and_then(|()| {
            // As wide as the umask allows: steps on other machines may run as other users.
            tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o666)).tempfile_in(&staging)
        });
        let file = file.map_err(|error| unusable("write to", &staging, error))?;
        sweep(&staging);
        let target = self.home(&self.origin.build, name).join(layout::leaf(&self.origin));
        Ok(Box::new(FolderUpload { file, target, cancel: self.cancel.clone() }))
    }

    fn download(&self, name: &ArtifactName, pick: &Pick) -> Result<Download> {
        self.cancel.check()?;
        let home = self.home(&pick.build, name);
        // A second look, should the newest be replaced by a clean-up between listing and opening.
        for _ in 0..2 {
            let leaves = leaves_in(&home).map_err(|error| unusable("read", &home, error))?;
            let newest =
                leaves.iter().filter(|(leaf, _)| layout::fits(leaf, pick)).max_by_key(|(leaf, at)| (*at, leaf));
            let Some((leaf, _)) = newest else {
                let seen = self.look_around(name, pick, leaves.into_iter().map(|(leaf, _)| leaf).collect());
                return Err(layout::not_there(name, pick, &self.place(), &seen));
            };
            let path = home.join(leaf);
            match open(&path) {
                Ok((file, size)) => {
                    return Ok(Download { reader: Box::new(file), size: Some(size), from: layout::describe(leaf) });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unusable("read", &path, error)),
            }
        }
        Err(layout::not_there(name, pick, &self.place(), &Seen::default()))
    }
}

/// An upload into the staging folder. Dropping it removes the file.
struct FolderUpload {
    file: NamedTempFile,
    target: PathBuf,
    cancel: Cancel,
}

impl Write for FolderUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check()?;
        match self.file.as_file_mut().write(bytes) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(unusable("write", self.file.path(), error).into())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for FolderUpload {
    fn finish(self: Box<Self>) -> Result<()> {
        self.cancel.check()?;
        let FolderUpload { file, target, .. } = *self;
        let fail = |error| unusable("write", &target, error);
        // The newest is the one published last, not the one written last.
        file.as_file().set_modified(SystemTime::now()).map_err(fail)?;
        if let Some(parent) = target.parent() {
            create_folder(parent).map_err(fail)?;
        }
        file.persist(&target).map_err(|error| fail(error.error))?;
        Ok(())
    }
}

/// Opens a regular file; a link in its place is an error.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Uploads in an artifact's folder with the time each was published. A folder that is not there has none.
fn leaves_in(home: &Path) -> io::Result<Vec<(String, SystemTime)>> {
    let entries = match fs::read_dir(home) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut leaves = Vec::new();
    for entry in entries {
        let entry = entry?;
        let about = match entry.metadata() {
            Ok(about) => about,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let (true, Ok(leaf)) = (about.is_file(), entry.file_name().into_string()) {
            leaves.push((leaf, about.modified()?));
        }
    }
    Ok(leaves)
}

/// Names in a folder, without dot folders of ours.
fn names_in(folder: &Path) -> io::Result<impl Iterator<Item = String> + use<>> {
    let names = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name != STAGING && name != ".gitignore"))
}

/// Removes what killed processes left in the staging folder. Best effort: it is only about space.
fn sweep(staging: &Path) {
    let Ok(entries) = fs::read_dir(staging) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().ok().and_then(|about| about.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > LEFTOVER_AGE) {
            tracing::debug!(path = %Shown::path(&entry.path()), "removing a leftover upload");
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A folder that cannot be used: [`Class::Unavailable`], with what to check.
fn unusable(verb: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "check who owns the folder and its mode",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on that file system",
        ErrorKind::ReadOnlyFilesystem => "mount it writable or choose another folder with MONOFO_ARTIFACTS",
        _ => "check that the folder exists, is mounted and can be used; MONOFO_ARTIFACTS names it",
    };
    Error::new(Class::Unavailable, format_args!("cannot {verb} `{}`", Shown::path(path))).caused_by(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path, step: Option<&str>, job: &str) -> Folder {
        let origin = Origin { build: "b1".into(), step: step.map(Into::into), job: job.into() };
        Folder::new(root, origin, Cancel::new())
    }

    fn put(folder: &Folder, name: &str, bytes: &[u8]) {
        let mut upload = folder.upload(&ArtifactName::new(name).unwrap()).unwrap();
        upload.write_all(bytes).unwrap();
        upload.finish().unwrap();
    }

    #[test]
    fn the_layout_on_disk_is_the_documented_one() {
        let temp = tempfile::tempdir().unwrap();
        put(&folder(temp.path(), Some("compile"), "j1"), "out/a.tar", b"x");
        put(&folder(temp.path(), None, "j2"), "b.tar", b"y");
        assert_eq!(fs::read(temp.path().join("b1/out/a.tar/compile.j1")).unwrap(), b"x");
        assert_eq!(fs::read(temp.path().join("b1/b.tar/-.j2")).unwrap(), b"y");
        assert_eq!(fs::read_dir(temp.path().join(STAGING)).unwrap().count(), 0);
    }

    #[test]
    fn only_old_leftovers_are_swept() {
        let temp = tempfile::tempdir().unwrap();
        let staging = temp.path().join(STAGING);
        fs::create_dir(&staging).unwrap();
        let (old, new) = (staging.join("old"), staging.join("new"));
        let two_days = SystemTime::now() - 2 * LEFTOVER_AGE;
        File::create(&old).unwrap().set_modified(two_days).unwrap();
        File::create(&new).unwrap();
        put(&folder(temp.path(), None, "j"), "a", b"");
        assert!(!old.exists());
        assert!(new.exists());
    }

    #[test]
    fn a_link_in_an_uploads_place_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("secret"), "s").unwrap();
        fs::create_dir_all(temp.path().join("b1/a")).unwrap();
        std::os::unix::fs::symlink("../../secret", temp.path().join("b1/a/-.j")).unwrap();
        let pick = Pick { build: "b1".into(), step: None };
        let error = folder(temp.path(), None, "j").download(&ArtifactName::new("a").unwrap(), &pick).err().unwrap();
        assert_eq!(error.class(), Class::NotThere);
    }

    #[test]
    fn the_same_name_in_another_build_is_hinted_at() {
        let temp = tempfile::tempdir().unwrap();
        put(&folder(temp.path(), None, "j"), "a.tar", b"x");
        let pick = Pick { build: "b2".into(), step: None };
        let error = folder(temp.path(), None, "j").download(&ArtifactName::new("a.tar").unwrap(), &pick).err().unwrap();
        assert!(error.next_step().unwrap().starts_with("other builds have it: b1;"), "{error:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_unavailable() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        let error = folder(&file.join("x"), None, "j").upload(&ArtifactName::new("a").unwrap()).err().unwrap();
        assert_eq!(error.class(), Class::Unavailable);
    }
}
