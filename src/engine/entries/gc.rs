//! What goes from cache and store, and why the rest stays: decided first, told, then done, each entry looked at once more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::inodes::Inodes;
use super::leftovers::{leftovers, lost_facts};
use super::survey::{Entry, Survey, survey};
use super::texts::Texts;
use crate::cancel::Cancel;
use crate::entry::{Home, HomeKind, Readers, Removal, peek, remove, seconds, usage};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::text::Count;

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
    /// Nothing more is begun after so long.
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
    /// Bytes that a grace of nothing would free beside, at least: what is shared with what goes anyway is not counted, nor are
    /// texts.
    pub by_grace: u64,
    /// Leftovers of crashes, old damaged entries and lost texts that went.
    pub leftovers: u64,
    /// Entries that a later version wrote.
    pub newer: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What ended it early, or kept entries from going. All that is told here happened all the same.
    pub trouble: Option<Error>,
}

/// One gc: of what, how, and when to stop.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) home: &'a Home,
    pub(super) request: &'a GcRequest,
    pub(super) found: &'a Survey,
    cancel: &'a Cancel,
    until: Option<Instant>,
}

impl Round<'_> {
    /// Whether it is interrupted, or out of time.
    pub(super) fn is_over(&self) -> bool {
        self.cancel.check().is_err() || self.is_late()
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() > until)
    }
}

/// Cleans up a cache or store. `references` is asked for what keeps entries of a store; once more before each one goes.
/// Blocks; waits for nobody who reads or writes. After an error nothing was removed; what comes in the way later is in
/// [`Collected::trouble`].
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
    let after = |halves: u32| request.within.and_then(|within| started.checked_add(within / 2 * halves));
    let round = Round { home, request, found: &found, cancel, until: after(2) };
    // Looking for leftovers may take all the time there is: entries have their half of it.
    let mut inodes = leftovers(&Round { until: after(1), ..round }, &plan, &mut done);
    go(&round, plan, references, &mut done, &mut inodes);
    lost_facts(&round, &mut done, &mut inodes);
    done.trouble = done.trouble.or_else(|| cancel.check().err());
    (done.freed, done.unshared) = (inodes.freed(), inodes.unshared());
    if !request.dry_run {
        usage::count(home, usage::Event::Gc, done.freed);
        usage::compact(home);
    }
    Ok(done)
}

/// Removes the entries of a plan, or only counts them. One that cannot go keeps no other back.
fn go(
    round: &Round<'_>,
    plan: Vec<(&Entry, String)>,
    references: &dyn Fn(&Survey) -> Result<References>,
    done: &mut Collected,
    inodes: &mut Inodes,
) {
    let home = round.home;
    let (mut ended, mut failed, mut first) = (None, 0, None);
    for (entry, why) in plan {
        ended = ended.or_else(|| round.cancel.check().err());
        if ended.is_some() {
            keep(done, entry.name, "left when gc ended");
            continue;
        }
        if round.is_late() {
            keep(done, entry.name, "left for the next time");
            continue;
        }
        let mut its = Inodes::default();
        let mut removed = || {
            // Before its files go.
            its.add_readable(&home.metadata(&entry.name))?;
            its.add_readable(&home.folder(&entry.name))?;
            if round.request.dry_run {
                return Ok(Removal::Removed);
            }
            let still = || still_goes(home, entry, round.found, references);
            remove(home, &entry.name, Readers::Spare, still, round.cancel)
        };
        match removed() {
            Ok(Removal::Removed) => inodes.merge(its),
            Ok(Removal::Left(error)) => done.warnings.push(format!("something of an entry stays: {}", error.chain())),
            Ok(Removal::InUse) => {
                keep(done, entry.name, "in use");
                continue;
            }
            Ok(Removal::Kept) => {
                keep(done, entry.name, "used meanwhile");
                continue;
            }
            Ok(Removal::Gone) => continue,
            // These are about no entry: what keeps the others is not known either.
            Err(error) if matches!(error.class(), Class::Interrupted { .. } | Class::Workspace) => {
                keep(done, entry.name, "left when gc ended");
                ended = Some(error);
                continue;
            }
            Err(error) => {
                keep(done, entry.name, "could not be removed");
                failed += 1;
                first.get_or_insert(error);
                continue;
            }
        }
        let component = entry.record.inputs.component().to_string();
        done.gone.push(Gone { name: entry.name, component, why });
    }
    let stuck = first.map(|error| error.context(format_args!("{} could not be removed", Count(failed, "entry"))));
    done.trouble = match (ended, stuck) {
        (Some(ended), stuck) => {
            done.warnings.extend(stuck.map(|error| error.chain()));
            Some(ended)
        }
        (None, stuck) => stuck,
    };
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
        inodes.add_readable(&home.metadata(&entry.name))?;
        inodes.add_readable(&home.folder(&entry.name))?;
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
