//! Texts that were hashed, kept under their digests so that a later miss can be explained: listings and records of inputs.
//!
//! `facts/ab/<sha256>.zst`. Losable: nothing but explanations depends on them. What is read is checked, since its name says
//! what it must be; nothing is synced.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use super::{Home, Staging, plain};
use crate::error::{IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// A listing may be this large, §16 of the specification.
pub const MOST_BYTES: u64 = 256 << 20;

/// Fast: a listing is half digests, which do not compress.
const LEVEL: i32 = 1;

fn path(home: &Home, hash: &Hash) -> PathBuf {
    home.root().join("facts").join(hash.shard()).join(format!("{hash}.zst"))
}

/// Packs a text as facts and remotes hold it.
pub fn pack(text: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(text, LEVEL).or_fail(|| "cannot compress a listing")
}

/// The text of what [`pack`] made, if it is the one of this digest.
pub fn unpack(packed: &[u8], hash: &Hash) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed).ok()?;
    decoder.take(MOST_BYTES + 1).read_to_end(&mut text).ok()?;
    (Hash::of(&text) == *hash).then_some(text)
}

/// Keeps a text; one that is there is marked as used again.
pub fn put(home: &Home, staging: &Staging, text: &[u8]) -> Result<Hash> {
    let hash = Hash::of(text);
    let path = path(home, &hash);
    // One that is damaged is written anew.
    if get(home, &hash).is_some()
        && let Ok(file) = plain::options().read(true).open(&path)
    {
        // Its age is all that this changes.
        let _ = file.set_modified(SystemTime::now());
        return Ok(hash);
    }
    let doing = || format!("cannot write `{}`", Shown::path(&path));
    let packed = pack(text)?;
    let staged = staging.join("fact");
    File::create(&staged).and_then(|mut file| file.write_all(&packed)).or_fail(doing)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).or_fail(doing)?;
    }
    fs::rename(&staged, &path).or_fail(doing)?;
    Ok(hash)
}

/// A text, if it is there and right. One that is damaged stays until it is kept again, or checked.
pub fn get(home: &Home, hash: &Hash) -> Option<Vec<u8>> {
    unpack(&plain::read(&path(home, hash)).ok()?, hash)
}

/// Reads all facts, and removes those that are not what their names say. Returns their names, and those of facts that could
/// not be read, which stay.
pub fn check(home: &Home) -> Result<Vec<Hash>> {
    let mut damaged = Vec::new();
    for (path, status) in all(home)? {
        let name = path.file_stem().and_then(|name| Hash::parse(name.to_str()?));
        let Some(name) = name.filter(|name| get(home, name).is_none()) else { continue };
        if !status.is_file() || plain::read(&path).is_ok() {
            // Losable, and perhaps not ours to remove.
            let _ = fs::remove_file(&path);
        }
        damaged.push(name);
    }
    Ok(damaged)
}

/// All facts: their files and when they were used last.
pub fn all(home: &Home) -> Result<Vec<(PathBuf, fs::Metadata)>> {
    let root = home.root().join("facts");
    let mut found = Vec::new();
    for shard in super::home::list(&root)? {
        for name in super::home::list(&root.join(&shard))? {
            let path = root.join(&shard).join(&name);
            let ours = name.strip_suffix(".zst").and_then(Hash::parse).is_some();
            // It may have gone meanwhile.
            if let (true, Ok(status)) = (ours, fs::symlink_metadata(&path)) {
                found.push((path, status));
            }
        }
    }
    Ok(found)
}
