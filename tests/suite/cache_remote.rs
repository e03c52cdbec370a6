//! Sharing through a remote with the real binary: folders, a bucket that can be spoiled, and remotes that are dead.

mod index;
mod mending;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::entries::{Change, assert_restored, document, entries, json, workspace};
use crate::harness::{Run, Sandbox, nobody_listens, walk};
use crate::transport::http::{Bucket, Fault};

/// A workspace, and the URL of a folder beside it.
fn with_folder() -> (Sandbox, String) {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    (sandbox, url)
}

fn forget(sandbox: &Sandbox) {
    for folder in [".meta-cache", ".meta-store"] {
        let _ = fs::remove_dir_all(sandbox.work(folder));
    }
}

fn record(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.path("remote");
    let records: Vec<_> = walk(&root).into_keys().filter(|path| path.ends_with(b"/record.json")).collect();
    assert_eq!(records.len(), 1);
    crate::harness::join(&root, &records[0])
}

fn edit(path: &PathBuf, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn what_one_machine_builds_another_one_gets_and_then_has_itself() {
    let (sandbox, url) = with_folder();
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0).says("shared a");
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0).says("already");
    let hash =
        sandbox.monofo(["store", "add", "a", "--source", "out", "--remote", &url]).exits(0).stdout.trim().to_owned();
    forget(&sandbox);
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(3);
    let got = json(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url], 0);
    assert_eq!((&got["result"], &got["source"], &got["remote"]), (&json!("hit"), &json!("remote"), &Value::Null));
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    assert_eq!(json(&sandbox, &["store", "query", &hash, "--remote", &url], 0)["content_hash"], hash);
    let got = json(&sandbox, &["store", "get", &hash, "--target", "stored", "--remote", &url], 0);
    assert_eq!(got["source"], "remote");
    assert_restored(&sandbox.work("out"), &sandbox.work("stored"));
    // From now on both are here, and the remote is not asked.
    fs::rename(sandbox.path("remote"), sandbox.path("away")).unwrap();
    fs::write(sandbox.path("remote"), "no folder").unwrap();
    for args in [&["cache", "get", "a", "--target", "got"][..], &["store", "get", &hash, "--target", "stored"]] {
        let got = json(&sandbox, &[args, &["--remote", &url, "--remote-required"]].concat(), 0);
        assert_eq!((&got["source"], got.get("warnings")), (&json!("local"), None));
    }
    for home in [".meta-cache", ".meta-store"] {
        let metadata = entries(&sandbox.work(home)).into_values().next().unwrap();
        let text = fs::read_to_string(metadata).unwrap();
        assert!(text.contains("\"remote\"") && !text.contains(sandbox.path("").to_str().unwrap()), "{text}");
    }
    assert_eq!(json(&sandbox, &["cache", "stats"], 0)["remote_hits"], 1);
}

#[test]
fn scopes_are_written_to_alone_and_read_in_order() {
    let (sandbox, url) = with_folder();
    let scoped = |args: &[&str], write: &str, read: &str| -> Run<'_> {
        let run = sandbox.monofo([&["--json"], args, &["--remote", &url]].concat());
        run.env("MONOFO_SCOPE", write).env("MONOFO_READ_SCOPES", read)
    };
    let build = ["cache", "build", "a", "--source", "out"];
    let get = ["cache", "get", "a", "--target", "got"];
    document(scoped(&build, "pr/7", "pr/7"), 0);
    let inside: Vec<_> =
        fs::read_dir(sandbox.path("remote/meta-v1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(inside, ["pr"]);
    for (read, status) in [("trusted", 3), ("pr/8", 3), ("pr/7", 0), ("trusted,pr/7", 0)] {
        forget(&sandbox);
        let got = document(scoped(&get, "other", read), status);
        assert_eq!(got["result"], if status == 0 { "hit" } else { "miss" }, "{read}");
    }
    forget(&sandbox);
    assert_eq!(document(scoped(&build, "-", "trusted"), 0)["shared"], "not-written");
    for wrong in ["../trusted", "a//b", "A", "/", "a/..", &"a".repeat(65)] {
        document(scoped(&get, wrong, "shared"), 2);
    }
    // A record moved into a scope it was not made in is no record of that scope.
    forget(&sandbox);
    fs::rename(sandbox.path("remote/meta-v1/pr/7"), sandbox.path("remote/meta-v1/trusted")).unwrap();
    let refused = document(scoped(&get, "x", "trusted"), 3);
    assert_eq!(refused["remote"]["kind"], "refused", "{refused:#}");
    assert!(!sandbox.work("got/data").exists() || entries(&sandbox.work(".meta-cache")).is_empty());
}

#[test]
fn records_that_do_not_add_up_and_payloads_that_are_not_theirs_are_told_apart() {
    let cases: [(&str, &str, Change); 10] = [
        ("another key", "refused", |s| edit(&record(s), |value| value["key"] = json!("0".repeat(64)))),
        ("other inputs", "refused", |s| edit(&record(s), |value| value["inputs"]["version"] = json!("v9"))),
        ("no payload", "refused", |s| edit(&record(s), |value| value["payload"] = Value::Null)),
        ("another schema", "refused", |s| edit(&record(s), |value| value["schema"] = json!("meta.cache-entry/9"))),
        ("another scope", "refused", |s| edit(&record(s), |value| value["scope"] = json!("trusted"))),
        ("no JSON", "refused", |s| fs::write(record(s), "<html>log in</html>").unwrap()),
        ("a record of 2 MiB", "refused", |s| {
            fs::write(record(s), format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20))).unwrap()
        }),
        ("a payload that is gone", "dangling", |s| fs::remove_file(payload(s)).unwrap()),
        ("a payload with a flipped bit", "damaged", |s| {
            let mut bytes = fs::read(payload(s)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(payload(s), bytes).unwrap();
        }),
        ("a payload that is cut", "damaged", |s| fs::write(payload(s), &fs::read(payload(s)).unwrap()[..100]).unwrap()),
    ];
    fn payload(sandbox: &Sandbox) -> PathBuf {
        let folder = record(sandbox).parent().unwrap().to_owned();
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.into_iter().find(|path| path.to_str().unwrap().contains(".tar.")).unwrap()
    }
    for (what, kind, spoil) in cases {
        let (sandbox, url) = with_folder();
        sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
        forget(&sandbox);
        spoil(&sandbox);
        sandbox.write("target/old", "old");
        let get = ["cache", "get", "a", "--target", "target", "--remote", &url];
        let got = json(&sandbox, &get, 3);
        assert_eq!(got["remote"]["kind"], kind, "{what}: {got:#}");
        assert_eq!(got["warnings"].as_array().unwrap().len(), 1, "{what}: {got:#}");
        json(&sandbox, &[&get[..], &["--remote-required"]].concat(), 8);
        sandbox.assert_paths("work/target", &["old"]);
        assert!(entries(&sandbox.work(".meta-cache")).is_empty(), "{what}");
        // What is here already serves whatever the remote is like.
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        sandbox.monofo(["cache", "get", "a", "--target", "target", "--remote", &url, "--remote-required"]).exits(0);
    }
}

#[test]
fn of_two_outputs_for_one_key_the_remote_keeps_the_first_and_the_second_is_told() {
    let (sandbox, url) = with_folder();
    let build = ["cache", "build", "a", "--source", "out", "--remote", &url];
    sandbox.monofo(build).exits(0);
    let before = fs::read(record(&sandbox)).unwrap();
    forget(&sandbox);
    sandbox.write("out/data", "another output");
    sandbox.monofo(build).exits(0).says("the remote has another output");
    assert_eq!(fs::read(record(&sandbox)).unwrap(), before);
    assert_eq!(json(&sandbox, &build, 0)["shared"], "other-output");
    // Here the second one stays.
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(0);
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    let key = entries(&sandbox.work(".meta-cache")).into_keys().next().unwrap();
    sandbox.monofo(["cache", "invalidate", "--key", &key, "--remote", &url]).exits(0);
    assert!(!walk(&sandbox.path("remote")).into_keys().any(|path| path.ends_with(b"record.json")));
    sandbox.monofo(build).exits(0).says("shared a");
}

const SECRETS: [&str; 2] = ["AKIDSECRETID", "verysecretkey"];

/// A command with a bucket behind this address.
fn with_bucket<'a>(sandbox: &'a Sandbox, args: &[&str], address: &str) -> Run<'a> {
    let run = sandbox.monofo([&["-v", "--json"], args, &["--remote", "s3://b/prefix"]].concat());
    run.env("AWS_ENDPOINT_URL", &format!("http://{address}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", SECRETS[0])
        .env("AWS_SECRET_ACCESS_KEY", SECRETS[1])
}

#[test]
fn a_local_hit_sends_nothing_to_a_bucket_and_other_commands_few_requests() {
    let bucket = Bucket::start(|_, _| None);
    let sandbox = workspace();
    let address = bucket.address.to_string();
    let counted = |args: &[&str], status: i32| {
        let before = bucket.seen().len();
        document(with_bucket(&sandbox, args, &address), status);
        bucket.seen().len() - before
    };
    assert!(counted(&["cache", "build", "a", "--source", "out"], 0) >= 2);
    assert_eq!(counted(&["cache", "get", "a", "--target", "got"], 0), 0, "a local hit");
    forget(&sandbox);
    let fetched = counted(&["cache", "get", "a", "--target", "got"], 0);
    assert!((2..=4).contains(&fetched), "record and payload: {fetched}");
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    sandbox.write("components/a/main.c", "changed");
    forget(&sandbox);
    let missed = counted(&["cache", "get", "a", "--target", "got"], 3);
    assert!(missed <= 12, "a miss, and what is told of it: {missed}");
}

#[test]
fn a_remote_that_nobody_answers_for_is_said_once_and_costs_little() {
    let closed = nobody_listens().to_string();
    let silent = Bucket::start(|_, _| Some(Fault::Silent));
    for (what, address, most) in [("refused", closed.clone(), 20), ("silent", silent.address.to_string(), 40)] {
        let sandbox = workspace();
        let started = Instant::now();
        let missed = document(with_bucket(&sandbox, &["cache", "get", "a", "--target", "got"], &address), 3);
        assert!(started.elapsed() < Duration::from_secs(most), "{what} took {:?}", started.elapsed());
        assert_eq!(missed["remote"]["kind"], "unreachable", "{what}: {missed:#}");
        assert_eq!(missed["warnings"].as_array().unwrap().len(), 1, "{what}: {missed:#}");
        let required = document(
            with_bucket(&sandbox, &["cache", "get", "a", "--target", "got", "--remote-required"], &address),
            8,
        );
        assert_eq!(required["error"]["kind"], "unavailable", "{what}");
    }
    let sandbox = workspace();
    let built = document(with_bucket(&sandbox, &["cache", "build", "a", "--source", "out"], &closed), 0);
    assert_eq!(built["remote"]["kind"], "unreachable");
    document(with_bucket(&sandbox, &["cache", "build", "a", "--source", "out", "--remote-required"], &closed), 8);
    document(with_bucket(&sandbox, &["cache", "get", "a", "--target", "got", "--remote-required"], &closed), 0);
    document(with_bucket(&sandbox, &["store", "add", "a", "--source", "out"], &closed), 0);
    document(with_bucket(&sandbox, &["store", "get", &"0".repeat(64), "--target", "got2"], &closed), 3);
    document(with_bucket(&sandbox, &["cache", "explain", "a"], &closed), 0);
}

#[test]
fn answers_of_a_bucket_are_told_apart_and_nothing_secret_is_ever_printed() {
    type Hook = fn(usize, &crate::transport::http::Request) -> Option<Fault>;
    let cases: [(&str, &str, Hook); 6] = [
        ("403", "denied", |_, _| Some(Fault::Status(403, "<Error><Code>AccessDenied</Code></Error>".into()))),
        ("401", "denied", |_, _| Some(Fault::Status(401, String::new()))),
        ("an expired token", "denied", |_, _| {
            Some(Fault::Status(400, "<Error><Code>ExpiredToken</Code></Error>".into()))
        }),
        ("no such bucket", "denied", |_, _| {
            Some(Fault::Status(404, "<Error><Code>NoSuchBucket</Code></Error>".into()))
        }),
        ("a login page", "refused", |_, request| {
            request.reads_object().then(|| Fault::Status(200, "<html>log in</html>".into()))
        }),
        ("500 for ever", "unreachable", |_, _| Some(Fault::Status(500, String::new()))),
    ];
    for (what, kind, hook) in cases {
        let bucket = Bucket::start(hook);
        let sandbox = workspace();
        let run = with_bucket(&sandbox, &["cache", "get", "a", "--target", "got"], &bucket.address.to_string());
        let ran = run.exits(3);
        for secret in SECRETS {
            assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{what}: {}", ran.stderr);
        }
        let missed: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(missed["remote"]["kind"], kind, "{what}: {missed:#}");
        let lookups = bucket.seen().iter().filter(|request| request.path.ends_with("record.json")).count();
        assert!(lookups <= 4, "{what}: {lookups} requests for one record");
    }
}

#[test]
fn urls_that_are_no_remote_are_refused_without_showing_what_is_secret_in_them() {
    let sandbox = workspace();
    for url in ["http://x/y", "ftp://x", "s3://", "s3://user:hunter2@bucket/x", "gs:///x", "s3://b/../x"] {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_monofo"))
            .args(["--json", "cache", "get", "a", "--target", "got", "--remote", url])
            .current_dir(sandbox.work(""))
            .env_clear()
            .timeout(Duration::from_secs(30))
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{url}: {stderr}");
        assert!(!stdout.contains("hunter2") && !stderr.contains("hunter2"), "{url}: {stderr}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_no_remote_and_only_its_last_part_is_made() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("mount/remote").display());
    let missed = json(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url], 3);
    assert_eq!(missed["remote"]["kind"], "denied", "{missed:#}");
    assert_eq!(missed["warnings"].as_array().map(Vec::len), Some(1), "{missed:#}");
    let zeros = "0".repeat(64);
    for args in [
        &["cache", "get", "a", "--target", "got"][..],
        &["cache", "explain", "a"],
        &["store", "get", &zeros, "--target", "got"],
        &["store", "query", &zeros],
        &["cache", "build", "a", "--source", "out"],
        &["store", "add", "a", "--source", "out"],
    ] {
        let failed = json(&sandbox, &[args, &["--remote", &url, "--remote-required"]].concat(), 8);
        let hint = failed["error"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("is it mounted?"), "{args:?}: {failed:#}");
        forget(&sandbox);
    }
    assert!(!sandbox.path("mount").exists());
    fs::create_dir(sandbox.path("mount")).unwrap();
    // The first entry that is stored makes it; until then it is empty.
    let asked = ["cache", "get", "a", "--target", "got", "--remote", &url, "--remote-required"];
    let missed = json(&sandbox, &asked, 3);
    assert!(missed["remote"]["kind"].is_null() && missed["warnings"].is_null(), "{missed:#}");
    let build = ["cache", "build", "a", "--source", "out", "--remote", &url, "--remote-required"];
    assert_eq!(json(&sandbox, &build, 0)["shared"], "created");
    forget(&sandbox);
    sandbox.monofo(asked).exits(0);
}

#[test]
fn a_remote_that_is_required_has_to_be_named() {
    let sandbox = workspace();
    let zeros = "0".repeat(64);
    for args in [
        &["cache", "build", "a", "--source", "out"][..],
        &["cache", "get", "a", "--target", "got"],
        &["cache", "explain", "a"],
        &["store", "add", "a", "--source", "out"],
        &["store", "get", &zeros, "--target", "got"],
        &["store", "query", &zeros],
    ] {
        let refused = json(&sandbox, &[args, &["--remote-required"]].concat(), 2);
        assert!(refused["error"]["hint"].as_str().unwrap().contains("MONOFO_REMOTE"), "{args:?}: {refused:#}");
    }
    assert!(!sandbox.work(".meta-cache").exists());
}

#[test]
fn a_folder_that_is_the_remote_is_neither_replaced_nor_stored() {
    let sandbox = workspace();
    fs::create_dir(sandbox.work("shared")).unwrap();
    let url = format!("file://{}", sandbox.work("shared").display());
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let before = walk(&sandbox.work("shared"));
    for by_flag in [true, false] {
        let run = |args: &[&str], status: i32| {
            let flag = if by_flag { &["--remote", &url][..] } else { &[] };
            let run = sandbox.monofo([&["--json"], args, flag].concat());
            document(run.env("MONOFO_REMOTE", if by_flag { "" } else { &url }), status)
        };
        let hash = run(&["store", "add", "a", "--source", "out"], 0)["hash"].as_str().unwrap().to_owned();
        for target in ["shared", "shared/", "shared/meta-v1", "shared/meta-v1/shared/x"] {
            let refused = run(&["cache", "get", "a", "--target", target], 6);
            assert!(refused["error"]["message"].as_str().unwrap().contains("the remote"), "{refused:#}");
            if target != "shared/" {
                run(&["store", "get", &hash, "--target", target], 6);
            }
        }
        for source in ["shared", "shared/meta-v1"] {
            run(&["cache", "build", "a", "--source", source], 6);
            run(&["store", "add", "a", "--source", source], 6);
        }
        // What lies beside ours is nobody's business.
        run(&["cache", "get", "a", "--target", "shared/beside"], 0);
        fs::remove_dir_all(sandbox.work("shared/beside")).unwrap();
    }
    assert!(before.keys().all(|path| walk(&sandbox.work("shared")).contains_key(path)));
}

#[test]
fn a_key_of_another_component_places_nothing_whichever_tier_has_it() {
    let (sandbox, url) = with_folder();
    sandbox.write("manifests/components.yaml", "components:\n  a: {version: \"v1\"}\n  b: {version: \"v1\"}\n");
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let key = entries(&sandbox.work(".meta-cache")).into_keys().next().unwrap();
    for local in [true, false] {
        if !local {
            forget(&sandbox);
        }
        let args = ["cache", "get", "b", "--key", &key, "--target", "got", "--remote", &url];
        let refused = json(&sandbox, &args, 2);
        assert!(refused["error"]["message"].as_str().unwrap().contains("is one of `a`, not of `b`"), "{refused:#}");
        assert!(!sandbox.work("got").exists());
    }
    let zeros = "0".repeat(64);
    let missed = json(&sandbox, &["cache", "get", "a", "--key", &zeros, "--target", "got", "--remote", &url], 3);
    assert!(missed["error"]["message"].as_str().unwrap().ends_with("no entry has this key, here or in the remote"));
    let missed = json(&sandbox, &["cache", "get", "a", "--key", &zeros, "--target", "got"], 3);
    assert!(missed["error"]["message"].as_str().unwrap().ends_with("no entry here has this key"));
    assert!(missed["error"]["hint"].as_str().unwrap().contains("cache list"), "{missed:#}");
}

#[test]
fn a_remote_or_a_cache_that_would_lie_in_the_source_is_refused_and_not_made() {
    let sandbox = workspace();
    let before = walk(&sandbox.work(""));
    std::os::unix::fs::symlink(sandbox.work("out"), sandbox.path("link")).unwrap();
    for place in ["work/out", "work/out/rem", "work/out/../out/rem", "link/rem"] {
        let url = sandbox.path(place).to_str().unwrap().to_owned();
        for command in [&["cache", "build"][..], &["store", "add"]] {
            let refused = json(&sandbox, &[command, &["a", "--source", "out", "--remote", &url]].concat(), 6);
            assert!(refused["error"]["message"].as_str().unwrap().contains("no part of an artifact"), "{refused:#}");
            assert_eq!(walk(&sandbox.work("")), before, "{place}");
        }
    }
    let cache = sandbox.work("out/c");
    let run = sandbox.monofo(["cache", "build", "a", "--source", "out"]);
    run.env("MONOFO_CACHE_DIR", cache.to_str().unwrap()).exits(6);
    assert_eq!(walk(&sandbox.work("")), before);
}

#[test]
fn what_is_no_file_in_a_folder_is_refused_or_damaged_and_not_called_unreachable() {
    fn no_file(path: &PathBuf, kind: &str) {
        fs::remove_file(path).unwrap();
        match kind {
            "folder" => fs::create_dir(path).unwrap(),
            "link" => std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
            _ => rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o644)).unwrap(),
        }
    }
    for kind in ["folder", "link", "pipe"] {
        for (is_record, expected) in [(true, "refused"), (false, "damaged")] {
            let (sandbox, url) = with_folder();
            sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
            forget(&sandbox);
            let record = record(&sandbox);
            let files = fs::read_dir(record.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
            let payload = files.into_iter().find(|path| path.to_str().unwrap().contains(".tar.")).unwrap();
            let place = if is_record { record } else { payload };
            no_file(&place, kind);
            let missed = json(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url], 3);
            assert_eq!(missed["remote"]["kind"], expected, "{kind}: {missed:#}");
        }
    }
}
