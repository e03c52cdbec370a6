//! What became of all components together.

use std::time::Duration;

use serde_json::json;

use super::document;
use crate::commands::Commands;
use crate::engine::apply::{Done, Status};
use crate::engine::entries::lookup::Tier;
use crate::error::{Class, Error, Result};
use crate::remote::Failure;
use crate::text::{Count, Took};

/// Names that an error tells.
const MOST_NAMED: usize = 10;

/// How many came out how.
#[derive(Default)]
struct Counts {
    local: u64,
    remote: u64,
    built: u64,
    failed: u64,
    skipped: u64,
    needs_build: u64,
    interrupted: u64,
}

impl Counts {
    fn of(done: &[Done]) -> Self {
        let mut counts = Counts::default();
        for one in done {
            match &one.status {
                Status::Hit(Tier::Local, _) => counts.local += 1,
                Status::Hit(Tier::Remote, _) => counts.remote += 1,
                Status::Built(..) | Status::WouldBuild(_) => counts.built += 1,
                Status::Sources => {}
                Status::NeedsBuild(_) => counts.needs_build += 1,
                Status::Failed(_) => counts.failed += 1,
                Status::Skipped(_) => counts.skipped += 1,
                Status::Interrupted => counts.interrupted += 1,
            }
        }
        counts
    }

    fn words(&self, dry_run: bool) -> String {
        let Counts { local, remote, built, failed, skipped, needs_build, interrupted } = self;
        let hits = local + remote;
        let verb = if dry_run { "to build" } else { "built" };
        let mut words = format!("{hits} hit ({local} local, {remote} remote), {built} {verb}, {failed} failed");
        for (count, what) in [(needs_build, "without a build"), (skipped, "skipped"), (interrupted, "interrupted")] {
            if *count > 0 {
                words.push_str(&format!(", {count} {what}"));
            }
        }
        words
    }
}

impl Commands<'_> {
    /// Prints the line that sums all up. The remote's failure is told if there is a remote.
    pub(super) fn summarize(
        &self,
        done: &[Done],
        environment: Option<&str>,
        dry_run: bool,
        remote: Option<Option<&Failure>>,
    ) -> Result<()> {
        let counts = Counts::of(done);
        self.report.section("components", done.iter().map(document).collect());
        self.report.section(
            "counts",
            json!({
                "hit": counts.local + counts.remote, "local": counts.local, "remote": counts.remote, "built": counts.built,
                "failed": counts.failed, "needs_build": counts.needs_build, "skipped": counts.skipped,
                "interrupted": counts.interrupted,
            }),
        );
        let of = environment.map(|environment| format!(" {environment}")).unwrap_or_default();
        let mut line = format!("apply{of}{}: {}", if dry_run { ", dry run" } else { "" }, counts.words(dry_run));
        let saved = if dry_run { None } else { saved(done) };
        self.report.section("saved_seconds", json!(saved.map(|(time, _)| time.as_secs())));
        if let Some((time, whole)) = saved {
            line.push_str(&format!("; cache saved {} {}", if whole { "about" } else { "at least" }, Took(time)));
        }
        match remote {
            Some(None) => line.push_str("; remote ok"),
            Some(Some(failure)) => line.push_str(&format!("; remote {}", failure.trouble.name())),
            None => {}
        }
        if dry_run {
            return self.report.answer(line);
        }
        if self.in_job() {
            self.report.heading(done.iter().any(|one| !one.is_good()), line);
        } else {
            self.report.note(line);
        }
        Ok(())
    }
}

/// How long the artifacts that were hits once took to build, less the time that it took to get them: of all of them, or of those
/// whose entries say it.
fn saved(done: &[Done]) -> Option<(Duration, bool)> {
    let hits = done.iter().filter_map(|one| match &one.status {
        Status::Hit(_, record) => Some((record.built_in(), one.took)),
        _ => None,
    });
    let (mut sum, mut known, mut whole) = (Duration::ZERO, false, true);
    for (built, took) in hits {
        match built {
            Some(built) => {
                known = true;
                sum += built.saturating_sub(took);
            }
            None => whole = false,
        }
    }
    known.then_some((sum, whole))
}

/// The error when not all went well, whose class is that of a remote that had to help where there is one.
pub(super) fn judge(done: &[Done], unhelped: Option<Failure>) -> Result<()> {
    let bad: Vec<_> = done.iter().filter(|one| !one.is_good()).collect();
    if let Some(failure) = unhelped {
        let hint = failure.error.next_step().map(str::to_owned);
        let error = failure.error.with_class(Class::Unavailable).context("the remote is required and did not help");
        return Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }
    if bad.is_empty() {
        return Ok(());
    }
    let failed = bad.iter().filter(|one| !matches!(one.status, Status::Skipped(_)));
    let named: Vec<_> = failed.clone().take(MOST_NAMED).map(|one| one.name.as_str()).collect();
    let more = if failed.count() > MOST_NAMED { ", …" } else { "" };
    let text = format!(
        "{} of {} did not go well: {}{more}",
        bad.len(),
        Count(done.len() as u64, "component"),
        named.join(", ")
    );
    // Where nothing else went wrong than that inputs changed, the status says so.
    let changed = |one: &&Done| match &one.status {
        Status::Failed(error) => error.class() == Class::Changed,
        Status::Skipped(_) => true,
        _ => false,
    };
    let class = if bad.iter().all(changed) { Class::Changed } else { Class::Failed };
    Err(Error::new(class, text).hint("what is wrong with each is said above"))
}
