//! `monofo try`: the real binary on pipeline files, with the plugin's real hooks. Where the order of things matters, a
//! script stands in for the binary that the hooks call and writes down what it was asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const RECORDER: &str = r#"#!/bin/bash
printf '%s|%s|%s\n' "$2" "${BUILDKITE_COMMAND_EXIT_STATUS-}" "${BUILDKITE_PLUGIN_CONFIGURATION-}" >>"$RECORD"
case " $FAIL_IN " in *" $2 "*) exit 9 ;; esac
"#;

/// A working tree with a pipeline file in it, and a temporary folder of its own.
struct Try {
    place: TempDir,
}

struct Run {
    status: i32,
    out: String,
    err: String,
}

impl Try {
    fn new(pipeline: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        for folder in ["tree", "tmp"] {
            fs::create_dir(place.path().join(folder)).unwrap();
        }
        fs::write(place.path().join("tree/pipeline.yml"), pipeline).unwrap();
        fs::write(place.path().join("recorder"), RECORDER).unwrap();
        fs::set_permissions(place.path().join("recorder"), fs::Permissions::from_mode(0o755)).unwrap();
        Try { place }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
        command
            .arg("try")
            .args(arguments)
            .current_dir(self.path("tree"))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path("tmp"))
            .env("TMPDIR", self.path("tmp"))
            .env("RECORD", self.path("record"))
            .env("RECORDER", self.path("recorder"))
            .env("FAIL_IN", "");
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// Hooks run so far: `phase|command's status|configuration`.
    fn record(&self) -> Vec<String> {
        fs::read_to_string(self.path("record")).unwrap_or_default().lines().map(str::to_string).collect()
    }

    fn left_behind(&self) -> Vec<String> {
        names(&self.path("tmp"))
    }
}

impl Run {
    fn of(output: Output) -> Self {
        Run {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn expect(&self, status: i32, parts: &[&str]) {
        let all = format!("{}{}", self.err, self.out);
        assert_eq!(self.status, status, "{all}");
        for part in parts {
            assert!(all.contains(part), "`{part}` is not in:\n{all}");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_example_goes_through_every_format_and_leaves_nothing_behind() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let before = names(here);
    let trial = Try::new("");
    let run = Run::of(trial.command(&["examples/pipeline.yml"]).current_dir(here).output().unwrap());
    run.expect(
        0,
        &[
            "everything.tar: ",
            "hooks.tar.gz: ",
            "rust.tar.lz4: ",
            "tests.tar.zst: ",
            "checksums.txt: ",
            "all as it was sent",
        ],
    );
    run.expect(0, &["warning: nice-to-have.tar.gz", "soft-failed 3 (command)", "3 of 4 steps passed, 1 soft-failed."]);
    assert_eq!(names(here), before);
    assert!(trial.left_behind().is_empty(), "{:?}", trial.left_behind());
}

/// The two numbers in `…, 3 of 150 chunks new, …`.
fn chunks_new(line: &str) -> (u64, u64) {
    let (counts, _) = line.split_once(" chunks new").unwrap_or_else(|| panic!("{line}"));
    let (_, counts) = counts.split_once("), ").unwrap();
    let (new, all) = counts.split_once(" of ").unwrap();
    (new.parse().unwrap(), all.parse().unwrap())
}

#[test]
fn the_example_of_the_cache_misses_hits_and_falls_back() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let trial = Try::new("");
    let run = Run::of(trial.command(&["examples/cache.yml"]).current_dir(here).output().unwrap());
    run.expect(0, &["cache: miss", "cache: exact", "cache: partial", "All 3 steps passed."]);
    run.expect(0, &["env \"FLAVOUR\" changed from `plain` to `spiced`", "501 files"]);
    assert_eq!(run.err.matches("deps: stored ").count(), 2, "{}", run.err);
    assert!(trial.left_behind().is_empty(), "{:?}", trial.left_behind());
}

#[test]
fn the_example_of_chunks_moves_only_what_changed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let trial = Try::new("");
    let run = Run::of(trial.command(&["examples/chunks.yml"]).current_dir(here).output().unwrap());
    run.expect(0, &["one file has changed", "all as it was sent", "All 3 steps passed."]);
    // A store of the trial's own, whatever the pipeline says.
    run.expect(0, &["note: MONOFO_DESYNC_STORE of the pipeline is not used"]);
    let uploads: Vec<(u64, u64)> = run
        .err
        .lines()
        .filter(|line| line.starts_with("build.catar.caibx: ") && line.contains(" new, "))
        .map(chunks_new)
        .collect();
    let [(first, all), (second, all_again)] = uploads[..] else { panic!("{}", run.err) };
    assert_eq!(first, all, "{}", run.err);
    assert!(all > 50 && all_again > 50, "{}", run.err);
    assert!((1..=8).contains(&second), "{}", run.err);
    // Neither cache nor seeds: the store is as near.
    assert!(!run.err.contains("from the seed") && !run.err.contains("from the cache"), "{}", run.err);
    assert!(trial.left_behind().is_empty(), "{:?}", trial.left_behind());
}

#[test]
fn all_mistakes_are_told_with_their_place_before_anything_runs() {
    let pipeline = "steps:
- command: touch \"$RECORD\"
  plugins:
  - vital-software/monofo#v1.0.0:
      upload:
        out.tar.lz4: [7]
        out.tar.gz: {globs: x, wehn: always}
- command: x
  plugins:
  - other#v1: {anything: 1}
  - monofo-buildkite-plugin:
      download: [{into: x}]
";
    let trial = Try::new(pipeline);
    let run = trial.run(&["pipeline.yml"]);
    run.expect(2, &["`pipeline.yml` has 3 mistakes; nothing was run", "hint: did you mean `when`?"]);
    let places: Vec<&str> =
        run.err.lines().filter_map(|line| line.split_once(": error: ").map(|(place, _)| place)).collect();
    assert_eq!(places, ["pipeline.yml:6:23", "pipeline.yml:7:32", "pipeline.yml:12:18"], "{}", run.err);
    assert!(trial.record().is_empty() && trial.left_behind().is_empty());
}

#[test]
fn files_that_are_no_pipeline_are_explained() {
    for (text, parts) in [
        ("steps: [\n", &["pipeline.yml:", "not valid YAML", "hint: "][..]),
        (
            "steps:\n- command: x\n  plugins: [{monofo: {upload: {a.tar: {filesFrom: l, null: true}}}}]\n",
            &["pipeline.yml:3:", "\"null\": true"],
        ),
        ("", &["pipeline.yml:", "the file is empty"]),
        ("steps: []\n", &["there is no command step to run"]),
    ] {
        Try::new(text).run(&["pipeline.yml"]).expect(2, parts);
    }
    Try::new("").run(&["nowhere.yml"]).expect(2, &["cannot read the pipeline file `nowhere.yml`", "hint: "]);
}

#[test]
fn a_null_in_the_configuration_is_warned_about_and_hides_it_from_the_hooks() {
    let trial = Try::new(
        "env: {MONOFO_BIN: $RECORDER}\nsteps:\n- command: 'true'\n  plugins:\n  - monofo#v1:\n      upload:\n",
    );
    trial.run(&["pipeline.yml"]).expect(0, &["pipeline.yml:6:7: warning: `upload` is null"]);
    assert_eq!(trial.record(), ["pre-command||", "post-command|0|", "pre-exit|0|"]);
}

#[test]
fn hooks_run_once_for_each_listing_with_its_own_configuration() {
    let trial = Try::new(
        "env: {MONOFO_BIN: $RECORDER}
steps:
- command: echo \"command|$$BUILDKITE_PLUGIN_CONFIGURATION$$BUILDKITE_PLUGIN_NAME\" >> \"$$RECORD\"
  plugins:
  - monofo#v1: {upload: {b.tar: b<, a.tar: a}}
  - docker#v5: {image: x}
  - monofo#v1: {download: c.tar}
",
    );
    trial.run(&["pipeline.yml"]).expect(0, &["note: plugin `docker#v5` is not run here"]);
    let (one, two) = (r#"{"upload":{"a.tar":"a","b.tar":"b\u003c"}}"#, r#"{"download":"c.tar"}"#);
    let expected: Vec<String> = vec![
        format!("pre-command||{one}"),
        format!("pre-command||{two}"),
        "command|".into(),
        format!("post-command|0|{one}"),
        format!("post-command|0|{two}"),
        format!("pre-exit|0|{one}"),
        format!("pre-exit|0|{two}"),
    ];
    assert_eq!(trial.record(), expected);
}

#[test]
fn failures_follow_the_agents_rules() {
    for (fail_in, command, status, what, phases) in [
        ("pre-command", "true", 9, "failed 9 (pre-command hook)", &["pre-command|", "pre-exit|"][..]),
        ("", "exit 4", 4, "failed 4 (command)", &["pre-command|", "post-command|4", "pre-exit|4"]),
        ("post-command", "exit 4", 4, "failed 4 (command)", &["pre-command|", "post-command|4", "pre-exit|4"]),
        ("post-command", "true", 9, "failed 9 (post-command hook)", &["pre-command|", "post-command|0", "pre-exit|0"]),
        ("pre-exit", "true", 0, "The step passed.", &["pre-command|", "post-command|0", "pre-exit|0"]),
        ("", "[\"false\", touch never]", 1, "failed 1 (command)", &["pre-command|", "post-command|1", "pre-exit|1"]),
    ] {
        let trial = Try::new(&format!(
            "env: {{MONOFO_BIN: $RECORDER}}\nsteps:\n- command: {command}\n  plugins: [monofo#v1]\n"
        ));
        let run = Run::of(trial.command(&["pipeline.yml"]).env("FAIL_IN", fail_in).output().unwrap());
        run.expect(status, &[what]);
        let expected: Vec<String> = phases.iter().map(|phase| format!("{phase}|{{}}")).collect();
        assert_eq!(trial.record(), expected, "{fail_in} {command}");
    }
}

#[test]
fn a_failing_step_stops_the_run_unless_it_is_forgiven() {
    let trial = Try::new(
        "steps:
- {command: exit 5, key: soft, soft_fail: [{exit_status: 5}]}
- {command: \"true\", key: left-out, skip: not today}
- {command: exit 7, key: hard, soft_fail: [{exit_status: 5}]}
- {command: \"true\", key: after}
- {wait: ~, continue_on_failure: true}
- {command: echo on standard output, key: last}
",
    );
    let run = trial.run(&["pipeline.yml", "--json"]);
    assert_eq!(run.status, 7, "{}", run.err);
    let summary: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let steps: Vec<(&str, &str)> = summary["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["key"].as_str().unwrap(), step["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        steps,
        [("soft", "soft-failed"), ("left-out", "skipped"), ("hard", "failed"), ("after", "not-run"), ("last", "ok")]
    );
    assert_eq!((&summary["exit_status"], &summary["steps"][0]["exit_status"]), (&7.into(), &5.into()));
    assert!(run.err.contains("on standard output"));

    let run = trial.run(&["pipeline.yml"]);
    run.expect(7, &["skipped (not today)", "not run (a step before it failed)", "1 of 5 steps passed, 1 failed"]);
    assert!(run.out.contains("on standard output"));
}

#[test]
fn what_cannot_be_done_here_is_said() {
    let trial = Try::new(
        "steps:
- block: Release?
- wait
- {trigger: other-pipeline}
- group: checks
  if: build.branch == 'main'
  steps:
  - {command: \"echo count=$$BUILDKITE_PARALLEL_JOB_COUNT\", parallelism: 4, artifact_paths: x, agents: {queue: y}}
  - {command: 'echo {{matrix}}', matrix: [first, second]}
  - {plugins: [docker#v5]}
",
    );
    trial.run(&["pipeline.yml"]).expect(
        0,
        &[
            "block `Release?`: passed over",
            "wait: nothing to wait for",
            "trigger `other-pipeline`: passed over",
            "note: group `checks`: `if` is not evaluated",
            "note: `parallelism: 4`: the step runs once",
            "note: `artifact_paths` is not honoured",
            "note: not honoured here: `agents`",
            "count=1",
            "note: a matrix step runs once",
            "skipped (no command; plugin `docker#v5` is not run here)",
        ],
    );
}

#[test]
fn a_step_sees_a_fresh_copy_and_an_agents_environment() {
    let trial = Try::new(
        "env: {FROM_PIPELINE: '1'}
steps:
- label: first
  key: one
  env: {FROM_STEP: $FROM_PIPELINE-2}
  command: |
    touch made-here; echo changed > seen; rm pipeline.yml
    env > \"$$RECORD\"
    pwd >> \"$$RECORD\"
    if read -r line; then exit 8; fi
- command: test ! -e made-here; grep -x kept seen; test -e pipeline.yml; test -x sub/tool
",
    );
    fs::create_dir(trial.path("tree/sub")).unwrap();
    fs::write(trial.path("tree/sub/tool"), "x").unwrap();
    fs::set_permissions(trial.path("tree/sub/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(trial.path("tree/seen"), "kept\n").unwrap();
    let mut command = trial.command(&["pipeline.yml"]);
    command
        .envs([("BUILDKITE_AGENT_ACCESS_TOKEN", "leak"), ("BUILDKITE_BUILD_ID", "leak"), ("BUILDKITE_FOO", "leak")])
        .envs([("MONOFO_ARTIFACTS", "s3://leak"), ("MONOFO_REMOTE", "s3://leak"), ("MINE", "stays")]);
    Run::of(command.output().unwrap()).expect(0, &["All 2 steps passed."]);
    assert_eq!(names(&trial.path("tree")), ["pipeline.yml", "seen", "sub"]);
    assert_eq!(fs::read_to_string(trial.path("tree/seen")).unwrap(), "kept\n");

    let seen = trial.record();
    assert!(!seen.iter().any(|line| line.contains("leak")), "{seen:?}");
    for line in ["MINE=stays", "FROM_PIPELINE=1", "FROM_STEP=1-2", "BUILDKITE=true", "CI=true", "BUILDKITE_LABEL=first"]
    {
        assert!(seen.iter().any(|known| known == line), "{line}: {seen:?}");
    }
    let tmp = trial.path("tmp").canonicalize().unwrap();
    for name in
        ["MONOFO_ARTIFACTS=file://", "MONOFO_DESYNC_STORE=", "MONOFO_CACHE_DIR=", "BUILDKITE_BUILD_CHECKOUT_PATH="]
    {
        let inside = format!("{name}{}/monofo-try-", tmp.display());
        assert!(seen.iter().any(|line| line.starts_with(&inside)), "{inside}: {seen:?}");
    }
    assert!(seen.last().unwrap().starts_with(&format!("{}/", tmp.display())));
}

#[test]
fn the_trial_is_removed_unless_it_is_to_be_kept() {
    let trial = Try::new("steps:\n- command: mkdir -m 555 closed; echo x > made\n");
    trial.run(&["pipeline.yml"]).expect(0, &["The step passed."]);
    assert!(trial.left_behind().is_empty(), "{:?}", trial.left_behind());
    let run = trial.run(&["pipeline.yml", "--keep"]);
    let kept = run.err.lines().find_map(|line| line.strip_prefix("kept `")?.strip_suffix('`')).unwrap();
    assert_eq!(fs::read_to_string(Path::new(kept).join("checkout-1/made")).unwrap(), "x\n");
}

#[test]
fn an_interrupt_stops_the_command_runs_pre_exit_and_cleans_up() {
    let trial = Try::new(
        "env: {MONOFO_BIN: $RECORDER}
steps:
- {command: 'echo started >> \"$$RECORD\"; sleep 30', plugins: [monofo#v1]}
- command: echo never >> \"$$RECORD\"
",
    );
    let begun = Instant::now();
    let child = trial.command(&["pipeline.yml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !trial.record().iter().any(|line| line == "started") {
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    run.expect(130, &["interrupted", "not run (interrupted)", "error: interrupted"]);
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert_eq!(trial.record(), ["pre-command||{}", "started", "pre-exit||{}"]);
    assert!(trial.left_behind().is_empty(), "{:?}", trial.left_behind());
}

#[test]
fn a_step_that_takes_its_folder_away_fails_alone() {
    let trial = Try::new(
        "env: {MONOFO_BIN: $RECORDER}
steps:
- {command: 'rm -rf \"$$PWD\"', plugins: [monofo#v1]}
- {wait: ~, continue_on_failure: true}
- command: echo still here
",
    );
    let run = trial.run(&["pipeline.yml"]);
    run.expect(1, &["failed 1 (the folder `", "checkout-1` is gone)", "still here", "1 of 2 steps passed, 1 failed."]);
    assert_eq!(trial.record(), ["pre-command||{}", "pre-exit||{}"]);
    assert!(trial.left_behind().is_empty(), "{:?}", trial.left_behind());
}

#[test]
fn json_tells_of_files_that_are_no_pipeline_too() {
    let trial = Try::new("steps:\n- command: x\n  plugins: [{monofo: {uplaod: {}}}]\n");
    let told = |name: &str| -> serde_json::Value {
        let run = trial.run(&[name, "--json"]);
        assert_eq!(run.status, 2, "{}", run.err);
        serde_json::from_str(&run.out).unwrap()
    };
    let invalid = told("pipeline.yml");
    assert_eq!((&invalid["exit_status"], &invalid["mistakes"][0]["line"]), (&2.into(), &3.into()), "{invalid}");
    assert_eq!(invalid["error"]["message"], "`pipeline.yml` has 1 mistake; nothing was run");
    let missing = told("nowhere.yml");
    assert!(missing["error"]["message"].as_str().unwrap().contains("nowhere.yml"), "{missing}");
    assert_eq!((&missing["mistakes"], &missing["steps"]), (&serde_json::json!([]), &serde_json::json!([])));
}
