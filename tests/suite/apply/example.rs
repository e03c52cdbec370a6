//! The workspace that the README shows.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{apply, assert_statuses, forget, of};
use crate::entries::json;
use crate::harness::Sandbox;

const ALL: [&str; 5] = ["catalogue", "greet", "greeting", "release", "stamp"];

/// A copy of `examples/workspace`; none where it cannot be built.
fn example() -> Option<Sandbox> {
    if Command::new("cc").arg("--version").output().is_err() {
        println!("SKIPPED: the example workspace, since there is no `cc`");
        return None;
    }
    let sandbox = Sandbox::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/workspace");
    let copied = Command::new("cp").args(["-R", "-p"]).arg(source.join(".")).arg(sandbox.work("")).status();
    assert!(copied.unwrap().success());
    // Somebody may have built it where it lies.
    for name in [".meta-cache", ".meta-store"] {
        let _ = fs::remove_dir_all(sandbox.work(name));
    }
    for name in ALL {
        let _ = fs::remove_dir_all(sandbox.work(format!("components/{name}/out")));
    }
    for file in ["components.lock.yaml", "components.lock.prod.yaml"] {
        let _ = fs::remove_file(sandbox.work(format!("manifests/{file}")));
    }
    Some(sandbox)
}

fn all(status: &'static str) -> [(&'static str, &'static str); 5] {
    ALL.map(|name| (name, status))
}

fn greeting_of(sandbox: &Sandbox) -> String {
    let program = sandbox.work("components/release/out/bin/greet");
    String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
}

#[test]
fn what_was_built_is_a_hit_and_an_edit_builds_its_dependants_alone() {
    let Some(sandbox) = example() else { return };
    assert_statuses(&apply(&sandbox, &[], 0), &all("built"));
    assert!(greeting_of(&sandbox).starts_with("Hello, world."));
    let again = apply(&sandbox, &[], 0);
    assert_statuses(&again, &all("hit local"));
    assert!(of(&again, "greet")["build_seconds"].is_null());
    // No source, says the manifest.
    sandbox.write("components/stamp/notes.md", "edited");
    assert_statuses(&apply(&sandbox, &[], 0), &all("hit local"));

    let source = sandbox.work("components/greeting/greeting.c");
    let text = fs::read_to_string(&source).unwrap();
    fs::write(&source, text.replace("Hello", "Good day")).unwrap();
    let edited = apply(&sandbox, &[], 0);
    let expected = [
        ("catalogue", "hit local"),
        ("greet", "built"),
        ("greeting", "built"),
        ("release", "built"),
        ("stamp", "hit local"),
    ];
    assert_statuses(&edited, &expected);
    for name in ["greeting", "greet", "release"] {
        let why = of(&edited, name)["why"].as_str().unwrap();
        assert!(why.contains("source file `greeting.c` changed"), "{name}: {why}");
    }
    assert!(greeting_of(&sandbox).starts_with("Good day, world."));
    // What it was before is still known.
    fs::write(&source, text).unwrap();
    assert_statuses(&apply(&sandbox, &[], 0), &all("hit local"));
    assert!(greeting_of(&sandbox).starts_with("Hello, world."));
    // A declared variable belongs to the key of those that declare it, and of all above them.
    let flags = sandbox.monofo(["apply", "--dry-run"]).env("CFLAGS", "-O2").exits(0);
    flags.prints("build greet ").prints("build greeting ").prints("variable CFLAGS is set now").prints("hit stamp");
}

#[test]
fn what_is_lost_here_comes_from_the_remote_and_what_is_lost_there_is_built() {
    let Some(sandbox) = example() else { return };
    let url = format!("file://{}", sandbox.path("remote").display());
    let with = ["--remote", url.as_str()];
    assert_statuses(&apply(&sandbox, &with, 0), &all("built"));
    let outs: Vec<String> = ALL.iter().map(|name| format!("work/components/{name}/out")).collect();
    let outs: Vec<&str> = outs.iter().map(String::as_str).collect();
    forget(&sandbox, &[&["work/.meta-cache"], &outs[..]].concat());
    let fetched = apply(&sandbox, &with, 0);
    assert_statuses(&fetched, &all("hit remote"));
    assert!(greeting_of(&sandbox).starts_with("Hello, world."));
    assert_statuses(&apply(&sandbox, &with, 0), &all("hit local"));
    forget(&sandbox, &["remote"]);
    assert_statuses(&apply(&sandbox, &with, 0), &all("hit local"));
    forget(&sandbox, &["work/.meta-cache"]);
    assert_statuses(&apply(&sandbox, &with, 0), &all("built"));
    forget(&sandbox, &["work/.meta-cache", "remote"]);
    assert_statuses(&apply(&sandbox, &with, 0), &all("built"));
    // The build's time travels with the entry.
    forget(&sandbox, &["work/.meta-cache"]);
    let ran = sandbox.monofo(["apply", "--remote", &url]).exits(0);
    ran.says("apply: 5 hit (0 local, 5 remote), 0 built, 0 failed; cache saved about ").says("; remote ok");
}

#[test]
fn a_release_is_switched_once_and_back_in_one_step() {
    let Some(sandbox) = example() else { return };
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let first = apply(&sandbox, &["--locked", "--env", "prod"], 0);
    assert_eq!((&first["profile"]["switched"], &first["profile"]["generation"]["number"]), (&true.into(), &1.into()));
    // The same once more is no new generation, or going back would lead nowhere.
    let again = apply(&sandbox, &["--locked", "--env", "prod"], 0);
    assert_eq!((&again["profile"]["switched"], &again["profile"]["generation"]["number"]), (&false.into(), &1.into()));
    let current = sandbox.work(".meta-store/profiles/prod/current/release/bin/greet");
    let says = || String::from_utf8(Command::new(&current).output().unwrap().stdout).unwrap();
    assert!(says().contains("monofo example 1.0"));
    sandbox.write("components/stamp/product.txt", "monofo example 2.0\n");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("stamp: source was");
    let second = apply(&sandbox, &["--locked", "--env", "prod"], 0);
    assert_eq!(second["profile"]["generation"]["number"], 2);
    assert!(says().contains("monofo example 2.0"));
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(0);
    assert!(says().contains("monofo example 1.0"));
    let known = json(&sandbox, &["store", "generations", "prod"], 0);
    assert_eq!((&known["current"], known["generations"].as_array().unwrap().len()), (&1.into(), 2));
    // Applying again goes forward again.
    assert_eq!(apply(&sandbox, &["--locked", "--env", "prod"], 0)["profile"]["switched"], true);
    assert!(says().contains("monofo example 2.0"));
}
