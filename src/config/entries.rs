//! The environment and the workspace into cache, store and what decides about them.
//!
//! | variable | meaning | when it is not set |
//! |---|---|---|
//! | `MONOFO_CACHE_DIR` | the keyed cache | `.meta-cache` at the workspace's root; in a job the user's cache folder |
//! | `MONOFO_STORE_DIR` | the content-addressed store | `.meta-store` there; in a job the user's cache folder |
//! | `MONOFO_CACHE_FORMAT` | how payloads are compressed: `tar.lz4` or `tar.zst` | `tar.lz4` |
//! | `MONOFO_CACHE_SALT` | a deliberate fresh start: a part of every key | empty |
//! | `MONOFO_GC_AUTO` | whether `cache build` cleans up once a day | yes |
//! | `MONOFO_REMOTE` | where entries are shared; `--remote` wins | none |

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::config::chunks::user_cache;
use crate::config::workspace;
use crate::engine::entries::target::Guards;
use crate::engine::keys::{Computed, KeyRequest, Keys, Pinned, compute, compute_all};
use crate::entry::{Encoding, Home, HomeKind, StatCache};
use crate::env::Env;
use crate::error::{Class, Error, Result};
use crate::key::{ComponentName, Workspace};
use crate::location::Location;
use crate::remote::{Failure, Limits, Remote, Scopes, Trouble};
use crate::text::Shown;

/// When a long run looks first whether a remote that it gave up is back.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Cache, store and workspace of a command.
pub struct Keeping {
    /// The workspace.
    pub workspace: Workspace,
    /// The cache; it may not exist yet.
    pub cache: Home,
    /// The store; it may not exist yet.
    pub store: Home,
    /// How payloads are compressed.
    pub encoding: Encoding,
    /// Where entries are written and read in a remote.
    pub scopes: Scopes,
    env: Env,
    /// The current folder, absolute.
    directory: PathBuf,
}

/// What a command works with, in the workspace around a folder.
pub fn keeping(env: &Env, directory: &Path) -> Result<Keeping> {
    keeping_in(workspace::find(directory)?, env, directory)
}

/// The same in a folder by itself, whatever manifest there is around it.
pub fn keeping_alone(env: &Env, directory: &Path) -> Result<Keeping> {
    let workspace = workspace::without_manifest(directory.to_owned());
    keeping_in(workspace, env, directory)
}

fn keeping_in(workspace: Workspace, env: &Env, directory: &Path) -> Result<Keeping> {
    let folder = |variable: &str, usual: &str, of_user: &str| -> Result<PathBuf> {
        if let Some(path) = env.path(variable) {
            return match Location::parse(&path).map_err(|error| error.context(format!("{variable} is wrong")))? {
                Location::Folder(path) => Ok(directory.join(path)),
                _ => Err(Error::usage(format_args!("{variable} is a folder of this machine, and nothing else"))
                    .hint("name a folder; --remote is what shares entries")),
            };
        }
        // The agent cleans the checkout before every job, and with it all that lies there.
        match user_cache(env).filter(|_| env.in_job()) {
            Some(cache) => Ok(cache.join(of_user)),
            None => Ok(workspace.root.join(usual)),
        }
    };
    let encoding = match env.strict("MONOFO_CACHE_FORMAT")? {
        None => Encoding::default(),
        Some(word) => Encoding::parse(word).ok_or_else(|| {
            Error::usage(format_args!("MONOFO_CACHE_FORMAT names no format of payloads: `{}`", word.escape_debug()))
                .hint("set it to tar.lz4 or tar.zst, or unset it")
        })?,
    };
    Ok(Keeping {
        cache: Home::new(folder("MONOFO_CACHE_DIR", ".meta-cache", "keyed")?, HomeKind::Cache),
        store: Home::new(folder("MONOFO_STORE_DIR", ".meta-store", "store")?, HomeKind::Store),
        encoding,
        scopes: Scopes::of(env)?,
        env: env.clone(),
        directory: directory.to_owned(),
        workspace,
    })
}

impl Keeping {
    /// The remote that a flag names, else the environment's, if there is one. One that cannot be opened, for want of
    /// credentials perhaps, is a failure like any other of a remote: what is here is used without it.
    pub fn remote(&self, flag: Option<&OsStr>, cancel: &Cancel) -> Result<(Option<Remote>, Option<Failure>)> {
        self.remote_within(flag, Limits::default(), cancel)
    }

    /// The same for a long run, which looks now and then whether a remote that it gave up is back.
    pub fn remote_for_long(&self, flag: Option<&OsStr>, cancel: &Cancel) -> Result<(Option<Remote>, Option<Failure>)> {
        self.remote_within(flag, Limits { probe: Some(FIRST_LOOK), ..Limits::default() }, cancel)
    }

    fn remote_within(
        &self,
        flag: Option<&OsStr>,
        limits: Limits,
        cancel: &Cancel,
    ) -> Result<(Option<Remote>, Option<Failure>)> {
        let text = flag.map(OsStr::to_owned).or_else(|| Some(self.env.path("MONOFO_REMOTE")?.into_os_string()));
        let Some(text) = text else { return Ok((None, None)) };
        let named = if flag.is_some() { "--remote" } else { "MONOFO_REMOTE" };
        let wrong = |error: Error| error.context(format_args!("{named} is wrong"));
        let location = Location::parse(&text).map_err(wrong)?;
        match Remote::with_limits(&location, self.scopes.clone(), &self.env, limits, cancel) {
            Ok(remote) => Ok((Some(remote), None)),
            Err(error) if matches!(location, Location::S3(_) | Location::Gs(_)) => {
                let error = error.with_class(Class::Unavailable);
                Ok((None, Some(Failure { trouble: Trouble::Denied, error })))
            }
            Err(error) => Err(wrong(error)),
        }
    }

    /// The component that a command names. One that the manifest does not have is found out when its key is computed.
    pub fn component(&self, name: &str) -> Result<ComponentName> {
        ComponentName::new(name)
    }

    /// Whether the manifest has a component of this name.
    pub fn is_of_manifest(&self, name: &ComponentName) -> bool {
        self.workspace.components.contains_key(name)
    }

    /// The key of a component. What it read is remembered in the cache, if there is one, so that it need not be read again.
    pub fn key(&self, name: &ComponentName, inputs: &[String], cancel: &Cancel) -> Result<Computed> {
        let known = self.known_digests()?;
        let computed = self.with_request(inputs, &BTreeMap::new(), &known, cancel, |request| compute(request, name))?;
        known.save();
        Ok(computed)
    }

    /// The keys of components and of all that they need, with the versions that a lock pins. What was read is remembered when
    /// somebody calls [`StatCache::save`] on `known`.
    pub fn keys(
        &self,
        names: &[ComponentName],
        pinned: &BTreeMap<ComponentName, Pinned>,
        known: &StatCache,
        cancel: &Cancel,
    ) -> Result<Keys> {
        self.with_request(&[], pinned, known, cancel, |request| compute_all(request, names))
    }

    /// Digests of files that were read before, from the cache if there is one.
    pub fn known_digests(&self) -> Result<StatCache> {
        // Whoever only asks for a key, or for an entry, makes no cache.
        let usable = self.cache.exists()?;
        Ok(if usable { StatCache::load(&self.cache) } else { StatCache::default() })
    }

    fn with_request<T>(
        &self,
        inputs: &[String],
        pinned: &BTreeMap<ComponentName, Pinned>,
        known: &StatCache,
        cancel: &Cancel,
        compute: impl FnOnce(&KeyRequest<'_>) -> Result<T>,
    ) -> Result<T> {
        let own = [self.cache.root().to_owned(), self.store.root().to_owned()];
        let variable = |name: &str| self.env.raw(name);
        compute(&KeyRequest {
            workspace: &self.workspace,
            inputs,
            pinned,
            variable: &variable,
            salt: self.env.strict("MONOFO_CACHE_SALT")?.unwrap_or(""),
            own: &own,
            known,
            cancel,
        })
    }

    /// The key that a user names.
    pub fn key_of_user(&self, text: &str) -> Result<crate::hash::Hash> {
        resolve(&self.cache, text)
    }

    /// Where a component's artifact lies: what the user named, else its `outputs`.
    pub fn artifact(&self, name: &ComponentName, named: Option<&Path>, flag: &str) -> Result<PathBuf> {
        if let Some(path) = named {
            return Ok(path.to_owned());
        }
        let component = self.workspace.components.get(name);
        match component.and_then(|component| Some(component.path.join(component.outputs.as_ref()?))) {
            Some(path) => Ok(self.workspace.root.join(path)),
            None => Err(Error::usage(format_args!("nothing says where the artifact of `{name}` is"))
                .hint(format_args!("give {flag} PATH, or set `outputs` in manifests/components.yaml"))),
        }
    }

    /// What no artifact may contain: cache, store, a remote that is a folder, and the workspace's history.
    pub fn not_in_artifacts(&self) -> Vec<PathBuf> {
        self.not_in_artifacts_with(None)
    }

    /// The same with a remote that a flag names.
    pub fn not_in_artifacts_with(&self, remote: Option<&OsStr>) -> Vec<PathBuf> {
        self.own(remote).chain([self.workspace.root.join(".git")]).collect()
    }

    /// What is never replaced.
    pub fn guards(&self) -> Guards {
        self.guards_with(None)
    }

    /// The same with a remote that a flag names.
    pub fn guards_with(&self, remote: Option<&OsStr>) -> Guards {
        let own = self.own(remote).collect();
        Guards { workspace: self.workspace.root.clone(), home: self.env.path("HOME"), own }
    }

    /// Folders of ours: cache, store, and what lies in a remote that is a folder.
    fn own(&self, remote: Option<&OsStr>) -> impl Iterator<Item = PathBuf> {
        let remotes = [remote.map(PathBuf::from), self.env.path("MONOFO_REMOTE")].into_iter().flatten();
        let folder = |remote: PathBuf| match Location::parse(&remote) {
            Ok(Location::Folder(path)) => Some(self.directory.join(path).join(Remote::FOLDER)),
            _ => None,
        };
        [self.cache.root().to_owned(), self.store.root().to_owned()].into_iter().chain(remotes.filter_map(folder))
    }

    /// Whether `cache build` cleans up now and then.
    pub fn cleans_up(&self) -> bool {
        self.env.text("MONOFO_GC_AUTO").is_none() || self.env.switch("MONOFO_GC_AUTO")
    }

    /// The folder that the command was started in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// A hash as a user names it: all its digits or the first ones. Class `NotThere` when nothing begins like it, `Usage` when
/// several do.
pub fn resolve(home: &Home, text: &str) -> Result<crate::hash::Hash> {
    use crate::hash::{Hash, SHORTEST_PREFIX};
    if let Some(hash) = Hash::parse(text) {
        return Ok(hash);
    }
    let digits = text.len() < 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if !digits || text.len() < SHORTEST_PREFIX {
        return Err(Error::usage(format_args!("`{shown}` is not a hash"))
            .hint("give its 64 lower-case hexadecimal digits, or the first 6 or more of them"));
    }
    match home.matching(text)?.as_slice() {
        [one] => Ok(*one),
        [] => {
            let place = Shown::path(home.root()).to_string();
            Err(Error::new(Class::NotThere, format_args!("nothing in `{place}` begins with {shown}")).hint(
                format_args!("see `monofo {} list`; to find it in a remote, give all 64 digits", home.kind().word()),
            ))
        }
        several => {
            let named: Vec<_> = several.iter().take(5).map(ToString::to_string).collect();
            Err(Error::usage(format_args!("{} entries begin with {shown}: {}", several.len(), named.join(", ")))
                .hint("give more digits"))
        }
    }
}
