//! The folder of a cache or store.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Staging, plain};
use crate::error::{Error, IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeKind {
    /// Entries under their keys, losable.
    Cache,
    /// Artifacts under their addresses, kept until unreferenced.
    Store,
}

impl HomeKind {
    /// `cache` or `store`.
    pub fn word(self) -> &'static str {
        match self {
            HomeKind::Cache => "cache",
            HomeKind::Store => "store",
        }
    }

    fn format(self) -> &'static str {
        match self {
            HomeKind::Cache => "meta-cache 1\n",
            HomeKind::Store => "meta-store 1\n",
        }
    }
}

/// The end of the name of an entry's metadata.
const METADATA: &str = ".metadata.json";

/// What marks a folder as one that need not be backed up, <https://bford.info/cachedir/>.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of monofo.\n";

/// What the root of a fresh file system may hold.
const LOST_AND_FOUND: &str = "lost+found";

/// The folder of a cache or store; it may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    kind: HomeKind,
}

impl Home {
    /// A cache or store in this folder. Nothing is created or looked at yet.
    pub fn new(root: impl Into<PathBuf>, kind: HomeKind) -> Self {
        Home { root: root.into(), kind }
    }

    /// What it is.
    pub fn kind(&self) -> HomeKind {
        self.kind
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Refuses what could not be written to, for want of rights perhaps. What is not there yet is not made.
    pub fn check_writable(&self) -> Result<()> {
        if self.exists()? {
            return Staging::new(self).map(drop);
        }
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let Some(there) = root.ancestors().skip(1).find(|above| above.exists()) else { return Ok(()) };
        rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .or_fail(|| format!("cannot make a folder in `{}`", Shown::path(there)))
    }

    /// Whether it is there. A folder that holds something else is an error of class `Refused`.
    pub fn exists(&self) -> Result<bool> {
        let shown = Shown::path(&self.root);
        let read = plain::read(&self.root.join("FORMAT"));
        match read.map(|text| String::from_utf8_lossy(&text).into_owned()) {
            // Empty: whoever makes it was stopped in the middle, or still is at it.
            Ok(text) if text == self.kind.format() => Ok(true),
            Ok(text) if text.is_empty() && self.is_barely_begun()? => Ok(true),
            Ok(text) => {
                let found: String = text.lines().next().unwrap_or_default().chars().take(40).collect();
                Err(Error::refused(format_args!(
                    "`{shown}` has the format `{}` and not `{}`",
                    found.escape_debug(),
                    self.kind.format().trim_end()
                ))
                .hint(format!("name another folder, or use the version of monofo that made this {}", self.kind.word())))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => self.is_free(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(Error::refused(format_args!("`{shown}` is no folder")).hint("name another place"))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Error::refused(format_args!(
                "`{shown}/FORMAT` is not a file, so this is no {} of ours",
                self.kind.word()
            ))
            .hint("name another folder, or remove it")),
            Err(error) => Err(error).or_fail(|| format!("cannot read the {} in `{shown}`", self.kind.word())),
        }
    }

    /// Whether nothing is there but what making it begins with.
    fn is_barely_begun(&self) -> Result<bool> {
        Ok(list(&self.root)?
            .iter()
            .all(|name| matches!(name.as_str(), "FORMAT" | ".gitignore" | "CACHEDIR.TAG" | "tmp" | LOST_AND_FOUND)))
    }

    /// False when nothing is there; an error when something else is.
    fn is_free(&self) -> Result<bool> {
        let doing = || format!("cannot read `{}`", Shown::path(&self.root));
        let mut entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).or_fail(doing),
        };
        let other = entries.find(|entry| entry.as_ref().map_or(true, |entry| entry.file_name() != LOST_AND_FOUND));
        match other {
            None => Ok(false),
            Some(_) if self.root.join("FORMAT").exists() => Ok(true),
            Some(_) => Err(Error::refused(format_args!(
                "`{}` holds something that is no {} of ours",
                Shown::path(&self.root),
                self.kind.word()
            ))
            .hint("name another folder, or empty it")),
        }
    }

    /// Makes it, unless it is there.
    pub fn create(&self) -> Result<()> {
        if self.exists()? && self.tmp().is_dir() {
            return Ok(());
        }
        let doing = || format!("cannot make the {} in `{}`", self.kind.word(), Shown::path(&self.root));
        fs::create_dir_all(&self.root).or_fail(doing)?;
        // First, so that all else lies in a folder that says whose it is.
        let file = File::options().write(true).create(true).truncate(false).open(self.root.join("FORMAT"));
        file.and_then(|mut file| file.write_all(self.kind.format().as_bytes())).or_fail(doing)?;
        fs::write(self.root.join(".gitignore"), "*\n").or_fail(doing)?;
        if self.kind == HomeKind::Cache {
            fs::write(self.root.join("CACHEDIR.TAG"), CACHEDIR_TAG).or_fail(doing)?;
        }
        fs::create_dir_all(self.tmp()).or_fail(doing)
    }

    /// Where things are staged.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where damaged entries go.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// The folder that holds entries whose names begin alike.
    pub fn shard(&self, hash: &Hash) -> PathBuf {
        self.root.join(hash.shard())
    }

    /// An entry's metadata.
    pub fn metadata(&self, hash: &Hash) -> PathBuf {
        self.shard(hash).join(format!("{hash}{METADATA}"))
    }

    /// An entry's content.
    pub fn folder(&self, hash: &Hash) -> PathBuf {
        self.shard(hash).join(hash.to_string())
    }

    /// The names of all that looks like an entry, sorted: those with metadata, and folders without.
    pub fn names(&self) -> Result<Names> {
        let mut names = Names::default();
        if !self.exists()? {
            return Ok(names);
        }
        let mut folders = Vec::new();
        for shard in list(&self.root)? {
            if shard.len() != 2 || !shard.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()) {
                continue;
            }
            for name in list(&self.root.join(&shard))? {
                let (hex, found) = match name.strip_suffix(METADATA) {
                    Some(hex) => (hex, &mut names.entries),
                    None => (name.as_str(), &mut folders),
                };
                found.extend(Hash::parse(hex).filter(|hash| hash.shard() == shard));
            }
        }
        names.entries.sort_unstable();
        folders.sort_unstable();
        folders.retain(|hash| names.entries.binary_search(hash).is_err());
        names.orphans = folders;
        Ok(names)
    }

    /// The names of entries that begin with these digits, sorted.
    pub fn matching(&self, prefix: &str) -> Result<Vec<Hash>> {
        if !self.exists()? {
            return Ok(Vec::new());
        }
        let mut found: Vec<Hash> = list(&self.root.join(&prefix[..2]))?
            .iter()
            .filter_map(|name| Hash::parse(name.strip_suffix(METADATA)?))
            .filter(|hash| hash.to_string().starts_with(prefix))
            .collect();
        found.sort_unstable();
        Ok(found)
    }
}

/// Names of a cache or store.
#[derive(Debug, Default)]
pub struct Names {
    /// Those with metadata.
    pub entries: Vec<Hash>,
    /// Folders without: being published, or left by a crash.
    pub orphans: Vec<Hash>,
}

/// The names in a folder that are text; none when it is not there, or no folder.
pub(super) fn list(folder: &Path) -> Result<Vec<String>> {
    let doing = || format!("cannot read `{}`", Shown::path(folder));
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.or_fail(doing)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.or_fail(doing)?.file_name().into_string());
    }
    Ok(names)
}
