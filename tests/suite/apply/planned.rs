//! `apply --dry-run`: what a run does, and nothing of it.

use std::collections::BTreeMap;
use std::fs;

use super::{apply, assert_statuses, built, of, run, statuses, workspace};
use crate::harness::{assert_same, walk};

/// A dry run tells what the run after it does, and leaves everything as it is.
#[track_caller]
fn check(sandbox: &crate::harness::Sandbox, args: &[&str], status: i32) -> BTreeMap<String, String> {
    built(sandbox);
    let before = walk(&sandbox.path(""));
    let planned = apply(sandbox, &[args, &["--dry-run"]].concat(), status);
    run(sandbox, &[&["apply", "--dry-run"], args].concat()).exits(status);
    assert_same(&before, &walk(&sandbox.path("")), "a dry run");
    assert!(built(sandbox).is_empty());
    let done = apply(sandbox, args, status);
    let foreseen: BTreeMap<String, String> = statuses(&planned)
        .into_iter()
        .map(|(name, status)| (name, if status == "build" { "built".to_owned() } else { status }))
        .collect();
    assert_eq!(foreseen, statuses(&done), "{planned:#}");
    for name in foreseen.keys() {
        let (planned, done) = (of(&planned, name), of(&done, name));
        assert_eq!((&planned["key"], &planned["why"]), (&done["key"], &done["why"]), "{name}");
        assert_eq!(planned["error"], done["error"], "{name}");
    }
    foreseen
}

#[test]
fn a_dry_run_tells_what_a_run_does_and_changes_nothing() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    check(&sandbox, &[], 0);
    check(&sandbox, &[], 0);
    sandbox.write("components/base/src.txt", "base 2\n");
    let done = check(&sandbox, &["--remote", &url], 0);
    assert_eq!((done["base"].as_str(), done["other"].as_str()), ("built", "hit local"));
    fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    let done = check(&sandbox, &["--remote", &url], 0);
    assert_eq!((done["app"].as_str(), done["other"].as_str()), ("hit remote", "built"));
    check(&sandbox, &["--no-cache"], 0);
    sandbox.monofo(["lock"]).exits(0);
    check(&sandbox, &["--locked"], 0);
    sandbox.write("components/base/src.txt", "base 3\n");
    let done = check(&sandbox, &["--locked"], 1);
    assert_eq!((done["base"].as_str(), done["app"].as_str()), ("failed", "skipped"));
}

#[test]
fn a_plan_names_keys_and_reasons() {
    let sandbox = workspace();
    let before = walk(&sandbox.path(""));
    let planned = apply(&sandbox, &["--dry-run"], 0);
    assert_same(&before, &walk(&sandbox.path("")), "not even a cache was made");
    assert_statuses(&planned, &[("app", "build"), ("base", "build"), ("other", "build")]);
    let key = sandbox.monofo(["cache", "key", "app"]).exits(0).stdout.trim().to_owned();
    assert_eq!(of(&planned, "app")["key"], key);
    apply(&sandbox, &[], 0);
    sandbox.write("components/base/src.txt", "base 2\n");
    let ran = run(&sandbox, &["apply", "--dry-run"]).exits(0);
    ran.prints("build base ")
        .prints(": source file `src.txt` changed, compared with entry ")
        .prints("dependency base: source file `src.txt` changed")
        .prints("hit other ")
        .prints("apply, dry run: 1 hit (1 local, 0 remote), 2 to build, 0 failed");
}

#[test]
fn a_plan_refuses_what_a_run_would_not_replace() {
    let sandbox = workspace();
    apply(&sandbox, &[], 0);
    fs::remove_file(sandbox.work("components/other/made")).unwrap();
    sandbox.write("components/other/made/file", "somebody's");
    fs::remove_dir_all(sandbox.work("components/base/out")).unwrap();
    sandbox.write("components/base/out", "somebody's");
    let done = check(&sandbox, &[], 1);
    assert_eq!((done["other"].as_str(), done["base"].as_str(), done["app"].as_str()), ("failed", "failed", "skipped"));
    let planned = apply(&sandbox, &["--dry-run"], 1);
    assert_eq!(of(&planned, "base")["error"]["hint"], "remove the file, or set `outputs` to another folder");
}
