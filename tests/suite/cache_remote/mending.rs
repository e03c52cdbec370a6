//! What a remote has and nobody can use: the next build replaces it, `cache invalidate` removes it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{edit, forget, record, with_bucket, with_folder};
use crate::entries::{Change, assert_restored, document, json, workspace};
use crate::harness::{Sandbox, walk};
use crate::transport::http::{Bucket, Fault, Request};

fn payload(sandbox: &Sandbox) -> PathBuf {
    let folder = record(sandbox).parent().unwrap().to_owned();
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.into_iter().find(|path| path.to_str().unwrap().contains(".tar.")).unwrap()
}

fn folder_for(path: &PathBuf) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn link_for(path: &PathBuf) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
}

/// What is done to an entry of a remote so that it is of no use to anybody.
const USELESS: [(&str, Change); 6] = [
    ("a payload that is gone", |s| fs::remove_file(payload(s)).unwrap()),
    ("a payload of another length", |s| fs::write(payload(s), "short").unwrap()),
    ("a folder for a payload", |s| folder_for(&payload(s))),
    ("a link for a payload", |s| link_for(&payload(s))),
    ("a folder for a record", |s| folder_for(&record(s))),
    ("a link for a record", |s| {
        let place = record(s);
        link_for(&place);
    }),
];

#[test]
fn what_is_of_no_use_to_anybody_is_replaced_by_another_output_too() {
    for (what, spoil) in USELESS {
        let (sandbox, url) = with_folder();
        let build = ["cache", "build", "a", "--source", "out", "--remote", &url];
        sandbox.monofo(build).exits(0);
        spoil(&sandbox);
        forget(&sandbox);
        sandbox.write("out/data", "another output");
        assert_eq!(json(&sandbox, &build, 0)["shared"], "created", "{what}");
        forget(&sandbox);
        let got = json(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url, "--remote-required"], 0);
        assert_eq!(got["warnings"].as_array(), None, "{what}: {got:#}");
        assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    }
}

#[test]
fn what_is_of_no_use_to_anybody_can_be_removed() {
    for (what, spoil) in USELESS {
        let (sandbox, url) = with_folder();
        sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
        let folder = record(&sandbox).parent().unwrap().to_owned();
        spoil(&sandbox);
        forget(&sandbox);
        let key = sandbox.monofo(["cache", "key", "a"]).exits(0).stdout.trim().to_owned();
        let removed = json(&sandbox, &["cache", "invalidate", "--key", &key, "--remote", &url], 0);
        assert_eq!(removed["removed_in_remote"], 1, "{what}: {removed:#}");
        assert_eq!(walk(&folder).len(), 0, "{what}");
        sandbox.monofo(["cache", "get", "a", "--target", "got", "--remote", &url, "--remote-required"]).exits(3);
    }
}

#[test]
fn what_somebody_put_in_the_place_of_a_record_stays() {
    let (sandbox, url) = with_folder();
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let place = record(&sandbox);
    folder_for(&place);
    fs::write(place.join("theirs"), "theirs").unwrap();
    let refused = json(&sandbox, &["cache", "build", "a", "--source", "out", "--remote", &url], 0);
    assert_eq!(refused["remote"]["kind"], "refused", "{refused:#}");
    let key = sandbox.monofo(["cache", "key", "a"]).exits(0).stdout.trim().to_owned();
    let failed = json(&sandbox, &["cache", "invalidate", "--key", &key, "--remote", &url], 8);
    assert!(failed["error"]["message"].as_str().unwrap().contains("is no regular file"), "{failed:#}");
    assert_eq!(fs::read_to_string(place.join("theirs")).unwrap(), "theirs");
}

/// What one says that would be removed in the remote, and what the other one removes there, of all components or of one key.
#[track_caller]
fn assert_same(what: &str, dry: &Value, done: &Value) {
    assert_eq!(dry["removed_in_remote"], done["removed_in_remote"], "{what}: {dry:#} {done:#}");
    assert_eq!(dry["error"]["kind"], done["error"]["kind"], "{what}: {dry:#} {done:#}");
}

#[test]
fn a_dry_run_says_of_a_remote_what_the_run_does() {
    let cases: [(&str, i32, u64, Change); 5] = [
        ("nothing", 0, 2, |_| {}),
        ("a folder with a file for a record", 8, 1, |s| {
            folder_for(&one_record(s));
            fs::write(one_record(s).join("theirs"), "theirs").unwrap();
        }),
        ("a folder with a file for a payload", 8, 1, |s| {
            let folder = one_record(s).parent().unwrap().join("folder.tar.lz4");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("theirs"), "theirs").unwrap();
        }),
        ("an empty folder for a record", 0, 2, |s| folder_for(&one_record(s))),
        ("a link for a record", 0, 2, |s| link_for(&one_record(s))),
    ];
    fn one_record(sandbox: &Sandbox) -> PathBuf {
        let root = sandbox.path("remote");
        let first = walk(&root).into_keys().find(|path| path.ends_with(b"/record.json")).unwrap();
        crate::harness::join(&root, &first)
    }
    for (what, status, removed, spoil) in cases {
        let (sandbox, url) = with_folder();
        sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
        sandbox.write("components/a/main.c", "another source");
        sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
        spoil(&sandbox);
        let invalidate = ["cache", "invalidate", "--all", "--remote", &url];
        let before = walk(&sandbox.path("remote"));
        let dry = json(&sandbox, &[&invalidate[..], &["--dry-run"]].concat(), status);
        assert_eq!(walk(&sandbox.path("remote")), before, "{what}");
        assert_eq!(dry["removed_in_remote"], removed, "{what}: {dry:#}");
        assert_same(what, &dry, &json(&sandbox, &invalidate, status));
    }
}

#[test]
fn a_dry_run_takes_a_page_for_no_entry() {
    let bucket = Bucket::start(|_, _| Some(Fault::Status(200, "<html>log in</html>".into())));
    let sandbox = workspace();
    let key = sandbox.monofo(["cache", "key", "a"]).exits(0).stdout.trim().to_owned();
    let invalidate = |more: &[&str]| {
        let args = [&["cache", "invalidate", "--key", &key], more].concat();
        document(with_bucket(&sandbox, &args, &bucket.address.to_string()), 8)
    };
    let dry = invalidate(&["--dry-run"]);
    assert_eq!(dry["removed_in_remote"], 0, "{dry:#}");
    assert_same("a page", &dry, &invalidate(&[]));
}

/// A bucket with the entry of a workspace, spoiled by a hook once `spoils` is set.
fn with_entry(spoils: &'static AtomicBool, hook: fn(&Request) -> Option<Fault>) -> (Sandbox, Bucket) {
    let bucket = Bucket::start(move |_, request| hook(request).filter(|_| spoils.load(Ordering::SeqCst)));
    let sandbox = workspace();
    let address = bucket.address.to_string();
    document(with_bucket(&sandbox, &["cache", "build", "a", "--source", "out"], &address), 0);
    forget(&sandbox);
    spoils.store(true, Ordering::SeqCst);
    (sandbox, bucket)
}

fn is_payload(request: &Request) -> bool {
    request.path.contains(".tar.")
}

#[test]
fn an_entry_that_somebody_removes_at_this_moment_is_a_miss() {
    static SPOILS: AtomicBool = AtomicBool::new(false);
    static LOOKED: AtomicBool = AtomicBool::new(false);
    let (sandbox, bucket) = with_entry(&SPOILS, |request| {
        let gone = is_payload(request) || (LOOKED.load(Ordering::SeqCst) && request.path.ends_with("record.json"));
        LOOKED.fetch_or(is_payload(request) && SPOILS.load(Ordering::SeqCst), Ordering::SeqCst);
        gone.then(|| Fault::Status(404, "<Error><Code>NoSuchKey</Code></Error>".into()))
    });
    let get = ["cache", "get", "a", "--target", "got", "--remote-required"];
    let missed = document(with_bucket(&sandbox, &get, &bucket.address.to_string()), 3);
    assert!(missed["remote"]["kind"].is_null(), "{missed:#}");
}

#[test]
fn an_interruption_is_not_the_remotes_fault() {
    static SPOILS: AtomicBool = AtomicBool::new(false);
    let (sandbox, bucket) = with_entry(&SPOILS, |request| {
        (is_payload(request) && request.method == "GET").then_some(Fault::StallAfter(10))
    });
    let child = Command::new(env!("CARGO_BIN_EXE_monofo"))
        .args(["--json", "cache", "get", "a", "--target", "got", "--remote", "s3://b/prefix"])
        .current_dir(sandbox.work(""))
        .env_clear()
        .envs([("AWS_ENDPOINT_URL", format!("http://{}", bucket.address))])
        .envs([("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "us-east-1")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !bucket.seen().iter().any(|request| is_payload(request) && request.method == "GET") {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(!said.contains("remote"), "{said}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["result"].is_null() && told["remote"].is_null(), "{told:#}");
}

#[test]
fn what_is_said_of_an_entry_fits_what_is_wrong_with_it() {
    let (sandbox, url) = with_folder();
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    forget(&sandbox);
    let get = ["cache", "get", "a", "--target", "got", "--remote", &url, "--remote-required"];
    let whole = fs::read(record(&sandbox)).unwrap();
    edit(&record(&sandbox), |value| value["output"]["bytes"] = json!(-1));
    sandbox.monofo(get).exits(8).says("missing or out of range");
    fs::write(record(&sandbox), whole).unwrap();
    fs::remove_file(payload(&sandbox)).unwrap();
    sandbox.monofo(get).exits(8).says("the next build repairs it").does_not_say("treated as a miss");

    // Of another length when it is read than when it was looked at.
    static SPOILS: AtomicBool = AtomicBool::new(false);
    let (sandbox, bucket) =
        with_entry(&SPOILS, |request| (is_payload(request) && request.method == "GET").then_some(Fault::Short(1)));
    let get = ["cache", "get", "a", "--target", "got", "--remote-required"];
    let failed = document(with_bucket(&sandbox, &get, &bucket.address.to_string()), 8);
    let hint = failed["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("remove the entry there") && !hint.contains("uploads"), "{failed:#}");
}
