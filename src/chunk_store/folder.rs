//! Chunks in a folder: the `.castr` layout of casync and desync.
//!
//! A chunk is written under a temporary name beside its place and renamed, so that no reader meets a part of one. Nothing is
//! synced to the disk: a machine that loses power may leave chunks empty or cut, which is why readers check every one, an
//! empty one counts as missing, and writers replace what is there. Old temporary files are leftovers; cleaning up removes
//! them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use super::{About, ChunkStore, Listed, Stored, id_of, name_of};
use crate::cancel::Cancel;
use crate::chunk::{ChunkId, Form, MOST_STORED};
use crate::error::{Class, Error, Result};
use crate::location::create_folder;
use crate::text::Shown;

/// What temporary files begin with; desync's own begin the same, and its clean-up knows them.
const STAGED: &str = ".tmp-cacnk";

/// What a chunk that proved to be wrong is renamed to.
const WRONG: &str = ".damaged";

/// A store in a folder, made by the first chunk that is stored.
#[derive(Debug)]
pub struct FolderStore {
    root: PathBuf,
    cancel: Cancel,
    /// Makes names of temporary files differ between processes and calls.
    random: RandomState,
    count: AtomicU64,
}

impl FolderStore {
    /// A store in this folder.
    pub fn new(root: impl Into<PathBuf>, cancel: Cancel) -> Self {
        FolderStore { root: root.into(), cancel, random: RandomState::new(), count: AtomicU64::new(0) }
    }

    fn path(&self, id: &ChunkId, form: Form) -> PathBuf {
        self.root.join(name_of(id, form))
    }

    fn failed(&self, doing: &str, path: &Path, error: io::Error) -> Error {
        let error = match error.kind() {
            // A folder that is no folder.
            ErrorKind::AlreadyExists => ErrorKind::NotADirectory.into(),
            _ => error,
        };
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "check who owns the store's folder and its mode",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "make room there; `monofo gc chunks` removes what no index needs"
            }
            ErrorKind::ReadOnlyFilesystem => "mount it writable, or use another folder",
            _ => "check that the folder can be used",
        };
        Error::new(Class::Unavailable, format_args!("cannot {doing} `{}` in the chunk store", Shown::path(path)))
            .caused_by(error)
            .hint(hint)
    }

    /// Writes a file beside its place and renames it.
    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let staged = folder.join(format!("{STAGED}{:016x}", self.random.hash_one((std::process::id(), number))));
        let create = || File::options().write(true).create_new(true).open(&staged);
        let mut file = match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_folder(folder)?;
                create()?
            }
            other => other?,
        };
        let written = file.write_all(bytes).and_then(|()| fs::rename(&staged, path));
        if written.is_err() {
            // The reason is on its way to the user.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    fn read(path: &Path) -> io::Result<Vec<u8>> {
        // Nothing is waited for in its place, such as a FIFO.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        // What is longer is no chunk, and of that a part will do to find out.
        let len = file.metadata()?.len().min(MOST_STORED);
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0).saturating_add(1));
        file.take(MOST_STORED).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The names in a folder; nothing when it is gone.
    fn names(&self, folder: &Path) -> Result<Vec<String>> {
        let failed = |error| self.failed("list", folder, error);
        let entries = match fs::read_dir(folder) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            other => other.map_err(failed)?,
        };
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
        entries.filter_map(|entry| name(entry).transpose()).collect::<io::Result<_>>().map_err(failed)
    }
}

/// What a file's status tells; `None` when there is no such file, or an empty one.
fn about(path: &Path) -> io::Result<Option<About>> {
    match fs::metadata(path) {
        Ok(status) if status.len() == 0 || !status.is_file() => Ok(None),
        Ok(status) => Ok(Some(About { len: status.len(), age: status.modified()?.elapsed().unwrap_or_default() })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl ChunkStore for FolderStore {
    fn place(&self) -> String {
        Shown::path(&self.root).to_string()
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        self.cancel.check()?;
        for form in [Form::Compressed, Form::Plain] {
            let path = self.path(id, form);
            match Self::read(&path) {
                Ok(bytes) => return Ok(Some(Stored { form, bytes })),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed("read", &path, error)),
            }
        }
        // A store that is not there at all is a wrong path or a missing mount, and not a missing chunk.
        match fs::metadata(&self.root) {
            Ok(_) => Ok(None),
            Err(error) => Err(self.failed("find", &self.root, error)),
        }
    }

    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        for form in [Form::Compressed, Form::Plain] {
            let path = self.path(id, form);
            if let Some(about) = about(&path).map_err(|error| self.failed("look at", &path, error))? {
                return Ok(Some(about));
            }
        }
        Ok(None)
    }

    fn put(&self, id: &ChunkId, packed: &[u8]) -> Result<()> {
        self.cancel.check()?;
        let path = self.path(id, Form::Compressed);
        self.publish(&path, packed).map_err(|error| self.failed("write", &path, error))
    }

    fn keep_alive(&self, id: &ChunkId) -> Result<bool> {
        for form in [Form::Compressed, Form::Plain] {
            // Only a file that can be written can be given a time by everybody who may write it.
            match File::options().write(true).open(self.path(id, form)) {
                Ok(file) => return Ok(file.set_modified(SystemTime::now()).is_ok()),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // casync makes chunks read-only.
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    fn discard(&self, id: &ChunkId) -> Result<&'static str> {
        for form in [Form::Compressed, Form::Plain] {
            let path = self.path(id, form);
            let mut aside = path.clone().into_os_string();
            aside.push(WRONG);
            match fs::rename(&path, &aside) {
                Ok(()) => return Ok("it was renamed, and the next upload that needs it stores it again"),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed("rename", &path, error)),
            }
        }
        Ok("it is gone already")
    }

    fn survey(&self, _chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        Ok(None)
    }

    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        match fs::metadata(&self.root) {
            Ok(status) if status.is_dir() => {}
            Ok(_) => return Err(self.failed("list", &self.root, ErrorKind::NotADirectory.into())),
            Err(error) => return Err(self.failed("find", &self.root, error)),
        }
        for folder in self.names(&self.root)? {
            if folder.len() != 4 {
                continue;
            }
            self.cancel.check()?;
            for file in self.names(&self.root.join(&folder))? {
                let name = format!("{folder}/{file}");
                let id = id_of(&name).map(|(id, _)| id);
                let leftover = file.starts_with(STAGED) || file.ends_with(".tmp") || file.ends_with(WRONG);
                if id.is_none() && !leftover {
                    continue;
                }
                let path = self.root.join(&name);
                let status = match fs::symlink_metadata(&path) {
                    Ok(status) if status.is_file() => status,
                    Ok(_) => continue,
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(self.failed("look at", &path, error)),
                };
                let age = status.modified().map_err(|error| self.failed("look at", &path, error))?;
                each(Listed { id, name, about: About { len: status.len(), age: age.elapsed().unwrap_or_default() } })?;
            }
        }
        Ok(())
    }

    fn remove(&self, listed: &[Listed], older_than: Duration) -> Result<u64> {
        let mut gone = 0;
        for Listed { name, .. } in listed {
            self.cancel.check()?;
            let path = self.root.join(name);
            // Once more, as late as can be: an upload may have found use for it.
            let age = fs::symlink_metadata(&path).and_then(|status| status.modified());
            match age.map(|time| time.elapsed().unwrap_or_default()) {
                Ok(age) if age < older_than => continue,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(self.failed("look at", &path, error)),
            }
            match fs::remove_file(&path) {
                Ok(()) => gone += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed("remove", &path, error)),
            }
        }
        Ok(gone)
    }

    fn at_once(&self) -> usize {
        thread::available_parallelism().map_or(2, usize::from)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn is_at(&self, folder: &Path) -> bool {
        // One that does not exist yet is told by its name.
        let real = |path: &Path| fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok();
        real(&self.root) == real(folder)
    }
}
