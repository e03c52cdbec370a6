//! `monofo gc cache|store|all`.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Commands;
use super::cache::upkeep::{CACHE_GRACE, MAX_AGE};
use crate::cli::entries::GcArgs;
use crate::config::entries::Keeping;
use crate::config::references::Roots;
use crate::config::sizes::{parse_age, parse_size};
use crate::context::Context;
use crate::engine::entries::gc::{Collected, GcRequest, References, collect};
use crate::entry::{Home, HomeKind};
use crate::error::{Class, Result};
use crate::text::{Bytes, Count, Number};

const STORE_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is cleaned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Cache,
    Store,
    Both,
}

/// What was asked for, read once for both.
struct Asked {
    dry_run: bool,
    grace: Option<Duration>,
    max_age: Option<Duration>,
    max_size: Option<u64>,
}

impl Asked {
    fn read(asked: &GcArgs) -> Result<Self> {
        Ok(Asked {
            dry_run: asked.dry_run,
            grace: asked.grace.as_deref().map(|text| parse_age("--grace", text, 1)).transpose()?,
            max_age: asked.max_age.as_deref().map(|text| parse_age("--max-age", text, 86_400)).transpose()?,
            max_size: asked.max_size.as_deref().map(|text| parse_size("--max-size", text)).transpose()?,
        })
    }
}

impl Commands<'_> {
    pub(super) fn gc_entries(&self, which: Which, asked: &GcArgs) -> u8 {
        self.report.schema("meta.gc/1");
        let asked = Asked::read(asked);
        let (keeping, asked) = match self.keeping().and_then(|keeping| Ok((keeping, asked?))) {
            Ok(found) => found,
            Err(error) => {
                let status = self.status(Err(error));
                return self.report.finish(status);
            }
        };
        // Both are tried; the worse of two ends counts.
        let mut status = 0;
        if which != Which::Store {
            status = self.status(self.watched(|context| self.gc_one(&keeping, &keeping.cache, &asked, context)));
        }
        if which != Which::Cache {
            status =
                status.max(self.status(self.watched(|context| self.gc_one(&keeping, &keeping.store, &asked, context))));
        }
        self.report.finish(status)
    }

    fn gc_one(&self, keeping: &Keeping, home: &Home, asked: &Asked, context: &Context) -> Result<()> {
        let is_cache = home.kind() == HomeKind::Cache;
        let request = GcRequest {
            grace: asked.grace.unwrap_or(if is_cache { CACHE_GRACE } else { STORE_GRACE }),
            max_age: is_cache.then(|| asked.max_age.unwrap_or(MAX_AGE)),
            max_size: asked.max_size.filter(|_| is_cache),
            dry_run: asked.dry_run,
            within: None,
            now: SystemTime::now(),
        };
        let roots = Roots::new(keeping, self.cancel);
        let refer = |found: &_| if is_cache { Ok(References::new()) } else { roots.references(found) };
        let done = collect(home, &request, &refer, &context.cancel).map_err(|error| match error.class() {
            Class::Workspace => error.context("nothing was removed from the store"),
            _ => error,
        })?;
        self.warn(&roots.warnings());
        self.warn(&done.warnings);
        self.tell(home.kind(), &done, asked.dry_run)?;
        done.trouble.map_or(Ok(()), Err)
    }

    fn tell(&self, kind: HomeKind, done: &Collected, dry_run: bool) -> Result<()> {
        let word = kind.word();
        let (would, freed) = if dry_run { ("would remove", "would be freed") } else { ("removed", "freed") };
        let shared = done.unshared.saturating_sub(done.freed);
        let sharing = match shared {
            0 => String::new(),
            shared => format!(" ({} of names; {} shared with what stays)", Bytes(done.unshared), Bytes(shared)),
        };
        let leftovers = match done.leftovers {
            0 => String::new(),
            leftovers => format!(" and {}", Count(leftovers, "leftover")),
        };
        let mut lines = vec![format!(
            "gc {word}: {would} {} of {}{leftovers}, {} {freed}{sharing}",
            Number(done.gone.len() as u64),
            Count(done.entries, "entry"),
            Bytes(done.freed)
        )];
        lines.extend(done.gone.iter().map(|gone| format!("  {} {}: {}", gone.name.short(), gone.component, gone.why)));
        if !done.kept.is_empty() {
            let told: Vec<_> = done
                .kept
                .iter()
                .map(|(why, count)| match *why {
                    "grace" if done.by_grace > 0 => {
                        format!("{count} by grace (--grace 0 would free at least {})", Bytes(done.by_grace))
                    }
                    "grace" => format!("{count} by grace"),
                    why => format!("{count} {why}"),
                })
                .collect();
            lines.push(format!("kept: {}", told.join(", ")));
        }
        self.report.answer(lines.join("\n"))?;
        let gone = |gone: &crate::engine::entries::gc::Gone| json!({ "name": gone.name.to_string(), "component": gone.component, "reason": gone.why });
        let kept = |(name, why): &(crate::hash::Hash, &str)| json!({ "name": name.to_string(), "reason": why });
        self.report.section(
            word,
            json!({
                "dry_run": dry_run,
                "entries": done.entries,
                "removed": done.gone.iter().map(gone).collect::<Vec<Value>>(),
                "kept": done.kept_entries.iter().map(kept).collect::<Vec<Value>>(),
                "freed_bytes": done.freed,
                "unshared_bytes": done.unshared,
                "leftovers": done.leftovers,
            }),
        );
        Ok(())
    }
}
