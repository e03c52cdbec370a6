//! Digests of files that have not changed since they were read, known by their status.
//!
//! A digest is remembered for (device, file system, inode, size, times of change of content and of status), and only when
//! both times were more than two seconds old before the file was read: what changes within the same tick of the clock
//! could not be told apart. No call sets back the time of a status change. Losing the file costs time and nothing else.
//!
//! A digest that is found here is believed, so files are remembered only where their times can be: [`Devices`] tells. Two
//! things remain that no time shows:
//!
//! - A page of a file that is written through a mapping (`mmap`) changes the times only as long as it is clean. Whoever keeps
//!   writing to a page that was not written to disk yet, before and after the file is read here, goes unseen.
//! - Images that were made with the same id and the same fixed times, mounted one after the other as the same device.
//!
//! ```text
//! "monofo-stat/2 VERSION\n", padded with NULs to 32 bytes
//! device, inode, size, mtime, ctime, id of the file system (each u64, little endian), mtime and ctime nanoseconds (u32),
//! digest (32): 88 bytes each, sorted by device and inode
//! SHA-256 of all before
//! ```

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::devices::{self, Devices};
use super::{Home, Staging, plain};
use crate::collect::walk::Visited;
use crate::hash::Hash;

const HEADER: usize = 32;
const ROW: usize = 88;
const DIGEST: usize = 32;

/// More rows than this are not kept.
const MOST_ROWS: usize = 2_000_000;

/// How old a file has to be, in nanoseconds.
const SETTLED: i128 = 2_000_000_000;

/// What is known of files by their status.
#[derive(Debug, Default)]
pub struct StatCache {
    place: Option<Home>,
    /// Rows as they lie in the file.
    known: Vec<u8>,
    devices: Devices,
    learned: Mutex<Vec<[u8; ROW]>>,
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let text = concat!("monofo-stat/2 ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
    let len = text.len().min(HEADER);
    header[..len].copy_from_slice(&text[..len]);
    header
}

fn place(home: &Home) -> PathBuf {
    home.root().join("stat-cache")
}

/// The part of a row that is looked for.
fn identity(stat: &Stat, file_system: u64) -> [u8; ROW - 32] {
    #[allow(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "compared, not counted with; the types differ by system"
    )]
    let (words, nanos) = (
        [
            devices::number(stat),
            stat.st_ino as u64,
            stat.st_size as u64,
            stat.st_mtime as u64,
            stat.st_ctime as u64,
            file_system,
        ],
        [stat.st_mtime_nsec as u32, stat.st_ctime_nsec as u32],
    );
    let mut row = [0; ROW - 32];
    for (at, word) in words.into_iter().enumerate() {
        row[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    for (at, part) in nanos.into_iter().enumerate() {
        row[48 + at * 4..][..4].copy_from_slice(&part.to_le_bytes());
    }
    row
}

/// Device and inode, to sort by.
fn order(row: &[u8]) -> (u64, u64) {
    let word = |at: usize| row[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    (word(0), word(8))
}

fn nanos(seconds: i128, part: i128) -> i128 {
    seconds * 1_000_000_000 + part
}

impl StatCache {
    /// What a cache remembers; nothing when there is none, or it is damaged.
    pub fn load(home: &Home) -> Self {
        let bytes = plain::read(&place(home)).unwrap_or_default();
        let known = bytes
            .split_last_chunk::<DIGEST>()
            .filter(|(body, digest)| Hash::of(body).0 == **digest)
            .and_then(|(body, _)| body.strip_prefix(&header()))
            .filter(|rows| rows.len().is_multiple_of(ROW));
        StatCache { place: Some(home.clone()), known: known.unwrap_or_default().to_vec(), ..StatCache::default() }
    }

    /// The digest of a file as it was met.
    pub fn find(&self, file: &Visited<'_>) -> Option<Hash> {
        if self.known.is_empty() {
            return None;
        }
        let wanted = identity(file.stat, self.devices.trusted(file)?);
        let rows = self.known.as_chunks::<ROW>().0;
        let at = rows.partition_point(|row| order(row) < order(&wanted));
        let row = rows.get(at).filter(|row| row[..ROW - 32] == wanted)?;
        Some(Hash(row[ROW - 32..].try_into().ok()?))
    }

    /// Remembers the digest of a file that is still as it was met; `read_at` is a moment before it was read.
    pub fn remember(&self, file: &Visited<'_>, digest: &Hash, read_at: SystemTime) {
        let stat = file.stat;
        let now = read_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let changed = nanos(stat.st_mtime.into(), stat.st_mtime_nsec.into())
            .max(nanos(stat.st_ctime.into(), stat.st_ctime_nsec.into()));
        if self.place.is_none() || i128::try_from(now).unwrap_or(0) - changed <= SETTLED {
            return;
        }
        let Some(file_system) = self.devices.trusted(file) else { return };
        let mut row = [0; ROW];
        row[..ROW - 32].copy_from_slice(&identity(stat, file_system));
        row[ROW - 32..].copy_from_slice(&digest.0);
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    /// Writes down what was learned. Best effort.
    pub fn save(&self) {
        let mut learned = std::mem::take(&mut *self.learned.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(home) = self.place.as_ref().filter(|_| !learned.is_empty()) else { return };
        // A file has one row; the later one counts.
        let old = self.known.as_chunks::<ROW>().0;
        if old.len() + learned.len() <= MOST_ROWS {
            learned.splice(0..0, old.iter().copied());
        }
        learned.sort_by_key(|row| order(row));
        learned.reverse();
        learned.dedup_by_key(|row| order(row));
        learned.reverse();
        learned.truncate(MOST_ROWS);
        let mut bytes = Vec::with_capacity(HEADER + learned.len() * ROW + DIGEST);
        bytes.extend_from_slice(&header());
        learned.iter().for_each(|row| bytes.extend_from_slice(row));
        let digest = Hash::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        let write = || {
            let staging = Staging::new(home).ok()?;
            let staged = staging.join("stat-cache");
            fs::File::create(&staged).and_then(|mut file| file.write_all(&bytes)).ok()?;
            fs::rename(&staged, place(home)).ok()
        };
        // What is not written down is read again.
        let _ = write();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    use super::*;
    use crate::collect::walk::NodeKind;
    use crate::entry::HomeKind;

    /// Has a look at a file, as a walk does.
    fn met<T>(path: &std::path::Path, look: impl FnOnce(&Visited<'_>) -> T) -> T {
        let folder = fs::File::open(path.parent().unwrap()).unwrap();
        let (stat, name) = (rustix::fs::lstat(path).unwrap(), path.file_name().unwrap().as_bytes());
        look(&Visited { path: name, folder: folder.as_fd(), name, kind: NodeKind::File, stat: &stat })
    }

    fn find(cache: &StatCache, path: &std::path::Path) -> Option<Hash> {
        met(path, |file| cache.find(file))
    }

    fn remember(cache: &StatCache, path: &std::path::Path, content: &[u8], read_at: SystemTime) {
        met(path, |file| cache.remember(file, &Hash::of(content), read_at));
    }

    /// A folder whose files are remembered.
    fn trusted() -> Option<tempfile::TempDir> {
        for place in [std::env::temp_dir(), env!("CARGO_MANIFEST_DIR").into(), "/var/tmp".into()] {
            let Ok(temp) = tempfile::tempdir_in(place) else { continue };
            fs::write(temp.path().join("probe"), "x").unwrap();
            if met(&temp.path().join("probe"), |file| Devices::default().trusted(file)).is_some() {
                return Some(temp);
            }
        }
        println!("SKIPPED: no folder here is on a file system whose times are trusted");
        None
    }

    #[test]
    fn only_settled_files_are_remembered_and_only_as_they_were() {
        let Some(temp) = trusted() else { return };
        let home = Home::new(temp.path().join("cache"), HomeKind::Cache);
        home.create().unwrap();
        let (old, young) = (temp.path().join("old"), temp.path().join("young"));
        fs::write(&old, "x").unwrap();
        fs::write(&young, "y").unwrap();
        let later = SystemTime::now() + Duration::from_secs(10);
        let cache = StatCache::load(&home);
        remember(&cache, &old, b"x", later);
        remember(&cache, &young, b"y", SystemTime::now());
        cache.save();
        let again = StatCache::load(&home);
        assert_eq!(find(&again, &old), Some(Hash::of(b"x")));
        assert_eq!(find(&again, &young), None);
        let before = fs::metadata(&old).unwrap().modified().unwrap();
        fs::write(&old, "z").unwrap();
        fs::File::options().write(true).open(&old).unwrap().set_modified(before).unwrap();
        assert_eq!(find(&again, &old), None, "same size, time set back");
        remember(&again, &old, b"z", later);
        again.save();
        assert_eq!(find(&StatCache::load(&home), &old), Some(Hash::of(b"z")));
    }

    #[test]
    fn another_file_system_under_the_same_device_number_is_another() {
        let Some(temp) = trusted() else { return };
        let file = temp.path().join("file");
        fs::write(&file, "x").unwrap();
        let id = met(&file, |file| Devices::default().trusted(file)).unwrap();
        let stat = rustix::fs::lstat(&file).unwrap();
        assert_ne!(identity(&stat, id), identity(&stat, id ^ 1));
        assert_eq!(order(&identity(&stat, id)), order(&identity(&stat, id ^ 1)), "one row for both");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_is_remembered_of_files_in_memory() {
        let (Some(temp), Ok(memory)) = (trusted(), tempfile::tempdir_in("/dev/shm")) else { return };
        let home = Home::new(temp.path().join("cache"), HomeKind::Cache);
        home.create().unwrap();
        let file = memory.path().join("file");
        fs::write(&file, "x").unwrap();
        let cache = StatCache::load(&home);
        remember(&cache, &file, b"x", SystemTime::now() + Duration::from_secs(10));
        cache.save();
        assert!(!place(&home).exists());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let Some(temp) = trusted() else { return };
        let home = Home::new(temp.path().join("cache"), HomeKind::Cache);
        home.create().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "x").unwrap();
        let cache = StatCache::load(&home);
        remember(&cache, &file, b"x", SystemTime::now() + Duration::from_secs(10));
        cache.save();
        let whole = fs::read(place(&home)).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(place(&home), &flipped).unwrap();
            assert_eq!(find(&StatCache::load(&home), &file), None, "a flipped bit at {at}");
        }
    }
}
