//! The agent's transport over a stand-in for the agent, and over a real one when the environment offers it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::error::{Class, Error};
use monofo::transport::{Agent, Origin, Transport};

use super::contract::{get, name, noise, pick, put};

/// A stand-in agent with its store, in a folder of its own.
pub(super) struct Stub {
    folder: tempfile::TempDir,
}

impl Stub {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/buildkite-agent");
        for part in ["bin", "store", "tmp"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        fs::write(&program, include_str!("buildkite-agent.bash")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Stub { folder }
    }

    fn env(&self, origin: &Origin, mode: &str) -> Env {
        let at = |part: &str| self.folder.path().join(part).to_str().unwrap().to_owned();
        Env::of([
            ("PATH", format!("{}:{}", at("bin"), Env::of_process().text("PATH").unwrap())),
            ("TMPDIR", at("tmp")),
            ("STUB_STORE", at("store")),
            ("STUB_MODE", mode.into()),
            ("BUILDKITE_AGENT_ACCESS_TOKEN", "hunter2hunter2".into()),
            ("BUILDKITE_BUILD_ID", origin.build.clone()),
            ("BUILDKITE_JOB_ID", origin.job.clone()),
            ("BUILDKITE_STEP_KEY", origin.step.clone().unwrap_or_default()),
        ])
    }

    pub(super) fn open(&self, origin: &Origin) -> Arc<dyn Transport> {
        Arc::new(Agent::new(&self.env(origin, ""), Cancel::new()).unwrap())
    }

    fn in_mode(&self, mode: &str) -> Agent {
        let origin = Origin { build: "b".into(), step: None, job: "j".into() };
        Agent::with_search_limit(&self.env(&origin, mode), Cancel::new(), Duration::from_millis(500)).unwrap()
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }
}

fn fetch(transport: &Agent) -> Result<Vec<u8>, Error> {
    get(transport, "a.tar", &pick("b", None))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn damage_on_the_way_is_found_before_a_byte_is_handed_out() {
    let stub = Stub::new();
    put(&stub.in_mode(""), "a.tar", &noise(1, 5000)).unwrap();
    for mode in ["damage", "cut"] {
        let error = stub.in_mode(mode).download(&name("a.tar"), &pick("b", None)).err().unwrap();
        assert_eq!(error.class(), Class::Damaged, "{mode}: {error:?}");
        assert!(error.chain().contains("a.tar"));
    }
    assert!(is_empty(&stub.temporary()));
}

#[test]
fn an_older_agent_without_newer_flags_will_do() {
    let stub = Stub::new();
    let absent = fetch(&stub.in_mode("old")).unwrap_err();
    assert_eq!(absent.class(), Class::NotThere, "{absent:?}");
    put(&stub.in_mode("old"), "a.tar", b"bytes").unwrap();
    assert_eq!(fetch(&stub.in_mode("old")).unwrap(), b"bytes");
}

#[test]
fn an_agent_that_cannot_ask_is_not_an_absent_artifact_and_its_words_are_shown_without_the_token() {
    let stub = Stub::new();
    for error in [fetch(&stub.in_mode("deny")).unwrap_err(), put(&stub.in_mode("deny"), "a.tar", b"x").unwrap_err()] {
        assert_eq!(error.class(), Class::Unavailable, "{error:?}");
        assert!(error.chain().contains("401"), "{error:?}");
        assert!(!format!("{error:?}{}", error.chain()).contains("hunter2"), "{error:?}");
    }
    put(&stub.in_mode(""), "a.tar", b"x").unwrap();
    assert_eq!(fetch(&stub.in_mode("vanish")).unwrap_err().class(), Class::Unavailable);
}

#[test]
fn an_upload_that_matched_nothing_has_failed() {
    let stub = Stub::new();
    let error = put(&stub.in_mode("deaf"), "a.tar", b"x").unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("reported success but uploaded nothing"), "{error:?}");
    assert!(error.next_step().unwrap().contains("did not find the file"), "{error:?}");
    // An agent that says nothing is asked.
    put(&stub.in_mode("mute"), "a.tar", b"x").unwrap();
    assert!(is_empty(&stub.temporary()));
}

#[test]
fn a_search_that_hangs_is_stopped() {
    let stub = Stub::new();
    let started = Instant::now();
    let error = fetch(&stub.in_mode("slow")).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.chain().contains("stopped after too long"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn cancelling_stops_the_agent() {
    let stub = Stub::new();
    let origin = Origin { build: "b".into(), step: None, job: "j".into() };
    let cancel = Cancel::new();
    let agent = Agent::new(&stub.env(&origin, "slow"), cancel.clone()).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.stop(15);
    });
    let started = Instant::now();
    assert_eq!(put(&agent, "a.tar", b"x").unwrap_err().class(), Class::Interrupted { signal: 15 });
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(is_empty(&stub.temporary()));
}

#[test]
fn a_missing_agent_and_names_it_would_misread_are_usage_errors() {
    let env = Env::of([("PATH", "/nonexistent")]);
    let error = Agent::new(&env, Cancel::new()).err().unwrap();
    assert_eq!(error.class(), Class::Usage);
    assert!(error.next_step().unwrap().contains("MONOFO_ARTIFACTS"));
    let stub = Stub::new();
    for odd in [" a.tar", "a.tar ", "~/a.tar", "~a"] {
        assert_eq!(put(&stub.in_mode(""), odd, b"x").unwrap_err().class(), Class::Usage, "{odd:?}");
    }
}
