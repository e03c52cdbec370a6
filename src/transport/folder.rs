//! Artifacts in a folder: `file://`, and the default outside a job.
//!
//! ```text
//! <root>/.monofo-tmp/upload-…                            uploads under way
//! <root>/<build id>/<artifact name>/<step or ->.<job id>  see `layout`
//! ```
//!
//! An upload is written below the root itself and renamed into place, so that it appears at once and whole wherever the
//! folder is mounted. Nothing is synced to the disk: a machine that loses power loses the build that needed the artifact
//! too, and archives notice when they are cut short. Links are never followed inside the root.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::held::{ARTIFACTS, Entry, Held};
use super::layout::{self, Seen};
use super::{Download, Origin, Pick, Transport, Upload};
use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::text::Shown;

/// The folder below the root where uploads are written; no build's part starts with a dot.
pub(super) const STAGING: &str = ".monofo-tmp";

/// What names in the staging folder begin with; [`DIGITS`] hexadecimal digits follow.
const PREFIX: &str = "upload-";

/// How many random digits the name of a staged file has.
const DIGITS: usize = 16;

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

    /// The folder of an artifact's uploads, if it is there.
    fn home(&self, build: &str, name: &ArtifactName) -> Result<Option<Held>> {
        let mut at = Held::root(&self.root, ARTIFACTS)?;
        for part in parts(&layout::part(build), name) {
            let Some(folder) = at else { return Ok(None) };
            at = folder.enter(part)?;
        }
        Ok(at)
    }

    /// Everything else that could explain why an artifact is missing; failures here only make the hint shorter.
    fn look_around(&self, name: &ArtifactName, pick: &Pick, leaves: Vec<String>) -> Seen {
        let mut seen = Seen { leaves, ..Seen::default() };
        let Ok(Some(root)) = Held::root(&self.root, ARTIFACTS) else { return seen };
        if seen.leaves.is_empty()
            && let Ok(Some(build)) = root.enter(&layout::part(&pick.build))
        {
            seen.names = build.names().into_iter().flatten().collect();
        }
        if seen.names.is_empty() {
            let builds = root.names().into_iter().flatten().filter(|name| !name.starts_with('.'));
            let has = |build: &String| {
                let home = parts(build, name).try_fold(None, |at: Option<Held>, part| {
                    Some(Some(at.as_ref().unwrap_or(&root).enter(part).ok()??))
                });
                home.flatten().is_some_and(|home| home.files().is_ok_and(|files| !files.is_empty()))
            };
            seen.builds = builds.take(BUILDS_LOOKED_AT).filter(has).collect();
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
        let leaf = layout::leaf(&self.origin)?;
        let root = Held::make_root(&self.root, ARTIFACTS)?;
        let staging = root.make(STAGING)?;
        let (staged, file) = stage(&staging).map_err(|error| staging.unusable("write to", "", error))?;
        sweep(&staging);
        Ok(Box::new(FolderUpload {
            file,
            staged,
            staging,
            root,
            build: layout::part(&self.origin.build),
            name: name.clone(),
            leaf,
            published: false,
            cancel: self.cancel.clone(),
        }))
    }

    fn download(&self, name: &ArtifactName, pick: &Pick) -> Result<Download> {
        self.cancel.check()?;
        // A second look, should the newest be replaced by a clean-up between listing and opening.
        for _ in 0..2 {
            let Some(home) = self.home(&pick.build, name)? else { break };
            let leaves = home.files().map_err(|error| home.unusable("read", "", error))?;
            let fitting = leaves.iter().filter(|leaf| layout::fits(&leaf.name, pick));
            let Some(Entry { name: leaf, .. }) = fitting.max_by_key(|leaf| (leaf.modified, layout::age(&leaf.name)))
            else {
                let seen = self.look_around(name, pick, leaves.into_iter().map(|leaf| leaf.name).collect());
                return Err(layout::not_there(name, pick, &self.place(), &seen));
            };
            match home.open(leaf) {
                Ok((file, size)) => {
                    return Ok(Download { reader: Box::new(file), size: Some(size), from: layout::describe(leaf) });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(home.unusable("read", leaf, error)),
            }
        }
        Err(layout::not_there(name, pick, &self.place(), &self.look_around(name, pick, Vec::new())))
    }
}

/// The folders from the root to an artifact's uploads.
fn parts<'a>(build: &'a str, name: &'a ArtifactName) -> impl Iterator<Item = &'a str> {
    std::iter::once(build).chain(name.as_str().split('/'))
}

/// An upload into the staging folder. Dropping it removes the file.
struct FolderUpload {
    file: File,
    staged: String,
    staging: Held,
    root: Held,
    build: String,
    name: ArtifactName,
    leaf: String,
    published: bool,
    cancel: Cancel,
}

impl Write for FolderUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check()?;
        match self.file.write(bytes) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(self.staging.unusable("write", &self.staged, error).into())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for FolderUpload {
    fn finish(mut self: Box<Self>) -> Result<()> {
        self.cancel.check()?;
        let mut home = self.root.make(&self.build)?;
        for part in self.name.as_str().split('/') {
            home = home.make(part)?;
        }
        let fail = |error| home.unusable("write", &self.leaf, error);
        // The newest is the one published last, not the one written last.
        self.file.set_modified(SystemTime::now()).map_err(fail)?;
        self.staging.rename(&self.staged, &home, &self.leaf).map_err(fail)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for FolderUpload {
    fn drop(&mut self) {
        if !self.published {
            let _ = self.staging.remove(&self.staged);
        }
    }
}

/// Creates a file for an upload under a name that nobody has.
pub(super) fn stage(staging: &Held) -> io::Result<(String, File)> {
    loop {
        let name = format!("{PREFIX}{:016x}", RandomState::new().hash_one(std::process::id()));
        match staging.create(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (name, file)),
        }
    }
}

/// Whether a name in the staging folder is one that [`stage`] makes.
fn is_staged(name: &str) -> bool {
    let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == DIGITS && rest.bytes().all(digit))
}

/// Removes what killed processes left in the staging folder, and nothing else. Best effort: it is only about space.
pub(super) fn sweep(staging: &Held) {
    for Entry { name, modified } in staging.files().into_iter().flatten() {
        if is_staged(&name) && modified.elapsed().is_ok_and(|age| age > LEFTOVER_AGE) {
            tracing::debug!(path = %Shown::path(&staging.path_of(&name)), "removing a leftover upload");
            let _ = staging.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::error::{Class, Error};

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

    fn refused(result: Result<impl Sized>, path: &Path) {
        let error: Error = result.err().unwrap();
        assert_eq!(error.class(), Class::Refused, "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error:?}");
    }

    #[test]
    fn only_old_leftovers_of_ours_are_swept() {
        let temp = tempfile::tempdir().unwrap();
        let staging = temp.path().join(STAGING);
        fs::create_dir(&staging).unwrap();
        let two_days = SystemTime::now() - 2 * LEFTOVER_AGE;
        let old = staging.join("upload-0123456789abcdef");
        let kept = ["upload-0123456789abcdeg", "upload-0123456789abcdef0", "notes.txt"].map(|name| staging.join(name));
        for path in kept.iter().chain([&old]) {
            File::create(path).unwrap().set_modified(two_days).unwrap();
        }
        let new = staging.join("upload-00000000000000ff");
        File::create(&new).unwrap();
        put(&folder(temp.path(), None, "j"), "a", b"");
        assert!(!old.exists());
        assert!(new.exists() && kept.iter().all(|path| path.exists()));
    }

    #[test]
    fn links_inside_the_root_are_followed_neither_for_writing_nor_for_reading() {
        let temp = tempfile::tempdir().unwrap();
        let (root, other) = (temp.path().join("root"), temp.path().join("other"));
        fs::create_dir(&root).unwrap();
        put(&folder(&other, None, "j"), "a.tar", b"x");
        let (name, pick) = (ArtifactName::new("a.tar").unwrap(), Pick { build: "b1".into(), step: None });
        let ours = folder(&root, None, "j");
        for (link, to) in [("b1", "../other/b1"), ("b1/a.tar", "../../other/b1/a.tar")] {
            let link = root.join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(to, &link).unwrap();
            refused(ours.download(&name, &pick), &link);
            refused(ours.upload(&name).unwrap().finish(), &link);
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_dir(root.join(STAGING)).unwrap().count(), 0);
        fs::remove_dir(root.join(STAGING)).unwrap();
        symlink("../other", root.join(STAGING)).unwrap();
        refused(ours.upload(&name), &root.join(STAGING));
        fs::remove_file(root.join(STAGING)).unwrap();
        fs::write(root.join(STAGING), "").unwrap();
        refused(ours.upload(&name), &root.join(STAGING));
    }

    #[test]
    fn the_root_itself_may_be_a_link() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("real")).unwrap();
        symlink("real", temp.path().join("link")).unwrap();
        put(&folder(&temp.path().join("link"), None, "j"), "a", b"x");
        assert_eq!(fs::read(temp.path().join("real/b1/a/-.j")).unwrap(), b"x");
    }

    #[test]
    fn a_link_in_an_uploads_place_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("secret"), "s").unwrap();
        fs::create_dir_all(temp.path().join("b1/a")).unwrap();
        symlink("../../secret", temp.path().join("b1/a/-.j")).unwrap();
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
