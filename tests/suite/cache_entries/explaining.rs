//! What `cache explain` says: each change once, and nothing that drives a terminal.

use std::fs;

use serde_json::{Value, json};

use crate::entries::{entries, json, manifest, workspace};
use crate::harness::Sandbox;

/// `a` needs `b` and `c`, which need `d`; all of them read one variable.
fn diamond() -> Sandbox {
    let sandbox = workspace();
    manifest(
        &sandbox,
        "  a: {version: \"v1\", depends_on: [b, c], env: [CFLAGS]}\n  b: {version: \"v1\", depends_on: [d], env: [CFLAGS]}\n  \
         c: {version: \"v1\", depends_on: [d], env: [CFLAGS]}\n  d: {version: \"v1\"}\n",
    );
    for name in ["b", "c", "d"] {
        sandbox.write(format!("components/{name}/main.c"), "int main(){}\n");
    }
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox
}

fn told(document: &Value) -> Vec<&str> {
    let differences = document["reason"]["differences"].as_array().unwrap();
    differences.iter().map(|one| one["what"].as_str().unwrap()).collect()
}

#[test]
fn a_change_that_counts_in_many_components_is_named_once() {
    let sandbox = diamond();
    for (name, value, what) in [("MONOFO_CACHE_SALT", "fresh", "salt"), ("CFLAGS", "-O3", "env")] {
        let run = sandbox.monofo(["--json", "cache", "explain", "a"]).env(name, value);
        let explained: Value = serde_json::from_str(&run.exits(0).stdout).unwrap();
        assert_eq!(told(&explained), [what], "{explained:#}");
    }
    // Files of one name in several components are several changes.
    for name in ["b", "c", "d"] {
        sandbox.write(format!("components/{name}/main.c"), "changed\n");
    }
    let explained = json(&sandbox, &["cache", "explain", "a"], 0);
    assert_eq!(told(&explained), ["source", "source", "source"], "{explained:#}");
}

#[test]
fn versions_of_dependencies_are_printed_escaped() {
    let sandbox = workspace();
    let with = |version: &str| {
        manifest(&sandbox, &format!("  a: {{version: \"v1\", depends_on: [b]}}\n  b: {{version: \"{version}\"}}\n"));
    };
    with("v1\\e[31m");
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    // What was hashed is lost, so that only the versions are left to tell.
    fs::remove_dir_all(sandbox.work(".meta-cache/facts")).unwrap();
    with("v2\\e[0m");
    let ran = sandbox.monofo(["cache", "explain", "a"]).exits(0);
    assert!(ran.stdout.contains("version changed from"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{:?}", ran.stdout);
}

#[test]
fn settings_that_are_no_text_are_refused_and_not_taken_for_unset() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = workspace();
    for name in ["MONOFO_CACHE_SALT", "MONOFO_SCOPE", "MONOFO_READ_SCOPES", "MONOFO_CACHE_FORMAT"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_monofo"))
            .args(["cache", "key", "a"])
            .current_dir(sandbox.work(""))
            .env_clear()
            .env(name, std::ffi::OsStr::from_bytes(b"\xff"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(&format!("{name} is not valid UTF-8")), "{name}: {said}");
    }
}

#[test]
fn a_component_whose_folder_is_a_file_is_a_mistake_of_the_manifest() {
    let sandbox = workspace();
    manifest(&sandbox, "  a: {version: \"v1\", path: out/data}\n");
    let failed = json(&sandbox, &["cache", "key", "a"], 4);
    let hint = failed["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("manifests/components.yaml"), "{failed:#}");
}

#[test]
fn paths_that_are_too_long_are_refused_for_what_they_are() {
    let sandbox = workspace();
    let name = "d".repeat(250);
    fs::create_dir(sandbox.work("long")).unwrap();
    let mut folder = fs::File::open(sandbox.work("long")).unwrap();
    for _ in 0..20 {
        rustix::fs::mkdirat(&folder, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        folder = rustix::fs::openat(&folder, &name, flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    for args in [["cache", "build", "a", "--source", "long"], ["store", "add", "a", "--source", "long"]] {
        let refused = json(&sandbox, &args, 6);
        assert!(refused["error"]["hint"].as_str().unwrap().contains("4,096 bytes"), "{refused:#}");
    }
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
}

#[test]
fn an_entry_of_a_remote_that_claims_to_be_of_the_future_is_of_now() {
    let sandbox = workspace();
    fs::create_dir(sandbox.path("remote")).unwrap();
    let url = format!("file://{}", sandbox.path("remote").display());
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out", "--remote", &url]).exits(0);
    let hash = hash.stdout.trim().to_owned();
    for path in crate::harness::walk(&sandbox.path("remote")).into_keys() {
        if path.ends_with(b"/record.json") {
            let path = crate::harness::join(&sandbox.path("remote"), &path);
            let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            record["created_at"] = json!("2999-01-01T00:00:00Z");
            fs::write(&path, record.to_string()).unwrap();
        }
    }
    for home in [".meta-cache", ".meta-store"] {
        fs::remove_dir_all(sandbox.work(home)).unwrap();
    }
    let got = json(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url], 0);
    let stored = json(&sandbox, &["store", "get", &hash, "--target", "got", "--remote", &url], 0);
    for document in [got, stored] {
        let created = document["entry"]["created_at"].as_str().unwrap();
        assert!(!created.starts_with("2999"), "{document:#}");
    }
}
