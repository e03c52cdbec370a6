//! Digests of files that have not changed since they were read, known by their status.
//!
//! A digest is remembered for (device, inode, size, times of change of content and of status), and only when both times were
//! more than two seconds old before the file was read: what changes within the same tick of the clock could not be told
//! apart. Nobody can set back the time of a status change. Losing the file costs time and nothing else.
//!
//! ```text
//! "monofo-stat/1 VERSION\n", padded with NULs to 32 bytes
//! device, inode, size, mtime, ctime (each u64, little endian), mtime and ctime nanoseconds (u32), digest (32): 80 bytes
//! each, sorted by device and inode
//! SHA-256 of all before
//! ```

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::{Home, Staging, plain};
use crate::hash::Hash;

const HEADER: usize = 32;
const ROW: usize = 80;
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
    learned: Mutex<Vec<[u8; ROW]>>,
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let text = concat!("monofo-stat/1 ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
    let len = text.len().min(HEADER);
    header[..len].copy_from_slice(&text[..len]);
    header
}

fn place(home: &Home) -> PathBuf {
    home.root().join("stat-cache")
}

/// The part of a row that is looked for.
fn identity(stat: &Stat) -> [u8; ROW - 32] {
    #[allow(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "compared, not counted with; the types differ by system"
    )]
    let (words, nanos) = (
        [stat.st_dev as u64, stat.st_ino as u64, stat.st_size as u64, stat.st_mtime as u64, stat.st_ctime as u64],
        [stat.st_mtime_nsec as u32, stat.st_ctime_nsec as u32],
    );
    let mut row = [0; ROW - 32];
    for (at, word) in words.into_iter().enumerate() {
        row[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    for (at, part) in nanos.into_iter().enumerate() {
        row[40 + at * 4..][..4].copy_from_slice(&part.to_le_bytes());
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
        StatCache { place: Some(home.clone()), known: known.unwrap_or_default().to_vec(), learned: Mutex::default() }
    }

    /// The digest of a file with this status.
    pub fn find(&self, stat: &Stat) -> Option<Hash> {
        let wanted = identity(stat);
        let rows = self.known.as_chunks::<ROW>().0;
        let at = rows.partition_point(|row| order(row) < order(&wanted));
        let row = rows.get(at).filter(|row| row[..ROW - 32] == wanted)?;
        Some(Hash(row[ROW - 32..].try_into().ok()?))
    }

    /// Remembers a digest; `read_at` is a moment before the file was read.
    pub fn remember(&self, stat: &Stat, digest: &Hash, read_at: SystemTime) {
        let now = read_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let changed = nanos(stat.st_mtime.into(), stat.st_mtime_nsec.into())
            .max(nanos(stat.st_ctime.into(), stat.st_ctime_nsec.into()));
        if self.place.is_none() || i128::try_from(now).unwrap_or(0) - changed <= SETTLED {
            return;
        }
        let mut row = [0; ROW];
        row[..ROW - 32].copy_from_slice(&identity(stat));
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
    use super::*;
    use crate::entry::HomeKind;
    use std::time::Duration;

    fn stat(path: &std::path::Path) -> Stat {
        rustix::fs::lstat(path).unwrap()
    }

    #[test]
    fn only_settled_files_are_remembered_and_only_as_they_were() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::new(temp.path().join("cache"), HomeKind::Cache);
        home.create().unwrap();
        let (old, young) = (temp.path().join("old"), temp.path().join("young"));
        fs::write(&old, "x").unwrap();
        fs::write(&young, "y").unwrap();
        let later = SystemTime::now() + Duration::from_secs(10);
        let cache = StatCache::load(&home);
        cache.remember(&stat(&old), &Hash::of(b"x"), later);
        cache.remember(&stat(&young), &Hash::of(b"y"), SystemTime::now());
        cache.save();
        let again = StatCache::load(&home);
        assert_eq!(again.find(&stat(&old)), Some(Hash::of(b"x")));
        assert_eq!(again.find(&stat(&young)), None);
        let before = fs::metadata(&old).unwrap().modified().unwrap();
        fs::write(&old, "z").unwrap();
        fs::File::options().write(true).open(&old).unwrap().set_modified(before).unwrap();
        assert_eq!(again.find(&stat(&old)), None, "same size, time set back");
        again.remember(&stat(&old), &Hash::of(b"z"), later);
        again.save();
        assert_eq!(StatCache::load(&home).find(&stat(&old)), Some(Hash::of(b"z")));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::new(temp.path().join("cache"), HomeKind::Cache);
        home.create().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "x").unwrap();
        let cache = StatCache::load(&home);
        cache.remember(&stat(&file), &Hash::of(b"x"), SystemTime::now() + Duration::from_secs(10));
        cache.save();
        let whole = fs::read(place(&home)).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(place(&home), &flipped).unwrap();
            assert_eq!(StatCache::load(&home).find(&stat(&file)), None, "a flipped bit at {at}");
        }
    }
}
