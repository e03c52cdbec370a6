//! What happens to components, as people read it while it happens.

use std::collections::BTreeMap;
use std::io::Seek;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::commands::Commands;
use crate::engine::apply::{Done, Event, Missed, Observer, Status};
use crate::engine::entries::share::{Shared, report_line};
use crate::entry::{HomeKind, Record};
use crate::error::Error;
use crate::hash::Hash;
use crate::key::ComponentName;
use crate::remote::{Failure, Trouble};
use crate::report::Severity;
use crate::text::{Bytes, Count, Took};

/// Names that the line of a terminal has room for.
const MOST_NAMED: usize = 3;

/// Tells it to the report.
pub(super) struct Tell<'a> {
    commands: &'a Commands<'a>,
    is_plan: bool,
    doing: Arc<Mutex<Doing>>,
    /// Whether what a build said was the last thing that was printed.
    after_passage: AtomicBool,
    /// The first failure of the remote, told once for all.
    failure: Mutex<Option<Failure>>,
    /// Whether a hint about the remote was told.
    hinted: AtomicBool,
}

/// What is under way.
struct Doing {
    building: BTreeMap<ComponentName, Instant>,
    done: usize,
    total: usize,
}

impl<'a> Tell<'a> {
    pub(super) fn new(commands: &'a Commands<'a>, is_plan: bool, total: usize, unusable: Option<&Failure>) -> Self {
        if let Some(failure) = unusable {
            tell_failure(commands, failure, true);
        }
        let doing = Doing { building: BTreeMap::new(), done: 0, total };
        Tell {
            commands,
            is_plan,
            doing: Arc::new(Mutex::new(doing)),
            after_passage: AtomicBool::new(false),
            failure: Mutex::new(None),
            hinted: AtomicBool::new(unusable.is_some()),
        }
    }

    /// The words of a line that says how far it is.
    pub(super) fn progress(&self) -> impl Fn() -> String + Send + 'static {
        let doing = Arc::clone(&self.doing);
        move || {
            let doing = lock(&doing);
            let mut words = format!("{} of {} done", doing.done, Count(doing.total as u64, "component"));
            let named: Vec<_> = doing.building.keys().take(MOST_NAMED).map(ComponentName::as_str).collect();
            if let Some(longest) = doing.building.values().map(Instant::elapsed).max() {
                let more = if doing.building.len() > MOST_NAMED { ", …" } else { "" };
                words.push_str(&format!(", building {}{more} ({})", named.join(", "), Took(longest)));
            }
            words
        }
    }

    pub(super) fn into_failure(self) -> Option<Failure> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of its own, kept out of the group of a build's output. A plan is what was asked for.
    fn say(&self, text: String) {
        if self.is_plan {
            // Whoever does not read it cannot be told either.
            let _ = self.commands.report.answer(text);
            return;
        }
        if self.after_passage.swap(false, Ordering::SeqCst) && self.commands.in_job() {
            self.commands.report.heading(false, "monofo: apply");
        }
        self.commands.report.note(text);
    }

    fn remote_failed(&self, failure: &Failure) {
        let mut first = lock(&self.failure);
        // Of a remote that is dead or closed nothing new is to be said.
        let whole = matches!(failure.trouble, Trouble::Unreachable | Trouble::Denied);
        let known = first.as_ref().is_some_and(|first| matches!(first.trouble, Trouble::Unreachable | Trouble::Denied));
        if whole && known {
            return;
        }
        tell_failure(self.commands, failure, !self.hinted.swap(true, Ordering::SeqCst));
        if first.is_none() || whole {
            let mut error = Error::new(failure.error.class(), failure.error.chain());
            if let Some(hint) = failure.error.next_step() {
                error = error.hint(hint);
            }
            *first = Some(Failure { trouble: failure.trouble, error });
        }
    }

    fn done(&self, done: &Done) {
        lock(&self.doing).done += 1;
        let (name, key) = (&done.name, done.key.as_ref().map(Hash::short).unwrap_or_default());
        let entry = |record: &Record| {
            format!(
                "{name} {key}  {}  {}",
                Count(record.output.files + record.output.links, "file"),
                Bytes(record.output.bytes)
            )
        };
        match &done.status {
            Status::Hit(tier, record) => self.say(format!("hit {}  from {}", entry(record), tier.word())),
            Status::Built(_, record) => {
                let took = Took(done.built_in.unwrap_or(done.took));
                match record {
                    Some(record) => self.say(format!("built {}  in {took}", entry(record))),
                    None => self.say(format!("built {name} {key}, not cached  in {took}")),
                }
            }
            Status::WouldBuild(missed) => self.say(format!("build {name} {key}: {}", why(missed))),
            Status::Sources => {
                self.commands.report.detail(format_args!("{name} {key}: sources alone, nothing to build"))
            }
            Status::NeedsBuild(missed) => {
                let text = format!("needs a build, and nothing says how: {}", why(missed));
                let hint =
                    "set `build` in manifests/components.yaml, or build it and store it with `monofo cache build`";
                self.commands.report.failure(name.as_str(), &Error::failed(text).hint(hint), Severity::Error);
            }
            Status::Failed(error) => self.commands.report.failure(name.as_str(), error, Severity::Error),
            Status::Skipped(failed) => self.say(format!("skipped {name}: it needs {failed}, which failed")),
            Status::Interrupted => self.commands.report.detail(format_args!("{name}: interrupted")),
        }
    }

    fn built(&self, name: &ComponentName, log: Option<std::fs::File>, result: Result<Duration, &Error>) {
        lock(&self.doing).building.remove(name);
        self.after_passage.store(true, Ordering::SeqCst);
        let Some(mut log) = log else { return };
        let heading = match result {
            Ok(took) => format!("build {name}: {}", Took(took)),
            Err(_) => format!("build {name}: failed"),
        };
        let said = log.seek(std::io::SeekFrom::End(0)).unwrap_or(1) > 0;
        if said && log.rewind().is_ok() {
            self.commands.report.passage(result.is_err(), heading, &mut log);
        }
    }
}

impl Observer for Tell<'_> {
    fn tell(&self, event: Event<'_>) {
        let report = self.commands.report;
        match event {
            Event::Looked(looked) => self.commands.tell_looked(looked),
            Event::RemoteFailed(failure) => self.remote_failed(failure),
            Event::Building(name, missed, through) => {
                lock(&self.doing).building.insert(name.clone(), Instant::now());
                self.say(format!("miss {name}: {}", why(missed)));
                if through {
                    report.heading(false, format_args!("build {name}"));
                }
            }
            Event::Says(said) => report.follow(said),
            Event::Built(name, log, result) => self.built(name, log, result),
            Event::Shared(name, hash, shared) => match shared {
                Shared::Created => report.detail(format_args!("shared {name} {}", hash.short())),
                Shared::Already => report.detail(format_args!("{name} {} was shared already", hash.short())),
                Shared::NotWritten => report.detail(format_args!("{name} is not shared: MONOFO_SCOPE says so")),
                Shared::Other(warning) | Shared::Gone(warning) => report.warning(format_args!("{name}: {warning}")),
            },
            Event::Warning(name, text) => report.warning(format_args!("{name}: {text}")),
            Event::Done(done) => self.done(done),
        }
    }
}

/// Tells a failure; its hint once for all.
fn tell_failure(commands: &Commands<'_>, failure: &Failure, first: bool) {
    commands.report.warning(report_line(failure, HomeKind::Cache));
    if let Some(hint) = failure.error.next_step() {
        match first {
            true => commands.report.note(format_args!("hint: {hint}")),
            false => commands.report.detail(format_args!("hint: {hint}")),
        }
    }
}

/// Why a component is not taken from the cache.
pub(super) fn why(missed: &Missed) -> String {
    match missed {
        Missed::NotLooked => "the cache was not asked".to_owned(),
        Missed::PassedOver => "its entry is not to replace what is there".to_owned(),
        Missed::First => "no entry of it to compare with".to_owned(),
        Missed::Because(found) => found.first_line(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
