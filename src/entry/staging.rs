//! Where things are made before they appear: a folder of their own in `tmp`, locked by whoever works there.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use super::Home;
use super::lock::{Hold, is_at, try_lock};
use crate::error::{IoContext, Result};
use crate::text::Shown;

/// A folder for one piece of work. It is removed when this is dropped; after a kill, an unlocked one is anybody's to remove.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    _lock: File,
    stays: bool,
}

impl Staging {
    /// Makes one in `tmp` of a cache or store that exists.
    pub fn new(home: &Home) -> Result<Staging> {
        Self::make(home).or_fail(|| format!("cannot make a folder in `{}`", Shown::path(&home.tmp())))
    }

    /// The same for those who do without one, depending on why. Nothing is left of one that could not be made.
    pub(crate) fn make(home: &Home) -> io::Result<Staging> {
        let tmp = home.tmp();
        for _ in 0..100 {
            let path = tmp.join(random_name());
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(&tmp)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            // Between these two somebody who cleans up may take it away: then it is made again.
            let held = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.and_then(|lock| {
                    let held = try_lock(&lock, Hold::Exclusive).map_err(io::Error::other)?;
                    Ok((held && is_at(&lock, &path)).then_some(lock))
                }),
            };
            match held {
                Ok(Some(lock)) => return Ok(Staging { path, _lock: lock, stays: false }),
                Ok(None) => {}
                Err(error) => {
                    // It is empty. If it cannot be removed either, the next gc does it.
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
        Err(io::Error::other("names made there vanish"))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets go of it, and leaves it to the next gc.
    pub fn leave(mut self) {
        self.stays = true;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.stays {
            // An empty one goes even where no more files can be opened. What cannot be removed now the next gc removes.
            let _ = remove_tree(&self.path).or_else(|_| fs::remove_dir(&self.path));
        }
    }
}

/// A name that no other process makes.
pub(crate) fn random_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}", RandomState::new().hash_one((std::process::id(), number)))
}

/// Whether a name is one that [`random_name`] makes.
pub(crate) fn is_random_name(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// Removes a tree, also one with folders that its owner may not write.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Makes a file's content durable.
pub fn sync_file(file: &File) -> Result<()> {
    file.sync_all().or_fail(|| "cannot make a file durable")
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    let doing = || format!("cannot make `{}` durable", Shown::path(path));
    File::open(path).or_fail(doing)?.sync_all().or_fail(doing)
}

/// Makes everything durable that was written to the file system of a folder.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let doing = || format!("cannot make `{}` durable", Shown::path(path));
    let folder = File::open(path).or_fail(doing)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&folder).or_fail(doing)?;
    #[cfg(not(target_os = "linux"))]
    {
        drop(folder);
        rustix::fs::sync();
    }
    Ok(())
}
