//! Archives that stay on this machine, so that the next one like them needs few chunks from elsewhere.
//!
//! ```text
//! <folder>/<scope>/<artifact name>/<random>.catar          the archive
//! <folder>/<scope>/<artifact name>/<random>.catar.caibx    its index; what makes it a seed
//! ```
//!
//! desync's `--seed-dir` finds them, too. One is kept for each artifact; all together hold at most so many bytes, those used
//! last. A seed is written under a temporary name, and its index last, so that a killed process leaves none; nothing in
//! place is ever changed. Whoever reads from one checks what it read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::tidy::{self, Kept};
use crate::chunk::{ChunkId, Index, MOST_INDEX_BYTES};
use crate::location::create_folder;
use crate::text::Shown;

/// What files of a seed under way begin with.
const STAGED: &str = ".monofo-seed-";

/// How old a file of a seed under way must be to be a leftover.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The folder of all seeds.
#[derive(Debug, Clone)]
pub struct Seeds {
    folder: PathBuf,
    /// Keeps artifacts of the same name apart, as far as they are of different pipelines.
    scope: PathBuf,
    most: u64,
}

/// An archive of an earlier run.
pub struct Seed {
    archive: File,
    index: Index,
    chunks: HashMap<ChunkId, u32>,
    paths: [PathBuf; 2],
}

/// A seed being written. What goes wrong is noted and stops nothing.
pub struct NewSeed {
    archive: File,
    staged: PathBuf,
    place: PathBuf,
    failed: AtomicBool,
    why: Mutex<Option<io::Error>>,
}

impl Seeds {
    /// Seeds in this folder, of at most so many bytes. `scope` is a relative path.
    pub fn new(folder: impl Into<PathBuf>, scope: impl Into<PathBuf>, most: u64) -> Self {
        Seeds { folder: folder.into(), scope: scope.into(), most }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.join(&self.scope).join(name)
    }

    /// The seed of an artifact, marked as used; `None` also when it cannot be read.
    pub fn open(&self, name: &str) -> Option<Seed> {
        let place = self.place(name);
        let mut found: Vec<_> = indexes(&place).collect();
        found.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
        found.into_iter().find_map(|(path, _)| Seed::open(&path))
    }

    /// Begins the seed of an artifact of this many bytes; `None` when it cannot be written, or would be too large.
    pub fn begin(&self, name: &str, len: u64) -> Option<NewSeed> {
        if len > self.most {
            return None;
        }
        let place = self.place(name);
        let begin = || -> io::Result<NewSeed> {
            create_folder(&place)?;
            let random = RandomState::new().hash_one(std::process::id());
            let staged = place.join(format!("{STAGED}{random:016x}"));
            let archive = File::options().read(true).write(true).create_new(true).open(&staged)?;
            Ok(NewSeed { archive, staged, place, failed: AtomicBool::new(false), why: Mutex::default() })
        };
        begin().inspect_err(|error| tracing::warn!("no seed is kept for `{name}`: {error}")).ok()
    }

    /// Puts a complete seed in the place of the one before, and makes room. Returns what the user should know.
    pub fn publish(&self, seed: &NewSeed, index: &Index) -> Option<String> {
        let random = RandomState::new().hash_one(std::process::id());
        let archive = seed.place.join(format!("{random:016x}.catar"));
        let publish = || -> io::Result<()> {
            if let Some(error) = seed.why.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(error);
            }
            seed.archive.set_len(index.len())?;
            fs::rename(&seed.staged, &archive)?;
            fs::write(&seed.staged, index.write())?;
            fs::rename(&seed.staged, with_suffix(&archive))
        };
        if let Err(error) = publish() {
            let _ = fs::remove_file(&archive);
            return Some(format!("no seed is kept in `{}`: {error}", Shown::path(&seed.place)));
        }
        for (path, _) in indexes(&seed.place) {
            if path != with_suffix(&archive) {
                let _ = fs::remove_file(&path);
                let _ = fs::remove_file(path.with_extension(""));
            }
        }
        self.tidy();
        None
    }

    /// Removes what was used longest ago, and what killed processes left.
    fn tidy(&self) {
        let mut kept = Vec::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let mut archives = Vec::new();
            for entry in entries.flatten() {
                let (path, Ok(status)) = (entry.path(), entry.metadata()) else { continue };
                let age = status.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
                let name = entry.file_name();
                if status.is_dir() {
                    folders.push(path);
                } else if is_index(&name) && is_ours(&name) {
                    let archive = path.with_extension("");
                    let len = fs::metadata(&archive).map_or(0, |status| status.len());
                    kept.push(Kept { paths: vec![path, archive], len, age });
                } else if age > LEFTOVER_AGE {
                    archives.push(path);
                }
            }
            for path in archives {
                let name = path.file_name().unwrap_or_default();
                let staged = name.as_encoded_bytes().starts_with(STAGED.as_bytes());
                let archive = path.extension() == Some(OsStr::new("catar")) && is_ours(name);
                if staged || archive && !with_suffix(&path).exists() {
                    let _ = fs::remove_file(path);
                }
            }
        }
        tidy::shrink(kept, self.most);
    }
}

impl Seed {
    fn open(path: &Path) -> Option<Seed> {
        let archive_path = path.with_extension("");
        let archive = File::open(&archive_path).ok()?;
        let file = File::open(path).ok()?;
        if file.metadata().ok()?.len() > MOST_INDEX_BYTES {
            return None;
        }
        let index = Index::read(&fs::read(path).ok()?).ok()?;
        // Used now: for whoever makes room.
        let _ = file.set_modified(SystemTime::now());
        let numbers = index.items.iter().zip(0u32..).map(|(item, number)| (item.id, number)).collect();
        Some(Seed { archive, index, chunks: numbers, paths: [path.to_owned(), archive_path] })
    }

    /// The index it was made with.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether it should hold a chunk.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    /// Reads a chunk, unchecked. False when it does not hold it.
    pub fn read(&self, id: &ChunkId, chunk: &mut [u8]) -> bool {
        let Some(number) = self.chunks.get(id).map(|number| *number as usize) else { return false };
        self.index.chunk_len(number) == chunk.len()
            && self.archive.read_exact_at(chunk, self.index.start(number)).is_ok()
    }

    /// Removes it, since it is not what its index says.
    pub fn remove(&self) {
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}

impl NewSeed {
    /// Writes a part of the archive. After the first failure nothing more is written.
    pub fn write_at(&self, at: u64, bytes: &[u8]) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.archive.write_all_at(bytes, at) {
            self.failed.store(true, Ordering::Relaxed);
            // Room for what matters more.
            let _ = self.archive.set_len(0);
            self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Removes what was written, whoever is still writing.
    pub fn abandon(&self) {
        self.failed.store(true, Ordering::Relaxed);
        // There is nothing there any more once it was published.
        let _ = fs::remove_file(&self.staged);
    }
}

impl Drop for NewSeed {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn with_suffix(archive: &Path) -> PathBuf {
    let mut path = archive.as_os_str().to_owned();
    path.push(".caibx");
    path.into()
}

fn is_index(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(b".catar.caibx")
}

/// Whether a name begins as those of our seeds do; the folder may hold what others put there.
fn is_ours(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.iter().position(|byte| *byte == b'.') == Some(16) && name[..16].iter().all(u8::is_ascii_hexdigit)
}

fn indexes(place: &Path) -> impl Iterator<Item = (PathBuf, SystemTime)> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .filter(|entry| is_index(&entry.file_name()))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.modified().ok()?)))
}
