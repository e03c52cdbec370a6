//! What components need of each other: that it exists, fits, and is no circle.
//!
//! Nothing here calls itself: a chain of a thousand components must not need a thousand stack frames.

use std::collections::BTreeMap;

use semver::{Version, VersionReq};

use super::file::Reader;
use crate::config::mistakes::At;
use crate::config::yaml::{Mistake, Place};
use crate::key::{Component, ComponentName};
use crate::text::{Number, Shown};

/// Components in a row, each needing the next one, after the first.
const DEEPEST: usize = 1_000;

/// Misspelt names that are compared with all known ones.
const MOST_GUESSED: usize = 20;

/// A dependency as it is written.
pub(super) struct Wanted {
    /// The component that is needed.
    pub(super) name: ComponentName,
    /// Which versions of it will do.
    pub(super) range: Option<String>,
    /// Where that is written.
    pub(super) place: Place,
}

/// Adds what is wrong with the dependencies of a manifest.
pub(super) fn check(
    reader: &mut Reader,
    components: &BTreeMap<ComponentName, Component>,
    wanted: &BTreeMap<ComponentName, Vec<Wanted>>,
) {
    let mut guesses = MOST_GUESSED;
    for (name, wanted) in wanted {
        let at = At::top().key("components").key(name.as_str()).key("depends_on");
        for wanted in wanted {
            if wanted.name == *name {
                reader.wrong(
                    &at,
                    wanted.place,
                    format_args!("`{name}` depends on itself"),
                    "take it out of its own list",
                );
                continue;
            }
            let Some(found) = components.get(&wanted.name) else {
                let hint = guess(&wanted.name, components, &mut guesses);
                reader.wrong(&at, wanted.place, format_args!("there is no component `{}`", wanted.name), &hint);
                continue;
            };
            if let Some(range) = &wanted.range
                && fits(&found.version, range) == Some(false)
            {
                let (range, version) = (Shown(range.as_bytes()), Shown(found.version.as_bytes()));
                let problem = format!("`{name}` needs `{}` in `{range}`, but its version is `{version}`", wanted.name);
                reader.wrong(&at, wanted.place, problem, "change the range or that version");
            }
        }
    }
    Graph::new(components).check(reader, wanted);
}

/// Whether a version is in a range, if both are of the kind that can be compared.
fn fits(version: &str, range: &str) -> Option<bool> {
    let version = Version::parse(version.strip_prefix(['v', 'V']).unwrap_or(version)).ok()?;
    let without_v = |comparator: &str| {
        let comparator = comparator.trim();
        let rest = comparator.trim_start_matches(['^', '~', '<', '>', '=', ' ']);
        let operator = &comparator[..comparator.len() - rest.len()];
        format!("{operator}{}", rest.strip_prefix(['v', 'V']).unwrap_or(rest))
    };
    let range = range.split(',').map(without_v).collect::<Vec<_>>().join(",");
    Some(VersionReq::parse(&range).ok()?.matches(&version))
}

fn guess(name: &ComponentName, known: &BTreeMap<ComponentName, Component>, guesses: &mut usize) -> String {
    let otherwise = || "add it below `components`, or take it out here".to_owned();
    // Comparing thousands of names with thousands is not worth anybody's time.
    let Some(fewer) = guesses.checked_sub(1) else { return otherwise() };
    *guesses = fewer;
    let near =
        |known: &ComponentName| known.as_str().len().abs_diff(name.as_str().len()) <= 1 + known.as_str().len() / 3;
    known
        .keys()
        .filter(|known| near(known))
        .map(|known| (strsim::damerau_levenshtein(name.as_str(), known.as_str()), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.as_str().len() / 3)
        .map_or_else(otherwise, |(_, known)| format!("did you mean `{known}`?"))
}

/// Components by their number in the order of names, and the numbers of what each needs.
struct Graph<'a> {
    names: Vec<&'a ComponentName>,
    needs: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(components: &'a BTreeMap<ComponentName, Component>) -> Self {
        let names: Vec<&ComponentName> = components.keys().collect();
        let number = |name: &ComponentName| names.binary_search(&name).ok();
        let needs = components.values().enumerate().map(|(own, component)| {
            // One that needs itself is told as that already.
            component.depends_on.iter().filter_map(number).filter(|other| *other != own).collect()
        });
        Graph { needs: needs.collect(), names }
    }

    fn check(&self, reader: &mut Reader, wanted: &BTreeMap<ComponentName, Vec<Wanted>>) {
        let (depths, left) = self.depths();
        let place = |from: usize, to: usize| {
            let wanted = wanted.get(self.names[from]).map(Vec::as_slice).unwrap_or_default();
            wanted.iter().find(|wanted| wanted.name == *self.names[to]).map_or(Place::default(), |wanted| wanted.place)
        };
        for cycle in self.cycles(&left) {
            let names: Vec<&str> =
                cycle.iter().chain(cycle.first()).map(|number| self.names[*number].as_str()).collect();
            let place = place(cycle[0], cycle[1]);
            reader.add(
                Mistake::new(place, format_args!("components depend on each other in a cycle: {}", names.join(" -> ")))
                    .hint("take one of these dependencies out"),
            );
        }
        let deepest = depths.iter().enumerate().max_by_key(|(number, depth)| (**depth, std::cmp::Reverse(*number)));
        if let Some((number, depth)) = deepest.filter(|(_, depth)| **depth > DEEPEST) {
            let next = self.needs[number].iter().max_by_key(|other| depths[**other]).copied().unwrap_or(number);
            let (depth, most) = (Number(*depth as u64), Number(DEEPEST as u64));
            let name = self.names[number];
            reader.add(
                Mistake::new(
                    place(number, next),
                    format_args!("the dependencies of `{name}` are {depth} deep, expected {most} at most"),
                )
                .hint("let it depend on fewer components in a row"),
            );
        }
    }

    /// How long the longest row of dependencies below each component is, and which are left: those in cycles and those
    /// that need one of these.
    fn depths(&self) -> (Vec<usize>, Vec<bool>) {
        let mut open: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); self.names.len()];
        for (number, needs) in self.needs.iter().enumerate() {
            needs.iter().for_each(|other| needed_by[*other].push(number));
        }
        let mut depths = vec![0; self.names.len()];
        let mut left = vec![true; self.names.len()];
        let mut ready: Vec<usize> = (0..self.names.len()).filter(|number| open[*number] == 0).collect();
        while let Some(number) = ready.pop() {
            left[number] = false;
            for other in &needed_by[number] {
                depths[*other] = depths[*other].max(depths[number] + 1);
                open[*other] -= 1;
                if open[*other] == 0 {
                    ready.push(*other);
                }
            }
        }
        (depths, left)
    }

    /// Cycles that share no component, each beginning with its smallest name. Every one that is left needs one that is
    /// left, so following the first such leads into a cycle.
    fn cycles(&self, left: &[bool]) -> Vec<Vec<usize>> {
        let mut cycles = Vec::new();
        let mut walk_of: Vec<Option<usize>> = vec![None; left.len()];
        for start in (0..left.len()).filter(|number| left[*number]) {
            let mut walk = Vec::new();
            let mut now = start;
            while walk_of[now].is_none() {
                walk_of[now] = Some(start);
                walk.push(now);
                match self.needs[now].iter().find(|other| left[**other]) {
                    Some(next) => now = *next,
                    None => break,
                }
            }
            if walk_of[now] != Some(start) {
                continue;
            }
            if let Some(first) = walk.iter().position(|number| *number == now) {
                let mut cycle = walk.split_off(first);
                let smallest = cycle.iter().enumerate().min_by_key(|(_, number)| **number).map_or(0, |(at, _)| at);
                cycle.rotate_left(smallest);
                if cycle.len() > 1 {
                    cycles.push(cycle);
                }
            }
        }
        cycles
    }
}
