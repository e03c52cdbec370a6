//! `monofo cache list` and `monofo cache stats`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::commands::Commands;
use crate::commands::table::Table;
use crate::engine::entries::survey::{disk_of_all, survey};
use crate::entry::{HomeKind, peek, time_text, usage};
use crate::error::Result;
use crate::key::KeyRecord;
use crate::text::{Bytes, Count, Number};

impl Commands<'_> {
    pub(super) fn cache_list(&self) -> Result<()> {
        let keeping = self.keeping()?;
        let mut found = survey(&keeping.cache)?;
        found.entries.retain(|entry| entry.whole);
        found.entries.sort_by_key(|entry| (std::cmp::Reverse(entry.record.created), entry.name));
        let payload =
            |entry: &crate::engine::entries::survey::Entry| entry.record.payload.map_or(0, |payload| payload.bytes);
        let mut table =
            Table::new(["KEY", "COMPONENT", "VERSION", "TARGET", "PLATFORM", "SIZE", "CREATED", "LAST USE", "FROM"]);
        let mut documents = Vec::new();
        let mut total = 0;
        for entry in &found.entries {
            let record = &entry.record;
            let origin = record.origin.get("kind").and_then(Value::as_str).unwrap_or("local");
            table.row([
                entry.name.short(),
                record.inputs.component().to_string(),
                record.inputs.version().to_owned(),
                match &record.inputs {
                    KeyRecord::Template(inputs) => inputs.shown(),
                    inputs => inputs.build_target().to_owned(),
                },
                record.inputs.platform().to_owned(),
                Bytes(payload(entry)).to_string(),
                time_text(record.created),
                time_text(entry.used),
                origin.to_owned(),
            ]);
            total += payload(entry);
            if self.report.mode().json {
                let whole = peek(&keeping.cache, &entry.name)?.and_then(|peeked| peeked.record);
                let mut document = whole.as_ref().unwrap_or(record).value(HomeKind::Cache);
                document["last_use"] = json!(time_text(entry.used));
                documents.push(document);
            }
        }
        self.report.section("entries", Value::Array(documents));
        self.report.section("total", json!({ "entries": found.entries.len(), "bytes": total }));
        if found.entries.is_empty() {
            self.report.note(format_args!("no entries in {}", crate::text::Shown::path(keeping.cache.root())));
            return Ok(());
        }
        self.report.answer(table)
    }

    pub(super) fn cache_stats(&self) -> Result<()> {
        let keeping = self.keeping()?;
        let found = survey(&keeping.cache)?;
        let (disk, warning) = disk_of_all(&keeping.cache, &found)?;
        warning.iter().for_each(|warning| self.report.warning(warning));
        let mut components: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let whole: Vec<_> = found.entries.iter().filter(|entry| entry.whole).collect();
        for entry in &whole {
            let sum = components.entry(entry.record.inputs.component().as_str()).or_default();
            sum.0 += 1;
            sum.1 += entry.record.payload.map_or(0, |payload| payload.bytes);
        }
        let payload: u64 = components.values().map(|(_, bytes)| bytes).sum();
        let counts = usage::read(&keeping.cache);
        let times = |word: &str| counts.events.get(word).map_or(0, |(times, _)| *times);
        let bytes = |word: &str| counts.events.get(word).map_or(0, |(_, bytes)| *bytes);
        let created = |entry: &&crate::engine::entries::survey::Entry| entry.record.created;
        let (oldest, newest) = (whole.iter().map(created).min(), whole.iter().map(created).max());
        let folders = |path: std::path::PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
        let (tmp, quarantine) = (folders(keeping.cache.tmp()), folders(keeping.cache.quarantine()));
        let mut failures =
            BTreeMap::from(["unreachable", "denied", "refused", "dangling"].map(|word| (word, times(word))));
        failures.insert("damaged", times(usage::REMOTE_DAMAGED));
        let remote_failures: u64 = failures.values().sum();
        let damaged = found.damaged.len() + found.entries.len() - whole.len();
        self.report.section("entries", json!(whole.len()));
        self.report.section("payload_bytes", json!(payload));
        self.report.section("disk_bytes", json!(disk));
        self.report.section(
            "components",
            components
                .iter()
                .map(|(name, (entries, bytes))| json!({ "component": name, "entries": entries, "bytes": bytes }))
                .collect(),
        );
        self.report.section("oldest", json!(oldest.map(time_text)));
        self.report.section("newest", json!(newest.map(time_text)));
        self.report.section("hits", json!(times("hit")));
        self.report.section("remote_hits", json!(times("remote-hit")));
        self.report.section("misses", json!(times("miss")));
        self.report.section("bytes_served", json!(bytes("hit") + bytes("remote-hit")));
        self.report.section("remote_failures", json!(failures));
        self.report.section("damaged", json!(damaged));
        self.report.section("damaged_so_far", json!(times("damaged")));
        self.report.section("newer_format", json!(found.newer.len()));
        self.report
            .section("leftovers", json!({ "tmp": tmp, "quarantine": quarantine, "orphans": found.orphans.len() }));
        self.report.section("counted_since", json!(counts.since.map(time_text)));
        let gc = counts.last_gc.map(|(at, freed)| json!({ "at": time_text(at), "freed_bytes": freed }));
        self.report.section("last_gc", json!(gc));
        let mut lines = vec![format!(
            "{}, {} of payloads, {} on disk",
            Count(whole.len() as u64, "entry"),
            Bytes(payload),
            Bytes(disk)
        )];
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            lines.push(format!("oldest {}, newest {}", time_text(oldest), time_text(newest)));
        }
        if let Some(since) = counts.since {
            lines.push(format!(
                "{} and {} from the remote, {}, {} restored, since {}",
                Count(times("hit"), "hit"),
                Number(times("remote-hit")),
                match times("miss") {
                    1 => "1 miss".to_owned(),
                    misses => format!("{} misses", Number(misses)),
                },
                Bytes(bytes("hit") + bytes("remote-hit")),
                time_text(since)
            ));
        }
        if remote_failures > 0 {
            let told: Vec<_> = failures
                .iter()
                .filter(|(_, times)| **times > 0)
                .map(|(word, times)| format!("{times} {word}"))
                .collect();
            lines.push(format!("the remote did not help: {}", told.join(", ")));
        }
        if times("damaged") > 0 {
            lines.push(format!("{} proved to be damaged so far", Count(times("damaged"), "entry")));
        }
        if let Some((at, freed)) = counts.last_gc {
            lines.push(format!("last gc {}, freed {}", time_text(at), Bytes(freed)));
        }
        for (what, many) in [
            ("damaged", damaged),
            ("of a later version", found.newer.len()),
            ("left in tmp", tmp),
            ("in quarantine", quarantine),
            ("left by crashes", found.orphans.len()),
        ] {
            if many > 0 {
                lines.push(format!("{} {what}", Number(many as u64)));
            }
        }
        for (name, (entries, bytes)) in &components {
            lines.push(format!("  {name}: {}, {}", Count(*entries, "entry"), Bytes(*bytes)));
        }
        self.report.answer(lines.join("\n"))
    }
}
