//! The `cache:` block through the binary's hooks: a job is its pre-command hook, what the test does, and its post-command hook.

mod explaining;
mod pages;
mod placing;
mod sharing;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::entries::{entries, payload};
use crate::harness::{Ran, Run, Sandbox, set, walk};

const HEAD: [(&str, &str); 5] = [
    ("BUILDKITE_JOB_ID", "1"),
    ("BUILDKITE_BRANCH", "main"),
    ("BUILDKITE_PIPELINE_DEFAULT_BRANCH", "main"),
    ("BUILDKITE_PIPELINE_SLUG", "web"),
    ("MONOFO_ARTIFACTS", "/nonexistent"),
];

/// Jobs of one machine, in one folder.
struct Machine {
    sandbox: Sandbox,
    variables: Vec<(String, String)>,
}

/// What a job was told.
struct Job {
    exports: BTreeMap<String, String>,
    before: Ran,
    configuration: Value,
}

impl Machine {
    fn new() -> Self {
        Machine { sandbox: Sandbox::new(), variables: Vec::new() }
    }

    fn with(variables: &[(&str, &str)]) -> Self {
        let mut machine = Machine::new();
        machine.set(variables);
        machine
    }

    fn set(&mut self, variables: &[(&str, &str)]) {
        for (name, value) in variables {
            self.variables.retain(|(known, _)| known != name);
            self.variables.push(((*name).to_owned(), (*value).to_owned()));
        }
    }

    fn hook(&self, phase: &str, configuration: &Value) -> Run<'_> {
        let run =
            self.sandbox.monofo(["hook", phase]).env("BUILDKITE_PLUGIN_CONFIGURATION", &configuration.to_string());
        let run = HEAD.iter().fold(run, |run, (name, value)| run.env(name, value));
        self.variables.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    #[track_caller]
    fn pre(&self, cache: &Value, status: i32) -> Job {
        let file = self.sandbox.path("exports");
        fs::write(&file, "").unwrap();
        let configuration = json!({ "cache": cache });
        let before =
            self.hook("pre-command", &configuration).env("MONOFO_HOOK_EXPORTS", file.to_str().unwrap()).exits(status);
        let text = fs::read_to_string(file).unwrap();
        let exports = text.split_terminator('\0').map(|line| line.split_once('=').unwrap());
        let exports = exports.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Job { exports, before, configuration }
    }

    #[track_caller]
    fn post(&self, job: &Job, command: i32, status: i32) -> Ran {
        let run =
            self.hook("post-command", &job.configuration).env("BUILDKITE_COMMAND_EXIT_STATUS", &command.to_string());
        job.exports.iter().fold(run, |run, (name, value)| run.env(name, value)).exits(status)
    }

    /// A whole job; `command` is what it does in between. Returns how the cache was hit, and both logs.
    #[track_caller]
    fn job(&self, cache: &Value, command: impl FnOnce(&Sandbox)) -> (String, String) {
        let job = self.pre(cache, 0);
        command(&self.sandbox);
        let after = self.post(&job, 0, 0);
        (job.exports["MONOFO_CACHE_HIT"].clone(), format!("{}{}", job.before.stderr, after.stderr))
    }

    fn home(&self) -> PathBuf {
        self.sandbox.path("home/.cache/monofo/keyed")
    }

    fn entries(&self) -> usize {
        entries(&self.home()).len()
    }

    fn forget(&self) {
        fs::remove_dir_all(self.home()).unwrap();
    }

    fn clean(&self) {
        fs::remove_dir_all(self.sandbox.work("")).unwrap();
        fs::create_dir(self.sandbox.work("")).unwrap();
    }
}

fn nothing(_: &Sandbox) {}

fn deps() -> Value {
    json!({ "key": "deps-{{ checksum \"lock\" }}", "restore-keys": "deps-", "paths": "deps" })
}

fn install(sandbox: &Sandbox) {
    let lock = fs::read_to_string(sandbox.work("lock")).unwrap();
    sandbox.write("deps/made", format!("of {lock}"));
}

#[test]
fn links_modes_and_times_come_back_as_they_were() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ["out", "file.txt", "deep/er/out2"] });
    machine.job(&cache, |sandbox| {
        for (path, mode) in
            [("out/run", 0o755), ("out/private", 0o600), ("out/d/odd", 0o461), ("deep/er/out2/x", 0o644)]
        {
            sandbox.write(path, path);
            set(&sandbox.work(path), Some(mode), 1_234_567_890);
        }
        sandbox.write("file.txt", "file");
        set(&sandbox.work("file.txt"), Some(0o640), 1_000_000_001);
        fs::create_dir(sandbox.work("out/hollow")).unwrap();
        symlink("../run", sandbox.work("out/d/link")).unwrap();
        symlink("/nowhere", sandbox.work("out/broken")).unwrap();
        set(&sandbox.work("out/d"), Some(0o511), 1_111_111_111);
        set(&sandbox.work("out/hollow"), Some(0o1777), 1_111_111_112);
        set(&sandbox.work("out"), Some(0o750), 1_111_111_113);
    });
    let before = walk(&machine.sandbox.work(""));
    set(&machine.sandbox.work("out/d"), Some(0o711), 1_111_111_111);
    machine.clean();
    machine.sandbox.write("out/stale", "an exact hit replaces what is there");
    machine.sandbox.write("deep/er/beside", "and nothing else");
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "exact" && !log.contains("warning"), "{log}");
    fs::remove_file(machine.sandbox.work("deep/er/beside")).unwrap();
    let mut after = walk(&machine.sandbox.work(""));
    let mut before = before;
    for (path, node) in &mut before {
        // Folders above the paths are not the entry's; the sticky bit is kept by nothing here; links have times of their own.
        if path == b"deep" || path == b"deep/er" || node.kind == 'l' {
            let restored = after.get_mut(path).unwrap();
            (node.mtime, node.mtime_nanos) = (restored.mtime, restored.mtime_nanos);
        }
        (node.mode, node.mtime_nanos) = (node.mode & 0o777, 0);
    }
    after.values_mut().for_each(|node| node.mtime_nanos = 0);
    crate::harness::assert_same(&before, &after, "the restored paths");
}

#[test]
fn other_paths_pipelines_salts_and_ids_never_meet() {
    let mut machine = Machine::new();
    let cache = json!({ "key": "k", "restore-keys": "k", "paths": "deps" });
    assert_eq!(machine.job(&cache, |sandbox| sandbox.write("deps/a", "x")).0, "miss");
    machine.sandbox.write("other/a", "");
    for other in [
        json!({ "key": "k", "restore-keys": "k", "paths": ["deps", "other"], "save": "never" }),
        json!({ "key": "k", "restore-keys": "k", "paths": "deps", "id": "x", "save": "never" }),
    ] {
        assert_eq!(machine.job(&other, nothing).0, "miss", "{other}");
    }
    for (name, value) in [("BUILDKITE_PIPELINE_SLUG", "api"), ("MONOFO_CACHE_SALT", "2")] {
        machine.set(&[(name, value)]);
        let never = json!({ "key": "k", "restore-keys": "k", "paths": "deps", "save": "never" });
        assert_eq!(machine.job(&never, nothing).0, "miss", "{name}");
        machine.variables.clear();
    }
    assert_eq!(machine.job(&cache, nothing).0, "exact");
}

#[test]
fn checksums_cover_names_modes_contents_and_what_links_reach() {
    let machine = Machine::new();
    let cache = json!({ "key": "{{ checksum \"in\" \"!in/skip\" \"*.lock\" }}", "paths": "deps", "save": "always" });
    machine.sandbox.write("in/a", "1");
    machine.sandbox.write("deps/x", "");
    machine.sandbox.write("hidden/target", "1");
    symlink("../hidden/target", machine.sandbox.work("in/link")).unwrap();
    machine.sandbox.write("x.lock", "1");
    assert_eq!(machine.job(&cache, nothing).0, "miss");
    machine.sandbox.write("in/skip", "1");
    set(&machine.sandbox.work("in/a"), Some(0o600), 5);
    assert_eq!(machine.job(&cache, nothing).0, "exact");
    let changes: [fn(&Sandbox); 5] = [
        |sandbox| sandbox.write("in/a", "2"),
        |sandbox| set(&sandbox.work("in/a"), Some(0o755), 5),
        |sandbox| fs::rename(sandbox.work("in/a"), sandbox.work("in/b")).unwrap(),
        |sandbox| sandbox.write("hidden/target", "2"),
        |sandbox| sandbox.write("y.lock", "1"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        change(&machine.sandbox);
        assert_eq!(machine.job(&cache, nothing).0, "miss", "change {number}");
    }
}

#[test]
fn a_checksum_of_nothing_is_an_error_unless_it_is_optional() {
    let machine = Machine::new();
    let cache = json!({ "key": "{{ checksum \"a\" \"b/**\" }}", "paths": "deps" });
    machine.sandbox.write("a", "");
    machine.pre(&cache, 2).before.says("`b/**` matches no file").says("write `optional` behind it");
    let cache =
        json!({ "key": "k-{{ checksum \"a\" \"b/**\" optional }}-{{ checksum \"c\" optional }}", "paths": "deps" });
    machine.sandbox.write("deps/a", "");
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "miss" && log.contains("-none, 1 file"), "{log}");
}

#[test]
fn keys_of_variables_are_never_empty_nor_secret_and_what_is_not_set_is_said() {
    let mut machine =
        Machine::with(&[("EMPTY", ""), ("DB_URL", "postgres://u:hunter2@h/x"), ("WEB_URL", "https://h:1/@")]);
    machine.pre(&json!({ "key": "{{ env \"EMPTY\" }}", "paths": "deps" }), 2).before.says("the key is empty");
    let said = machine.pre(&json!({ "key": "{{ env \"DB_URL\" }}", "paths": "deps" }), 2).before;
    assert!(said.stderr.contains("a password in it") && !said.stderr.contains("hunter2"), "{}", said.stderr);
    machine.pre(&json!({ "key": "{{ env \"WEB_URL\" }}", "paths": "deps" }), 0).before.does_not_say("warning");
    let of = |value: &str, status| {
        let machine = Machine::with(&[("X", value)]);
        machine.pre(&json!({ "key": "{{ env \"X\" }}", "paths": "deps" }), status).before.stderr
    };
    for value in [
        "https://hunter2@h/x",
        "user:hunter2@h",
        "//u:hunter2@h/x",
        "https://h/x?a=b&sig=hunter2",
        "https://h/x?X-Amz-Signature=hunter2",
        "ghp_hunter2hunter2hunter2hunter2hunter2",
        "Bearer npm_hunter2hunter2hunter2hunter2hunter2",
    ] {
        let said = of(value, 2);
        assert!(said.contains("keys are shown") && !said.contains("hunter2"), "{value}: {said}");
    }
    // A branch may be called so.
    for value in [
        "npm_upgrade",
        "ghs_fix",
        "1.2:3@4",
        "docker-image://a:1@sha256:ab",
        "git@h:a/b.git",
        "ssh://git@h/a.git",
        "node:20@sha256:0011",
        "r:5000/x@y:z",
        "a?b=c",
        "token=x",
    ] {
        of(value, 0);
    }
    let cache = json!({ "key": "a-{{ env \"NOT_SET\" }}", "paths": "deps" });
    machine.pre(&cache, 0).before.says("warning: a key asks for NOT_SET, which is not set");
    machine.set(&[("NOT_SET", "1")]);
    machine.pre(&cache, 0).before.does_not_say("warning");
}

#[test]
fn a_machine_that_stores_nothing_is_cleaned_once_a_day() {
    let cache = |key: &str| json!({ "key": key, "paths": "deps" });
    let none_is_there = json!({ "key": "other", "paths": "none" });
    let fork = [
        ("BUILDKITE_PULL_REQUEST", "7"),
        ("BUILDKITE_REPO", "git@host.example:a/b.git"),
        ("BUILDKITE_PULL_REQUEST_REPO", "git@host.example:x/b.git"),
    ];
    for (last, variables, size) in [
        (cache("new"), &[][..], false),
        (cache("new"), &[][..], true),
        (none_is_there, &[][..], false),
        (cache("third"), &fork[..], false),
    ] {
        let mut machine = Machine::new();
        for key in ["old", "new"] {
            machine.job(&cache(key), |sandbox| sandbox.write("deps/a", key));
        }
        for (number, metadata) in entries(&machine.home()).values().enumerate() {
            let text = fs::read_to_string(metadata).unwrap();
            if text.contains("\"old\"") {
                let days = if size { 1 } else { 40 };
                crate::entries::age(metadata, 3600 * 24 * days + number as u64);
            }
        }
        if size {
            machine.set(&[("MONOFO_CACHE_SIZE", "1K")]);
        }
        machine.set(variables);
        let (_, log) = machine.job(&last, nothing);
        assert!(log.contains("cleaned up the cache: 1 entry"), "{last}: {log}");
        assert_eq!(machine.entries(), 1, "{last}");
        let (_, log) = machine.job(&last, nothing);
        assert!(!log.contains("cleaned up"), "{log}");
    }
}

/// What a hostile entry may do: nothing outside the paths that the job configured.
#[test]
fn an_entry_with_paths_of_its_own_is_damaged() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": "deps" });
    machine.job(&cache, |sandbox| sandbox.write("deps/a", ""));
    // The archive of another entry, under this one's name, with metadata that fit it.
    let other = Machine::new();
    other.job(&json!({ "key": "a", "paths": ["deps", "evil"] }), |sandbox| {
        sandbox.write("deps/a", "");
        sandbox.write("evil/a", "");
    });
    let (mine, theirs) =
        (entries(&machine.home()).into_values().next().unwrap(), entries(&other.home()).into_values().next().unwrap());
    let read = |path: &PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let (mut forged, from) = (read(&mine), read(&theirs));
    let place = payload(&mine);
    fs::copy(payload(&theirs), place.with_file_name(from["payload"]["file"].as_str().unwrap())).unwrap();
    fs::remove_file(place).unwrap();
    (forged["output"], forged["payload"]) = (from["output"].clone(), from["payload"].clone());
    forged["output"]["name"] = json!("deps");
    set(&mine, Some(0o644), 0);
    fs::write(&mine, format!("{forged:#}\n")).unwrap();
    machine.clean();
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "miss" && log.contains("lies at none of the entry's paths"), "{log}");
    machine.sandbox.assert_paths("work", &[]);
}

#[test]
fn an_exact_hit_touches_nothing_afterwards() {
    let machine = Machine::new();
    machine.sandbox.write("lock", "1");
    machine.job(&deps(), install);
    let job = machine.pre(&deps(), 0);
    let away = machine.sandbox.path("away");
    fs::rename(machine.home(), &away).unwrap();
    fs::write(machine.home(), "no folder: whoever opens the cache now fails").unwrap();
    let after = machine.post(&job, 0, 0);
    assert_eq!((after.stderr.as_str(), after.stdout.as_str()), ("", ""));
}

#[test]
fn without_keys_from_before_nothing_is_stored_and_that_is_said() {
    let machine = Machine::new();
    machine.sandbox.write("lock", "1");
    let mut job = machine.pre(&deps(), 0);
    install(&machine.sandbox);
    let state = job.exports.keys().find(|name| name.starts_with("MONOFO_CACHE_STATE_")).unwrap().clone();
    let of_another = job.exports[&state].replace("\"pipeline\":\"web\"", "\"pipeline\":\"api\"");
    job.exports.insert(state.clone(), of_another);
    machine.post(&job, 0, 0).says("is another entry's");
    job.exports.insert(state.clone(), "{".into());
    machine.post(&job, 0, 0).says("is not what the pre-command hook left there");
    job.exports.remove(&state);
    machine.post(&job, 0, 0).says("left no keys");
    assert_eq!(machine.entries(), 0);
    let configuration = json!({ "cache": deps() });
    machine.hook("pre-command", &configuration).exits(0).says("the hook's shell takes no variables");
}

#[test]
fn paths_of_several_listings_and_of_home_must_not_overlap() {
    let machine = Machine::new();
    let first = machine.pre(&json!({ "key": "a", "paths": ["a", "~/.x"] }), 0);
    let second = |cache: Value, status: i32| {
        let configuration = json!({ "cache": cache });
        let run = machine.hook("pre-command", &configuration);
        first.exports.iter().fold(run, |run, (name, value)| run.env(name, value)).exits(status)
    };
    for (paths, says) in [("a", "`a`"), ("a/b", "`a/b`"), ("~/.x/y", "`~/.x/y`")] {
        second(json!({ "key": "b", "paths": paths, "id": "b" }), 2).says(says).says("name paths apart");
    }
    second(json!({ "key": "b", "paths": "c", "id": "A" }), 2).says("has an entry `A` too");
    second(json!({ "key": "b", "paths": ["ab", "~/.xy"], "id": "b" }), 0);
    // The same block once more is the same, however it is written and whatever else is listed with it.
    second(json!({ "key": "a", "paths": ["a", "~/.x"] }), 0);
    let text = r#"{ "download": [], "cache": [{ "paths": ["./a", "~/.x"], "soft-fail": true, "key": "a" }] }"#;
    let run = |phase: &str| {
        let run = machine.hook(phase, &Value::Null).env("BUILDKITE_PLUGIN_CONFIGURATION", text);
        first.exports.iter().fold(run, |run, (name, value)| run.env(name, value))
    };
    run("pre-command").exits(0);
    machine.sandbox.write("a/x", "");
    run("post-command").env("BUILDKITE_COMMAND_EXIT_STATUS", "0").exits(0).says("stored a");
    // A checkout below home.
    let home = machine.sandbox.path("");
    let checkout = machine.sandbox.work("");
    let again = format!("~/{}/a", checkout.strip_prefix(&home).unwrap().display());
    let run = machine.hook("pre-command", &json!({ "cache": { "key": "a", "paths": ["a", again] } }));
    run.env("HOME", home.to_str().unwrap()).exits(2).says(&format!("`{again}` is, or overlaps with, the path `a`"));
}

#[test]
fn keys_that_are_too_long_together_are_told_before_anything_is_looked_for() {
    let machine = Machine::with(&[("LONG", &"x".repeat(1800))]);
    let entry =
        |number: i32| json!({ "key": format!("{number}-{{{{ env \"LONG\" }}}}"), "paths": format!("p{number}") });
    let entries = |from: i32, to: i32| Value::Array((from..to).map(entry).collect());
    // Each fits, and all are hit.
    for from in [0, 10, 20] {
        machine.job(&entries(from, from + 10), |sandbox| {
            (from..from + 10).for_each(|number| sandbox.write(format!("p{number}"), "x"));
        });
    }
    let before = machine.pre(&entries(0, 30), 2).before;
    assert!(before.stderr.contains("are too long") && !before.stderr.contains("hit"), "{}", before.stderr);
}

#[test]
fn files_of_hooks_that_were_killed_go_after_a_day() {
    let machine = Machine::new();
    let folder = machine.sandbox.path("tmp");
    fs::create_dir(&folder).unwrap();
    // The highest number that a process can have, and one more.
    let (gone, alive) = (4_194_305, std::process::id());
    let ago = |days: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        (now - days * 24 * 3600).cast_signed()
    };
    for (name, days) in [
        (format!("monofo-exports.{gone}.1.12"), 2),
        (format!("monofo-exports.{gone}.2.12"), 0),
        (format!("monofo-exports.{alive}.1.12"), 2),
        ("monofo-exports.x".to_owned(), 2),
        ("other".to_owned(), 2),
    ] {
        fs::write(folder.join(&name), "").unwrap();
        set(&folder.join(&name), None, ago(days));
    }
    symlink("/nowhere", folder.join(format!("monofo-exports.{gone}.3.12"))).unwrap();
    machine.hook("pre-exit", &json!({})).env("TMPDIR", folder.to_str().unwrap()).exits(0);
    let mut stays: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    stays.sort();
    let expected = [
        format!("monofo-exports.{alive}.1.12"),
        format!("monofo-exports.{gone}.2.12"),
        format!("monofo-exports.{gone}.3.12"),
        "monofo-exports.x".to_owned(),
        "other".to_owned(),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(stays, expected);
}

#[test]
fn entries_are_restored_before_artifacts_come_and_stored_after_they_went() {
    let mut machine = Machine::new();
    let artifacts = format!("file://{}", machine.sandbox.path("artifacts").display());
    machine.set(&[("MONOFO_ARTIFACTS", &artifacts)]);
    let configuration = json!({ "cache": { "key": "a", "paths": "deps" }, "upload": { "more.tar": "deps/more" } });
    let file = machine.sandbox.path("exports");
    fs::write(&file, "").unwrap();
    let pre = |configuration: &Value, status| {
        let run = machine.hook("pre-command", configuration);
        run.env("MONOFO_HOOK_EXPORTS", machine.sandbox.path("exports").to_str().unwrap()).exits(status)
    };
    pre(&configuration, 0);
    machine.sandbox.write("deps/more", "of the artifact");
    machine.sandbox.write("deps/kept", "of the cache");
    let text = fs::read_to_string(&file).unwrap();
    let run = machine.hook("post-command", &configuration).env("BUILDKITE_COMMAND_EXIT_STATUS", "0");
    let run = text.split_terminator('\0').fold(run, |run, line| {
        let (name, value) = line.split_once('=').unwrap();
        run.env(name, value)
    });
    let log = run.exits(0).stderr;
    assert!(log.find("uploading 1 artifact").unwrap() < log.find("storing 1 cache entry").unwrap(), "{log}");
    machine.clean();
    let configuration = json!({ "cache": { "key": "a", "paths": "deps" }, "download": "more.tar" });
    let log = pre(&configuration, 0).stderr;
    assert!(log.find("restoring 1 cache entry").unwrap() < log.find("downloading 1 artifact").unwrap(), "{log}");
    machine.sandbox.assert_paths("work", &["deps", "deps/kept", "deps/more"]);
    // What is wrong with an artifact is the hook's status, and with the cache nothing is.
    machine.clean();
    pre(&json!({ "cache": { "key": "a", "paths": "deps" }, "download": "none.tar" }), 3).says("exact hit");
}
