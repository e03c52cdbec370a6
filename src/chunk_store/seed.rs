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
    /// Whether its file system can share blocks between files.
    shares: bool,
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
            let shares = can_share(&archive);
            Ok(NewSeed { archive, shares, staged, place, failed: AtomicBool::new(false), why: Mutex::default() })
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
        let ours = with_suffix(&archive);
        let written = fs::metadata(&ours).and_then(|status| status.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        for (path, modified) in indexes(&seed.place) {
            // Of two that are published at once, one stays.
            if path.file_name().is_some_and(is_ours) && (modified, &path) < (written, &ours) {
                let _ = fs::remove_file(&path);
                let _ = fs::remove_file(path.with_extension(""));
            }
        }
        self.tidy();
        None
    }

    /// Calls back with the index of every seed, of all scopes. Marks none as used.
    pub fn each_index(&self, mut each: impl FnMut(&Index)) {
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_file() && is_index(&entry.file_name()) => {
                        if let Some((_, _, index)) = Seed::open_files(&path) {
                            each(&index);
                        }
                    }
                    _ => {}
                }
            }
        }
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
    /// The archive, the file of its index, and the index.
    fn open_files(path: &Path) -> Option<(File, File, Index)> {
        let archive = File::open(path.with_extension("")).ok()?;
        let file = File::open(path).ok()?;
        if file.metadata().ok()?.len() > MOST_INDEX_BYTES {
            return None;
        }
        let index = Index::read(&fs::read(path).ok()?).ok()?;
        Some((archive, file, index))
    }

    fn open(path: &Path) -> Option<Seed> {
        let (archive, file, index) = Self::open_files(path)?;
        // Used now: for whoever makes room.
        let _ = file.set_modified(SystemTime::now());
        let numbers = index.items.iter().zip(0u32..).map(|(item, number)| (item.id, number)).collect();
        Some(Seed { archive, index, chunks: numbers, paths: [path.to_owned(), path.with_extension("")] })
    }

    /// The index it was made with.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether it should hold a chunk.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    /// Where in the archive a chunk lies.
    pub fn place(&self, id: &ChunkId) -> Option<u64> {
        self.chunks.get(id).map(|number| self.index.start(*number as usize))
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

/// File systems whose files can share blocks, by the numbers that `statfs` tells: Btrfs, XFS, bcachefs, ZFS, OCFS2.
const SHARING: [i64; 5] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x2fc1_2fc1, 0x7461_636f];

/// What shared blocks are multiples of.
const BLOCK: u64 = 4096;

fn can_share(file: &File) -> bool {
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "the type differs by system")]
    rustix::fs::fstatfs(file).is_ok_and(|about| SHARING.contains(&(about.f_type as i64)))
}

impl NewSeed {
    /// Writes a part of the archive that `seed` holds as well, at `from`: where the file system can, both share the blocks.
    pub fn share(&self, seed: &Seed, from: u64, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        let (first, last) = (at.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        if !self.shares || from % BLOCK != at % BLOCK || first >= last || self.failed.load(Ordering::Relaxed) {
            return self.write_at(at, bytes);
        }
        let within = |position: u64| usize::try_from(position - at).unwrap_or(usize::MAX);
        let (mut source, mut target) = (from + (first - at), first);
        while target < last {
            let left = within(last) - within(target);
            match rustix::fs::copy_file_range(&seed.archive, Some(&mut source), &self.archive, Some(&mut target), left)
            {
                Ok(1..) => {}
                // Written instead.
                Ok(0) | Err(_) => return self.write_at(at, bytes),
            }
        }
        self.write_at(at, &bytes[..within(first)]);
        self.write_at(last, &bytes[within(last)..]);
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Digest, Item, Sizes};

    fn index(bytes: &[u8]) -> Index {
        let item = Item { end: bytes.len() as u64, id: Digest::default().id(bytes) };
        Index { flags: 0, sizes: Sizes::default(), digest: Digest::default(), items: vec![item] }
    }

    fn put(seeds: &Seeds, name: &str, bytes: &[u8]) {
        let seed = seeds.begin(name, bytes.len() as u64).unwrap();
        seed.write_at(0, bytes);
        assert_eq!(seeds.publish(&seed, &index(bytes)), None);
    }

    #[test]
    fn shared_blocks_are_the_same_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let seeds = Seeds::new(temp.path(), "s", u64::MAX);
        let old: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        put(&seeds, "a", &old);
        let seed = seeds.open("a").unwrap();
        // The same place modulo the block, another one, and too little for a block.
        for (from, at, len) in [(5000, 904, 50_000), (5000, 905, 50_000), (0, 0, 8192), (10, 10, 100), (4096, 0, 4096)]
        {
            let mut new = seeds.begin("b", 100_000).unwrap();
            new.shares = true;
            new.share(&seed, from, at, &old[from as usize..][..len]);
            let mut back = vec![0; len];
            new.archive.read_exact_at(&mut back, at).unwrap();
            assert!(back == old[from as usize..][..len], "{from} {at} {len}");
        }
    }

    #[test]
    fn one_seed_is_kept_for_each_artifact_and_the_least_used_goes_first() {
        let temp = tempfile::tempdir().unwrap();
        let seeds = Seeds::new(temp.path(), "s", 2500);
        put(&seeds, "a", &[1; 1000]);
        put(&seeds, "a", &[2; 1000]);
        assert!(seeds.open("a").unwrap().has(&Digest::default().id(&[2; 1000])));
        assert_eq!(fs::read_dir(temp.path().join("s/a")).unwrap().count(), 2);
        put(&seeds, "b", &[3; 1000]);
        let age = |name: &str, hours: u64| {
            let (path, _) = indexes(&seeds.place(name)).next().unwrap();
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        age("a", 1);
        age("b", 2);
        assert!(seeds.open("b").is_some(), "this marks it as used");
        put(&seeds, "c", &[4; 1000]);
        assert!(seeds.open("a").is_none() && seeds.open("b").is_some() && seeds.open("c").is_some());
        assert!(seeds.begin("d", 2501).is_none());
    }

    #[test]
    fn what_a_killed_process_left_is_no_seed_and_goes_in_time() {
        let temp = tempfile::tempdir().unwrap();
        let seeds = Seeds::new(temp.path(), "s", u64::MAX);
        put(&seeds, "a", b"x");
        let place = seeds.place("b");
        fs::create_dir_all(&place).unwrap();
        let leftovers = [".monofo-seed-0123456789abcdef", "0123456789abcdef.catar"].map(|name| place.join(name));
        for path in &leftovers {
            fs::write(path, "half").unwrap();
        }
        assert!(seeds.open("b").is_none());
        put(&seeds, "a", b"y");
        assert!(leftovers.iter().all(|path| path.exists()), "they may be at work");
        for path in &leftovers {
            let time = SystemTime::now() - 2 * LEFTOVER_AGE;
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        put(&seeds, "a", b"z");
        assert!(leftovers.iter().all(|path| !path.exists()));
    }
}
