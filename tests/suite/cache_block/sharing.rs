//! Who reads which entries, here and in a remote, which of several comes, and how they go.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use super::{Machine, deps, install, nothing};
use crate::entries::{age, entries};
use crate::harness::{Sandbox, join, set, walk};
use crate::transport::http::{Bucket, Fault};

/// The variables of who shares in `s3://b/p` of a server.
pub(super) fn shares_in(endpoint: &str) -> [(&str, &str); 6] {
    [
        ("MONOFO_REMOTE", "s3://b/p"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ]
}

#[test]
fn a_remote_serves_other_machines_and_its_failed_listing_is_no_hit() {
    let spoiled = Arc::new(AtomicU8::new(0));
    let how = Arc::clone(&spoiled);
    let bucket = Bucket::start(move |_, request| match how.load(Ordering::SeqCst) {
        1 if request.query.contains("list-type") => Some(Fault::Status(403, String::new())),
        2 if request.reads_object() && request.path.ends_with(".tar.lz4") => Some(Fault::CutAfter(10)),
        _ => None,
    });
    let machine = Machine::with(&shares_in(&format!("http://{}", bucket.address)));
    machine.sandbox.write("lock", "1");
    let (_, log) = machine.job(&deps(), install);
    assert!(log.contains("shared in s3://b/p"), "{log}");
    machine.forget();
    machine.sandbox.write("lock", "2");
    let (hit, log) = machine.job(&deps(), install);
    assert!(hit == "partial" && log.contains("from the remote"), "{log}");
    machine.forget();
    machine.sandbox.write("lock", "3");
    spoiled.store(1, Ordering::SeqCst);
    let never =
        json!({ "key": "deps-{{ checksum \"lock\" }}", "restore-keys": "deps-", "paths": "deps", "save": "never" });
    let (hit, log) = machine.job(&never, install);
    assert!(hit == "miss" && log.contains("warning: deps: remote refused us"), "{log}");
    spoiled.store(2, Ordering::SeqCst);
    let before = fs::read_to_string(machine.sandbox.work("deps/made")).unwrap();
    let (hit, log) = machine.job(&never, nothing);
    assert!(hit == "miss" && log.contains("warning: deps: remote"), "{log}");
    assert_eq!(fs::read_to_string(machine.sandbox.work("deps/made")).unwrap(), before);
    spoiled.store(0, Ordering::SeqCst);
    assert_eq!(machine.job(&never, nothing).0, "partial");
}

#[test]
fn a_remote_is_made_by_the_first_entry_and_one_that_is_not_mounted_is_told_of_once() {
    let mut machine = Machine::new();
    let url = format!("file://{}", machine.sandbox.path("mount/remote").display());
    machine.set(&[("MONOFO_REMOTE", &url)]);
    let two = json!([
        { "key": "a-1", "restore-keys": "a-", "paths": "a" },
        { "key": "b-1", "restore-keys": "b-", "paths": "b" },
    ]);
    let (_, log) = machine.job(&two, |sandbox| {
        sandbox.write("a/x", "");
        sandbox.write("b/x", "");
    });
    assert_eq!(log.matches("warning").count(), 1, "{log}");
    machine.forget();
    fs::create_dir(machine.sandbox.path("mount")).unwrap();
    let strict = json!({ "key": "a-1", "restore-keys": "a-", "paths": "a", "soft-fail": false });
    let (hit, log) = machine.job(&strict, nothing);
    assert!(hit == "miss" && !log.contains("warning") && log.contains("shared in"), "{log}");
    machine.forget();
    assert_eq!(machine.job(&strict, nothing).0, "exact");
}

#[test]
fn a_bad_entry_hides_no_good_one_of_a_later_scope_and_is_replaced_where_it_may_be() {
    let mut machine = Machine::new();
    let remote = machine.sandbox.path("remote");
    machine.set(&[("MONOFO_REMOTE", &format!("file://{}", remote.display()))]);
    let cache = json!({ "key": "a", "paths": "deps" });
    let fresh = |machine: &Machine| {
        let _ = fs::remove_dir_all(machine.home());
        machine.clean();
    };
    let of = |scope: &str, end: &str| {
        let files = walk(&remote.join("meta-v1").join(scope).join("cache"));
        let name = files.keys().find(|path| path.ends_with(end.as_bytes())).unwrap();
        join(&remote.join("meta-v1").join(scope).join("cache"), name)
    };
    for branch in ["feat", "main"] {
        fresh(&machine);
        machine.set(&[("BUILDKITE_BRANCH", branch)]);
        assert_eq!(machine.job(&cache, |sandbox| sandbox.write("deps/of", branch)).0, "miss");
    }
    machine.set(&[("BUILDKITE_BRANCH", "feat")]);
    let spoil = |path: &std::path::Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(path, bytes).unwrap();
    };
    let record = fs::read(of("branch/feat", "record.json")).unwrap();
    for bad_record in [true, false] {
        if bad_record {
            fs::write(of("branch/feat", "record.json"), "{\"x\":1}").unwrap();
        } else {
            fs::write(of("branch/feat", "record.json"), &record).unwrap();
            spoil(&of("branch/feat", ".tar.lz4"));
        }
        fresh(&machine);
        let (hit, log) = machine.job(&cache, nothing);
        assert!(hit == "exact" && log.matches("warning").count() == 1, "{log}");
        let key = of("branch/feat", "record.json").parent().unwrap().file_name().unwrap().to_owned();
        let hint = format!("MONOFO_SCOPE=branch/feat monofo cache invalidate --key {}", key.to_str().unwrap());
        assert!(log.contains(&hint) && !log.contains("the next build"), "{log}");
        assert_eq!(fs::read_to_string(machine.sandbox.work("deps/of")).unwrap(), "main");
    }
    spoil(&of("trusted", ".tar.lz4"));
    fresh(&machine);
    let (hit, log) = machine.job(&cache, |sandbox| sandbox.write("deps/of", "feat again"));
    assert!(hit == "miss" && log.contains("shared in"), "{log}");
    fresh(&machine);
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "exact" && !log.contains("warning"), "{log}");
    assert_eq!(fs::read_to_string(machine.sandbox.work("deps/of")).unwrap(), "feat again");
}

#[test]
fn what_a_writer_left_that_broke_off_is_replaced_and_other_strange_records_say_how_they_go() {
    let bucket = Bucket::start(|_, _| None);
    let endpoint = format!("http://{}", bucket.address);
    let variables = shares_in(&endpoint);
    let machine = Machine::with(&variables);
    let cache = json!({ "key": "a", "paths": "deps" });
    machine.job(&cache, |sandbox| sandbox.write("deps/a", "1"));
    let place = bucket.objects().into_iter().find(|key| key.ends_with("record.json")).unwrap();
    let key = place.rsplit('/').nth(1).unwrap();
    let long = [b"{".repeat(1 << 20), b"}".to_vec()].concat();
    for (bytes, mends) in
        [(&b""[..], true), (b"\0\0\0", true), (b"null\n", true), (b"<html>log in</html>", false), (&long, false)]
    {
        bucket.insert(&place, bytes.to_vec());
        machine.forget();
        let (hit, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", "2"));
        assert!(hit == "miss" && log.contains(&format!("monofo cache invalidate --key {key}")), "{log}");
        if mends {
            assert!(log.contains("shared in"), "{log}");
        } else {
            // It may be the answer of a proxy.
            assert!(!log.contains("shared in") && bucket.object(&place).unwrap() == bytes, "{log}");
            let mut invalidate = machine.sandbox.monofo(["cache", "invalidate", "--key", key, "--remote", "s3://b/p"]);
            for (name, value) in variables {
                invalidate = invalidate.env(name, value);
            }
            invalidate.env("MONOFO_SCOPE", "trusted").exits(0).says("1 entry in ");
            machine.forget();
            machine.job(&cache, nothing);
        }
        assert!(bucket.object(&place).unwrap().starts_with(b"{"));
        machine.forget();
        assert_eq!(machine.job(&cache, nothing).0, "exact");
    }
}

#[test]
fn in_a_folder_whatever_is_no_record_is_replaced() {
    let mut machine = Machine::new();
    let remote = machine.sandbox.path("remote");
    machine.set(&[("MONOFO_REMOTE", &format!("file://{}", remote.display()))]);
    let cache = json!({ "key": "a", "paths": "deps" });
    machine.job(&cache, |sandbox| sandbox.write("deps/a", "1"));
    let place = walk(&remote).into_keys().find(|path| path.ends_with(b"record.json")).unwrap();
    for bytes in [&b""[..], b"<html>log in</html>", &b" ".repeat(2 << 20)] {
        fs::write(join(&remote, &place), bytes).unwrap();
        machine.forget();
        let (hit, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", "2"));
        assert!(hit == "miss" && log.contains("shared in"), "{log}");
        machine.forget();
        assert_eq!(machine.job(&cache, nothing).0, "exact");
    }
}

#[test]
fn a_file_in_place_of_the_remotes_index_is_no_miss() {
    let mut machine = Machine::new();
    let remote = machine.sandbox.path("remote");
    machine.set(&[("MONOFO_REMOTE", &format!("file://{}", remote.display()))]);
    let cache = |key: &str, soft: bool| json!({ "key": key, "restore-keys": "a-", "paths": "deps", "save": "never", "soft-fail": soft });
    machine.job(&json!({ "key": "a-1", "paths": "deps" }), |sandbox| sandbox.write("deps/a", "1"));
    machine.forget();
    assert_eq!(machine.job(&cache("a-2", false), nothing).0, "partial");
    let index = remote.join("meta-v1/trusted/index/deps");
    let shelf = fs::read_dir(&index).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(&shelf).unwrap();
    fs::write(&shelf, "").unwrap();
    machine.forget();
    let (hit, log) = machine.job(&cache("a-2", true), nothing);
    assert!(hit == "miss" && log.contains("warning: deps: remote entry refused") && log.contains("no folder"), "{log}");
    assert!(log.contains("using the local cache"), "{log}");
    machine.pre(&cache("a-2", false), 8).before.does_not_say("using the local");
}

#[test]
fn a_scope_that_is_not_read_is_no_hit_and_gives_way() {
    let mut machine = Machine::with(&[
        ("BUILDKITE_PULL_REQUEST", "7"),
        ("BUILDKITE_REPO", "git@host.example:a/b.git"),
        ("BUILDKITE_PULL_REQUEST_REPO", "git://host.example/a/b.git"),
    ]);
    let cache = json!({ "key": "a", "paths": "deps" });
    machine.job(&cache, |sandbox| sandbox.write("deps/of", "pull request"));
    machine.set(&[("BUILDKITE_PULL_REQUEST", "false")]);
    fs::remove_dir_all(machine.sandbox.work("deps")).unwrap();
    let falls_back = json!({ "key": "b", "restore-keys": "a", "paths": "deps", "save": "never" });
    assert_eq!(machine.job(&falls_back, nothing).0, "miss");
    assert_eq!(machine.job(&cache, |sandbox| sandbox.write("deps/of", "main")).0, "miss");
    assert_eq!(machine.entries(), 1);
    assert_eq!(machine.job(&falls_back, nothing).0, "partial");
    machine.set(&[("BUILDKITE_PULL_REQUEST", "7")]);
    assert_eq!(machine.job(&cache, nothing).0, "exact");
    assert_eq!(fs::read_to_string(machine.sandbox.work("deps/of")).unwrap(), "main");
}

#[test]
fn a_fork_stores_nothing_whatever_scopes_its_agent_has() {
    let remote = |machine: &mut Machine| {
        let url = format!("file://{}", machine.sandbox.path("remote").display());
        machine.set(&[("MONOFO_REMOTE", &url), ("BUILDKITE_REPO", "git@host.example:a/b.git")]);
    };
    let cache = json!({ "key": "a", "paths": "deps" });
    for (scopes, from) in [
        (("MONOFO_READ_SCOPES", "shared,trusted"), "git://host.example/x/b.git"),
        (("MONOFO_SCOPE", "trusted"), "git://host.example/x/b.git"),
        (("MONOFO_VERBOSE", "0"), ""),
    ] {
        let mut machine = Machine::with(&[scopes]);
        remote(&mut machine);
        machine.set(&[("BUILDKITE_PULL_REQUEST", "7"), ("BUILDKITE_PULL_REQUEST_REPO", from)]);
        let (_, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", "evil"));
        assert!(log.contains("a fork's pull request") && log.contains("MONOFO_SAVE_FROM_FORKS"), "{log}");
        assert!(!machine.sandbox.path("remote").exists() && !machine.home().exists(), "{scopes:?}");
        machine.set(&[("BUILDKITE_PULL_REQUEST", "false"), ("BUILDKITE_PULL_REQUEST_REPO", "")]);
        machine.clean();
        let (hit, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", "good"));
        assert!(hit == "miss" && log.contains("shared in"), "{log}");
        assert!(machine.sandbox.path("remote/meta-v1/trusted").exists());
        // What it stores is what it reads.
        machine.forget();
        assert_eq!(machine.job(&cache, nothing).0, "exact", "{scopes:?}");
    }
}

#[test]
fn why_a_pull_request_is_a_forks_is_said_without_secrets() {
    let cache = json!({ "key": "a", "paths": "deps" });
    for (own, from, says) in [
        (
            "git@work:acme/app.git",
            "git://github.com/acme/app.git",
            "is `github.com/acme/app.git` and BUILDKITE_REPO is `work:acme/app.git`",
        ),
        (
            "https://x:hunter2@h.example/a/b?token=hunter2",
            "https://hunter2@h.example/x/b",
            "is `h.example/x/b` and BUILDKITE_REPO is `h.example/a/b`",
        ),
        ("", "https://h.example/x/b", "and BUILDKITE_REPO is empty"),
    ] {
        let machine = Machine::with(&[
            ("BUILDKITE_PULL_REQUEST", "7"),
            ("BUILDKITE_REPO", own),
            ("BUILDKITE_PULL_REQUEST_REPO", from),
        ]);
        let (_, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", ""));
        assert!(log.contains(says) && !log.contains("hunter2") && machine.entries() == 0, "{log}");
    }
    let machine = Machine::with(&[
        ("BUILDKITE_PULL_REQUEST", "7"),
        ("BUILDKITE_REPO", "ssh://git@ssh.github.com:443/Acme/App.git"),
        ("BUILDKITE_PULL_REQUEST_REPO", "git://github.com/acme/app.git"),
    ]);
    let (_, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", ""));
    assert!(log.contains("stored a") && machine.entries() == 1, "{log}");
}

#[test]
fn invalidating_with_a_remote_removes_the_shared_entry_too() {
    let machine = Machine::new();
    let url = format!("file://{}", machine.sandbox.path("remote").display());
    let mut machine = machine;
    machine.set(&[("MONOFO_REMOTE", &url)]);
    machine.sandbox.write("lock", "1");
    machine.job(&deps(), install);
    let cache = machine.home();
    let invalidate = |cache: &std::path::Path| {
        let run = machine.sandbox.monofo(["cache", "invalidate", "--component", "deps", "--remote", &url]);
        run.env("MONOFO_CACHE_DIR", cache.to_str().unwrap()).env("MONOFO_SCOPE", "trusted").exits(0)
    };
    invalidate(&cache).says("removed 1 entry").says("1 entry in ");
    let _ = fs::remove_dir_all(machine.sandbox.work("deps"));
    assert_eq!(machine.job(&deps(), install).0, "miss");
    // Another machine knows them by the index alone.
    invalidate(&machine.sandbox.path("another")).says("removed 0 entries").says("1 entry in ");
    machine.forget();
    assert_eq!(machine.pre(&deps(), 0).exports["MONOFO_CACHE_HIT"], "miss");
}

/// Incompressible, and other bytes with each call.
fn noise(sandbox: &Sandbox, seed: &mut u32) {
    let next = || {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 24) as u8
    };
    sandbox.write("deps/noise", std::iter::repeat_with(next).take(100_000).collect::<Vec<u8>>());
}

#[test]
fn the_cache_stays_within_its_size() {
    let mut machine = Machine::with(&[("MONOFO_CACHE_SIZE", "300K")]);
    let url = format!("file://{}", machine.sandbox.path("remote").display());
    machine.set(&[("MONOFO_REMOTE", &url)]);
    let cache = |key: &str| json!({ "key": key, "paths": "deps" });
    let mut seed = 1;
    let use_long_ago = |machine: &Machine, number: u64| {
        for metadata in entries(&machine.home()).values() {
            age(metadata, 3600 * (10 - number));
        }
    };
    for number in 0..6 {
        machine.job(&cache(&format!("k{number}")), |sandbox| noise(sandbox, &mut seed));
        use_long_ago(&machine, number);
    }
    assert!((1..=2).contains(&machine.entries()), "{}", machine.entries());
    assert_eq!(machine.job(&cache("k5"), nothing).0, "exact");
    machine.pre(&cache("k5"), 0);
    // What is only restored from the remote grows too.
    machine.forget();
    for number in 0..6 {
        let (hit, log) = machine.job(&cache(&format!("k{number}")), nothing);
        assert!(hit == "exact" && log.contains("from the remote"), "{log}");
        use_long_ago(&machine, number);
    }
    assert!((1..=2).contains(&machine.entries()), "{}", machine.entries());
    let wrong = Machine::with(&[("MONOFO_CACHE_SIZE", "much")]);
    wrong.pre(&cache("a"), 2).before.says("MONOFO_CACHE_SIZE");
}

/// A last use is noted once an hour, and making room spares only the last minute.
#[test]
fn what_a_job_restored_is_not_cleaned_up_by_it() {
    let mut machine = Machine::new();
    let cache =
        |key: &str, path: &str, falls_back: Value| json!({ "key": key, "restore-keys": falls_back, "paths": path });
    for path in ["used", "begun", "other"] {
        machine.job(&cache("k-1", path, Value::Null), |sandbox| sandbox.write(format!("{path}/a"), path));
    }
    entries(&machine.home()).values().for_each(|metadata| age(metadata, 30 * 60));
    machine.set(&[("MONOFO_CACHE_SIZE", "1")]);
    let all = json!([cache("k-1", "used", Value::Null), cache("k-2", "begun", json!("k-"))]);
    let (hit, log) = machine.job(&all, nothing);
    assert!(hit == "partial" && log.contains("cleaned up the cache: 1 entry"), "{log}");
    let kept: BTreeSet<String> = entries(&machine.home())
        .values()
        .map(|metadata| {
            let entry: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
            format!("{} {}", entry["component"].as_str().unwrap(), entry["inputs"]["key"].as_str().unwrap())
        })
        .collect();
    assert_eq!(kept, BTreeSet::from(["begun k-1", "begun k-2", "used k-1"].map(str::to_owned)));
}

#[test]
fn the_commands_of_the_cache_know_these_entries() {
    let machine = Machine::new();
    machine.sandbox.write("lock", "1");
    machine.job(&deps(), install);
    let cache = machine.home();
    let run = |args: &[&str]| machine.sandbox.monofo(args).env("MONOFO_CACHE_DIR", cache.to_str().unwrap());
    let list: Value = serde_json::from_str(&run(&["cache", "list", "--json"]).exits(0).stdout).unwrap();
    let entry = &list["entries"][0];
    assert_eq!(
        (&entry["component"], &entry["platform"], &entry["output"]["mtimes"]),
        (&json!("deps"), &json!("any"), &json!(true))
    );
    assert!(entry["inputs"]["key"].as_str().unwrap().starts_with("deps-"), "{entry}");
    run(&["cache", "list"]).exits(0);
    run(&["cache", "verify"]).exits(0).says("1 entry checked");
    assert!(run(&["cache", "stats"]).exits(0).stdout.contains("deps: 1 entry"));
    let checker = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker/check");
    match std::process::Command::new("python3").arg(checker).args(["cache", "--clean"]).arg(&cache).output() {
        Ok(told) if !String::from_utf8_lossy(&told.stderr).contains("No module named") => {
            assert!(
                told.status.success(),
                "{}{}",
                String::from_utf8_lossy(&told.stdout),
                String::from_utf8_lossy(&told.stderr)
            );
        }
        _ => println!("SKIPPED: no python3 for the second program"),
    }
    run(&["gc", "cache", "--max-age", "0", "--grace", "0", "--dry-run"]).exits(0);
    run(&["cache", "invalidate", "--component", "deps"]).exits(0).says("removed 1 entry");
    assert_eq!(machine.entries(), 0);
}

#[test]
fn fallbacks_are_tried_in_their_order_and_the_newest_first() {
    let machine = Machine::new();
    let cache = |key: &str, restore: Value| json!({ "key": key, "restore-keys": restore, "paths": "deps" });
    let store = |key: &str| machine.job(&cache(key, Value::Null), |sandbox| sandbox.write("deps/of", key));
    for key in ["x-1", "x-2", "y-1", "x-"] {
        store(key);
    }
    // The same second may hold them all.
    for (metadata, age_of) in entries(&machine.home()).values().map(|path| {
        let value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let age = match value["inputs"]["key"].as_str().unwrap() {
            "x-1" => 10,
            "x-2" => 20,
            "y-1" => 5,
            _ => 30,
        };
        (path, age)
    }) {
        set(metadata, Some(0o644), 0);
        let text = fs::read_to_string(metadata).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["created_at"] = json!(format!("2026-01-01T00:00:{:02}Z", 60 - 1 - age_of));
        fs::write(metadata, format!("{value:#}\n")).unwrap();
    }
    let fallen = |restore: Value| {
        let _ = fs::remove_dir_all(machine.sandbox.work("deps"));
        let job = machine.pre(&json!({ "key": "new", "restore-keys": restore, "paths": "deps", "save": "never" }), 0);
        (
            job.exports["MONOFO_CACHE_HIT"].clone(),
            fs::read_to_string(machine.sandbox.work("deps/of")).unwrap_or_default(),
        )
    };
    let partial = |of: &str| ("partial".to_owned(), of.to_owned());
    assert_eq!(fallen(json!(["x-"])), partial("x-1"));
    assert_eq!(fallen(json!(["z-", "x-2", "y-"])), partial("x-2"));
    assert_eq!(fallen(json!(["y-", "x-"])), partial("y-1"));
    assert_eq!(fallen(json!(["z-"])), ("miss".to_owned(), String::new()));
}
