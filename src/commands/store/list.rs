//! `monofo store list`, `stats` and `verify`.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;

use serde_json::{Value, json};

use crate::commands::Commands;
use crate::commands::table::Table;
use crate::config::references::Roots;
use crate::context::Context;
use crate::engine::entries::inodes::{Inodes, Which};
use crate::engine::entries::survey::survey;
use crate::engine::entries::verify::verify;
use crate::entry::{HomeKind, peek, pins, profiles, time_text};
use crate::error::Result;
use crate::hash::Hash;
use crate::text::{Bytes, Count};

impl Commands<'_> {
    pub(super) fn store_list(&self) -> Result<()> {
        let keeping = self.keeping()?;
        let mut found = survey(&keeping.store)?;
        found.entries.retain(|entry| entry.whole);
        found.entries.sort_by_key(|entry| (std::cmp::Reverse(entry.record.created), entry.name));
        let mut roots: BTreeMap<Hash, Vec<String>> = BTreeMap::new();
        for pin in pins::all(&keeping.store)? {
            roots.entry(pin.hash).or_default().push(format!("pin:{}", pin.name));
        }
        for hash in profiles::addresses(&keeping.store)? {
            let named = roots.entry(hash).or_default();
            if !named.iter().any(|root| root == "profile") {
                named.push("profile".to_owned());
            }
        }
        let mut table = Table::new(["HASH", "COMPONENT", "VERSION", "PLATFORM", "SIZE", "CREATED", "ROOTS"]);
        let mut documents = Vec::new();
        let mut total = 0;
        for entry in &found.entries {
            let record = &entry.record;
            let named = roots.get(&entry.name).map(|named| named.join(" ")).unwrap_or_default();
            table.row([
                entry.name.short(),
                record.inputs.component().to_string(),
                record.inputs.version().to_owned(),
                record.inputs.platform().to_owned(),
                Bytes(record.output.bytes).to_string(),
                time_text(record.created),
                named,
            ]);
            total += record.output.bytes;
            if self.report.mode().json {
                let whole = peek(&keeping.store, &entry.name)?.and_then(|peeked| peeked.record);
                let mut document = whole.as_ref().unwrap_or(record).value(HomeKind::Store);
                document["roots"] = json!(roots.get(&entry.name).cloned().unwrap_or_default());
                documents.push(document);
            }
        }
        self.report.section("entries", Value::Array(documents));
        self.report.section("total", json!({ "entries": found.entries.len(), "bytes": total }));
        if found.entries.is_empty() {
            self.report.note(format_args!("no artifacts in {}", crate::text::Shown::path(keeping.store.root())));
            return Ok(());
        }
        self.report.answer(table)
    }

    pub(super) fn store_stats(&self) -> Result<()> {
        let keeping = self.keeping()?;
        let found = survey(&keeping.store)?;
        let whole: Vec<_> = found.entries.iter().filter(|entry| entry.whole).collect();
        let mut components: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for entry in &whole {
            let sum = components.entry(entry.record.inputs.component().as_str()).or_default();
            sum.0 += 1;
            sum.1 += entry.record.output.bytes;
        }
        let bytes: u64 = components.values().map(|(_, bytes)| bytes).sum();
        let kept = match Roots::new(&keeping, self.cancel).references(&found) {
            Ok(kept) => Some(kept),
            // All the rest is known all the same.
            Err(error) => {
                self.report.softened(&error);
                None
            }
        };
        let unreferenced: HashSet<Hash> = match &kept {
            Some(kept) => whole.iter().map(|entry| entry.name).filter(|name| !kept.contains_key(name)).collect(),
            None => HashSet::new(),
        };
        let which = |name: &OsStr| match name.to_str().and_then(Hash::parse) {
            Some(hash) if unreferenced.contains(&hash) => Which::Apart,
            _ => Which::Counted,
        };
        let seen = Inodes::of_home(keeping.store.root(), which)?;
        seen.warning().iter().for_each(|warning| self.report.warning(warning));
        let (inodes, apart) = (seen.all, seen.apart);
        let unreferenced = kept.map(|_| apart.freed());
        let saved = inodes.unshared() - inodes.disk();
        self.report.section("entries", json!(whole.len()));
        self.report.section("bytes", json!(bytes));
        self.report.section("disk_bytes", json!(inodes.disk()));
        self.report.section("saved_by_sharing_bytes", json!(saved));
        self.report.section("unreferenced_bytes", json!(unreferenced));
        let document = |(name, (entries, bytes)): (&&str, &(u64, u64))| json!({ "component": name, "entries": entries, "bytes": bytes });
        self.report.section("components", components.iter().map(document).collect());
        self.report.section("damaged", json!(found.damaged.len() + found.entries.len() - whole.len()));
        self.report.section("newer_format", json!(found.newer.len()));
        let mut lines = vec![
            format!("{}, {} of files", Count(whole.len() as u64, "artifact"), Bytes(bytes)),
            format!("{} on disk, {} saved by sharing", Bytes(inodes.disk()), Bytes(saved)),
        ];
        lines.extend(unreferenced.map(|bytes| format!("{} that nothing refers to", Bytes(bytes))));
        for (name, (entries, bytes)) in &components {
            lines.push(format!("  {name}: {}, {}", Count(*entries, "artifact"), Bytes(*bytes)));
        }
        self.report.answer(lines.join("\n"))
    }

    pub(super) fn store_verify(&self, context: &Context) -> Result<()> {
        let keeping = self.keeping()?;
        let checked = verify(&keeping.store, context)?;
        self.tell_checked(&checked, "store")
    }
}
