//! What commands over entries print: one document, the statuses of the table, nothing raw.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::entries::{Change, artifact, document, json, manifest, workspace};
use crate::harness::Sandbox;

/// Every command with a way to succeed and ways to fail: arguments, status, kind of error.
#[test]
fn with_json_every_command_prints_one_document_whatever_happens() {
    let sandbox = workspace();
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).stdout.trim().to_owned();
    let none = "0".repeat(64);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["cache", "get", "a", "--target", "got"], 3, "miss"),
        (&["cache", "build", "a", "--source", "out"], 0, ""),
        (&["cache", "build", "a", "--source", "nothing"], 6, "refused"),
        (&["cache", "build", "a", "--source", "out", "--expect-key", &none], 5, "changed"),
        (&["cache", "build", "a"], 2, "usage"),
        (&["cache", "build", "b", "--source", "out"], 4, "workspace"),
        (&["cache", "get", "a", "--target", "got"], 0, ""),
        (&["cache", "get", "a", "--target", "."], 6, "refused"),
        (&["cache", "get"], 2, "usage"),
        (&["cache", "get", "a", "--target", "got", "--nonsense"], 2, "usage"),
        (&["cahce", "get"], 2, "usage"),
        (&["gc", "cahce"], 2, "usage"),
        (&[], 2, "usage"),
        (&["cache", "key", "a"], 0, ""),
        (&["cache", "key", "../a"], 2, "usage"),
        (&["cache", "explain", "a"], 0, ""),
        (&["cache", "explain", "b"], 4, "workspace"),
        (&["cache", "verify"], 0, ""),
        (&["cache", "list"], 0, ""),
        (&["cache", "stats"], 0, ""),
        (&["cache", "invalidate", "--key", &none], 3, "not-there"),
        (&["cache", "invalidate", "--key", "xyz"], 2, "usage"),
        (&["cache", "invalidate"], 2, "usage"),
        (&["cache", "invalidate", "--all"], 0, ""),
        (&["store", "add", "a", "--source", "out"], 0, ""),
        (&["store", "add", "a", "--source", "nothing"], 6, "refused"),
        (&["store", "query", &none], 3, "not-there"),
        (&["store", "query", "../x"], 2, "usage"),
        (&["store", "get", &none, "--target", "got"], 3, "not-there"),
        (&["store", "get", "../x", "--target", "got"], 2, "usage"),
        (&["store", "get", &hash, "--target", ".."], 6, "refused"),
        (&["store", "get", &hash], 2, "usage"),
        (&["store", "get", &hash, "--target", "got"], 0, ""),
        (&["store", "verify"], 0, ""),
        (&["store", "pin", "x", &none], 3, "not-there"),
        (&["store", "pin", "x", &hash], 0, ""),
        (&["store", "unpin", "y"], 3, "not-there"),
        (&["store", "unpin", "x"], 0, ""),
        (&["store", "switch", "prod"], 2, "usage"),
        (&["store", "switch", "prod", &none], 3, "not-there"),
        (&["store", "switch", "prod", &hash], 0, ""),
        (&["store", "switch", "prod", "--to", "7"], 3, "not-there"),
        (&["store", "generations", "prod"], 0, ""),
        (&["store", "generations", "../x"], 2, "usage"),
        (&["store", "list"], 0, ""),
        (&["store", "stats"], 0, ""),
        (&["gc", "cache"], 0, ""),
        (&["gc", "store", "--dry-run"], 0, ""),
        (&["gc", "all"], 0, ""),
        (&["gc", "all", "--grace", "x"], 2, "usage"),
        (&["gc", "nothing"], 2, "usage"),
    ];
    for (args, status, kind) in cases {
        let told = document(sandbox.monofo([&["--json"], *args].concat()), *status);
        if *status != 0 {
            assert_eq!(told["error"]["kind"], *kind, "{args:?}: {told:#}");
        } else {
            assert!(told["error"].is_null(), "{args:?}: {told:#}");
        }
    }
    // The flag may come last as well.
    document(sandbox.monofo(["cache", "list", "--json"]), 0);
    let data = sandbox.work(format!(".meta-store/{}/{hash}/data", &hash[..2]));
    fs::remove_file(data).unwrap();
    assert_eq!(json(&sandbox, &["store", "get", &hash, "--target", "got"], 7)["error"]["kind"], "damaged");
    sandbox.write("manifests/components.yaml", "components: [");
    for args in
        [&["cache", "list"][..], &["store", "list"], &["gc", "all"], &["store", "query", &hash], &["cache", "key", "a"]]
    {
        assert_eq!(json(&sandbox, args, 4)["error"]["kind"], "workspace", "{args:?}");
    }
}

#[test]
fn answers_are_on_stdout_and_everything_else_is_not() {
    let sandbox = workspace();
    let key = sandbox.monofo(["cache", "key", "a"]).exits(0);
    assert!(key.stdout.len() == 65 && key.stderr.is_empty());
    for args in [
        &["cache", "build", "a", "--source", "out"][..],
        &["cache", "get", "a", "--target", "got"],
        &["cache", "verify"],
    ] {
        let ran = sandbox.monofo(args).exits(0);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{args:?}: {}", ran.stdout);
        assert!(sandbox.monofo([&["-q"], args].concat()).exits(0).stderr.is_empty(), "{args:?}");
    }
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).stdout;
    assert_eq!(hash.len(), 65);
    assert!(sandbox.monofo(["cache", "get", "a", "--target", ".."]).exits(6).stdout.is_empty());
    assert!(sandbox.monofo(["cache", "list"]).exits(0).stdout.starts_with("KEY"));
}

#[test]
fn a_reader_that_has_read_enough_ends_a_list_quietly() {
    let sandbox = Sandbox::new();
    sandbox.write("out", "x");
    for at in 0..60 {
        sandbox.monofo(["cache", "build", &format!("component-{at}"), "--source", "out"]).exits(0);
    }
    for args in [&["cache", "list"][..], &["--json", "cache", "list"], &["cache", "stats"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_monofo"))
            .args(args)
            .current_dir(sandbox.work(""))
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        if args[0] != "--json" {
            assert!(output.status.success() && stderr.is_empty(), "{args:?}: {:?} {stderr}", output.status);
        }
    }
}

#[test]
fn no_control_character_reaches_a_terminal_or_a_log() {
    let evil = "e\u{1b}[31mvil\u{7}\u{9b}\u{202e}\r\n+++ group";
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {version: \"v\\e[31m\\a\", build_target: \"\\n+++ group\\u202e\", type: \"\\r\"}\n");
    sandbox.write(format!("components/a/{evil}"), "x");
    artifact(&sandbox, "out", "v1");
    sandbox.write(format!("out/{evil}"), "1");
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).stdout.trim().to_owned();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    fs::rename(sandbox.work("out"), sandbox.work(evil.replace('/', ""))).unwrap();
    artifact(&sandbox, "out", "v2");
    let named = format!("{evil}/x");
    let runs: Vec<Vec<&str>> = vec![
        vec!["cache", "list"],
        vec!["store", "list"],
        vec!["cache", "stats"],
        vec!["store", "stats"],
        vec!["store", "query", &hash],
        vec!["cache", "build", "a", "--source", "out"],
        vec!["store", "add", "a", "--source", "out"],
        vec!["cache", "get", "a", "--target", evil],
        vec!["cache", "get", "a", "--target", &named],
        vec!["cache", "key", evil],
        vec!["cache", "build", "a", "--source", evil],
        vec!["store", "query", evil],
        vec!["store", "pin", evil, &hash],
        vec!["store", "get", &hash, "--target", &named],
        vec!["cache", "key", "a", "--input", evil],
        vec!["gc", "all", "--grace", "0", "--max-size", "0"],
        vec!["cache", "get", "a", "--target", "got", "--remote", evil],
        vec!["cache", evil],
        vec!["gc", "all", "--grace", evil],
        vec!["-v", "cache", "key", "a"],
    ];
    let check = |args: &[&str]| {
        for job in [false, true] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
            command.args(args).current_dir(sandbox.work("")).env_clear().env("HOME", sandbox.path("home"));
            if job {
                command
                    .env("BUILDKITE", "true")
                    .env("BUILDKITE_JOB_ID", "1")
                    .env("MONOFO_CACHE_DIR", sandbox.work(".meta-cache"))
                    .env("MONOFO_STORE_DIR", sandbox.work(".meta-store"));
            }
            let output = command.output().unwrap();
            for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
                let text = String::from_utf8_lossy(bytes);
                let raw: Vec<char> = text
                    .chars()
                    .filter(|one| *one != '\n' && (one.is_control() || ('\u{202a}'..='\u{202e}').contains(one)))
                    .collect();
                assert!(raw.is_empty(), "{args:?}: {raw:?} on {stream}:\n{text}");
                assert!(!text.lines().any(|line| line.starts_with("+++ group")), "{args:?} on {stream}:\n{text}");
            }
        }
    };
    for args in &runs {
        check(args);
    }
    // A miss explains itself with names of files.
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    fs::write(sandbox.work(format!("components/a/{evil}")), "changed").unwrap();
    check(&["cache", "explain", "a"]);
    check(&["cache", "get", "a", "--target", "got"]);
    let explained = json(&sandbox, &["cache", "explain", "a"], 0);
    assert_eq!(explained["hit"], Value::Bool(false));
}

#[test]
fn explanations_name_what_changed_and_never_the_value_of_a_variable() {
    let cases: [(&str, &str, Change); 8] = [
        ("source", "main.c", |s| s.write("components/a/main.c", "changed")),
        ("source", "added", |s| s.write("components/a/added", "")),
        ("source", "removed", |s| fs::remove_file(s.work("components/a/removed")).unwrap()),
        ("version", "", |s| rewrite(s, "version: v1", "version: v2")),
        ("build_target", "", |s| rewrite(s, "build_target: x", "build_target: z")),
        ("platform", "", |s| rewrite(s, "build_target: x", "build_target: x, platform: any")),
        ("source", "deep.c", |s| s.write("components/c/deep.c", "changed")),
        ("env", "FLAGS", |_| {}),
    ];
    fn rewrite(sandbox: &Sandbox, was: &str, now: &str) {
        let path = sandbox.work("manifests/components.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen(was, now, 1)).unwrap();
    }
    for (what, name, change) in cases {
        let sandbox = workspace();
        manifest(
            &sandbox,
            "  a: {version: v1, build_target: x, env: [FLAGS], depends_on: [b]}\n  b: {depends_on: [c]}\n  c: {}\n",
        );
        for file in ["components/a/removed", "components/b/b.c", "components/c/deep.c"] {
            sandbox.write(file, "");
        }
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).env("FLAGS", "hunter2-before").exits(0);
        change(&sandbox);
        let value = if what == "env" { "hunter2-after" } else { "hunter2-before" };
        let ran = sandbox.monofo(["-v", "--json", "cache", "explain", "a"]).env("FLAGS", value).exits(0);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{}", ran.stdout);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        let differences = told["reason"]["differences"].as_array().unwrap();
        assert_eq!(differences.len(), 1, "{what} {name}: {told:#}");
        assert_eq!(differences[0]["what"], what, "{told:#}");
        assert_eq!(differences[0]["name"].as_str().unwrap_or(""), name, "{told:#}");
        if name == "deep.c" {
            assert_eq!(differences[0]["via"], serde_json::json!(["b", "c"]));
        }
        let missed = sandbox.monofo(["cache", "get", "a", "--target", "got"]).env("FLAGS", value).exits(3);
        assert!(!missed.stderr.contains("hunter2"), "{}", missed.stderr);
    }
}

#[test]
fn stats_count_damage_here_and_damage_in_the_remote_apart_and_read_what_was_counted_earlier() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let here =
        || crate::entries::payload(crate::entries::entries(&sandbox.work(".meta-cache")).values().next().unwrap());
    fs::write(here(), "damaged").unwrap();
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(3);
    let stats = json(&sandbox, &["cache", "stats"], 0);
    assert_eq!((&stats["damaged_so_far"], &stats["remote_failures"]["damaged"]), (&1.into(), &0.into()), "{stats:#}");
    let told = sandbox.monofo(["cache", "stats"]).exits(0).stdout;
    assert!(told.contains("1 entry proved to be damaged so far") && !told.contains("the remote did"), "{told}");
    for path in crate::desk::files(&sandbox.path("remote"), ".tar.lz4") {
        fs::write(&path, vec![b'x'; usize::try_from(fs::metadata(&path).unwrap().len()).unwrap()]).unwrap();
    }
    let got = json(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url], 3);
    assert_eq!(got["remote"]["kind"], "damaged", "{got:#}");
    // As it was counted before the two had words of their own.
    let usage = sandbox.work(".meta-cache/counters/usage");
    fs::write(&usage, format!("{}1600000000 damaged 0\n", fs::read_to_string(&usage).unwrap())).unwrap();
    let stats = json(&sandbox, &["cache", "stats"], 0);
    assert_eq!((&stats["damaged_so_far"], &stats["remote_failures"]["damaged"]), (&2.into(), &1.into()), "{stats:#}");
    let told = sandbox.monofo(["cache", "stats"]).exits(0).stdout;
    assert!(told.contains("2 entries proved to be damaged") && told.contains("the remote did not help: 1 damaged"));
}

#[test]
fn stats_count_every_file_of_a_cache_on_disk() {
    use std::os::unix::fs::MetadataExt;
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    let root = sandbox.work(".meta-cache");
    let payload = crate::entries::payload(crate::entries::entries(&root).values().next().unwrap());
    fs::write(payload.with_file_name("stray"), vec![b'x'; 100_000]).unwrap();
    let told = json(&sandbox, &["cache", "stats"], 0)["disk_bytes"].as_u64().unwrap();
    let below = crate::harness::walk(&root).into_keys().map(|path| crate::harness::join(&root, &path));
    let blocks = |path: std::path::PathBuf| fs::symlink_metadata(path).unwrap().blocks() * 512;
    assert_eq!(told, below.chain([root.clone()]).map(blocks).sum::<u64>());
}

#[test]
fn a_cache_and_a_store_can_be_made_at_the_root_of_a_fresh_file_system() {
    let sandbox = workspace();
    for home in [".meta-cache", ".meta-store"] {
        fs::create_dir_all(sandbox.work(home).join("lost+found")).unwrap();
    }
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0);
    sandbox.monofo(["gc", "all"]).exits(0);
    assert!(sandbox.work(".meta-cache/lost+found").exists() && sandbox.work(".meta-store/lost+found").exists());
    fs::create_dir_all(sandbox.work("other/lost+found")).unwrap();
    sandbox.write("other/thing", "");
    sandbox.monofo(["cache", "list"]).env("MONOFO_CACHE_DIR", "other").exits(6);
}
