//! Keys nest: exactly the dependants of what changed change.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use crate::entries::{json, manifest};
use crate::harness::Sandbox;

const COMPONENTS: usize = 200;

/// Numbers that look random, the same ones in every run.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 11).unwrap()
}

/// A graph without cycles: each needs up to three of those before it.
fn graph(seed: u64) -> Vec<BTreeSet<usize>> {
    let mut state = seed;
    (0..COMPONENTS)
        .map(|at| {
            if at == 0 {
                BTreeSet::new()
            } else {
                (0..random(&mut state) % 4).map(|_| random(&mut state) % at).collect()
            }
        })
        .collect()
}

#[test]
fn in_a_graph_of_200_components_exactly_the_transitive_dependants_of_a_change_change() {
    let sandbox = Sandbox::new();
    let graph = graph(0x5eed);
    let mut text = String::new();
    // `all` needs every one, so that one command tells all keys.
    let every: Vec<_> = (0..COMPONENTS).map(|at| format!("c{at}")).collect();
    for (at, needed) in graph.iter().enumerate() {
        let needed: Vec<_> = needed.iter().map(|needed| format!("c{needed}")).collect();
        writeln!(text, "  c{at}: {{depends_on: [{}]}}", needed.join(", ")).unwrap();
        sandbox.write(format!("components/c{at}/source"), "0");
    }
    writeln!(text, "  all: {{depends_on: [{}]}}", every.join(", ")).unwrap();
    fs::create_dir_all(sandbox.work("components/all")).unwrap();
    manifest(&sandbox, &text);
    let keys = || -> Vec<String> {
        let record = json(&sandbox, &["cache", "key", "all"], 0)["record"].clone();
        let mut keys: Vec<(usize, String)> = record["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["name"].as_str().unwrap()[1..].parse().unwrap(), one["key"].as_str().unwrap().to_owned()))
            .collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    };
    let mut before = keys();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), COMPONENTS);
    let mut state = 0xfeed;
    for round in 1..=100 {
        let changed = random(&mut state) % COMPONENTS;
        sandbox.write(format!("components/c{changed}/source"), round.to_string());
        let mut dependants = BTreeSet::from([changed]);
        for (at, needed) in graph.iter().enumerate() {
            if !needed.is_disjoint(&dependants) {
                dependants.insert(at);
            }
        }
        let after = keys();
        let differing: BTreeSet<_> = (0..COMPONENTS).filter(|at| before[*at] != after[*at]).collect();
        assert_eq!(differing, dependants, "round {round}, c{changed} changed");
        before = after;
    }
}

#[test]
fn a_thousand_components_in_a_row_have_a_key() {
    let sandbox = Sandbox::new();
    let mut text = String::from("  c0: {}\n");
    for at in 1..1000 {
        writeln!(text, "  c{at}: {{depends_on: [c{}]}}", at - 1).unwrap();
        fs::create_dir_all(sandbox.work(format!("components/c{at}"))).unwrap();
    }
    manifest(&sandbox, &text);
    sandbox.write("components/c0/source", "0");
    let key = || sandbox.monofo(["cache", "key", "c999"]).at_most(20).exits(0).stdout;
    let before = key();
    sandbox.write("components/c0/source", "1");
    assert_ne!(key(), before);
}
