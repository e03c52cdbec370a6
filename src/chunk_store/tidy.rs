//! Keeping a folder of this machine below a size.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Something to be kept or removed as one.
pub(super) struct Kept {
    /// Its files, in the order in which they are removed.
    pub(super) paths: Vec<PathBuf>,
    pub(super) len: u64,
    pub(super) age: Duration,
}

/// How often a folder of many files is looked through.
const OFTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// What says when that was last.
const MARK: &str = ".monofo-tidied";

/// Whether it is time to look through a folder; notes that it is done now.
pub(super) fn due(folder: &Path) -> bool {
    let mark = folder.join(MARK);
    let age =
        fs::symlink_metadata(&mark).and_then(|status| status.modified()).map(|time| time.elapsed().unwrap_or_default());
    if age.is_ok_and(|age| age < OFTEN) {
        return false;
    }
    // Where it cannot be noted, nothing can be removed either. A link in its place is not followed.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(&mark);
    file.and_then(|file| file.set_modified(SystemTime::now())).is_ok()
}

/// Removes what was used longest ago until the rest is small enough.
pub(super) fn shrink(mut kept: Vec<Kept>, most: u64) {
    kept.sort_by_key(|kept| kept.age);
    let mut sum = 0u64;
    for Kept { paths, len, .. } in kept {
        sum = sum.saturating_add(len);
        if sum > most {
            for path in paths {
                // Somebody else may be quicker.
                let _ = fs::remove_file(path);
            }
        }
    }
}
