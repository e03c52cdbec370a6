//! What crashes left in a cache or store, and texts that nobody speaks of any more. What cannot be removed is told, and keeps
//! nothing else back.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gc::{Collected, GcRequest, Round};
use super::inodes::Inodes;
use super::mounts::mount_in;
use super::survey::Entry;
use super::target::{ASIDE, NOTE, clear, is_lost, read_note, remove_old};
use super::texts::Texts;
use crate::entry::{Home, HomeKind, is_locked, is_random_name, plain, profiles, remove_orphan, remove_strays};
use crate::error::{Error, IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// How long damaged entries are kept.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Removes leftovers, or only counts them. Returns their files, each read before it goes, as an entry's are.
pub(super) fn leftovers(round: &Round<'_>, plan: &[(&Entry, String)], done: &mut Collected) -> Inodes {
    let Round { home, request, found, .. } = *round;
    let mut inodes = Inodes::default();
    for path in listed(staged(home), done).into_iter().take_while(|_| !round.is_over()) {
        tell(staging(&path, request), done, &mut inodes);
    }
    for path in listed(quarantined(home, request), done).into_iter().take_while(|_| !round.is_over()) {
        tell(leftover(&path, request), done, &mut inodes);
    }
    if home.kind() == HomeKind::Cache {
        let going: BTreeSet<Hash> = plan.iter().map(|(entry, _)| entry.name).collect();
        for entry in found.entries.iter().take_while(|_| !round.is_over()) {
            let mut gone = strays(home, entry, request);
            // In a dry run they are met again with an entry that goes.
            if let (Ok(gone), true) = (&mut gone, request.dry_run && going.contains(&entry.name)) {
                gone.1 = Inodes::default();
            }
            tell(gone, done, &mut inodes);
        }
    }
    for name in found.orphans.iter().take_while(|_| !round.is_over()) {
        let gone = removed(&home.folder(name), request, || remove_orphan(home, name));
        tell(gone, done, &mut inodes);
    }
    if home.kind() == HomeKind::Store {
        for path in listed(profiles::leftovers(home), done).into_iter().take_while(|_| !round.is_over()) {
            let gone = removed(&path, request, || profiles::remove_leftover(home, &path));
            tell(gone, done, &mut inodes);
        }
    }
    inodes
}

/// How many leftovers went, and their files.
type Went = (u64, Inodes);

fn tell(went: Result<Went>, done: &mut Collected, inodes: &mut Inodes) {
    match went {
        Ok((many, its)) => {
            done.leftovers += many;
            inodes.merge(its);
        }
        Err(error) => stays(&error, done),
    }
}

fn listed(paths: Result<Vec<PathBuf>>, done: &mut Collected) -> Vec<PathBuf> {
    paths.unwrap_or_else(|error| {
        stays(&error, done);
        Vec::new()
    })
}

fn stays(error: &Error, done: &mut Collected) {
    done.warnings.push(format!("a leftover stays: {}", error.chain()));
}

/// What is named as we name it, in a folder that lies here itself.
fn ours(folder: &Path, is_ours: fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    if !fs::symlink_metadata(folder).is_ok_and(|status| status.is_dir()) {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let entries = entries.or_fail(|| format!("cannot read `{}`", Shown::path(folder)))?;
    let named = |entry: &&fs::DirEntry| entry.file_name().to_str().is_some_and(is_ours);
    Ok(entries.iter().filter(named).map(fs::DirEntry::path).collect())
}

fn staged(home: &Home) -> Result<Vec<PathBuf>> {
    ours(&home.tmp(), is_random_name)
}

/// Damaged entries that were kept long enough.
fn quarantined(home: &Home, request: &GcRequest) -> Result<Vec<PathBuf>> {
    let aside = |name: &str| {
        name.split_once('-').is_some_and(|(hash, random)| Hash::parse(hash).is_some() && is_random_name(random))
    };
    let old = |path: &PathBuf| {
        let modified = fs::symlink_metadata(path).and_then(|status| status.modified()).ok();
        modified.and_then(|time| request.now.duration_since(time).ok()).is_some_and(|age| age > QUARANTINE)
    };
    Ok(ours(&home.quarantine(), aside)?.into_iter().filter(old).collect())
}

/// Staging that is nobody's.
fn staging(path: &Path, request: &GcRequest) -> Result<Went> {
    let held = match plain::options().read(true).open(path) {
        Ok(held) => Some(held),
        // A link is nobody's staging.
        Err(_) if fs::symlink_metadata(path).is_ok_and(|status| !status.is_dir()) => None,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((0, Inodes::default())),
        Err(error) => return Err(error).or_fail(|| format!("cannot open `{}`", Shown::path(path))),
    };
    if held.as_ref().is_some_and(is_locked) {
        return Ok((0, Inodes::default()));
    }
    let mut inodes = Inodes::default();
    // Where an artifact was being made ready when its process was killed, or what it replaced could not be removed.
    if let Some((beside, target)) = plain::read(&path.join(NOTE)).ok().and_then(read_note) {
        inodes = clear_noted(&beside, target.as_deref(), request.dry_run).map_err(|why| {
            Error::failed(format_args!("cannot remove `{}`, which a restore left: {why}", Shown::path(&beside)))
        })?;
    }
    let (many, its) = leftover(path, request)?;
    inodes.merge(its);
    Ok((many, inodes))
}

fn leftover(path: &Path, request: &GcRequest) -> Result<Went> {
    removed(path, request, || match remove_old(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).or_fail(|| format!("cannot remove `{}`", Shown::path(path)))
        }
        _ => Ok(true),
    })
}

/// Removes one leftover, unless this is a dry run.
fn removed(path: &Path, request: &GcRequest, remove: impl FnOnce() -> Result<bool>) -> Result<Went> {
    let mut its = Inodes::default();
    its.add_readable(path)?;
    let gone = request.dry_run || remove()?;
    Ok(if gone { (1, its) } else { (0, Inodes::default()) })
}

/// What lies beside an entry's payload.
fn strays(home: &Home, entry: &Entry, request: &GcRequest) -> Result<Went> {
    let mut its = Inodes::default();
    let own = entry.record.payload.as_ref().map(|payload| payload.file());
    for file in fs::read_dir(home.folder(&entry.name)).into_iter().flatten().flatten() {
        if own.as_ref().is_some_and(|own| file.file_name() != **own) {
            its.add_readable(&file.path())?;
        }
    }
    let many = remove_strays(home, &entry.name, request.dry_run)?;
    Ok((many, if many > 0 { its } else { Inodes::default() }))
}

/// Removes a folder beside a target, or only looks at it. Returns what goes with it, or why it stays.
fn clear_noted(beside: &Path, target: Option<&Path>, dry_run: bool) -> std::result::Result<Inodes, String> {
    let mut its = Inodes::default();
    // A note is only a text: it leads to nothing but a folder of ours, at a place that is no link.
    let is_folder = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir);
    let Some(status) = beside.parent().and_then(is_folder).and_then(|_| is_folder(beside)) else { return Ok(its) };
    if status.uid() != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user".to_owned());
    }
    let real = beside.canonicalize().map_err(|error| error.to_string())?;
    if let Some(mount) = mount_in(&real).map_err(|error| error.to_string())? {
        return Err(format!("`{}` is mounted there", Shown::path(&mount)));
    }
    // What moves back takes no space away.
    let moves_back = target.is_some_and(|target| is_lost(beside, target));
    its.add_only(beside).map_err(|error| error.chain())?;
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        if !(moves_back && entry.file_name() == ASIDE) {
            its.add_readable(&entry.path()).map_err(|error| error.chain())?;
        }
    }
    if !dry_run {
        clear(beside, target).map_err(|error| error.to_string())?;
    }
    Ok(its)
}

/// Removes texts that no remaining entry speaks of, directly or through its dependencies.
pub(super) fn lost_facts(round: &Round<'_>, done: &mut Collected, inodes: &mut Inodes) {
    let Round { home, request, found, .. } = *round;
    if round.is_over() {
        return;
    }
    let mut texts = match Texts::of(home, request, &found.entries) {
        Ok(texts) => texts,
        Err(error) => return done.warnings.push(format!("texts for explanations stay: {}", error.chain())),
    };
    for gone in &done.gone {
        texts.forget(&gone.name);
    }
    for path in texts.lost().take_while(|_| !round.is_over()) {
        match removed(path, request, || fs::remove_file(path).map(|()| true).or_fail(|| Shown::path(path))) {
            Ok(went) => tell(Ok(went), done, inodes),
            // Losable, all alike, and perhaps many: said once.
            Err(error) => return done.warnings.push(format!("texts for explanations stay: {}", error.chain())),
        }
    }
}
