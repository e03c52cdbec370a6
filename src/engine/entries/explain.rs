//! Why there is no entry: the nearest one that there is, and what differs, down to the file, variable or dependency.
//!
//! A key nests its dependencies' keys, so a difference in one is followed to its first cause. What was hashed then is found
//! among the facts of this machine's cache, or in the remote; where it is lost, that is said. Values of variables are known to
//! nobody: only their digests are kept.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::known::Known;
use super::survey::survey_readable;
use crate::engine::keys::Computed;
use crate::entry::{Home, Record, time_text};
use crate::error::Result;
use crate::hash::{Hash, LineKind, Listing};
use crate::key::{ComponentKey, ComponentName, KeyRecord, Sources, TemplateKey};
use crate::remote::{Failure, Remote, Trouble};
use crate::text::{Count, Shown};

/// Differences that are told one by one.
const MOST_LINES: usize = 20;

/// Entries whose listings are compared; the others are farther away by their records alone.
const MOST_COMPARED: usize = 8;

/// Entries of a remote that are compared.
const MOST_REMOTE: usize = 3;

/// Markers of a remote that are followed to find these: some lead to nothing any more.
const MOST_MARKERS: usize = 30;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The dependencies on the way to it, outermost first; empty for the component itself.
    pub via: Vec<String>,
    /// What it is about: `version`, `type`, `build_target`, `platform`, `salt`, `env`, `source`, `input`, `dependency`.
    pub what: &'static str,
    /// Which variable, file or dependency.
    pub name: Option<String>,
    /// What happened to it: `changed`, `added`, `removed`, `mode`, `unknown`.
    pub change: &'static str,
    /// The sentence for people, without the way to it.
    text: String,
}

impl Difference {
    /// The sentence for people.
    pub fn sentence(&self) -> String {
        match self.via.as_slice() {
            [] => self.text.clone(),
            via => format!("dependency {}: {}", via.join(" > "), self.text),
        }
    }

    /// Whether it is the same change, met on another way. What is no component's own is one change wherever it counts.
    fn is_again(&self, other: &Difference) -> bool {
        let everywhere = match self.what {
            "salt" | "platform" | "env" => true,
            "input" => self.name.is_some(),
            _ => false,
        };
        (self.what, &self.name, self.change) == (other.what, &other.name, other.change)
            && (self.via.last() == other.via.last() || (everywhere && self.text == other.text))
    }

    fn document(&self) -> Value {
        json!({ "via": self.via, "what": self.what, "name": self.name, "change": self.change, "text": self.sentence() })
    }
}

/// Why there is no entry.
#[derive(Debug)]
pub struct Explanation {
    component: String,
    key: Hash,
    nearest: Record,
    from_remote: bool,
    /// What differs; never empty for another key, unless what was hashed is lost.
    pub differences: Vec<Difference>,
}

impl Explanation {
    /// The nearest entry and the first difference.
    pub fn first_line(&self) -> String {
        let first =
            self.differences.first().map_or_else(|| "something that is not known".to_owned(), Difference::sentence);
        let more = match self.differences.len() {
            0 | 1 => String::new(),
            several => format!(" (and {})", Count(several as u64 - 1, "more difference")),
        };
        format!("{first}{more}, compared with {}", self.other())
    }

    fn other(&self) -> String {
        let from = if self.from_remote { " in the remote" } else { "" };
        format!("entry {} of {}{from}", self.nearest.key.short(), time_text(self.nearest.created))
    }

    /// Everything, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines =
            vec![format!("{} {}: no entry; compared with {}:", self.component, self.key.short(), self.other())];
        lines.extend(self.differences.iter().take(MOST_LINES).map(|one| format!("  {}", one.sentence())));
        if self.differences.len() > MOST_LINES {
            let more = Count((self.differences.len() - MOST_LINES) as u64, "more difference");
            lines.push(format!("  and {more} (all of them with --json)"));
        }
        if self.differences.is_empty() {
            lines.push("  what differs is not known any more".to_owned());
        }
        lines
    }

    /// Everything, as JSON.
    pub fn document(&self) -> Value {
        json!({
            "nearest": {
                "key": self.nearest.key.to_string(),
                "created_at": time_text(self.nearest.created),
                "from": if self.from_remote { "remote" } else { "local" },
            },
            "differences": self.differences.iter().map(Difference::document).collect::<Vec<_>>(),
        })
    }
}

/// Compares a key with the nearest known entry of its component: this machine's, else the remote's. `None` when there is
/// none. The remote's failure is told beside it.
pub fn explain(
    cache: &Home,
    computed: &Computed,
    remote: Option<&Remote>,
) -> Result<(Option<Explanation>, Option<Failure>)> {
    explain_among(&Others::read(cache)?, cache, computed, remote)
}

/// The entries of a cache by their component, to compare with: read once for many explanations.
#[derive(Debug, Default)]
pub struct Others(HashMap<ComponentName, Vec<Record>>);

impl Others {
    /// Those of a cache.
    pub fn read(cache: &Home) -> Result<Others> {
        let mut others = Others::default();
        for entry in survey_readable(cache)?.entries {
            others.0.entry(entry.record.inputs.component().clone()).or_default().push(entry.record);
        }
        Ok(others)
    }
}

/// As [`explain`], with entries that were read before.
pub fn explain_among(
    others: &Others,
    cache: &Home,
    computed: &Computed,
    remote: Option<&Remote>,
) -> Result<(Option<Explanation>, Option<Failure>)> {
    let known = Known::new(cache, None);
    let entries = others.0.get(computed.record.component()).into_iter().flatten();
    // A key of the `cache:` block is made of other things, and differs in all of them.
    let comparable = |record: &&Record| !matches!(record.inputs, KeyRecord::Template(_));
    let entries = entries.filter(comparable).filter(|record| record.key != computed.key).cloned().collect();
    if let Some(found) = nearest(&known, computed, entries, false) {
        return Ok((Some(found), None));
    }
    let Some(remote) = remote else { return Ok((None, None)) };
    let known = Known::new(cache, Some(remote));
    let component = computed.record.component();
    let newest = match remote.newest(component.as_str(), &computed.record.shelf(), MOST_MARKERS) {
        Ok(newest) => newest,
        Err(failure) if failure.trouble == Trouble::Local => return Err(failure.error),
        Err(failure) => return Ok((None, Some(failure))),
    };
    let others = newest.iter().filter(|(_, key)| *key != computed.key);
    let records = others.filter_map(|(_, key)| known.remote_record(key));
    // Whoever wrote a marker may have named another one's.
    let records = records.filter(|record| record.inputs.component() == component).take(MOST_REMOTE).collect();
    Ok((nearest(&known, computed, records, true), None))
}

/// The entry with the fewest differences; of several, the newest.
fn nearest(known: &Known<'_>, computed: &Computed, mut entries: Vec<Record>, from_remote: bool) -> Option<Explanation> {
    entries.sort_by_key(|entry| (fields_apart(&entry.inputs, &computed.record), std::cmp::Reverse(entry.created)));
    entries.truncate(MOST_COMPARED);
    let compared = entries.into_iter().map(|entry| {
        let mut differences = Vec::new();
        compare(known, computed, &entry.inputs, &computed.record, &mut Vec::new(), &mut differences);
        (entry, differences)
    });
    let (nearest, differences) =
        compared.min_by_key(|(entry, found)| (found.is_empty(), found.len(), std::cmp::Reverse(entry.created)))?;
    let component = computed.record.component().to_string();
    Some(Explanation { component, key: computed.key, nearest, from_remote, differences })
}

/// In how many parts two records differ.
fn fields_apart(a: &KeyRecord, b: &KeyRecord) -> usize {
    let (a, b) = (a.value(), b.value());
    let fields = a.as_object().into_iter().flatten();
    fields.filter(|(name, value)| b.get(name.as_str()) != Some(value)).count()
}

fn compare(
    known: &Known<'_>,
    computed: &Computed,
    was: &KeyRecord,
    now: &KeyRecord,
    via: &mut Vec<String>,
    found: &mut Vec<Difference>,
) {
    let mut add = |what, name: Option<&str>, change, text: String| {
        found.push(Difference { via: via.clone(), what, name: name.map(str::to_owned), change, text });
    };
    let (KeyRecord::Component(a), KeyRecord::Component(b)) = (was, now) else {
        if was.platform() != now.platform() {
            let shown = |record: &KeyRecord| Shown(record.platform().as_bytes()).to_string();
            add("platform", None, "changed", format!("platform changed from {} to {}", shown(was), shown(now)));
        }
        match (was, now) {
            (KeyRecord::Template(a), KeyRecord::Template(b)) => template(a, b, &mut add),
            (KeyRecord::Files(a), KeyRecord::Files(b)) => {
                if a.salt != b.salt {
                    add("salt", None, "changed", "MONOFO_CACHE_SALT changed".to_owned());
                }
                listings(known, computed, "input", (a.files, was), (b.files, now), via, found);
            }
            (KeyRecord::Files(_) | KeyRecord::Template(_), KeyRecord::Component(_)) => {
                add("type", None, "changed", "the manifest describes it now, and did not then".to_owned());
            }
            (KeyRecord::Component(_), _) => {
                add("type", None, "changed", "the manifest described it then, and does not now".to_owned());
            }
            _ => add("type", None, "changed", "one of the two is of the `cache:` block".to_owned()),
        }
        return;
    };
    for (what, word, a, b) in [
        ("version", "version", &a.version, &b.version),
        ("type", "type", &a.kind, &b.kind),
        ("build_target", "build target", &a.build_target, &b.build_target),
        ("platform", "platform", &a.platform, &b.platform),
    ] {
        if a != b {
            let or_none =
                |text: &str| if text.is_empty() { "none".to_owned() } else { format!("`{}`", Shown(text.as_bytes())) };
            add(what, None, "changed", format!("{word} changed from {} to {}", or_none(a), or_none(b)));
        }
    }
    if a.salt != b.salt {
        add("salt", None, "changed", "MONOFO_CACHE_SALT changed".to_owned());
    }
    variables(&a.env, &b.env, &mut add);
    sources(known, computed, (a, was), (b, now), via, found);
    listings(known, computed, "input", (a.extra, was), (b.extra, now), via, found);
    dependencies(known, computed, a, b, via, found);
}

fn template(
    was: &TemplateKey,
    now: &TemplateKey,
    add: &mut impl FnMut(&'static str, Option<&str>, &'static str, String),
) {
    if was.salt != now.salt {
        add("salt", None, "changed", "MONOFO_CACHE_SALT changed".to_owned());
    }
    if was.pipeline != now.pipeline {
        let text = format!("it is of the pipeline `{}`", Shown(was.pipeline.as_bytes()));
        add("pipeline", None, "changed", text);
    }
    if was.paths != now.paths {
        add("paths", None, "changed", "other paths are configured".to_owned());
    }
    if let Some(change) = now.change_since(was) {
        add("template", None, "changed", change);
    }
}

fn variables(
    was: &BTreeMap<String, Option<Hash>>,
    now: &BTreeMap<String, Option<Hash>>,
    add: &mut impl FnMut(&'static str, Option<&str>, &'static str, String),
) {
    for (name, before) in was {
        let (change, text) = match (before, now.get(name)) {
            (_, None) => ("removed", "is not declared any more"),
            (Some(_), Some(None)) => ("removed", "is not set now, and was then"),
            (None, Some(Some(_))) => ("added", "is set now, and was not then"),
            (Some(a), Some(Some(b))) if a != b => ("changed", "has another value"),
            _ => continue,
        };
        add("env", Some(name), change, format!("variable {name} {text}"));
    }
    for name in now.keys().filter(|name| !was.contains_key(*name)) {
        add("env", Some(name), "added", format!("variable {name} is declared now, and was not then"));
    }
}

fn sources(
    known: &Known<'_>,
    computed: &Computed,
    (a, was): (&ComponentKey, &KeyRecord),
    (b, now): (&ComponentKey, &KeyRecord),
    via: &[String],
    found: &mut Vec<Difference>,
) {
    let word = |sources: &Sources| match sources {
        Sources::Listing(_) => "present here".to_owned(),
        Sources::Commit(commit) => format!("known by commit {} only", Shown(commit.as_bytes())),
        Sources::Absent => "not present here".to_owned(),
    };
    match (&a.source, &b.source) {
        (Sources::Listing(a), Sources::Listing(b)) => {
            listings(known, computed, "source", (Some(*a), was), (Some(*b), now), via, found);
        }
        (a, b) if a == b => {}
        (a, b) => found.push(Difference {
            via: via.to_vec(),
            what: "source",
            name: None,
            change: "unknown",
            text: format!("the sources are {}, and were {} then", word(b), word(a)),
        }),
    }
}

fn listings(
    known: &Known<'_>,
    computed: &Computed,
    what: &'static str,
    (a, was): (Option<Hash>, &KeyRecord),
    (b, _now): (Option<Hash>, &KeyRecord),
    via: &[String],
    found: &mut Vec<Difference>,
) {
    let word = if what == "source" { "source file" } else { "input file" };
    let mut add = |name: Option<String>, change, text| {
        found.push(Difference { via: via.to_vec(), what, name, change, text });
    };
    let (a, b) = match (a, b) {
        (a, b) if a == b => return,
        (None, _) => return add(None, "added", "input files are named now, and were not then".to_owned()),
        (_, None) => return add(None, "removed", "no input files are named now, and some were then".to_owned()),
        (Some(a), Some(b)) => (a, b),
    };
    let (Some(before), Some(after)) = (known.listing(&a, &was.key()), computed.listings.get(&b)) else {
        return add(None, "unknown", format!("{word}s changed; which ones is not known any more"));
    };
    let mut changes = changes(&before, after);
    // Rules explain why other files came or went.
    changes.sort_by_key(|(path, _)| !path.ends_with(b".gitignore"));
    for (path, change) in changes {
        let shown = Shown(&path).to_string();
        let text = match change {
            "mode" => format!("{word} `{shown}` changed its executable bit"),
            change => format!(
                "{word} `{shown}` {}",
                if change == "added" || change == "removed" { format!("was {change}") } else { change.to_owned() }
            ),
        };
        add(Some(shown), change, text);
    }
}

/// Paths that two listings have not alike, and how.
fn changes(before: &Listing, after: &Listing) -> Vec<(Vec<u8>, &'static str)> {
    let (mut a, mut b) = (before.lines().iter().peekable(), after.lines().iter().peekable());
    let mut changes: Vec<(Vec<u8>, &'static str)> = Vec::new();
    loop {
        let (path, change) = match (a.peek(), b.peek()) {
            (None, None) => break,
            (Some(x), Some(y)) if x.path == y.path => {
                let executable = |kind| matches!(kind, LineKind::File | LineKind::Executable);
                let change = if x == y {
                    None
                } else if x.hash == y.hash && executable(x.kind) && executable(y.kind) {
                    Some("mode")
                } else {
                    Some("changed")
                };
                let path = x.path.clone();
                a.next();
                b.next();
                match change {
                    Some(change) => (path, change),
                    None => continue,
                }
            }
            (Some(x), Some(y)) if x.path < y.path => {
                (a.next().map(|line| line.path.clone()).unwrap_or_default(), "removed")
            }
            (Some(_), None) => (a.next().map(|line| line.path.clone()).unwrap_or_default(), "removed"),
            (_, Some(_)) => (b.next().map(|line| line.path.clone()).unwrap_or_default(), "added"),
        };
        // A link's second line, about what it reaches, belongs to the first.
        if changes.last().is_none_or(|(last, _)| *last != path) {
            changes.push((path, change));
        }
    }
    changes
}

fn dependencies(
    known: &Known<'_>,
    computed: &Computed,
    a: &ComponentKey,
    b: &ComponentKey,
    via: &mut Vec<String>,
    found: &mut Vec<Difference>,
) {
    let one = |name: &str, change, text: String| Difference {
        via: Vec::new(),
        what: "dependency",
        name: Some(name.to_owned()),
        change,
        text,
    };
    let mut told = Vec::new();
    for before in &a.dependencies {
        let name = before.name.as_str();
        let Some(now) = b.dependencies.iter().find(|now| now.name == before.name) else {
            told.push(one(name, "removed", format!("dependency {name} was removed")));
            continue;
        };
        if now.key == before.key {
            continue;
        }
        via.push(name.to_owned());
        let seen = found.len();
        if let (Some(was), Some(now)) = (known.record(&before.key), computed.closure.get(&now.key)) {
            compare(known, computed, &was, now, via, found);
            // The same cause, met on several ways, is told once.
            let new = found.split_off(seen);
            for difference in new {
                if !found.iter().any(|other| difference.is_again(other)) {
                    found.push(difference);
                }
            }
        } else {
            let text = match before.version == now.version {
                true => "changed; what exactly is not known any more".to_owned(),
                false => format!(
                    "version changed from `{}` to `{}`",
                    Shown(before.version.as_bytes()),
                    Shown(now.version.as_bytes())
                ),
            };
            found.push(Difference { via: via.clone(), ..one(name, "unknown", text) });
        }
        via.pop();
    }
    let new = b.dependencies.iter().filter(|now| a.dependencies.iter().all(|before| before.name != now.name));
    told.extend(new.map(|now| one(now.name.as_str(), "added", format!("dependency {} was added", now.name))));
    found.extend(told.into_iter().map(|difference| Difference { via: via.clone(), ..difference }));
}
