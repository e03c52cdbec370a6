//! Profiles: named sets of artifacts, switched in one step and back again.
//!
//! ```text
//! profiles/<name>/gen-<n>/<component>   a link to ../../../ab/<address>, or to the file in it
//! profiles/<name>/gen-<n>.json          what it is made of; written last, makes it a generation
//! profiles/<name>/current               a link to gen-<n>, replaced by a rename
//! ```
//! Every artifact of every generation is kept.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::home::list;
use super::lock::{Hold, LOCK_WAIT, is_at, try_lock, wait_lock};
use super::pins::check_name;
use super::record::now_text;
use super::remove::clear_away;
use super::staging::{random_name, sync_dir, sync_file};
use super::{Home, RootKind, Staging, open, plain};
use crate::cancel::Cancel;
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, escape};
use crate::key::{ComponentName, is_name};
use crate::text::Shown;

const SCHEMA: &str = "meta.generation/1";

/// Judges the name of a profile. `current` is what a link in it is called.
fn check_profile(name: &str) -> Result<()> {
    if name == "current" {
        return Err(Error::usage("no profile is called `current`").hint("use another name"));
    }
    check_name("profile", name)
}

/// One generation of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number, from 1.
    pub number: u64,
    /// When it was made.
    pub created_at: String,
    /// The digest of the lock file that it was made from, if it was.
    pub lock: Option<Hash>,
    /// The generation that was current when it was made, which going back leads to; 0 for none.
    pub before: u64,
    /// Its artifacts, by component.
    pub artifacts: Vec<(ComponentName, Hash)>,
}

fn folder(store: &Home, name: &str) -> PathBuf {
    store.root().join("profiles").join(name)
}

fn directory(number: u64) -> String {
    format!("gen-{number}")
}

/// The number of the generation that a folder holds.
fn generation_number(name: &str) -> Option<u64> {
    name.strip_prefix("gen-")?.parse().ok()
}

/// All addresses in all generations of all profiles. One that cannot be read is an error of class `Damaged`.
pub fn addresses(store: &Home) -> Result<Vec<Hash>> {
    let mut found = Vec::new();
    let profiles = store.root().join("profiles");
    plain::check_folder(&profiles)?;
    // Other names are none of ours: what editors and file systems leave.
    for name in list(&profiles)?.into_iter().filter(|name| is_name(name, 64)) {
        // Asked first: a generation's document is there before it becomes the current one.
        let current = current_link(store, &name)?;
        let generations = generations(store, &name)?;
        let is_known = |number: Option<u64>| generations.iter().any(|known| Some(known.number) == number);
        if current.is_some_and(|number| !is_known(number)) {
            return Err(Error::damaged(format_args!(
                "`current` of the profile `{name}` leads to a generation that has no document, or to none"
            ))
            .hint(format_args!(
                "put the document back into `{}`, or switch the profile to what it is to hold",
                Shown::path(&folder(store, &name))
            )));
        }
        for generation in generations {
            found.extend(generation.artifacts.into_iter().map(|(_, hash)| hash));
        }
    }
    Ok(found)
}

/// The generations of a profile, oldest first; none when there is no such profile.
pub fn generations(store: &Home, name: &str) -> Result<Vec<Generation>> {
    check_profile(name)?;
    let folder = folder(store, name);
    let mut found = Vec::new();
    plain::check_folder(&folder)?;
    for file in list(&folder)? {
        let number = file.strip_prefix("gen-").and_then(|rest| rest.strip_suffix(".json"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push(read(&folder.join(&file), number)?);
        }
    }
    found.sort_by_key(|generation| generation.number);
    Ok(found)
}

fn read(path: &Path, number: u64) -> Result<Generation> {
    let damaged = || {
        Error::damaged(format_args!("`{}` cannot be read as a generation", Shown::path(path)))
            .hint("mend it, or remove it together with its folder")
    };
    let text = plain::read(path).map_err(|error| damaged().caused_by(error))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| damaged().caused_by(error))?;
    let fields = || {
        if value.get("schema")?.as_str()? != SCHEMA {
            return None;
        }
        let lock = match value.get("lock")? {
            Value::Null => None,
            lock => Some(Hash::parse(lock.as_str()?)?),
        };
        let before = match value.get("before") {
            Some(Value::Null) => 0,
            Some(before) => before.as_u64().filter(|before| *before < number)?,
            // An earlier version did not write it.
            None => number.saturating_sub(1),
        };
        let artifact = |value: &Value| {
            let name = ComponentName::new(value.get("component")?.as_str()?).ok()?;
            Some((name, Hash::parse(value.get("hash")?.as_str()?)?))
        };
        let artifacts = value.get("artifacts")?.as_array()?.iter().map(artifact).collect::<Option<_>>()?;
        let created_at = value.get("created_at")?.as_str()?.to_owned();
        Some(Generation { number, created_at, lock, before, artifacts })
    };
    fields().ok_or_else(damaged)
}

/// The number of the current generation.
pub fn current(store: &Home, name: &str) -> Result<Option<u64>> {
    Ok(current_link(store, name)?.flatten())
}

/// The same, and within it `None` when the link leads to what is no generation's folder.
fn current_link(store: &Home, name: &str) -> Result<Option<Option<u64>>> {
    check_profile(name)?;
    match fs::read_link(folder(store, name).join("current")) {
        Ok(link) => Ok(Some(link.to_str().and_then(generation_number))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotADirectory) => {
            Err(Error::damaged(format_args!("`current` of the profile `{name}` is no link"))
                .hint("remove it, and switch the profile again"))
        }
        Err(error) => Err(error).or_fail(|| format!("cannot read which generation of `{name}` is current")),
    }
}

/// Makes artifacts a new generation, and that the current one. Nothing changes unless all of them are there and whole, as
/// far as a look tells: class `NotThere` names those that are missing. Returns its number.
pub fn switch(store: &Home, name: &str, hashes: &[Hash], lock: Option<Hash>, cancel: &Cancel) -> Result<Generation> {
    check_profile(name)?;
    // Held until the generation is durable: gc leaves alone what is being read.
    let mut held_entries = Vec::new();
    let (mut artifacts, mut missing, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for hash in hashes {
        let Some(opened) = open(store, hash)? else {
            missing.push(hash.to_string());
            continue;
        };
        let component = opened.record.inputs.component().clone();
        if artifacts.iter().any(|(known, _)| *known == component) {
            return Err(Error::usage(format_args!("two of the artifacts are of the component `{component}`"))
                .hint("name one of each"));
        }
        let mut to = format!("../../../{}/{hash}", hash.shard()).into_bytes();
        if opened.record.output.root == RootKind::File {
            to.push(b'/');
            to.extend(escape::unescape(opened.record.output.name.as_bytes())?);
        }
        links.push((component.clone(), to));
        artifacts.push((component, *hash));
        held_entries.push(opened);
    }
    if !missing.is_empty() {
        return Err(Error::new(Class::NotThere, format_args!("not in the store: {}", missing.join(", ")))
            .hint("add them, or get them from the remote; the profile stays as it is"));
    }
    let held = hold(store, name, cancel)?;
    let folder = folder(store, name);
    let number = next_number(&folder)?;
    let doing = || format!("cannot make generation {number} of `{name}`");
    let staging = Staging::new(store)?;
    let ready = staging.join("generation");
    fs::create_dir(&ready).or_fail(doing)?;
    for (component, to) in links {
        let to = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&to);
        symlink(to, ready.join(component.as_str())).or_fail(doing)?;
    }
    sync_dir(&ready)?;
    // What is no link of ours leads nowhere, and is about to be replaced.
    let before = current(store, name).ok().flatten().filter(|before| *before < number).unwrap_or(0);
    let generation = Generation { number, created_at: now_text(), lock, before, artifacts };
    let place = folder.join(directory(number));
    if fs::symlink_metadata(&place).is_ok() {
        // What a crash left: nothing names it.
        fs::rename(&place, staging.join(&random_name())).or_fail(doing)?;
    }
    fs::rename(&ready, &place).or_fail(doing)?;
    sync_dir(&folder)?;
    let document = staging.join("generation.json");
    let mut file = File::create(&document).or_fail(doing)?;
    file.write_all(format!("{:#}\n", generation.document()).as_bytes()).or_fail(doing)?;
    sync_file(&file)?;
    fs::rename(&document, folder.join(format!("{}.json", directory(number)))).or_fail(doing)?;
    sync_dir(&folder)?;
    make_current(&folder, number, &staging)?;
    drop((held, held_entries));
    Ok(generation)
}

/// Makes an earlier generation the current one: that with this number, or the one that was current before.
pub fn switch_back(store: &Home, name: &str, to: Option<u64>, cancel: &Cancel) -> Result<Generation> {
    let held = hold(store, name, cancel)?;
    let known = generations(store, name)?;
    let now = current(store, name)?;
    let wanted = match to {
        Some(number) => known
            .into_iter()
            .find(|generation| generation.number == number)
            .ok_or_else(|| Error::new(Class::NotThere, format_args!("profile `{name}` has no generation {number}"))),
        None => {
            // The one before may have been removed by hand, and the current one as well. None is known where no link told which
            // was current: then it is the one with the next lower number.
            let of = now.and_then(|now| Some(known.iter().find(|known| known.number == now)?.before));
            let most = of.filter(|before| *before > 0).or_else(|| now?.checked_sub(1)).unwrap_or(0);
            known.into_iter().rfind(|generation| generation.number <= most).ok_or_else(|| {
                Error::new(Class::NotThere, format_args!("profile `{name}` has no generation before the current one"))
            })
        }
    };
    let wanted = wanted.map_err(|error| error.hint(format_args!("see `monofo store generations {name}`")))?;
    // Held until the link is durable: gc leaves alone what is being read.
    let (mut held_entries, mut missing) = (Vec::new(), Vec::new());
    for (_, hash) in &wanted.artifacts {
        match open(store, hash)? {
            Some(opened) => held_entries.push(opened),
            None => missing.push(hash.to_string()),
        }
    }
    if !missing.is_empty() {
        return Err(Error::new(Class::NotThere, format_args!("not in the store: {}", missing.join(", ")))
            .hint("get them from the remote; the profile stays as it is"));
    }
    let place = folder(store, name).join(directory(wanted.number));
    if !leads_to_all(store, name, &wanted) {
        return Err(Error::damaged(format_args!("`{}` is not what its generation says", Shown::path(&place)))
            .hint("the profile stays as it is: switch it to the artifacts themselves, or to another generation"));
    }
    make_current(&folder(store, name), wanted.number, &Staging::new(store)?)?;
    drop((held, held_entries));
    Ok(wanted)
}

/// Whether a generation's folder is there and leads to each of its artifacts.
pub fn leads_to_all(store: &Home, name: &str, generation: &Generation) -> bool {
    let place = folder(store, name).join(directory(generation.number));
    let leads_there = |(component, _): &(ComponentName, Hash)| place.join(component.as_str()).exists();
    fs::symlink_metadata(&place).is_ok_and(|status| status.is_dir()) && generation.artifacts.iter().all(leads_there)
}

impl Generation {
    /// What it is made of, as JSON.
    pub fn document(&self) -> Value {
        let artifact = |(component, hash): &(ComponentName, Hash)| json!({ "component": component.as_str(), "hash": hash.to_string() });
        json!({
            "schema": SCHEMA,
            "number": self.number,
            "created_at": self.created_at,
            "lock": self.lock.map(|lock| lock.to_string()),
            "before": (self.before > 0).then_some(self.before),
            "artifacts": self.artifacts.iter().map(artifact).collect::<Vec<_>>(),
        })
    }
}

/// Folders of generations that a crash left without their document, and profiles that a switch left empty when it failed.
/// Profiles that somebody switches now are passed over.
pub fn leftovers(store: &Home) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in list(&store.root().join("profiles"))?.into_iter().filter(|name| is_name(name, 64)) {
        let folder = folder(store, &name);
        let inside: Vec<_> = list(&folder)?.iter().map(|file| folder.join(file)).collect();
        let left = match inside.as_slice() {
            [] => vec![folder.clone()],
            inside => inside.iter().filter(|path| is_left(path)).cloned().collect(),
        };
        if !left.is_empty() && try_hold(&folder)?.is_some() {
            found.extend(left);
        }
    }
    Ok(found)
}

/// Removes one of [`leftovers`]. False when somebody switches its profile now, or has.
pub fn remove_leftover(store: &Home, path: &Path) -> Result<bool> {
    let Some(folder) = path.parent() else { return Ok(false) };
    if folder == store.root().join("profiles") {
        let Some(_held) = try_hold(path)? else { return Ok(false) };
        // It goes only as long as it is empty.
        return match fs::remove_dir(path) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => Ok(false),
            gone => gone.map(|()| true).or_fail(|| format!("cannot remove `{}`", Shown::path(path))),
        };
    }
    let Some(held) = try_hold(folder)?.filter(|_| is_left(path)) else { return Ok(false) };
    clear_away(store, path, Some(held)).or_fail(|| format!("cannot remove `{}`", Shown::path(path)))?;
    Ok(true)
}

/// Whether a generation's folder has no document, as far as can be seen, and is not the current one.
fn is_left(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let is_missing = |path: &Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let is_other = match fs::read_link(path.with_file_name("current")) {
        Ok(current) => current != Path::new(name),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    generation_number(name).is_some() && is_other && is_missing(&path.with_extension("json")) && !is_missing(path)
}

/// Holds a profile that is there, unless somebody else does.
fn try_hold(folder: &Path) -> Result<Option<File>> {
    let open = plain::folder(folder).or_fail(|| format!("cannot open the profile `{}`", Shown::path(folder)))?;
    match open {
        Some(open) if try_lock(&open, Hold::Exclusive)? => Ok(Some(open)),
        _ => Ok(None),
    }
}

fn next_number(folder: &Path) -> Result<u64> {
    let number = |file: &String| generation_number(file.strip_suffix(".json")?);
    // The folder that is the current one is not moved away, even if its document is lost.
    let current = fs::read_link(folder.join("current")).ok();
    let current = current.and_then(|link| generation_number(link.to_str()?));
    Ok(list(folder)?.iter().filter_map(number).chain(current).max().unwrap_or(0).saturating_add(1))
}

fn make_current(folder: &Path, number: u64, staging: &Staging) -> Result<()> {
    let doing = || format!("cannot make generation {number} the current one");
    let link = staging.join("current");
    symlink(directory(number), &link).or_fail(doing)?;
    fs::rename(&link, folder.join("current")).or_fail(doing)?;
    sync_dir(folder)
}

/// Holds a profile against everybody who would switch it; makes it when it is missing.
fn hold(store: &Home, name: &str, cancel: &Cancel) -> Result<File> {
    check_profile(name)?;
    let folder = folder(store, name);
    let doing = || format!("cannot open the profile `{name}`");
    for _ in 0..100 {
        fs::create_dir_all(&folder).or_fail(doing)?;
        let held = match File::open(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.or_fail(doing)?,
        };
        wait_lock(&held, Hold::Exclusive, &folder, LOCK_WAIT, cancel)?;
        // gc takes an empty one away.
        if is_at(&held, &folder) {
            return Ok(held);
        }
    }
    Err(Error::failed(doing()))
}
