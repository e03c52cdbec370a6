//! The environment into a chunk store, a cache, seeds, and how archives are cut.
//!
//! | variable | meaning | when it is not set |
//! |---|---|---|
//! | `MONOFO_DESYNC_STORE` | the chunk store | a folder under `.monofo`; in a job an error |
//! | `MONOFO_DESYNC_CACHE` | a folder of this machine in front of it, or `none` | the user's cache folder, if the store is distant |
//! | `MONOFO_DESYNC_SEED_DIR` | where archives stay as seeds, or `none` | the user's cache folder, if the store is distant |
//! | `MONOFO_DESYNC_CHUNK_SIZE` | `MIN:AVG:MAX` in KiB | `16:64:256` |
//! | `MONOFO_DESYNC_DIGEST` | `sha512-256` or `sha256` | `sha512-256` |

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::chunk::{Digest, Sizes};
use crate::chunk_store::{self, Cache, ChunkStore, Seeds};
use crate::engine::{Chunking, Chunks};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::location::Location;

/// Where chunks lie outside a job when nothing else is said, relative to the working directory.
pub const DEFAULT_STORE: &str = ".monofo/chunks";

/// How many bytes the cache may hold, and the seeds.
const MOST_BYTES: u64 = 10 << 30;

/// What artifacts of chunks need, opened when the first of them comes.
pub fn chunks(env: &Env, cancel: &Cancel) -> Chunks {
    let (env, cancel) = (env.clone(), cancel.clone());
    Chunks::new(move || chunking(&env, &cancel))
}

fn chunking(env: &Env, cancel: &Cancel) -> Result<Chunking> {
    let sizes = env.text("MONOFO_DESYNC_CHUNK_SIZE").map(Sizes::parse).transpose();
    let sizes = sizes.map_err(|error| error.context("MONOFO_DESYNC_CHUNK_SIZE is wrong"))?.unwrap_or_default();
    let digest = match env.text("MONOFO_DESYNC_DIGEST") {
        None => Digest::default(),
        Some(name) => Digest::parse(name).ok_or_else(|| {
            Error::usage(format_args!("MONOFO_DESYNC_DIGEST names no digest: `{}`", name.escape_debug()))
                .hint("set it to sha512-256 or sha256, or unset it")
        })?,
    };
    let store = store(env, cancel)?;
    // A store in a folder of this machine is as near as a cache would be.
    let (cache, seeds) = nearby(env, cancel, !store.is_local())?;
    if cache.as_ref().is_some_and(|cache| store.is_at(cache.folder())) {
        // What is used least goes from a cache.
        return Err(Error::usage("MONOFO_DESYNC_CACHE is the folder of the chunk store itself")
            .hint("unset it: a store in a folder needs no cache"));
    }
    Ok(Chunking { store, cache, seeds, sizes, digest })
}

/// The store that `MONOFO_DESYNC_STORE` names, if it does.
pub fn configured_store(env: &Env, cancel: &Cancel) -> Result<Option<Arc<dyn ChunkStore>>> {
    let open = |text: PathBuf| chunk_store::open(text.as_os_str(), env, cancel);
    let store = env.path("MONOFO_DESYNC_STORE").map(open).transpose();
    store.map_err(|error| error.context("MONOFO_DESYNC_STORE is wrong"))
}

/// The store that `--store` names.
pub fn named_store(location: &OsStr, env: &Env, cancel: &Cancel) -> Result<Arc<dyn ChunkStore>> {
    chunk_store::open(location, env, cancel).map_err(|error| error.context("--store is wrong"))
}

/// The store that artifacts depend on.
pub fn store(env: &Env, cancel: &Cancel) -> Result<Arc<dyn ChunkStore>> {
    if let Some(store) = configured_store(env, cancel)? {
        return Ok(store);
    }
    if env.in_job() {
        return Err(Error::usage("no chunk store is configured for artifacts named .catar.caibx").hint(
            "set MONOFO_DESYNC_STORE to s3://bucket/prefix, gs://bucket/prefix or a folder that all agents share",
        ));
    }
    chunk_store::open(OsStr::new(DEFAULT_STORE), env, cancel)
}

/// Cache and seeds of this machine. Those at the usual places are for stores that are distant.
pub fn nearby(env: &Env, cancel: &Cancel, distant: bool) -> Result<(Option<Cache>, Option<Seeds>)> {
    let usual = |name: &str| if distant { Some(user_cache(env)?.join(name)) } else { None };
    let folder = |variable: &str, name: &str| match env.path(variable) {
        Some(path) if path.as_os_str() == "none" => Ok(None),
        Some(text) => match Location::parse(text).map_err(|error| error.context(format!("{variable} is wrong")))? {
            Location::Folder(path) => Ok(Some(path)),
            _ => Err(Error::usage(format_args!("{variable} is a folder of this machine, and nothing else"))
                .hint("name a folder, or write `none`; MONOFO_DESYNC_STORE is what may be distant")),
        },
        None => Ok(usual(name)),
    };
    let cache = folder("MONOFO_DESYNC_CACHE", "chunks")?.map(|path| Cache::new(path, MOST_BYTES, cancel.clone()));
    let seeds = folder("MONOFO_DESYNC_SEED_DIR", "seeds")?.map(|path| Seeds::new(path, scope(env), MOST_BYTES));
    Ok((cache, seeds))
}

/// `$XDG_CACHE_HOME/monofo`, else `~/.cache/monofo`.
pub(super) fn user_cache(env: &Env) -> Option<PathBuf> {
    let base = env.path("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    Some(base.or_else(|| Some(env.path("HOME")?.join(".cache")))?.join("monofo"))
}

/// Organization and pipeline, so that artifacts of the same name do not push each other out.
fn scope(env: &Env) -> PathBuf {
    let part = |variable: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        env.text(variable).filter(|text| text.chars().all(plain)).map(str::to_owned)
    };
    match (part("BUILDKITE_ORGANIZATION_SLUG"), part("BUILDKITE_PIPELINE_SLUG")) {
        (Some(organization), Some(pipeline)) => PathBuf::from(organization).join(pipeline),
        _ => "local".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn open(variables: &[(&str, &str)]) -> Result<Chunking> {
        chunking(&Env::of(variables.iter().copied()), &Cancel::new())
    }

    #[test]
    fn a_folder_needs_neither_cache_nor_seeds_unless_they_are_asked_for() {
        let plain = open(&[("HOME", "/h"), ("MONOFO_DESYNC_STORE", "/s")]).unwrap();
        assert!(plain.cache.is_none() && plain.seeds.is_none());
        let asked = open(&[("MONOFO_DESYNC_CACHE", "/c"), ("MONOFO_DESYNC_SEED_DIR", "/d")]).unwrap();
        assert!(asked.cache.is_some() && asked.seeds.is_some());
        let s3 = [("HOME", "/h"), ("MONOFO_DESYNC_STORE", "s3://b/p"), ("AWS_REGION", "eu-west-1")];
        let distant = open(&s3).unwrap();
        assert_eq!(distant.cache.unwrap().folder(), std::path::Path::new("/h/.cache/monofo/chunks"));
        assert!(distant.seeds.is_some());
        let none = [s3[0], s3[1], s3[2], ("MONOFO_DESYNC_CACHE", "none"), ("MONOFO_DESYNC_SEED_DIR", "none")];
        let none = open(&none).unwrap();
        assert!(none.cache.is_none() && none.seeds.is_none());
    }

    #[test]
    fn a_cache_in_any_of_the_stores_is_refused() {
        for store in ["/x,/y", "/y,/x", "/y|/x", "file:///x"] {
            let error = open(&[("MONOFO_DESYNC_STORE", store), ("MONOFO_DESYNC_CACHE", "/x")]).err().unwrap();
            assert_eq!(error.class(), Class::Usage, "{store}");
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        for (variable, value) in [
            ("BUILDKITE_JOB_ID", "j"),
            ("MONOFO_DESYNC_CHUNK_SIZE", "big"),
            ("MONOFO_DESYNC_DIGEST", "md5"),
            ("MONOFO_DESYNC_STORE", "agent"),
            ("MONOFO_DESYNC_CACHE", ".monofo/chunks"),
            ("MONOFO_DESYNC_CACHE", "s3://bucket/chunks"),
            ("MONOFO_DESYNC_SEED_DIR", "s3:/bucket"),
        ] {
            let error = open(&[(variable, value)]).err().unwrap();
            assert_eq!(error.class(), Class::Usage, "{variable}");
            assert!(error.next_step().is_some(), "{variable}");
        }
    }
}
