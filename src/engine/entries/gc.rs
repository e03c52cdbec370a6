//! What goes from cache and store, and why the rest stays: decided first, told, then done, each entry looked at once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::survey::{Entry, Inodes, Survey, survey};
use super::target::{ASIDE, NOTE, clear, is_lost, mount_in, read_note, remove_old};
use super::texts::Texts;
use crate::cancel::Cancel;
use crate::entry::{
    Home, HomeKind, Readers, Removal, is_locked, is_random_name, peek, plain, profiles, remove, remove_orphan,
    remove_strays, seconds, usage,
};
use crate::error::{IoContext, Result};
use crate::hash::Hash;
use crate::text::Shown;

/// How long damaged entries are kept.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a grace of nothing would free is not counted beyond so many files: it is only told, and takes time.
const MOST_COUNTED: u64 = 500_000;

/// What is to be cleaned up, and how.
#[derive(Debug, Clone)]
pub struct GcRequest {
    /// What is younger than this stays.
    pub grace: Duration,
    /// Cache: what was used last before so long goes.
    pub max_age: Option<Duration>,
    /// Cache: what was used longest ago goes until no more is left than this.
    pub max_size: Option<u64>,
    /// Whether nothing is removed.
    pub dry_run: bool,
    /// No entry is removed after so long.
    pub within: Option<Duration>,
    /// Now.
    pub now: SystemTime,
}

/// Entries of a store that something refers to, and what that is: `pins`, `profiles`, `lock files`, …
pub type References = BTreeMap<Hash, &'static str>;

/// An entry that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// What it is filed under.
    pub name: Hash,
    /// Its component.
    pub component: String,
    /// Why it goes.
    pub why: String,
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub struct Collected {
    /// Entries that go, in their order.
    pub gone: Vec<Gone>,
    /// How many entries there were.
    pub entries: u64,
    /// How many stay, by reason.
    pub kept: BTreeMap<&'static str, u64>,
    /// Every entry that stays, and why.
    pub kept_entries: Vec<(Hash, &'static str)>,
    /// Bytes on disk that came free.
    pub freed: u64,
    /// Bytes on disk of what went, were nothing shared.
    pub unshared: u64,
    /// Bytes that a grace of nothing would free beside.
    pub by_grace: u64,
    /// Leftovers of crashes, old damaged entries and lost texts that went.
    pub leftovers: u64,
    /// Entries that a later version wrote.
    pub newer: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Cleans up a cache or store. `references` is asked for what keeps entries of a store; once more before each one goes.
/// Blocks; waits for nobody who reads or writes.
pub fn collect(
    home: &Home,
    request: &GcRequest,
    references: &dyn Fn(&Survey) -> Result<References>,
    cancel: &Cancel,
) -> Result<Collected> {
    let mut done = Collected::default();
    if !home.exists()? {
        return Ok(done);
    }
    let found = survey(home)?;
    let kept = references(&found)?;
    let plan = decide(home, request, &found, &kept, &mut done)?;
    let started = Instant::now();
    let mut inodes = leftovers(home, request, &found, &plan, &mut done)?;
    if home.kind() == HomeKind::Store {
        done.leftovers += profiles::remove_leftovers(home, request.dry_run, cancel)?;
    }
    let mut gone = Vec::new();
    for (entry, why) in plan {
        cancel.check()?;
        if request.within.is_some_and(|within| started.elapsed() > within) {
            keep(&mut done, entry.name, "left for the next time");
            continue;
        }
        // Before its files go.
        let mut its = Inodes::default();
        its.add(&home.metadata(&entry.name))?;
        its.add(&home.folder(&entry.name))?;
        if !request.dry_run {
            let still = || still_goes(home, entry, &found, references);
            match remove(home, &entry.name, Readers::Spare, still, cancel)? {
                Removal::Removed => {}
                Removal::InUse => {
                    keep(&mut done, entry.name, "in use");
                    continue;
                }
                Removal::Kept => {
                    keep(&mut done, entry.name, "used meanwhile");
                    continue;
                }
                Removal::Gone => continue,
            }
        }
        inodes.merge(its);
        let component = entry.record.inputs.component().to_string();
        gone.push(Gone { name: entry.name, component, why });
    }
    let removed: BTreeSet<Hash> = gone.iter().map(|gone| gone.name).collect();
    done.leftovers += lost_facts(home, request, &found, &removed, &mut inodes)?;
    (done.freed, done.unshared) = (inodes.freed(), inodes.unshared());
    done.gone = gone;
    if !request.dry_run {
        usage::count(home, usage::Event::Gc, done.freed);
        usage::compact(home);
    }
    Ok(done)
}

fn keep(done: &mut Collected, name: Hash, why: &'static str) {
    *done.kept.entry(why).or_default() += 1;
    done.kept_entries.push((name, why));
}

/// Which entries go, in which order, and why.
fn decide<'a>(
    home: &Home,
    request: &GcRequest,
    found: &'a Survey,
    references: &References,
    done: &mut Collected,
) -> Result<Vec<(&'a Entry, String)>> {
    let now = seconds(request.now);
    let age = |entry: &Entry| Duration::from_secs(now.saturating_sub(entry.used));
    done.entries = (found.entries.len() + found.damaged.len() + found.newer.len()) as u64;
    done.newer = found.newer.len() as u64;
    for name in &found.newer {
        keep(done, *name, "of a later version");
    }
    for name in &found.damaged {
        keep(done, *name, "damaged (see verify)");
    }
    let turned_back = clock_turned_back(home, now);
    if turned_back {
        done.warnings.push("the clock is more than a day behind the last gc: nothing goes for its age".to_owned());
    }
    let mut plan = Vec::new();
    let mut left = Vec::new();
    let mut young = Vec::new();
    for entry in &found.entries {
        let old = request.max_age.is_some_and(|most| age(entry) > most);
        if let Some(why) = references.get(&entry.name) {
            keep(done, entry.name, why);
        } else if age(entry) < request.grace || request.grace > Duration::ZERO && turned_back {
            if home.kind() == HomeKind::Store {
                young.push(entry);
            }
            keep(done, entry.name, "grace");
        } else if home.kind() == HomeKind::Store {
            plan.push((entry, "nothing refers to it".to_owned()));
        } else if old && !turned_back {
            plan.push((entry, format!("not used for {}", days(age(entry)))));
        } else {
            left.push(entry);
        }
    }
    // Used longest ago first; ties by name.
    plan.sort_by_key(|(entry, _)| (entry.used.min(now), entry.name));
    left.sort_by_key(|entry| (entry.used.min(now), entry.name));
    if let Some(most) = request.max_size {
        let mut texts = Texts::of(home, request, &found.entries)?;
        let mut disk = texts.disk() + found.entries.iter().map(|entry| entry.disk).sum::<u64>();
        for (entry, _) in &plan {
            disk -= entry.disk + texts.forget(&entry.name);
        }
        let mut over = left.into_iter();
        left = Vec::new();
        for entry in over.by_ref() {
            if disk <= most {
                left.push(entry);
                break;
            }
            disk -= entry.disk + texts.forget(&entry.name);
            plan.push((entry, "the cache was larger than --max-size".to_owned()));
        }
        left.extend(over);
    }
    for entry in left {
        keep(done, entry.name, "used lately");
    }
    let mut inodes = Inodes::default();
    if young.iter().map(|entry| entry.record.output.files).sum::<u64>() > MOST_COUNTED {
        young.clear();
    }
    for entry in young {
        inodes.add(&home.metadata(&entry.name))?;
        inodes.add(&home.folder(&entry.name))?;
    }
    done.by_grace = inodes.freed();
    Ok(plan)
}

/// A last look, under the lock: whether it was used or referred to meanwhile.
fn still_goes(
    home: &Home,
    entry: &Entry,
    found: &Survey,
    references: &dyn Fn(&Survey) -> Result<References>,
) -> Result<bool> {
    let used = peek(home, &entry.name)?.map(|peeked| peeked.used);
    if used != Some(entry.used) {
        return Ok(false);
    }
    Ok(home.kind() == HomeKind::Cache || !references(found)?.contains_key(&entry.name))
}

fn days(age: Duration) -> String {
    match age.as_secs() / 86_400 {
        0 => format!("{} h", age.as_secs() / 3600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn clock_turned_back(home: &Home, now: u64) -> bool {
    usage::read(home).last_gc.is_some_and(|(at, _)| at > now + 86_400)
}

/// What lies in `tmp` and is nobody's, old damaged entries, folders without metadata.
fn leftover_paths(home: &Home, request: &GcRequest) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    // Only what is named as we name it, and only in folders that lie here themselves.
    let list = |folder: &Path, ours: fn(&str) -> bool| -> Result<Vec<PathBuf>> {
        if !fs::symlink_metadata(folder).is_ok_and(|status| status.is_dir()) {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
        let entries = entries.or_fail(|| format!("cannot read `{}`", Shown::path(folder)))?;
        Ok(entries
            .iter()
            .filter(|entry| entry.file_name().to_str().is_some_and(ours))
            .map(fs::DirEntry::path)
            .collect())
    };
    let staged = list(&home.tmp(), is_random_name)?;
    let aside = |name: &str| {
        name.split_once('-').is_some_and(|(hash, random)| Hash::parse(hash).is_some() && is_random_name(random))
    };
    let old = |path: &PathBuf| {
        let modified = fs::symlink_metadata(path).and_then(|status| status.modified()).ok();
        modified.and_then(|time| request.now.duration_since(time).ok()).is_some_and(|age| age > QUARANTINE)
    };
    let quarantine = list(&home.quarantine(), aside)?.into_iter().filter(old).collect();
    Ok((staged, quarantine))
}

/// Removes leftovers, or only counts them. Returns their files, each read before it goes, as an entry's are.
fn leftovers(
    home: &Home,
    request: &GcRequest,
    found: &Survey,
    plan: &[(&Entry, String)],
    done: &mut Collected,
) -> Result<Inodes> {
    let (staged, quarantine) = leftover_paths(home, request)?;
    let mut inodes = Inodes::default();
    for path in staged {
        let held = match plain::options().read(true).open(&path) {
            Ok(held) => Some(held),
            // A link is nobody's staging.
            Err(_) if fs::symlink_metadata(&path).is_ok_and(|status| !status.is_dir()) => None,
            Err(_) => continue,
        };
        if held.as_ref().is_some_and(is_locked) {
            continue;
        }
        // Where an artifact was being made ready when its process was killed, or what it replaced could not be removed.
        if let Some((beside, target)) = plain::read(&path.join(NOTE)).ok().and_then(read_note) {
            match clear_noted(&beside, target.as_deref(), request.dry_run) {
                Ok(its) => inodes.merge(its),
                Err(why) => {
                    done.warnings.push(format!("`{}` stays, which a restore left: {why}", Shown::path(&beside)));
                    continue;
                }
            }
        }
        leftover(&path, request, &mut inodes)?;
        done.leftovers += 1;
    }
    for path in quarantine {
        leftover(&path, request, &mut inodes)?;
        done.leftovers += 1;
    }
    if home.kind() == HomeKind::Cache {
        let going: BTreeSet<Hash> = plan.iter().map(|(entry, _)| entry.name).collect();
        for entry in &found.entries {
            let mut its = Inodes::default();
            stray_files(home, entry, &mut its)?;
            match remove_strays(home, &entry.name, request.dry_run)? {
                0 => {}
                strays => {
                    // In a dry run they are met again with an entry that goes.
                    if !(request.dry_run && going.contains(&entry.name)) {
                        inodes.merge(its);
                    }
                    done.leftovers += strays;
                }
            }
        }
    }
    for name in &found.orphans {
        let mut its = Inodes::default();
        its.add(&home.folder(name))?;
        if request.dry_run || remove_orphan(home, name)? {
            inodes.merge(its);
            done.leftovers += 1;
        }
    }
    Ok(inodes)
}

fn leftover(path: &Path, request: &GcRequest, inodes: &mut Inodes) -> Result<()> {
    let mut its = Inodes::default();
    its.add(path)?;
    if !request.dry_run {
        remove_old(path).or_fail(|| format!("cannot remove `{}`", Shown::path(path)))?;
    }
    inodes.merge(its);
    Ok(())
}

/// What lies beside an entry's payload.
fn stray_files(home: &Home, entry: &Entry, inodes: &mut Inodes) -> Result<()> {
    let Some(own) = entry.record.payload.as_ref().map(|payload| payload.file()) else { return Ok(()) };
    for file in fs::read_dir(home.folder(&entry.name)).into_iter().flatten().flatten() {
        if file.file_name() != *own {
            inodes.add(&file.path())?;
        }
    }
    Ok(())
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
    its.add_only(beside);
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        if !(moves_back && entry.file_name() == ASIDE) {
            its.add(&entry.path()).map_err(|error| error.chain())?;
        }
    }
    if !dry_run {
        clear(beside, target).map_err(|error| error.to_string())?;
    }
    Ok(its)
}

/// Removes texts that no remaining entry speaks of, directly or through its dependencies. Returns how many.
fn lost_facts(
    home: &Home,
    request: &GcRequest,
    found: &Survey,
    removed: &BTreeSet<Hash>,
    inodes: &mut Inodes,
) -> Result<u64> {
    let mut texts = Texts::of(home, request, &found.entries)?;
    for name in removed {
        texts.forget(name);
    }
    let mut gone = 0;
    for path in texts.lost() {
        let mut its = Inodes::default();
        its.add(path)?;
        if request.dry_run || fs::remove_file(path).is_ok() {
            inodes.merge(its);
            gone += 1;
        }
    }
    Ok(gone)
}
