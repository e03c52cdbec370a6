//! The `cache:` block: entries restored before a step's command, and stored after it when the exact one was missing.
//!
//! | when | what |
//! |---|---|
//! | `pre-command` | computes every key, looks for the exact entry, then for fallbacks, and restores what it finds |
//! | `post-command` | stores what was not hit exactly, if `save` and the job's scopes allow it, and keeps the cache within its size |
//!
//! The command may change what keys are computed from, so keys and hits travel from one to the other in a variable of the job,
//! [`state`]. Trouble of cache and remote is a warning unless `soft-fail` is off; a wrong configuration never is.

mod restore;
mod save;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

pub(super) use self::restore::worse;
use self::state::State;
pub(super) use self::state::remove_old_exports;
use super::block::Block;
use crate::cancel::Cancel;
use crate::config::cache_block::{PluginCache, variable};
use crate::config::entries::{Keeping, keeping_alone};
use crate::config::job_scopes::job_scopes;
use crate::config::sizes::parse_size;
use crate::context::Context;
use crate::engine::entries::bundle::{BundlePath, real_place};
use crate::engine::entries::share::{failure_line, report_line};
use crate::entry::HomeKind;
use crate::env::Env;
use crate::error::{Error, IoContext, Result};
use crate::location::Location;
use crate::remote::Failure;
use crate::report::Report;
use crate::text::Shown;

/// How large the cache may become when `MONOFO_CACHE_SIZE` does not say.
const USUAL_SIZE: u64 = 20 << 30;

/// One run of the block in a hook.
pub(super) struct CacheBlock<'a> {
    pub(super) env: &'a Env,
    pub(super) cancel: &'a Cancel,
    pub(super) report: &'a Report,
    /// How failures are told.
    pub(super) block: Block<'a>,
    /// The block as a text, which tells listings of the plugin apart: [`block_text`].
    pub(super) block_text: String,
}

/// A block as a text: the same one for the same entries, however they are written and whatever else is configured beside
/// them. It is only compared with what the same program makes of a block.
pub(super) fn block_text(entries: &[PluginCache]) -> String {
    let mut entries: Vec<&PluginCache> = entries.iter().collect();
    entries.sort_by_key(|entry| &entry.id);
    format!("{entries:?}")
}

/// What both hooks work with.
struct Place {
    keeping: Keeping,
    directory: PathBuf,
    home: Option<PathBuf>,
    /// Where paths were before the command, by what is configured; nothing before it.
    before: BTreeMap<String, String>,
    /// Why nothing is stored, if that is so.
    stores_nothing: Option<String>,
    most: u64,
}

impl CacheBlock<'_> {
    fn place(&self) -> Result<Place> {
        let directory = std::env::current_dir().or_fail(|| "cannot tell the current folder")?;
        // A relative one would mean another folder elsewhere.
        let home = self.env.path("HOME").filter(|home| home.is_absolute());
        let place = self.place_in(directory, home)?;
        if self.env.in_job() {
            self.warn_of_checkout(&place);
        }
        Ok(place)
    }

    /// What lies in the checkout is gone with the next one, and what is relative lies there.
    fn warn_of_checkout(&self, place: &Place) {
        let in_checkout = |folder: &Path| without_dots(&place.directory.join(folder)).starts_with(&place.directory);
        if in_checkout(place.keeping.cache.root()) {
            let why = match self.env.text("MONOFO_CACHE_DIR") {
                Some(_) => "for MONOFO_CACHE_DIR names a folder in it: name one outside it",
                None => "since HOME names no folder outside it: set HOME or MONOFO_CACHE_DIR for the agent",
            };
            self.report.warning(format_args!("the cache lies in the checkout, which the agent cleans, {why}"));
        }
        let remote = self.env.path("MONOFO_REMOTE").map(Location::parse);
        if let Some(Ok(Location::Folder(folder))) = remote
            && in_checkout(&folder)
        {
            self.report.warning(format_args!(
                "MONOFO_REMOTE is the folder `{}` in the checkout, which no other machine sees and the agent cleans: name one \
                 outside it, or a bucket as s3://bucket/prefix or gs://bucket/prefix",
                Shown::path(&folder)
            ));
        }
    }

    /// The same after the command: paths mean what they meant before it, wherever that left the hook.
    fn place_of(&self, state: &State) -> Result<Place> {
        let directory = PathBuf::from(&state.folder);
        let shown = Shown::path(&directory);
        match identity(&directory) {
            None => {
                return Err(Error::failed(format_args!("the working folder `{shown}` is gone, so nothing is stored"))
                    .hint("did the command remove it?"));
            }
            // A link in its place would make other folders of the machine look like the checkout.
            Some(found) if found != state.folder_is => {
                return Err(Error::failed(format_args!(
                    "another folder is in the place of the working folder `{shown}`, so nothing is stored"
                ))
                .hint("did the command replace it? remove what is in it, and not the folder itself"));
            }
            Some(_) => {}
        }
        let place = self.place_in(directory, state.home.as_ref().map(PathBuf::from))?;
        Ok(Place { before: state.paths.clone(), ..place })
    }

    fn place_in(&self, directory: PathBuf, home: Option<PathBuf>) -> Result<Place> {
        let env = self.env.with("HOME", home.clone().map(PathBuf::into_os_string));
        let mut keeping = keeping_alone(&env, &directory)?;
        let (scopes, stores_nothing) = job_scopes(&keeping, self.env)?;
        keeping.scopes = scopes;
        let most = match self.env.text("MONOFO_CACHE_SIZE") {
            Some(text) => parse_size("MONOFO_CACHE_SIZE", text)?,
            None => USUAL_SIZE,
        };
        Ok(Place { keeping, directory, home, before: BTreeMap::new(), stores_nothing, most })
    }

    fn state_name(&self) -> String {
        State::variable(&self.block_text)
    }

    fn context(&self) -> Context {
        Context { cancel: self.cancel.clone(), ..Context::default() }
    }

    /// Tells of trouble with one entry. Returns the exit status that it leads to.
    fn tell(&self, entry: &PluginCache, error: Error) -> u8 {
        self.block.tell(&error.context(format_args!("{}", entry.id)), entry.soft_fail)
    }

    /// Tells of a failure of the remote. Returns the exit status that it leads to.
    fn tell_remote(&self, entry: &PluginCache, failure: &Failure) -> u8 {
        // One that fails the job goes on with nothing.
        let line = if entry.soft_fail { report_line(failure, HomeKind::Cache) } else { failure_line(failure) };
        let error = Error::new(crate::error::Class::Unavailable, line);
        let error = match failure.error.next_step() {
            Some(hint) => error.hint(hint),
            None => error,
        };
        self.tell(entry, error)
    }
}

/// What tells a folder from every other one, if there is one: device and inode.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().filter(fs::Metadata::is_dir).map(|status| (status.dev(), status.ino()))
}

/// A path without `.` and `..`, as text: nothing has to be there.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

impl Place {
    /// Where all paths of entries are, by what is configured, links on the way to them followed. As they are written they must be
    /// apart, also from those of listings before: whichever is restored or stored last would undo the other. Class `Usage` where
    /// they are not. What lies on the disk makes no mistake of a configuration.
    fn paths_apart(&self, entries: &[PluginCache], before: &[State]) -> Result<BTreeMap<String, String>> {
        let (directory, home) = (real_place(&self.directory), self.home.as_deref().map(real_place));
        let as_written = |written: &str| match (written.strip_prefix("~/"), &home) {
            (Some(below), Some(home)) => home.join(below),
            _ => directory.join(written),
        };
        let others = before.iter().flat_map(|state| state.paths.keys());
        let mut known: Vec<(String, PathBuf)> = others.map(|path| (path.clone(), as_written(path))).collect();
        let mut places: Vec<(String, PathBuf)> = Vec::new();
        for entry in entries {
            for path in self.paths(entry)? {
                let place = as_written(&path.written);
                let overlaps = |(_, other): &&(String, PathBuf)| place.starts_with(other) || other.starts_with(&place);
                if let Some((other, _)) = known.iter().find(overlaps) {
                    return Err(Error::usage(format_args!(
                        "{}: the path `{}` is, or overlaps with, the path `{other}` of the `cache` block, also where the \
                         plugin is listed more than once",
                        entry.id,
                        Shown(path.written.as_bytes()),
                    ))
                    .hint("name paths apart"));
                }
                known.push((path.written.clone(), place));
                places.push((path.written, real_place(&path.place)));
            }
            let taken = |state: &State| state.seen.keys().any(|id| variable(id) == entry.variable());
            if before.iter().any(taken) {
                return Err(Error::usage(format_args!(
                    "an earlier listing of the plugin has an entry `{}` too",
                    entry.id
                ))
                .hint("set `id` to tell them apart"));
            }
        }
        let text = |(written, place): &(String, PathBuf)| {
            place.to_str().map(|place| (written.clone(), place.to_owned())).ok_or_else(|| {
                Error::usage(format_args!("`{}` is no text, and is not known after the command", Shown::path(place)))
            })
        };
        places.iter().map(text).collect()
    }

    /// What post-command is to know of it, and nothing of entries yet.
    fn state(&self) -> Result<State> {
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| {
                Error::usage(format_args!("`{}` is no text, and is not known after the command", Shown::path(path)))
                    .hint("check out into another folder")
            })
        };
        let home = self.home.as_deref().map(text).transpose()?;
        let folder_is = identity(&self.directory).ok_or_else(|| Error::failed("the current folder is gone"))?;
        Ok(State { folder: text(&self.directory)?, folder_is, home, ..State::default() })
    }

    /// The paths of an entry, and where they are. Class `Usage` where `~` is nowhere.
    fn paths(&self, entry: &PluginCache) -> Result<Vec<BundlePath>> {
        let before = |written: &String| self.before.get(written).map(PathBuf::from);
        let path = |written: &String| match written.strip_prefix("~/") {
            None => Ok(BundlePath {
                written: written.clone(),
                place: self.directory.join(written),
                name: format!("work/{written}"),
                of_home: false,
                before: before(written),
            }),
            Some(rest) => {
                let home = self.home.as_deref().filter(|home| home.is_absolute() && *home != Path::new("/"));
                let home = home.ok_or_else(|| {
                    Error::usage(format_args!("`{written}` is below `~`, and HOME names no folder"))
                        .hint("set HOME for the agent, or keep other paths")
                })?;
                Ok(BundlePath {
                    written: written.clone(),
                    place: home.join(rest),
                    name: format!("home/{rest}"),
                    of_home: true,
                    before: before(written),
                })
            }
        };
        entry.paths.iter().map(path).collect()
    }
}
