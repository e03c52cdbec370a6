use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::commands::block::AT_ONCE;
use crate::engine::{Context, DownloadRequest, Outcome, UploadRequest};
use crate::error::{Class, Error};
use crate::report::{Mode, Style, Verbosity};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Does what the artifact's name says: `fail…`, `refuse…`, `usage…`, `panic…`, `wait…` (until stopped); else succeeds.
#[derive(Clone, Default)]
struct Fake {
    moved: Arc<Mutex<BTreeSet<String>>>,
    busy: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Fake {
    fn act(&self, name: &str, context: &Context) -> Result<Outcome> {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(busy, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(5));
        let result = match () {
            _ if name.starts_with("fail") => Err(Error::failed("broken").hint("mend it")),
            _ if name.starts_with("refuse") => Err(Error::refused("outside")),
            _ if name.starts_with("usage") => Err(Error::usage("misused")),
            _ if name.starts_with("panic") => panic!("on purpose"),
            // Bounded, so that a stop that never comes fails the test instead of hanging it.
            _ if name.starts_with("wait") => (0..5_000)
                .find_map(|_| {
                    thread::sleep(Duration::from_millis(2));
                    context.cancel.check().err()
                })
                .map_or_else(|| Ok(Outcome { moved: true, ..Outcome::default() }), Err),
            _ => Ok(Outcome { moved: true, ..Outcome::default() }),
        };
        self.busy.fetch_sub(1, Ordering::SeqCst);
        if result.is_ok() {
            self.moved.lock().unwrap().insert(name.to_owned());
        }
        result
    }
}

impl Mover for Fake {
    fn place(&self) -> String {
        "nowhere".into()
    }
    fn upload(&self, request: &UploadRequest, context: &Context) -> Result<Outcome> {
        self.act(request.name.as_str(), context)
    }
    fn download(&self, request: &DownloadRequest, context: &Context) -> Result<Outcome> {
        self.act(request.name.as_str(), context)
    }
}

struct Ran {
    status: u8,
    log: String,
    moved: Vec<String>,
    most: usize,
    opened: usize,
}

fn run_with(phase: Phase, configuration: Value, extra: &[(&str, &str)], cancel: &Cancel) -> Ran {
    let mut variables = vec![("BUILDKITE_JOB_ID".to_owned(), "j".to_owned())];
    variables.push(("BUILDKITE_PLUGIN_CONFIGURATION".into(), configuration.to_string()));
    variables.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let env = Env::of(variables);
    let (log, fake, opened) = (Captured::default(), Fake::default(), AtomicUsize::new(0));
    let mode = Mode { style: Style::Job, verbosity: Verbosity::Normal, json: false };
    let report = Report::with_streams(mode, Box::new(log.clone()), Box::new(log.clone()));
    let open = || {
        opened.fetch_add(1, Ordering::SeqCst);
        match env.switch("TEST_NO_TRANSPORT") {
            true => Err(Error::new(Class::Unavailable, "no such place")),
            false => Ok(Box::new(fake.clone()) as Box<dyn Mover>),
        }
    };
    let status = Hook { env: &env, cancel, report: &report, open: &open }.run(phase);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let moved = fake.moved.lock().unwrap().iter().cloned().collect();
    Ran { status, log, moved, most: fake.most.load(Ordering::SeqCst), opened: opened.load(Ordering::SeqCst) }
}

fn run(phase: Phase, configuration: Value, extra: &[(&str, &str)]) -> Ran {
    run_with(phase, configuration, extra, &Cancel::new())
}

#[test]
fn nothing_to_do_says_nothing_and_opens_nothing() {
    for (phase, configuration) in [
        (Phase::PreCommand, json!({})),
        (Phase::PostCommand, json!({})),
        (Phase::PreCommand, json!({"upload": {"a.tar": "x"}})),
        (Phase::PostCommand, json!({"download": "a.tar"})),
        (Phase::PostCommand, json!({"upload": {"a.tar": {"globs": "x", "when": "failure"}}})),
        (Phase::PreExit, json!("nonsense")),
    ] {
        let ran = run(phase, configuration.clone(), &[]);
        assert_eq!((ran.status, ran.log.as_str(), ran.opened), (0, "", 0), "{configuration}");
    }
}

#[test]
fn one_failure_stops_no_other_and_all_are_told() {
    let ran = run(Phase::PreCommand, json!({"download": ["a", "refuse", "b", "fail", "panic", "c"]}), &[]);
    assert_eq!(ran.moved, ["a", "b", "c"]);
    assert_eq!(ran.status, 6, "the first failure in listed order");
    for line in ["error: refuse: outside", "error: fail: broken\nhint: mend it", "error: panic: internal error"] {
        assert!(ran.log.contains(line), "{line}: {}", ran.log);
    }
    assert_eq!(ran.log.matches("^^^ +++").count(), 1);
}

#[test]
fn at_most_eight_move_at_once_and_more_than_one_does() {
    let names: Vec<String> = (0..30).map(|i| format!("a{i}")).collect();
    let ran = run(Phase::PreCommand, json!({ "download": names }), &[]);
    assert_eq!(ran.moved.len(), 30);
    assert!((2..=AT_ONCE).contains(&ran.most), "{}", ran.most);
}

#[test]
fn after_a_failed_command_our_failures_are_warnings() {
    let config = json!({"upload": {
        "fail": {"globs": "x", "when": "always"}, "usage": {"globs": "x", "when": "failure"},
        "good": {"globs": "x", "when": "failure"}, "usual": "x",
    }});
    for status in ["3", "-1"] {
        let ran = run(Phase::PostCommand, config.clone(), &[("BUILDKITE_COMMAND_EXIT_STATUS", status)]);
        assert_eq!(ran.status, 0);
        assert_eq!(ran.moved, ["good"]);
        assert!(ran.log.contains("warning: fail: broken\nhint: mend it") && !ran.log.contains("error:"), "{}", ran.log);
    }
    let wrong = run(Phase::PostCommand, json!({"uplod": {}}), &[("BUILDKITE_COMMAND_EXIT_STATUS", "3")]);
    assert!(wrong.status == 0 && wrong.log.contains("warning: plugin configuration"), "{}", wrong.log);
    let no_transport = [("BUILDKITE_COMMAND_EXIT_STATUS", "3"), ("TEST_NO_TRANSPORT", "1")];
    assert_eq!(run(Phase::PostCommand, config, &no_transport).status, 0);
}

#[test]
fn after_a_good_command_they_are_errors() {
    let config = json!({"upload": {"fail": "x", "good": {"globs": "x", "when": "always"}}});
    let ran = run(Phase::PostCommand, config, &[("BUILDKITE_COMMAND_EXIT_STATUS", "0")]);
    assert_eq!((ran.status, ran.moved), (1, vec!["good".to_owned()]));
}

#[test]
fn soft_fail_softens_trouble_but_not_a_wrong_configuration() {
    let soft = |name: &str| json!({"download": [{"name": name, "soft-fail": true}]});
    let ran = run(Phase::PreCommand, soft("fail"), &[]);
    assert!(ran.status == 0 && ran.log.contains("^^^ +++\nwarning: fail: broken"), "{}", ran.log);
    assert_eq!(run(Phase::PreCommand, soft("usage"), &[]).status, 2);
    let mixed = json!({"download": [{"name": "fail", "soft-fail": true}, "refuse"]});
    assert_eq!(run(Phase::PreCommand, mixed.clone(), &[]).status, 6);
    assert_eq!(run(Phase::PreCommand, soft("a"), &[("TEST_NO_TRANSPORT", "1")]).status, 0);
    assert_eq!(run(Phase::PreCommand, mixed, &[("TEST_NO_TRANSPORT", "1")]).status, 8);
}

#[test]
fn a_wrong_configuration_is_told_once_and_moves_nothing() {
    let ran = run(Phase::PreCommand, json!({"download": ["a", 7]}), &[]);
    assert_eq!((ran.status, ran.opened), (2, 0));
    assert_eq!(ran.log.matches("error:").count(), 1);
}

#[test]
fn a_skipped_artifact_is_named_and_left_alone() {
    let ran = run(Phase::PreCommand, json!({"download": ["a", "b"]}), &[("MONOFO_ARTIFACT_A_SKIP", "1")]);
    assert_eq!(ran.moved, ["b"]);
    assert!(ran.log.contains("downloading 1 artifact\na: skipped, MONOFO_ARTIFACT_A_SKIP is set"), "{}", ran.log);
}

#[test]
fn a_signal_stops_the_work_and_decides_the_status() {
    let cancel = Cancel::new();
    let from_outside = cancel.clone();
    let signal = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        from_outside.stop(15);
    });
    let names: Vec<Value> = (0..20).map(|i| json!({"name": format!("wait{i}"), "soft-fail": true})).collect();
    let begun = Instant::now();
    let ran = run_with(Phase::PreCommand, json!({"download": names, "upload": {}}), &[], &cancel);
    signal.join().unwrap();
    assert_eq!(ran.status, 143);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_cancelled_job_stops_by_itself_within_the_grace_period() {
    let variables = [
        ("BUILDKITE_COMMAND_EXIT_STATUS", "-1"),
        ("BUILDKITE_JOB_CANCELLED", "true"),
        ("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS", "3"),
    ];
    let begun = Instant::now();
    let ran = run(Phase::PostCommand, json!({"upload": {"wait": {"globs": "x", "when": "always"}}}), &variables);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(ran.status == 0 && ran.log.contains("warning: wait: interrupted"), "{}", ran.log);
}

#[test]
fn pre_exit_removes_the_scratch_folder_of_its_job_only() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    std::fs::create_dir_all(path("monofo-job-j/deep")).unwrap();
    std::fs::create_dir_all(path("monofo-job-k")).unwrap();
    std::fs::write(path("keep"), "x").unwrap();
    let exists = |name: &str| Path::new(&path(name)).exists();
    let folder = temp.path().to_str().unwrap();
    assert_eq!(run(Phase::PreExit, json!({}), &[("TMPDIR", folder)]).status, 0);
    assert!(!exists("monofo-job-j") && exists("monofo-job-k") && exists("keep"));
    // A job id that is a path names no folder of ours.
    run(Phase::PreExit, json!({}), &[("TMPDIR", folder), ("BUILDKITE_JOB_ID", "x/../../keep")]);
    assert!(exists("keep"));
}

#[test]
fn pre_exit_does_not_follow_a_link_in_place_of_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let precious = temp.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "x").unwrap();
    std::os::unix::fs::symlink(&precious, temp.path().join("monofo-job-j")).unwrap();
    let ran = run(Phase::PreExit, json!({}), &[("TMPDIR", temp.path().to_str().unwrap())]);
    assert_eq!(ran.status, 0);
    assert!(precious.join("file").exists());
}
