//! `monofo index`: what an index says, and whether a store has what it names.

use std::path::Path;

use serde_json::{Value, json};

use super::Commands;
use super::input::open;
use crate::chunk::{Index, Sizes};
use crate::cli::{IndexCommand, IndexInfo, IndexVerify};
use crate::config::chunks;
use crate::context::Context;
use crate::engine::chunks::inspect::{Held, Inspection, Stock, inspect, read_index, stock};
use crate::engine::chunks::verify::{Verified, verify};
use crate::error::{Error, Result};
use crate::report::Verb;
use crate::text::{Bytes, Count, Number, Shown};

/// How many chunks are named one by one.
const MOST_LINES: usize = 20;

impl Commands<'_> {
    pub(super) fn index(&self, command: &IndexCommand) -> u8 {
        let (verb, result) = match command {
            IndexCommand::Info(info) => (Verb::IndexInfo, self.watched(|context| self.index_info(info, context))),
            IndexCommand::Verify(asked) => {
                (Verb::IndexVerify, self.watched(|context| self.index_verify(asked, context)))
            }
        };
        self.report.begin(verb);
        let status = self.status(result);
        self.report.finish(status)
    }

    /// Does work with a progress bar for it.
    pub(super) fn watched(&self, work: impl FnOnce(&Context) -> Result<()>) -> Result<()> {
        let context = Context { cancel: self.cancel.clone(), ..Context::default() };
        let _watch = self.report.watch(vec![context.progress.clone()]);
        work(&context)
    }

    fn index_info(&self, info: &IndexInfo, context: &Context) -> Result<()> {
        let index = read(&info.file, context)?;
        let stores = match info.store.as_slice() {
            [] => chunks::configured_store(self.env, self.cancel)?.into_iter().collect(),
            given => {
                given.iter().map(|url| chunks::named_store(url, self.env, self.cancel)).collect::<Result<Vec<_>>>()?
            }
        };
        let distant = !stores.first().is_some_and(|store| store.is_local());
        let (cache, seeds) = chunks::nearby(self.env, self.cancel, distant)?;
        let name = name_of(&info.file);
        let about = |error: Error| error.context(format_args!("looking at `{name}`"));
        let found = inspect(&index, cache.as_ref(), seeds.as_ref()).map_err(about)?;
        let stocks = stores.iter().map(|store| stock(&index, &**store, context)).collect::<Result<Vec<_>>>();
        let stocks = stocks.map_err(|error| error.context("cannot tell which chunks the store has"))?;
        for line in lines(&name, &found, &stocks) {
            self.report.note(line);
        }
        self.report.section("index", info_document(&name, &found, &stocks));
        Ok(())
    }

    fn index_verify(&self, asked: &IndexVerify, context: &Context) -> Result<()> {
        let index = read(&asked.file, context)?;
        let store = match &asked.store {
            Some(url) => chunks::named_store(url, self.env, self.cancel)?,
            None => chunks::store(self.env, self.cancel)?,
        };
        let (name, place) = (name_of(&asked.file), store.place());
        let found = verify(&index, &*store, asked.repair, context)
            .map_err(|error| error.context(format_args!("cannot check the chunks of `{name}`")))?;
        self.report.section("index", verify_document(&name, &place, &found));
        let faults = found.missing.len() + found.wrong.len();
        for fault in faults_of(&found).take(MOST_LINES) {
            self.report.warning(fault);
        }
        if faults > MOST_LINES {
            self.report.warning(format_args!("and {}", Count((faults - MOST_LINES) as u64, "more chunk")));
        }
        if faults > 0 {
            let hint = match asked.repair || found.wrong.is_empty() {
                true => "run the step that uploads the artifact again: it stores what is missing",
                false => {
                    "take the wrong ones out of the way with --repair, and run the step that uploads the artifact again"
                }
            };
            return Err(Error::damaged(format_args!(
                "of {} that `{name}` names, `{place}` lacks {} and has {} wrong",
                Count(found.chunks, "chunk"),
                Number(found.missing.len() as u64),
                Number(found.wrong.len() as u64),
            ))
            .hint(hint));
        }
        self.report.note(format_args!(
            "{name}: all {} ({}) are there and right, in {place}",
            Count(found.chunks, "chunk"),
            Bytes(found.bytes),
        ));
        Ok(())
    }
}

fn read(path: &Path, context: &Context) -> Result<Index> {
    let folder = "name an index; those of artifacts in a folder lie in files of their own";
    let input = open(path, "an index of chunks", folder, context)?;
    read_index(input).map_err(|error| error.context(format_args!("reading `{}`", name_of(path))))
}

fn name_of(path: &Path) -> String {
    Shown::path(path).to_string()
}

/// What people see of `monofo index info`.
fn lines(name: &str, found: &Inspection, stocks: &[Stock]) -> Vec<String> {
    let Inspection { all, unique, .. } = found;
    let repeated = all.bytes - unique.bytes;
    let mut lines = vec![
        format!("{name}: {} of an archive of {}", Count(all.chunks, "chunk"), Bytes(all.bytes)),
        format!("cut at {}; {} on average; digest {}", sizes(found.sizes), Bytes(average(*all)), found.digest),
        format!("{} unique; {} repeated", Count(unique.chunks, "chunk"), Bytes(repeated)),
    ];
    let held = |held: Held| format!("{} ({})", Count(held.chunks, "chunk"), Bytes(held.bytes));
    for (place, here) in [("seeds", found.seeds), ("the cache", found.cache)] {
        lines.extend(here.map(|here| format!("on this machine, in {place}: {}", held(here))));
    }
    for stock in stocks {
        let place = &stock.place;
        let packed = Bytes(stock.packed_bytes);
        lines.push(format!("in {place}: {}, {packed} packed; missing: {}", held(stock.there), held(stock.missing)));
    }
    lines
}

fn sizes(Sizes { min, avg, max }: Sizes) -> String {
    match [min, avg, max].iter().all(|size| size % 1024 == 0) {
        true => format!("{}:{}:{} KiB", min >> 10, avg >> 10, max >> 10),
        false => format!("{min}:{avg}:{max} bytes"),
    }
}

fn average(all: Held) -> u64 {
    all.bytes.checked_div(all.chunks).unwrap_or(0)
}

fn held(held: Held) -> Value {
    json!({ "chunks": held.chunks, "bytes": held.bytes })
}

fn info_document(name: &str, found: &Inspection, stocks: &[Stock]) -> Value {
    let Sizes { min, avg, max } = found.sizes;
    let stock = |stock: &Stock| {
        json!({
            "place": stock.place,
            "there": held(stock.there),
            "packed_bytes": stock.packed_bytes,
            "missing": held(stock.missing),
        })
    };
    json!({
        "name": name,
        "chunks": found.all.chunks,
        "bytes": found.all.bytes,
        "sizes": { "min": min, "avg": avg, "max": max },
        "average_bytes": average(found.all),
        "digest": found.digest.to_string(),
        "unique": held(found.unique),
        "repeated_bytes": found.all.bytes - found.unique.bytes,
        "seeds": found.seeds.map(held),
        "cache": found.cache.map(held),
        "stores": stocks.iter().map(stock).collect::<Vec<_>>(),
    })
}

/// A sentence for every chunk that is missing or wrong.
fn faults_of(found: &Verified) -> impl Iterator<Item = String> {
    let missing = found.missing.iter().map(|id| format!("chunk {id} is missing"));
    let wrong = found.wrong.iter().map(|wrong| {
        let done = match &wrong.repaired {
            None => String::new(),
            Some(Ok(done)) => format!("; {done}"),
            Some(Err(error)) => format!("; it could not be taken out of the way: {}", error.chain()),
        };
        format!("chunk {} is wrong: {}{done}", wrong.id, wrong.why)
    });
    missing.chain(wrong)
}

fn verify_document(name: &str, place: &str, found: &Verified) -> Value {
    let missing: Vec<String> = found.missing.iter().map(ToString::to_string).collect();
    let wrong = found.wrong.iter().map(|wrong| {
        let repaired = wrong.repaired.as_ref().is_some_and(Result::is_ok);
        json!({ "id": wrong.id.to_string(), "why": wrong.why, "repaired": repaired })
    });
    json!({
        "name": name,
        "store": place,
        "chunks": found.chunks,
        "bytes": found.bytes,
        "right": found.right(),
        "missing": missing,
        "wrong": wrong.collect::<Vec<_>>(),
    })
}
