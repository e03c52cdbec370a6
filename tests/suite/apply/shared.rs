//! `apply` and remotes: dead ones, closed ones, ones that hold rubbish.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{apply, assert_statuses, run, statuses, workspace};
use crate::entries::{document, manifest};
use crate::harness::{Run, Sandbox, walk};
use crate::transport::http::{Bucket, Fault};

fn with_bucket<'a>(sandbox: &'a Sandbox, endpoint: &str, args: &[&str]) -> Run<'a> {
    run(sandbox, &[&["--json", "apply", "--remote", "s3://b/p"], args].concat())
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_ACCESS_KEY_ID", "AKTEST")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
        .env("AWS_REGION", "us-east-1")
}

/// A workspace of many, all in shell.
fn many(count: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    let one = |number: usize| format!("  c{number}: {{build: \"cp src out\", outputs: out}}\n");
    manifest(&sandbox, &(0..count).map(one).collect::<String>());
    (0..count).for_each(|number| sandbox.write(format!("components/c{number}/src"), number.to_string()));
    sandbox
}

fn remote_warnings(document: &Value) -> usize {
    let warnings = document["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    warnings.iter().filter(|text| text.as_str().unwrap().starts_with("remote ")).count()
}

#[test]
fn a_dead_remote_is_told_of_once_and_costs_its_time_once() {
    let sandbox = many(20);
    let closed = crate::harness::nobody_listens();
    let endpoint = format!("http://{closed}");
    let started = Instant::now();
    let done = document(with_bucket(&sandbox, &endpoint, &[]), 0);
    assert!(started.elapsed() < Duration::from_secs(60), "each component waited for it");
    assert_eq!((remote_warnings(&done), &done["remote"]["kind"]), (1, &"unreachable".into()), "{done:#}");
    assert!(statuses(&done).values().all(|status| status == "built"));
    // What is here needs no remote, so nobody notices.
    let again = document(with_bucket(&sandbox, &endpoint, &["--remote-required"]), 0);
    assert!(statuses(&again).values().all(|status| status == "hit local") && again["remote"].is_null());
    // What is not here does.
    sandbox.write("components/c0/src", "changed");
    let failed = document(with_bucket(&sandbox, &endpoint, &["--remote-required"]), 8);
    assert_eq!(statuses(&failed)["c0"], "failed", "{failed:#}");
    assert_eq!(statuses(&failed)["c1"], "hit local");
}

#[test]
fn a_silent_bucket_is_given_up_for_all() {
    let bucket = Bucket::start(|_, _| Some(Fault::Silent));
    let sandbox = many(12);
    let started = Instant::now();
    let done = document(with_bucket(&sandbox, &format!("http://{}", bucket.address), &["--jobs", "2"]), 0);
    // Two lookups at once, of ten seconds each, and nothing after them.
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!((remote_warnings(&done), &done["remote"]["kind"]), (1, &"unreachable".into()), "{done:#}");
}

#[test]
fn what_a_bucket_takes_another_machine_gets() {
    let bucket = Bucket::start(|_, _| None);
    let endpoint = format!("http://{}", bucket.address);
    let sandbox = workspace();
    let done = document(with_bucket(&sandbox, &endpoint, &["--remote-required"]), 0);
    assert!(statuses(&done).values().all(|status| status == "built") && done["remote"].is_null());
    fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    let done = document(with_bucket(&sandbox, &endpoint, &["--remote-required"]), 0);
    assert_statuses(&done, &[("app", "hit remote"), ("base", "hit remote"), ("other", "hit remote")]);
    assert_eq!(done["saved_seconds"], 0);
}

#[test]
fn a_bucket_that_takes_nothing_fails_only_who_requires_it() {
    let bucket = Bucket::start(|_, request| (request.method == "PUT").then(|| Fault::Status(403, String::new())));
    let endpoint = format!("http://{}", bucket.address);
    let sandbox = workspace();
    let done = document(with_bucket(&sandbox, &endpoint, &[]), 0);
    assert_eq!((remote_warnings(&done), &done["remote"]["kind"]), (1, &"denied".into()), "{done:#}");
    fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    let done = document(with_bucket(&sandbox, &endpoint, &["--remote-required"]), 8);
    // All was built, and is here: only sharing failed.
    assert!(statuses(&done).values().all(|status| status == "built"), "{done:#}");
}

#[test]
fn an_entry_that_is_no_good_is_built_here() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    apply(&sandbox, &["--remote", &url], 0);
    let root = sandbox.path("remote");
    for record in walk(&root).into_keys().filter(|path| path.ends_with(b"/record.json")) {
        fs::write(crate::harness::join(&root, &record), "<html>log in</html>").unwrap();
    }
    fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    let done = apply(&sandbox, &["--remote", &url], 0);
    assert_statuses(&done, &[("app", "built"), ("base", "built"), ("other", "built")]);
    assert_eq!(done["remote"]["kind"], "refused");
    // Each is told of once, and replaced by what was built.
    assert_eq!(remote_warnings(&done), 3, "{done:#}");
    fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    let done = apply(&sandbox, &["--remote", &url, "--remote-required"], 0);
    assert_statuses(&done, &[("app", "hit remote"), ("base", "hit remote"), ("other", "hit remote")]);
}

#[test]
fn a_damaged_payload_says_which_entry_it_is_and_is_mended_by_the_build_or_by_hand() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    apply(&sandbox, &["--remote", &url], 0);
    let root = sandbox.path("remote");
    let damage = || {
        for payload in walk(&root).into_keys().filter(|path| path.ends_with(b".tar.lz4")) {
            let path = crate::harness::join(&root, &payload);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    };
    let key = sandbox.monofo(["cache", "key", "other"]).exits(0).stdout.trim().to_owned();
    damage();
    let ran = run(&sandbox, &["apply", "--remote", &url]).exits(0);
    let ran = ran.says(&format!("remote payload damaged: other {key}: "));
    assert_eq!(ran.stderr.matches("monofo cache invalidate --key ").count(), 1, "{}", ran.stderr);
    // What was built took the place of what was damaged.
    fs::remove_dir_all(sandbox.work(".meta-cache")).unwrap();
    let mended = apply(&sandbox, &["--remote", &url, "--remote-required"], 0);
    assert_statuses(&mended, &[("app", "hit remote"), ("base", "hit remote"), ("other", "hit remote")]);
    damage();
    let failed = apply(&sandbox, &["--remote", &url, "--remote-required"], 8);
    let hint = failed["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("monofo cache invalidate --key "), "{failed:#}");
    // What the hint says mends it.
    run(&sandbox, &["cache", "invalidate", "--key", &key, "--remote", &url]).exits(0);
    let again = run(&sandbox, &["apply", "--remote", &url, "--component", "other"]).exits(0);
    again.does_not_say("damaged");
}
