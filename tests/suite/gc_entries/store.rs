//! The store: what keeps an artifact, that it goes without, and that nothing goes when what keeps it cannot be read.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::entries::{Change, age, artifact, entries, json, manifest, workspace};
use crate::harness::{Sandbox, assert_same, is_root, walk};

/// A store with an artifact that nothing keeps, and a newer one of the same component, which that keeps. Their hashes.
pub(super) fn store() -> (Sandbox, String, String) {
    let sandbox = workspace();
    artifact(&sandbox, "old", "old");
    let add =
        |source: &str| sandbox.monofo(["store", "add", "a", "--source", source]).exits(0).stdout.trim().to_owned();
    let old = add("old");
    // Another version, so that neither is made from current inputs or locked by its version.
    manifest(&sandbox, "  a: {version: v2}\n");
    let new = add("out");
    let earlier = "2020-01-02T03:04:05Z";
    let metadata = entries(&sandbox.work(".meta-store"))[&old].clone();
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    record["created_at"] = earlier.into();
    crate::harness::set(&metadata, Some(0o644), 1);
    fs::write(&metadata, record.to_string()).unwrap();
    crate::harness::set(&metadata, Some(0o444), 1_600_000_000);
    (sandbox, old, new)
}

pub(super) fn gone(sandbox: &Sandbox) -> Vec<String> {
    let document = json(sandbox, &["gc", "store", "--grace", "0"], 0);
    let removed = document["store"]["removed"].as_array().unwrap();
    removed.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_nothing_refers_to_goes_once_the_grace_is_over() {
    let (sandbox, old, _) = store();
    age(&entries(&sandbox.work(".meta-store"))[&old], 3600);
    let kept = json(&sandbox, &["gc", "store"], 0);
    assert_eq!(kept["store"]["removed"], serde_json::json!([]));
    sandbox.monofo(["gc", "store"]).exits(0);
    assert!(sandbox.monofo(["gc", "store"]).exits(0).stdout.contains("--grace 0 would free"));
    age(&entries(&sandbox.work(".meta-store"))[&old], 25 * 3600);
    let before = walk(&sandbox.work(".meta-store"));
    let dry = json(&sandbox, &["gc", "store", "--dry-run"], 0);
    let mut after = walk(&sandbox.work(".meta-store"));
    after.get_mut(&b"tmp"[..]).unwrap().clone_from(&before[&b"tmp"[..]]);
    assert_same(&before, &after, "a dry run");
    let real = json(&sandbox, &["gc", "store"], 0);
    assert_eq!(
        (&dry["store"]["removed"], &dry["store"]["freed_bytes"]),
        (&real["store"]["removed"], &real["store"]["freed_bytes"])
    );
    assert_eq!(real["store"]["removed"][0]["name"], old);
    assert!(!sandbox.work(format!(".meta-store/{}/{old}", &old[..2])).exists());
    sandbox.monofo(["store", "get", &old, "--target", "got"]).exits(3);
}

type Root = fn(&Sandbox, &str);

const ROOTS: [(&str, Root, Root); 6] = [
    (
        "a pin",
        |s, hash| drop(s.monofo(["store", "pin", "keep", hash]).exits(0)),
        |s, _| drop(s.monofo(["store", "unpin", "keep"]).exits(0)),
    ),
    (
        "the current generation",
        |s, hash| drop(s.monofo(["store", "switch", "prod", hash]).exits(0)),
        |s, _| fs::remove_dir_all(s.work(".meta-store/profiles")).unwrap(),
    ),
    (
        "an earlier generation",
        |s, hash| {
            let new = entries(&s.work(".meta-store")).into_keys().find(|other| other != hash).unwrap();
            s.monofo(["store", "switch", "prod", hash]).exits(0);
            s.monofo(["store", "switch", "prod", &new]).exits(0);
        },
        |s, _| fs::remove_file(s.work(".meta-store/profiles/prod/gen-1.json")).unwrap(),
    ),
    (
        "a lock file that names it",
        |s, hash| {
            let text = format!("components: {{a: {{version: v9, artifact: [{{platform: x-y, hash: {hash}}}]}}}}\n");
            s.write("manifests/components.lock.prod.yaml", text);
        },
        |s, _| fs::remove_file(s.work("manifests/components.lock.prod.yaml")).unwrap(),
    ),
    (
        "a lock file with its version",
        |s, _| s.write("manifests/components.lock.yaml", "components: {a: {version: v1}}\n"),
        |s, _| s.write("manifests/components.lock.yaml", "components: {a: {version: v7}}\n"),
    ),
    ("current inputs", |s, _| manifest(s, "  a: {version: v1}\n"), |s, _| manifest(s, "  a: {version: v3}\n")),
];

#[test]
fn each_kind_of_reference_alone_keeps_an_artifact_and_without_it_the_artifact_goes() {
    for (what, keep, release) in ROOTS {
        let (sandbox, old, new) = store();
        keep(&sandbox, &old);
        assert!(gone(&sandbox).is_empty(), "{what} keeps it");
        sandbox.monofo(["store", "get", &old, "--target", "got"]).exits(0);
        release(&sandbox, &old);
        assert_eq!(gone(&sandbox), [old.as_str()], "{what} released it");
        assert_eq!(entries(&sandbox.work(".meta-store")).into_keys().collect::<Vec<_>>(), [new]);
    }
}

#[test]
fn when_what_keeps_artifacts_cannot_be_read_nothing_goes() {
    let spoils: [(&str, Change); 13] = [
        ("a pin that is no JSON", |s| s.write(".meta-store/roots/pins/keep.json", "{")),
        ("a pin without a hash", |s| s.write(".meta-store/roots/pins/keep.json", "{\"schema\":\"meta.pin/1\"}")),
        ("a pin of a later version", |s| {
            s.write(".meta-store/roots/pins/keep.json", "{\"schema\":\"meta.pin/2\",\"hash\":\"0\"}")
        }),
        ("an empty pin", |s| s.write(".meta-store/roots/pins/keep.json", "")),
        ("a generation", |s| s.write(".meta-store/profiles/prod/gen-1.json", "{}")),
        ("the document of the current generation", |s| {
            fs::remove_file(s.work(".meta-store/profiles/prod/gen-1.json")).unwrap()
        }),
        ("what is current", |s| {
            fs::remove_file(s.work(".meta-store/profiles/prod/current")).unwrap();
            symlink("elsewhere", s.work(".meta-store/profiles/prod/current")).unwrap();
        }),
        ("the folder of the manifest", |s| {
            fs::remove_dir_all(s.work("manifests")).unwrap();
            symlink("not-mounted", s.work("manifests")).unwrap();
        }),
        ("the pins", |s| {
            fs::remove_dir_all(s.work(".meta-store/roots/pins")).unwrap();
            s.write(".meta-store/roots/pins", "");
        }),
        ("a lock file", |s| s.write("manifests/components.lock.dev.yaml", "components: [")),
        ("an empty lock file", |s| s.write("manifests/components.lock.dev.yaml", "")),
        ("the manifest", |s| s.write("manifests/components.yaml", "components: {a: {version: 1.10}}")),
        ("a lock that is a folder", |s| s.write("manifests/components.lock.yaml/x", "")),
    ];
    for (what, spoil) in spoils {
        let (sandbox, _, new) = store();
        sandbox.monofo(["store", "pin", "keep", &new]).exits(0);
        sandbox.monofo(["store", "switch", "prod", &new]).exits(0);
        spoil(&sandbox);
        let before = walk(&sandbox.work(".meta-store"));
        for command in
            [&["gc", "store", "--grace", "0"][..], &["gc", "all", "--grace", "0"], &["gc", "store", "--dry-run"]]
        {
            let ran = sandbox.monofo(command).exits(4);
            let named = ["keep", "gen-1", "pins", "components.", "`prod`", "/manifests`"]
                .iter()
                .any(|name| ran.stderr.contains(name));
            assert!(named, "{what}: {}", ran.stderr);
            let mut after = walk(&sandbox.work(".meta-store"));
            after.get_mut(&b"tmp"[..]).unwrap().clone_from(&before[&b"tmp"[..]]);
            assert_same(&before, &after, what);
        }
    }
}

#[test]
fn what_is_the_current_generation_is_never_a_leftover() {
    let (sandbox, old, new) = store();
    sandbox.monofo(["store", "switch", "prod", &old]).exits(0);
    sandbox.monofo(["store", "switch", "prod", &new]).exits(0);
    let profile = sandbox.work(".meta-store/profiles/prod");
    fs::remove_file(profile.join("gen-2.json")).unwrap();
    fs::create_dir(profile.join("gen-9")).unwrap();
    let left = monofo::entry::profiles::leftovers(&monofo::entry::Home::new(
        sandbox.work(".meta-store"),
        monofo::entry::HomeKind::Store,
    ));
    assert_eq!(left.unwrap(), [profile.join("gen-9")]);
    // Nor is it moved away by the next switch, which ends the trouble.
    sandbox.monofo(["gc", "store", "--grace", "0"]).exits(4).says("switch the profile");
    sandbox.monofo(["store", "switch", "prod", &new]).exits(0);
    assert_eq!(fs::read_link(profile.join("current")).unwrap(), Path::new("gen-3"));
    assert!(gone(&sandbox).is_empty());
    assert!(!profile.join("gen-9").exists() && !profile.join("gen-2").exists());
}

#[test]
fn where_sources_are_not_here_everything_of_their_component_stays_and_is_told() {
    let hide: [(&str, Change); 4] = [
        ("no folder", |s| fs::rename(s.work("components"), s.work("elsewhere")).unwrap()),
        ("an empty folder", |s| {
            fs::rename(s.work("components"), s.work("elsewhere")).unwrap();
            fs::create_dir_all(s.work("components/a")).unwrap();
        }),
        ("a link to nothing", |s| {
            fs::rename(s.work("components"), s.work("elsewhere")).unwrap();
            symlink("not-mounted", s.work("components")).unwrap();
        }),
        ("what it needs", |s| {
            fs::create_dir_all(s.work("elsewhere/a")).unwrap();
            manifest(s, "  a: {version: v1, depends_on: [b]}\n  b: {}\n");
        }),
    ];
    for (how, hide) in hide {
        let (sandbox, old, new) = store();
        hide(&sandbox);
        let told = json(&sandbox, &["gc", "store", "--grace", "0"], 0);
        assert_eq!(told["store"]["removed"], serde_json::json!([]), "{how}: {told:#}");
        let kept = told["store"]["kept"].as_array().unwrap();
        let why = |hash: &str| kept.iter().find(|kept| kept["name"] == hash).unwrap()["reason"].clone();
        assert_eq!(why(&old), "because sources are not here", "{how}");
        assert_eq!(why(&new), "because sources are not here", "{how}");
        assert!(told["warnings"].to_string().contains("everything that is stored of `a` stays"), "{how}: {told:#}");
        // They are back, and the key is another.
        for place in ["components", "elsewhere"] {
            fs::remove_dir_all(sandbox.work(place)).or_else(|_| fs::remove_file(sandbox.work(place))).ok();
        }
        manifest(&sandbox, "  a: {version: v3}\n");
        sandbox.write("components/a/main.c", "another");
        assert_eq!(gone(&sandbox), [old], "{how}");
    }
}

#[test]
fn what_has_no_sources_by_design_is_collected_like_everything_else() {
    for without in ["inputs: [in.txt]", "version: v2"] {
        let (sandbox, old, new) = store();
        manifest(&sandbox, &format!("  a: {{exclude: [\"**\"], {without}}}\n"));
        sandbox.write("in.txt", "all that counts");
        let told = json(&sandbox, &["gc", "store", "--grace", "0"], 0);
        assert_eq!(told["store"]["removed"][0]["name"], old, "{told:#}");
        assert!(!told["warnings"].to_string().contains("are not here"), "{told:#}");
        assert_eq!(json(&sandbox, &["store", "query", &new], 0)["content_hash"], new);
    }
}

#[test]
fn a_folder_without_sources_may_be_one_that_is_not_checked_out() {
    for left in ["", ".git/HEAD", "left-out/m"] {
        let (sandbox, _, _) = store();
        fs::remove_dir_all(sandbox.work("components/a")).unwrap();
        fs::create_dir(sandbox.work("components/a")).unwrap();
        if !left.is_empty() {
            sandbox.write(format!("components/a/{left}"), "");
        }
        manifest(&sandbox, "  a: {inputs: [in.txt], exclude: [left-out]}\n");
        sandbox.write("in.txt", "all that counts");
        assert!(gone(&sandbox).is_empty(), "{left}");
    }
}

#[test]
fn without_a_manifest_gc_keeps_pins_profiles_the_newest_and_the_young() {
    let (sandbox, old, new) = store();
    fs::remove_dir_all(sandbox.work("manifests")).unwrap();
    sandbox.monofo(["store", "pin", "keep", &old]).exits(0);
    assert!(gone(&sandbox).is_empty());
    sandbox.monofo(["store", "unpin", "keep"]).exits(0);
    assert!(
        json(&sandbox, &["gc", "store", "--grace", "99999d"], 0)["store"]["removed"].as_array().unwrap().is_empty()
    );
    assert_eq!(gone(&sandbox), [old]);
    assert_eq!(entries(&sandbox.work(".meta-store")).into_keys().collect::<Vec<_>>(), [new]);
    sandbox.monofo(["gc", "all"]).exits(0);
}

#[test]
fn an_artifact_that_is_being_read_stays() {
    let (sandbox, old, _) = store();
    let reader = File::open(&entries(&sandbox.work(".meta-store"))[&old]).unwrap();
    flock(&reader, FlockOperation::NonBlockingLockShared).unwrap();
    let document = json(&sandbox, &["gc", "store", "--grace", "0"], 0);
    assert_eq!(document["store"]["removed"], serde_json::json!([]));
    assert!(
        document["store"]["kept"]
            .as_array()
            .unwrap()
            .iter()
            .any(|kept| kept["name"] == old && kept["reason"] == "in use")
    );
    drop(reader);
    assert_eq!(gone(&sandbox), [old]);
}

/// Blocks of the inodes below a folder.
fn disk(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeMap::new();
    for path in walk(root).into_keys().filter(|path| !path.starts_with(b"tmp") && !path.starts_with(b"counters")) {
        let status = fs::symlink_metadata(crate::harness::join(root, &path)).unwrap();
        if !status.is_dir() || path.windows(64).any(|part| part.iter().all(u8::is_ascii_hexdigit)) {
            seen.insert(status.ino(), status.blocks() * 512);
        }
    }
    seen.values().sum()
}

#[test]
fn what_is_told_to_be_freed_is_what_the_disk_gained_although_files_are_shared() {
    let (sandbox, _, _) = store();
    fs::copy(sandbox.work("out/data"), sandbox.work("old/data")).unwrap();
    manifest(&sandbox, "  a: {version: v0}\n");
    sandbox.monofo(["store", "add", "a", "--source", "old"]).exits(0);
    manifest(&sandbox, "  a: {version: v3}\n");
    sandbox.write("out/last", "so that this one is the newest");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["gc", "cache", "--grace", "0"]).exits(0);
    let root = sandbox.work(".meta-store");
    let before = disk(&root);
    let document = json(&sandbox, &["gc", "store", "--grace", "0"], 0);
    let freed = document["store"]["freed_bytes"].as_u64().unwrap();
    let gained = before - disk(&root);
    assert_eq!(document["store"]["removed"].as_array().unwrap().len(), 3);
    assert_eq!(freed, gained);
    assert!(document["store"]["unshared_bytes"].as_u64().unwrap() > freed);
}

#[test]
fn what_lies_deeper_than_a_path_can_be_long_is_counted_as_well() {
    let (sandbox, _, _) = store();
    let deep = vec!["d".repeat(249); 16].join("/");
    sandbox.write(format!("deep/{deep}/file"), vec![b'x'; 2_000_000]);
    let hash = sandbox.monofo(["store", "add", "a", "--source", "deep"]).exits(0).stdout.trim().to_owned();
    let counted = json(&sandbox, &["store", "stats"], 0)["disk_bytes"].as_u64().unwrap();
    let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(sandbox.work(".meta-store")).output().unwrap();
    let du = String::from_utf8(du.stdout).unwrap();
    assert_eq!(counted.to_string(), du.split_whitespace().next().unwrap(), "as `du` counts");
    manifest(&sandbox, "  a: {version: v3}\n");
    sandbox.write("out/last", "so that this one is the newest");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0);
    for command in [&["gc", "store", "--grace", "0", "--dry-run"][..], &["gc", "store", "--grace", "0"]] {
        let told = json(&sandbox, command, 0);
        assert!(told["store"]["removed"].as_array().unwrap().iter().any(|gone| gone["name"] == hash), "{told:#}");
        assert!(told["store"]["freed_bytes"].as_u64().unwrap() > 2_000_000, "{told:#}");
    }
}

#[test]
fn what_cannot_be_looked_into_is_told_and_the_rest_counted() {
    let (sandbox, old, _) = store();
    let folder = sandbox.work(format!(".meta-store/{}/{old}/bin", &old[..2]));
    crate::harness::set(&folder, Some(0), 1);
    let stats = |kind: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_monofo"));
        if is_root() {
            // Root may read everything, with the capability for that.
            command = std::process::Command::new("setpriv");
            let less = "-dac_override,-dac_read_search";
            command.args(["--bounding-set", less, "--inh-caps", less, env!("CARGO_BIN_EXE_monofo")]);
        }
        let args = ["--json", kind, "stats"];
        let ran = command.args(args).current_dir(sandbox.work("")).env("HOME", sandbox.path("home")).output().unwrap();
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{told}");
        let document: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert!(document["disk_bytes"].as_u64().unwrap() > 0, "{document:#}");
        let warnings = document["warnings"].as_array().unwrap().clone();
        assert_eq!(warnings.len(), 1, "{document:#}");
        warnings[0].as_str().unwrap().to_owned()
    };
    assert!(stats("store").contains(&format!("{old}` cannot be read by this user")));
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox.write(".meta-cache/tmp/theirs/of", "another user");
    crate::harness::set(&sandbox.work(".meta-cache/tmp/theirs"), Some(0), 1);
    assert!(stats("cache").contains("theirs` cannot be read by this user"));
    crate::harness::set(&sandbox.work(".meta-cache/tmp/theirs"), Some(0o755), 1);
    assert_eq!(gone(&sandbox), [old]);
    json(&sandbox, &["store", "stats"], 0);
}
