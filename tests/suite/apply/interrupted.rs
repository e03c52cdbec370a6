//! Signals while builds run: everything that they started ends, and nothing half-made is left.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{apply, assert_statuses, names};
use crate::entries::{entries, manifest};
use crate::harness::Sandbox;

/// A build that tells its own process and one that it started, and then goes on for long.
fn workspace(before: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let slow = |name: &str| {
        format!(
            "  {name}: {{build: \"{before} mkdir -p out; sleep 300 & echo $! >> $PIDS; echo $$ >> $PIDS; touch $STARTED.{name}; \
             wait; sleep 300\", outputs: out}}\n"
        )
    };
    manifest(
        &sandbox,
        &format!(
            "{}{}  quick: {{build: \"touch out\", outputs: out}}\n  top: {{depends_on: [slow], build: \"touch out\", outputs: out}}\n",
            slow("slow"),
            slow("slow2")
        ),
    );
    for name in ["slow", "slow2", "quick", "top"] {
        sandbox.write(format!("components/{name}/src"), name);
    }
    sandbox
}

fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    let child = command(sandbox, args).spawn().unwrap();
    until(|| ["slow", "slow2"].iter().all(|name| sandbox.path(format!("started.{name}")).exists()));
    child
}

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
    command
        .args(args)
        .current_dir(sandbox.work(""))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", sandbox.path("home"))
        .env("PIDS", sandbox.path("pids"))
        .env("STARTED", sandbox.path("started"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for something that comes soon, on any machine.
#[track_caller]
fn until(there: impl Fn() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < Duration::from_secs(60), "it did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

/// None of the builds' processes is there any more.
fn assert_gone(sandbox: &Sandbox) {
    let pids = fs::read_to_string(sandbox.path("pids")).unwrap();
    assert_eq!(pids.lines().count(), 4, "{pids}");
    for pid in pids.lines() {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        // Whose parent is gone is reaped by somebody else, who may take a moment.
        until(|| test_kill_process(pid).is_err());
    }
}

#[test]
fn a_signal_ends_the_builds_and_leaves_nothing_half_made() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let sandbox = workspace("");
        let child = start(&sandbox, &["--json", "apply", "--jobs", "3"]);
        // What is done is done.
        until(|| entries(&sandbox.work(".meta-cache")).len() == 1);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{told}");
        assert_gone(&sandbox);
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&document["ok"], &document["error"]["code"]), (&false.into(), &status.into()), "{document:#}");
        assert_statuses(
            &document,
            &[("quick", "built"), ("slow", "interrupted"), ("slow2", "interrupted"), ("top", "interrupted")],
        );
        assert_eq!(entries(&sandbox.work(".meta-cache")).len(), 1);
        sandbox.monofo(["gc", "cache", "--grace", "0"]).exits(0);
        assert!(names(&sandbox.work(".meta-cache/tmp")).is_empty());
        // The lock of the workspace ended with the process.
        assert_statuses(&apply(&sandbox, &["--component", "quick"], 0), &[("quick", "hit local")]);
    }
}

#[test]
fn builds_do_not_outlive_a_kill_and_the_next_run_is_not_disturbed_by_them() {
    let sandbox = Sandbox::new();
    manifest(
        &sandbox,
        "  slow: {build: \"trap '' TERM; rm -rf out; mkdir out; if [ -e $PIDS.again ]; then sleep 0.5; touch out/made; exit; fi; \
         echo $$ >> $PIDS; touch $STARTED.slow $STARTED.slow2; while :; do mkdir -p out; touch out/old; done\", outputs: out}\n",
    );
    sandbox.write("components/slow/src", "");
    let mut child = start(&sandbox, &["apply"]);
    fs::write(sandbox.path("pids.again"), "").unwrap();
    send(&child, Signal::KILL);
    child.wait().unwrap();
    let next = super::run(&sandbox, &["apply"]).env("PIDS", sandbox.path("pids").to_str().unwrap()).exits(0);
    next.says("built slow");
    sandbox.assert_paths("work/components/slow/out", &["made"]);
    let pid = fs::read_to_string(sandbox.path("pids")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    until(|| test_kill_process(pid).is_err());
}

#[test]
fn a_second_signal_ends_deaf_builds_at_once() {
    let sandbox = workspace("trap '' TERM INT;");
    let child = start(&sandbox, &["--json", "apply", "--jobs", "2"]);
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    send(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["schema"], &told["ok"]), (&"meta.apply/1".into(), &false.into()), "{told:#}");
    assert_eq!((&told["error"]["code"], &told["error"]["kind"]), (&130.into(), &"interrupted".into()), "{told:#}");
    assert_gone(&sandbox);
    assert!(entries(&sandbox.work(".meta-cache")).len() <= 1);
}

#[test]
fn a_second_signal_while_a_build_speaks_waits_for_its_last_word() {
    let sandbox = workspace("trap '' TERM INT; printf hi;");
    let child = command(&sandbox, &["--json", "apply", "--jobs", "1"]).env("BUILDKITE_JOB_ID", "x").spawn().unwrap();
    until(|| ["slow", "slow2"].iter().any(|name| sandbox.path(format!("started.{name}")).exists()));
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    send(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{told}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["ok"], &document["error"]["code"]), (&false.into(), &130.into()), "{document:#}");
    assert!(told.contains("hi\n") && !told.contains("hierror"), "{told}");
}
