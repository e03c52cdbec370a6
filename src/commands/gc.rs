//! `monofo gc`: removing what nobody needs any more.

use serde_json::json;

use super::Commands;
use super::entries_gc::Which;
use crate::cli::{GcChunks, GcCommand};
use crate::config::chunks;
use crate::context::Context;
use crate::engine::chunks::collect::{Collected, SAFE_AGE, collect};
use crate::engine::chunks::keep::Kept;
use crate::error::{Error, Result};
use crate::report::Verb;
use crate::text::{Bytes, Count, Number};

impl Commands<'_> {
    pub(super) fn gc(&self, command: &GcCommand) -> u8 {
        let asked = match command {
            GcCommand::Chunks(asked) => asked,
            GcCommand::Cache(asked) => return self.gc_entries(Which::Cache, asked),
            GcCommand::Store(asked) => return self.gc_entries(Which::Store, asked),
            GcCommand::All(asked) => return self.gc_entries(Which::Both, asked),
        };
        self.report.begin(Verb::GcChunks);
        let status = self.status(self.watched(|context| self.gc_chunks(asked, context)));
        self.report.finish(status)
    }

    fn gc_chunks(&self, asked: &GcChunks, context: &Context) -> Result<()> {
        let age = &asked.older_than;
        let older_than = humantime::parse_duration(age).map_err(|error| {
            Error::usage(format_args!("--older-than `{}` is no duration", age.escape_debug()))
                .caused_by(error)
                .hint("write a number and a unit: 7d, 36h, 90min")
        })?;
        let store = match &asked.store {
            Some(url) => chunks::named_store(url, self.env, self.cancel)?,
            None => chunks::configured_store(self.env, self.cancel)?.ok_or_else(|| {
                Error::usage("no chunk store is named").hint("give --store URL, or set MONOFO_DESYNC_STORE")
            })?,
        };
        if older_than < SAFE_AGE {
            self.report.warning(format_args!(
                "--older-than {age} is less than 4 days: uploads that run now are not protected, and may lose chunks that they rely on"
            ));
        }
        let kept = Kept::read(&asked.keep, self.cancel)?;
        if kept.links > 0 {
            self.report.warning(format_args!(
                "{} below the kept folders not followed: name what they lead to with --keep if indexes lie there",
                if kept.links == 1 { "1 link was".to_owned() } else { format!("{} links were", Number(kept.links)) },
            ));
        }
        let place = store.place();
        let done = collect(&kept, &*store, older_than, asked.dry_run, context)
            .map_err(|error| error.context(format_args!("cannot clean up chunk store `{place}`")))?;
        if done.lacking > 0 {
            self.report.warning(format_args!(
                "{} that kept indexes name are not in {place}: those archives cannot be fetched whole from there",
                Count(done.lacking, "chunk"),
            ));
        }
        self.report.note(line(&done, age, asked.dry_run));
        self.report.detail(format_args!(
            "{} kept, {} named",
            Count(kept.indexes, "index"),
            Count(kept.ids.len() as u64, "chunk")
        ));
        self.report.section(
            "gc",
            json!({
                "store": place,
                "dry_run": asked.dry_run,
                "older_than_seconds": older_than.as_secs(),
                "indexes": kept.indexes,
                "removed": done.removed,
                "leftovers": done.leftovers,
                "bytes": done.bytes,
                "in_use": done.in_use,
                "young": done.young,
                "spared": done.spared,
                "lacking": done.lacking,
            }),
        );
        Ok(())
    }
}

/// `removed 1,234 chunks, 20.3 MB; 8,000 in use and 12 younger than 7d stay`.
fn line(done: &Collected, age: &str, dry_run: bool) -> String {
    let mut line = format!("{} {}", if dry_run { "would remove" } else { "removed" }, Count(done.removed, "chunk"));
    if done.leftovers > 0 {
        line.push_str(&format!(" and {}", Count(done.leftovers, "leftover")));
    }
    line.push_str(&format!(
        ", {}; {} in use and {} younger than {age} stay",
        Bytes(done.bytes),
        Number(done.in_use),
        Number(done.young)
    ));
    if done.spared > 0 {
        line.push_str(&format!("; {} used or removed meanwhile", Number(done.spared)));
    }
    line
}
