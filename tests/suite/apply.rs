//! `monofo apply`, with the real binary and real builds.

mod example;
mod faults;
mod interrupted;
mod locked;
mod order;
mod outputs;
mod planned;
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::entries::{document, manifest};
use crate::harness::{Run, Sandbox, walk};

/// Three components of shell: `app` needs `base`, `other` needs nothing. Each build tells its name to a file beside.
fn workspace() -> Sandbox {
    let sandbox = Sandbox::new();
    manifest(
        &sandbox,
        "  app: {version: \"v1\", depends_on: [base], build: \"echo app >> $LOG; mkdir -p out; cat ../base/out/text \
         src.txt > out/text\", outputs: out}\n  \
         base: {version: \"v1\", build: \"echo base >> $LOG; mkdir -p out; cat src.txt > out/text\", outputs: out}\n  \
         other: {version: \"v1\", build: \"echo other >> $LOG; cat src.txt > made\", outputs: made}\n",
    );
    for name in ["app", "base", "other"] {
        sandbox.write(format!("components/{name}/src.txt"), format!("{name} 1\n"));
    }
    sandbox
}

/// A command in such a workspace.
fn run<'a>(sandbox: &'a Sandbox, args: &[&str]) -> Run<'a> {
    sandbox.monofo(args).env("LOG", sandbox.path("log").to_str().unwrap())
}

/// `monofo apply` with these arguments, and its document.
#[track_caller]
fn apply(sandbox: &Sandbox, args: &[&str], status: i32) -> Value {
    let document = document(run(sandbox, &[&["--json", "apply"], args].concat()), status);
    assert_eq!(document["schema"], "meta.apply/1");
    document
}

/// What became of each component: `hit local`, `built`, …
fn statuses(document: &Value) -> BTreeMap<String, String> {
    let components = document["components"].as_array().unwrap_or_else(|| panic!("no components in {document:#}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    components
        .iter()
        .map(|one| {
            (text(&one["component"]), format!("{} {}", text(&one["status"]), text(&one["source"])).trim().to_owned())
        })
        .collect()
}

#[track_caller]
fn assert_statuses(document: &Value, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, status)| ((*name).to_owned(), (*status).to_owned())).collect();
    assert_eq!(statuses(document), expected, "{document:#}");
}

/// The document's part about a component.
fn of<'a>(document: &'a Value, component: &str) -> &'a Value {
    document["components"].as_array().unwrap().iter().find(|one| one["component"] == component).unwrap()
}

/// What was built since the last time, in the order in which builds began.
fn built(sandbox: &Sandbox) -> Vec<String> {
    let text = fs::read_to_string(sandbox.path("log")).unwrap_or_default();
    let _ = fs::remove_file(sandbox.path("log"));
    text.lines().map(str::to_owned).collect()
}

/// Removes what was built, and what is remembered here.
fn forget(sandbox: &Sandbox, folders: &[&str]) {
    for folder in folders {
        let _ = fs::remove_dir_all(sandbox.path(folder));
    }
}

/// Names of all that lies below a folder.
fn names(root: &Path) -> Vec<String> {
    walk(root).into_keys().map(|path| String::from_utf8(path).unwrap()).collect()
}
