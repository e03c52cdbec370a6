//! The index of a remote is hints: what it says of entries that are gone, of the future or another component's.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::{forget, with_bucket, with_folder};
use crate::entries::{document, entries, json, key, manifest};
use crate::harness::{Sandbox, nobody_listens, walk};

fn index(sandbox: &Sandbox, component: &str) -> PathBuf {
    let folder = sandbox.path("remote/meta-v1/shared/index").join(component);
    let platform = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    platform.path()
}

/// A marker of so many milliseconds since 1970.
fn mark(folder: &PathBuf, millis: u64, key: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!("{:016x}-{key}", u64::MAX - millis)), "").unwrap();
}

const FUTURE: u64 = 9_000_000_000_000;

fn records(sandbox: &Sandbox) -> usize {
    walk(&sandbox.path("remote")).into_keys().filter(|path| path.ends_with(b"/record.json")).count()
}

/// A workspace with another component `b`, whose entry is in the remote.
fn with_another() -> (Sandbox, String) {
    let (sandbox, url) = with_folder();
    manifest(&sandbox, "  a: {version: \"v1\"}\n  b: {version: \"v1\"}\n");
    sandbox.write("components/b/main.c", "int main(){}\n");
    sandbox.monofo(["cache", "build", "b", "--source", "out", "--remote", &url]).exits(0);
    (sandbox, url)
}

#[test]
fn what_leads_to_nothing_hides_nothing_from_an_explanation() {
    let (sandbox, url) = with_folder();
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let folder = index(&sandbox, "a");
    for number in 0..5_u64 {
        mark(&folder, FUTURE + number, &format!("{number:064x}"));
        // Of now, and removed since.
        mark(&folder, 4_000_000_000_000 - number, &format!("{:064x}", number + 10));
    }
    forget(&sandbox);
    sandbox.write("components/a/main.c", "changed");
    let explained = json(&sandbox, &["cache", "explain", "a", "--remote", &url], 0);
    assert_eq!(explained["reason"]["nearest"]["from"], "remote", "{explained:#}");
    fs::remove_dir_all(sandbox.path("remote/meta-v1/shared/cache")).unwrap();
    sandbox.monofo(["cache", "explain", "a", "--remote", &url]).exits(0).does_not_say("ever stored");
}

#[test]
fn an_entry_that_a_marker_calls_anothers_is_not_believed_to_be() {
    let (sandbox, url) = with_another();
    let platform = index(&sandbox, "b").file_name().unwrap().to_owned();
    let theirs = key(&sandbox, "b");
    let folder = sandbox.path("remote/meta-v1/shared/index/a").join(platform);
    mark(&folder, 1_700_000_000_000, &theirs);
    forget(&sandbox);
    let explained = json(&sandbox, &["cache", "explain", "a", "--remote", &url], 0);
    assert!(explained["reason"].is_null(), "{explained:#}");
    let removed = json(&sandbox, &["cache", "invalidate", "--component", "a", "--remote", &url], 0);
    assert_eq!((&removed["removed_in_remote"], records(&sandbox)), (&json!(0), 1), "{removed:#}");
    let removed = json(&sandbox, &["cache", "invalidate", "--component", "b", "--remote", &url], 0);
    assert_eq!((&removed["removed_in_remote"], records(&sandbox)), (&json!(1), 0), "{removed:#}");
}

#[test]
fn a_link_in_the_index_keeps_nothing_from_being_removed() {
    let (sandbox, url) = with_another();
    std::os::unix::fs::symlink("/etc", index(&sandbox, "b").with_file_name("stray")).unwrap();
    forget(&sandbox);
    let removed = json(&sandbox, &["cache", "invalidate", "--component", "b", "--remote", &url], 0);
    assert_eq!((&removed["removed_in_remote"], records(&sandbox)), (&json!(1), 0), "{removed:#}");
}

#[test]
fn what_an_invalidation_shows_is_what_it_removes() {
    for by_key in [true, false] {
        let (sandbox, url) = with_another();
        let key = key(&sandbox, "b");
        let what = if by_key { ["--key", &key] } else { ["--component", "b"] };
        for is_here in [true, false] {
            let invalidate = [&["cache", "invalidate", "--remote", &url][..], &what].concat();
            let shown = json(&sandbox, &[&invalidate[..], &["--dry-run"]].concat(), 0);
            assert_eq!(shown["removed_in_remote"], 1, "{shown:#}");
            assert_eq!((records(&sandbox), shown["removed"].as_array().unwrap().len()), (1, usize::from(is_here)));
            if is_here {
                forget(&sandbox);
                continue;
            }
            assert_eq!(json(&sandbox, &invalidate, 0)["removed_in_remote"], 1);
            assert_eq!(json(&sandbox, &invalidate, if by_key { 3 } else { 0 })["removed"], shown["removed"]);
        }
    }
}

#[test]
fn what_was_removed_is_told_also_where_the_remote_is_dead() {
    let (sandbox, _) = with_another();
    let dead = nobody_listens().to_string();
    let told = document(with_bucket(&sandbox, &["cache", "invalidate", "--component", "b"], &dead), 8);
    assert_eq!(
        (told["removed"].as_array().map(Vec::len), &told["removed_in_remote"]),
        (Some(1), &json!(0)),
        "{told:#}"
    );
    assert!(told["bytes"].as_u64().unwrap() > 0);
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
}
