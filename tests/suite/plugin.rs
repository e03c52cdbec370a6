//! The plugin's configuration and hooks, seen from outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use monofo::config::plugin::PluginConfig;
use monofo::env::Env;
use serde_json::{Value, json};

use crate::harness::Sandbox;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// `scripts/lint-plugin` holds the schema of `plugin.yml` to the same table.
#[test]
fn the_table_of_configurations_gets_the_answers_it_names() {
    let text = std::fs::read_to_string(repository().join("tests/fixtures/plugin-config.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let result = PluginConfig::read(&case["config"], &Env::default());
        let said = result.as_ref().map_or_else(|error| error.chain(), |config| format!("{config:?}"));
        assert_eq!(result.is_ok(), case["good"], "{}: {said}", case["what"]);
    }
}

fn hook(phase: &str, folder: &Path, variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
    command.args(["hook", phase]).current_dir(folder).env_clear();
    command.env("TMPDIR", folder).env("HOME", folder).env("BUILDKITE_JOB_ID", "job").env("BUILDKITE_BUILD_ID", "build");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn configured(phase: &str, configuration: &Value, variables: &[(&str, &str)]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let text = configuration.to_string();
    let mut all = vec![("BUILDKITE_PLUGIN_CONFIGURATION", text.as_str())];
    all.extend(variables);
    hook(phase, folder.path(), &all)
}

#[test]
fn a_hook_with_nothing_to_do_is_silent() {
    for phase in ["pre-command", "post-command", "pre-exit"] {
        assert_eq!(configured(phase, &json!({}), &[]), (0, String::new(), String::new()), "{phase}");
    }
}

#[test]
fn a_wrong_configuration_exits_2_and_names_every_place() {
    let configuration = json!({"upload": {"a.b.tar": {"glob": "x"}}, "download": [{"nam": "y"}]});
    let (status, stdout, stderr) = configured("pre-command", &configuration, &[]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    for part in [
        "^^^ +++\nerror: plugin configuration has 4 mistakes:\n",
        "`upload[\"a.b.tar\"].glob`: unknown key",
        "(did you mean `globs`?)",
        "`download[0].nam`: unknown key",
        "`download[0]`: has no `name`",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn a_path_outside_exits_6() {
    let (status, _, stderr) = configured("pre-command", &json!({"upload": {"a.tar": "../secret"}}), &[]);
    assert_eq!(status, 6, "{stderr}");
}

#[test]
fn after_a_failed_command_even_a_wrong_configuration_keeps_its_status() {
    let failed = [("BUILDKITE_COMMAND_EXIT_STATUS", "3")];
    let (status, _, stderr) = configured("post-command", &json!({"uplod": {}}), &failed);
    assert!(status == 0 && stderr.contains("warning: plugin configuration: `uplod`: unknown key"), "{stderr}");
    assert_eq!(configured("post-command", &json!({"uplod": {}}), &[]).0, 2);
}

#[test]
fn the_list_of_plugins_is_read_when_the_agent_dropped_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = json!([{"vital-software/monofo#v1.0.0": {"download": null}}]).to_string();
    let (status, _, stderr) = hook("pre-command", folder.path(), &[("BUILDKITE_PLUGINS", &plugins)]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("holds null at `download`"), "{stderr}");
    let (_, _, again) = hook("post-command", folder.path(), &[("BUILDKITE_PLUGINS", &plugins)]);
    assert_eq!(again, "", "said once per job");
}

#[test]
fn pre_exit_removes_the_leftovers_of_its_job() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("monofo-job-job");
    std::fs::create_dir_all(scratch.join("half")).unwrap();
    assert_eq!(hook("pre-exit", folder.path(), &[]), (0, String::new(), String::new()));
    assert!(!scratch.exists());
}

/// An artifact may hold any link, and the next download must not be sent through it.
#[test]
fn a_link_on_the_way_to_into_is_refused() {
    let sandbox = Sandbox::new();
    let job = |phase: &str, configuration: &Value, status: i32| {
        sandbox
            .monofo(["hook", phase])
            .env("BUILDKITE_JOB_ID", "job")
            .env("BUILDKITE_BUILD_ID", "build")
            .env("BUILDKITE_COMMAND_EXIT_STATUS", "0")
            .env("BUILDKITE_PLUGIN_CONFIGURATION", &configuration.to_string())
            .exits(status)
    };
    std::fs::write(sandbox.path("work/file"), "content").unwrap();
    std::fs::create_dir(sandbox.path("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", sandbox.path("work/out")).unwrap();
    job("post-command", &json!({"upload": {"a.tar": "file", "plain.txt": "file"}}), 0);
    for name in ["a.tar", "plain.txt"] {
        for into in ["out", "out/deeper", "./out/"] {
            let ran = job("pre-command", &json!({"download": {"name": name, "into": into}}), 6);
            assert!(ran.stderr.contains("symbolic link"), "{}", ran.stderr);
        }
    }
    assert_eq!(std::fs::read_dir(sandbox.path("outside")).unwrap().count(), 0);
    job("pre-command", &json!({"download": {"name": "a.tar", "into": "new/folder"}}), 0);
    assert_eq!(std::fs::read_to_string(sandbox.path("work/new/folder/file")).unwrap(), "content");
}

/// Whoever reads the summary gets one whatever was wrong, the command line included.
#[test]
fn a_wrong_command_line_has_a_summary_too() {
    let sandbox = crate::harness::Sandbox::new();
    for arguments in [&["--json", "upload"][..], &["upload", "a.tar", "--if-empty", "foo", "--json"]] {
        let ran = sandbox.monofo(arguments).exits(2);
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&document["status"], &document["error"]["class"]), (&json!(2), &json!("usage")), "{document}");
        assert!(!document["error"]["hint"].is_null(), "{document}");
        assert!(!document["error"]["message"].as_str().unwrap().ends_with(':'), "{document}");
    }
}
