//! What a remote has and nobody can use: the next build replaces it, `cache invalidate` removes it.

use std::fs;
use std::path::PathBuf;

use super::{forget, record, with_folder};
use crate::entries::{Change, assert_restored, json};
use crate::harness::{Sandbox, walk};

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
