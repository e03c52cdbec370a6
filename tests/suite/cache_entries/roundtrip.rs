//! What goes in comes out, and what is said of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::Value;

use crate::entries::{artifact, assert_restored, entries, json, key, payload, sha256, workspace};
use crate::harness::{Sandbox, assert_same, is_root, set, walk};

type Fill = fn(&Sandbox);

const ARTIFACTS: [(&str, Fill); 9] = [
    ("a bit of everything", |s| artifact(s, "built", "x")),
    ("an empty folder", |s| fs::create_dir(s.work("built")).unwrap()),
    ("a file", |s| s.write("built", "content")),
    ("an empty file", |s| s.write("built", "")),
    ("an executable file", |s| {
        s.write("built", "#!/bin/sh\n");
        set(&s.work("built"), Some(0o755), 1);
    }),
    ("links of all kinds", |s| {
        s.write("built/file", "");
        s.write("built/folder/file", "");
        for (name, to) in [
            ("in", "file"),
            ("up", "folder/../file"),
            ("dangling", "nothing"),
            ("folder/loop", "loop"),
            ("out", "../../outside/secret"),
            ("root", "/"),
            ("here", "."),
            ("dir", "folder"),
        ] {
            symlink(to, s.work("built").join(name)).unwrap();
        }
    }),
    ("odd names", |s| {
        fs::create_dir(s.work("built")).unwrap();
        for byte in (1..=255u8).filter(|byte| *byte != b'/') {
            let name = [b"n", &[byte][..]].concat();
            fs::write(s.work("built").join(OsStr::from_bytes(&name)), [byte]).unwrap();
        }
        let long = "l".repeat(255);
        for name in
            ["-rf", "CON", "é", "e\u{301}", "A", "a", " ", "~", "\\", long.as_str(), ".gitignore", ".git2", "%41"]
        {
            s.write(format!("built/{name}"), name);
        }
    }),
    ("folders in folders", |s| {
        let deep = ["d"; 200].join("/");
        s.write(format!("built/{deep}/end"), "deep");
        fs::create_dir_all(s.work("built/empty/in/empty")).unwrap();
    }),
    ("histories and ignored files", |s| {
        s.write("built/.gitignore", "*\n");
        s.write("built/ignored", "kept all the same");
        s.write("built/.hg/store", "x");
    }),
];

#[test]
fn what_is_stored_comes_back_in_both_encodings_into_absent_and_into_other_targets() {
    for (what, fill) in ARTIFACTS {
        for encoding in ["tar.lz4", "tar.zst"] {
            let sandbox = Sandbox::new();
            fill(&sandbox);
            let before = walk(&sandbox.work(""));
            sandbox.monofo(["cache", "build", "a", "--source", "built"]).env("MONOFO_CACHE_FORMAT", encoding).exits(0);
            let file =
                entries(&sandbox.work(".meta-cache")).into_values().map(|metadata| payload(&metadata)).next().unwrap();
            assert!(file.to_str().unwrap().ends_with(encoding), "{what}: {file:?}");
            let mut after = walk(&sandbox.work(""));
            after.retain(|path, _| !path.starts_with(b".meta-cache"));
            assert_same(&before, &after, what);
            for target in ["got", "got", "deep/er/got"] {
                sandbox.monofo(["cache", "get", "a", "--target", target]).exits(0);
                let got = sandbox.work(target);
                if fs::metadata(&got).unwrap().is_file() {
                    assert_eq!(fs::read(&got).unwrap(), fs::read(sandbox.work("built")).unwrap(), "{what}");
                    let bits = |path| fs::metadata(sandbox.work(path)).unwrap().permissions().mode() & 0o111;
                    assert_eq!(bits(target), bits("built"), "{what}");
                } else {
                    assert_restored(&sandbox.work("built"), &got);
                    // What a build left there goes as a whole.
                    fs::write(got.join("left over"), "").unwrap();
                }
            }
            let beside: Vec<_> = walk(&sandbox.work(""))
                .into_keys()
                .filter(|path| path.windows(7).any(|part| part == b"monofo-"))
                .collect();
            assert!(beside.is_empty(), "{what}: left beside the target: {beside:?}");
        }
    }
}

#[test]
fn restored_files_have_plain_modes_one_time_and_no_other_names() {
    let sandbox = workspace();
    set(&sandbox.work("out/data"), Some(0o4666), 1);
    set(&sandbox.work("out/zero"), Some(0o600), 2);
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(0);
    let nodes = walk(&sandbox.work("got"));
    for (path, node) in &nodes {
        let expected = match (node.kind, path.as_slice()) {
            ('f', b"bin/tool") | ('d', _) => 0o755,
            ('f', _) => 0o644,
            _ => continue,
        };
        assert_eq!(node.mode, expected, "{}", path.escape_ascii());
    }
    let times: std::collections::BTreeSet<_> =
        nodes.values().filter(|node| node.kind == 'f').map(|node| (node.mtime, node.mtime_nanos)).collect();
    assert_eq!(times.len(), 1, "one time for all: {times:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    assert!((now - 100..=now + 1).contains(&times.first().unwrap().0));
}

#[test]
fn equal_trees_give_equal_payloads_whatever_their_times_order_and_modes() {
    let payload_of = |order: &[&str], mode: u32, time: i64| {
        let sandbox = Sandbox::new();
        for file in order {
            sandbox.write(format!("out/{file}"), file);
            set(&sandbox.work(format!("out/{file}")), Some(mode), time);
        }
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        let metadata = entries(&sandbox.work(".meta-cache")).into_values().next().unwrap();
        fs::read(payload(&metadata)).unwrap()
    };
    let first = payload_of(&["a", "b/c", "b-", "d/e/f"], 0o644, 1_000_000);
    assert_eq!(payload_of(&["d/e/f", "b-", "b/c", "a"], 0o600, 2_000_000), first);
}

#[test]
fn the_same_artifact_again_changes_nothing_and_another_replaces_it_with_a_warning() {
    let sandbox = workspace();
    let build = ["cache", "build", "a", "--source", "out"];
    sandbox.monofo(build).exits(0).says("cached a").does_not_say("already");
    let look = || -> BTreeMap<Vec<u8>, _> {
        let mut nodes = walk(&sandbox.work(".meta-cache"));
        nodes.retain(|path, node| node.kind == 'f' && path.windows(5).any(|part| part == b"metad" || part == b"paylo"));
        nodes
    };
    let before = look();
    sandbox.monofo(build).exits(0).says("already cached");
    assert_same(&before, &look(), "the same again");
    assert_eq!(json(&sandbox, &build, 0)["already_cached"], true);
    sandbox.write("out/data", "changed");
    sandbox.write("out/more", "");
    sandbox.monofo(build).exits(0).says("2 paths").says("`data`").says("not reproducible");
    let after = look();
    assert_eq!(after.len(), before.len(), "the old payload went");
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(0);
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
}

#[test]
fn metadata_say_what_is_there_and_nothing_of_the_machine() {
    let sandbox = workspace();
    let key = key(&sandbox, "a");
    sandbox
        .monofo(["cache", "build", "a", "--source", "out"])
        .env("USER", "somebody")
        .env("HOSTNAME", "somewhere")
        .exits(0);
    let (name, metadata) = entries(&sandbox.work(".meta-cache")).into_iter().next().unwrap();
    assert_eq!(name, key);
    assert_eq!(metadata.parent().unwrap().file_name().unwrap().to_str().unwrap(), &key[..2]);
    assert_eq!(fs::metadata(&metadata).unwrap().permissions().mode() & 0o7777, 0o444);
    let text = fs::read_to_string(&metadata).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let bytes = fs::read(payload(&metadata)).unwrap();
    for (field, expected) in [
        ("/schema", "meta.cache-entry/1".into()),
        ("/key", key.as_str().into()),
        ("/component", "a".into()),
        ("/version", "v1".into()),
        ("/build_target", "".into()),
        ("/inputs/schema", "meta.cache-key/1".into()),
        ("/output/root", "dir".into()),
        ("/output/name", "out".into()),
        ("/output/files", 3.into()),
        ("/output/links", 1.into()),
        ("/output/empty_dirs", 1.into()),
        ("/payload/encoding", "tar.lz4".into()),
        ("/payload/sha256", sha256(&bytes).into()),
        ("/payload/bytes", bytes.len().into()),
        ("/payload/file", payload(&metadata).file_name().unwrap().to_str().unwrap().into()),
        ("/source/files", 1.into()),
        ("/source/bytes", 13.into()),
        ("/origin/kind", "local".into()),
        ("/signatures", Value::Array(vec![])),
    ] {
        assert_eq!(value.pointer(field), Some(&expected), "{field} in {value:#}");
    }
    let created = value["created_at"].as_str().unwrap();
    assert!(created.len() == 20 && created.ends_with('Z') && created.contains('T'), "{created}");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "somewhere".into()).trim().to_owned();
    for secret in [sandbox.path("").to_str().unwrap(), "somebody", "somewhere", "/tmp", "root", host.as_str()] {
        let told = text.replace("\"root\":", "");
        assert!(!told.contains(secret), "`{secret}` in {text}");
    }
    for (file, content) in [("FORMAT", "meta-cache 1\n"), (".gitignore", "*\n")] {
        assert_eq!(fs::read_to_string(sandbox.work(".meta-cache").join(file)).unwrap(), content);
    }
    assert!(
        fs::read_to_string(sandbox.work(".meta-cache/CACHEDIR.TAG"))
            .unwrap()
            .starts_with("Signature: 8a477f597d28d172789f06886806bc55")
    );
}

#[test]
fn what_cannot_be_stored_is_refused_and_nothing_appears() {
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["cache", "invalidate", "--all"]).exits(0);
    fs::create_dir(sandbox.work(".git")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, sandbox.work("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    for source in ["nothing", "pipe", ".", ".meta-cache", "..", ".git"] {
        for command in ["build", "add"] {
            let of = if command == "build" { "cache" } else { "store" };
            sandbox.monofo([of, command, "a", "--source", source]).at_most(10).exits(6);
        }
    }
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
    assert_eq!(entries(&sandbox.work(".meta-store")).len(), 1);
    assert_eq!(fs::read_dir(sandbox.work(".meta-cache/tmp")).unwrap().count(), 0);
    // Followed when it is the last part.
    symlink("out", sandbox.work("latest")).unwrap();
    sandbox.monofo(["cache", "build", "a", "--source", "latest"]).exits(0);
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(0);
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
}

#[test]
fn commands_that_only_read_make_no_cache_and_no_store() {
    let sandbox = workspace();
    let before = walk(&sandbox.work(""));
    for args in [
        &["cache", "list"][..],
        &["cache", "stats"],
        &["cache", "explain", "a"],
        &["cache", "key", "a"],
        &["cache", "verify"],
        &["cache", "invalidate", "--all"],
        &["store", "list"],
        &["store", "stats"],
        &["store", "verify"],
        &["store", "generations", "prod"],
        &["gc", "all"],
    ] {
        sandbox.monofo(args).exits(0);
        assert_same(&before, &walk(&sandbox.work("")), &args.join(" "));
    }
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(3);
    sandbox.monofo(["store", "query", &"0".repeat(64)]).exits(3);
    sandbox.monofo(["store", "get", &"0".repeat(64), "--target", "got"]).exits(3);
    sandbox.monofo(["store", "unpin", "x"]).exits(3);
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(3);
    assert_same(&before, &walk(&sandbox.work("")), "commands that found nothing");
}

#[test]
fn a_cache_that_may_only_be_read_hits_and_is_not_written() {
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0);
    let hash = entries(&sandbox.work(".meta-store")).into_keys().next().unwrap();
    for home in [".meta-cache", ".meta-store"] {
        for (path, node) in walk(&sandbox.work(home)) {
            if node.kind == 'd' {
                set(&sandbox.work(home).join(OsStr::from_bytes(&path)), Some(0o555), 1);
            }
        }
        set(&sandbox.work(home), Some(0o555), 1);
    }
    set(&sandbox.path(""), Some(0o755), 1);
    fs::create_dir(sandbox.work("to")).unwrap();
    set(&sandbox.work("to"), Some(0o777), 1);
    let copied = sandbox.path("monofo");
    fs::copy(env!("CARGO_BIN_EXE_monofo"), &copied).unwrap();
    let run = |args: &[&str]| {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copied);
            command
        } else {
            Command::new(&copied)
        };
        command.args(args).current_dir(sandbox.work("")).env_clear().env("PATH", "/usr/bin:/bin").output()
    };
    if is_root() && Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("SKIPPED: this is root, and there is no setpriv to be somebody else");
        return;
    }
    let before = (walk(&sandbox.work(".meta-cache")), walk(&sandbox.work(".meta-store")));
    for args in [
        &["cache", "get", "a", "--target", "to/cache"][..],
        &["store", "get", &hash, "--target", "to/store"],
        &["cache", "list"],
        &["cache", "stats"],
        &["store", "list"],
        &["cache", "explain", "a"],
        &["cache", "verify"],
        &["store", "verify"],
    ] {
        let output = run(args).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_same(&before.0, &walk(&sandbox.work(".meta-cache")), "the cache");
    assert_same(&before.1, &walk(&sandbox.work(".meta-store")), "the store");
    assert_restored(&sandbox.work("out"), &sandbox.work("to/cache"));
    assert_restored(&sandbox.work("out"), &sandbox.work("to/store"));
    let output = run(&["cache", "build", "a", "--source", "to/cache/data"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
