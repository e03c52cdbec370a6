//! What the tests of cache, store and gc share: workspaces, JSON, and a look at the disk that shares no code with the tool.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{Node, Run, Sandbox, assert_same, set, walk};

/// What is done to a workspace.
pub(crate) type Change = fn(&Sandbox);

pub(crate) const DAY: u64 = 24 * 60 * 60;

/// Runs a command with `--json`; stdout has to be exactly one document.
#[track_caller]
pub(crate) fn json(sandbox: &Sandbox, args: &[&str], status: i32) -> Value {
    document(sandbox.monofo([&["--json"], args].concat()), status)
}

/// Runs a command that was given `--json`.
#[track_caller]
pub(crate) fn document(run: Run<'_>, status: i32) -> Value {
    let ran = run.exits(status);
    let document: Value = serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("stdout is not one document: {error}\n{}", ran.stdout));
    assert!(document["schema"].is_string(), "no schema in {document:#}");
    if document.get("ok").is_some() {
        assert_eq!(document["ok"], status == 0, "{document:#}");
    }
    if status != 0 {
        assert_eq!(document["error"]["code"], status, "{document:#}");
        assert!(document["error"]["kind"].is_string() && document["error"]["message"].is_string(), "{document:#}");
        assert!(document["error"].get("class").is_none(), "two words for one thing: {document:#}");
    }
    document
}

/// The key of a component.
#[track_caller]
pub(crate) fn key(sandbox: &Sandbox, component: &str) -> String {
    sandbox.monofo(["cache", "key", component]).exits(0).stdout.trim().to_owned()
}

/// Writes `manifests/components.yaml`.
pub(crate) fn manifest(sandbox: &Sandbox, components: &str) {
    sandbox.write("manifests/components.yaml", format!("components:\n{components}"));
}

/// A workspace with a component `a` that has one source, and an artifact `out` with a bit of everything.
pub(crate) fn workspace() -> Sandbox {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {version: \"v1\"}\n");
    sandbox.write("components/a/main.c", "int main(){}\n");
    artifact(&sandbox, "out", "v1");
    sandbox
}

/// An artifact with a bit of everything.
pub(crate) fn artifact(sandbox: &Sandbox, folder: &str, content: &str) {
    sandbox.write(format!("{folder}/bin/tool"), format!("#!/bin/sh\necho {content}\n"));
    sandbox.write(format!("{folder}/data"), content.repeat(5000));
    sandbox.write(format!("{folder}/zero"), "");
    fs::create_dir_all(sandbox.work(format!("{folder}/hollow"))).unwrap();
    let _ = std::os::unix::fs::symlink("bin/tool", sandbox.work(format!("{folder}/run")));
    set(&sandbox.work(format!("{folder}/bin/tool")), Some(0o755), 1_000_000_000);
}

/// Files whose times were set back further than the stat cache wants them: so that it is used.
pub(crate) fn settle(path: &Path) {
    for (name, node) in walk(path) {
        let mode = (node.kind != 'l').then_some(node.mode);
        set(&crate::harness::join(path, &name), mode, 1_000_000_000);
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The metadata files of all entries of `.meta-cache` or `.meta-store`, by what they are filed under.
pub(crate) fn entries(root: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for path in walk(root).into_keys() {
        let path = String::from_utf8(path).unwrap();
        let file = path.rsplit('/').next().unwrap();
        if let Some(name) = file.strip_suffix(".metadata.json")
            && path == format!("{}/{file}", &name[..2.min(name.len())])
        {
            found.insert(name.to_owned(), root.join(&path));
        }
    }
    found
}

/// The payload of a cache's entry.
pub(crate) fn payload(metadata: &Path) -> PathBuf {
    let name = metadata.file_name().unwrap().to_str().unwrap().strip_suffix(".metadata.json").unwrap();
    let folder = metadata.with_file_name(name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

/// Sets back the time of an entry's last use.
pub(crate) fn age(metadata: &Path, seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    set(metadata, None, (now - Duration::from_secs(seconds)).as_secs().cast_signed());
}

/// What must not change whatever a command does: a tree beside everything, in the home and beside the target.
pub(crate) struct Sentinels {
    root: PathBuf,
    before: BTreeMap<Vec<u8>, Node>,
}

impl Sentinels {
    pub(crate) fn place(sandbox: &Sandbox) -> Self {
        for place in ["outside", "home", "work/beside"] {
            let folder = sandbox.path(place);
            fs::create_dir_all(folder.join("deep/er")).unwrap();
            fs::write(folder.join("deep/er/secret"), "untouched").unwrap();
            fs::write(folder.join("secret"), "untouched").unwrap();
            std::os::unix::fs::symlink("secret", folder.join("link")).unwrap();
        }
        let root = sandbox.path("");
        Sentinels { before: Self::look(&root), root }
    }

    fn look(root: &Path) -> BTreeMap<Vec<u8>, Node> {
        let mut all = BTreeMap::new();
        for place in ["outside", "home", "work/beside"] {
            all.extend(
                walk(&root.join(place))
                    .into_iter()
                    .map(|(path, node)| ([place.as_bytes(), b"/", &path].concat(), node)),
            );
        }
        all
    }

    #[track_caller]
    pub(crate) fn check(&self, what: &str) {
        assert_same(&self.before, &Self::look(&self.root), what);
    }
}

/// Everything that a restored artifact has to share with its source: kinds, bytes, executable bits, links.
#[track_caller]
pub(crate) fn assert_restored(source: &Path, target: &Path) {
    let fact = |node: Node| (node.kind, node.kind == 'f' && node.mode & 0o100 != 0, node.text, node.digest);
    let facts = |root: &Path| -> BTreeMap<Vec<u8>, _> {
        walk(root).into_iter().map(|(path, node)| (path, fact(node))).collect()
    };
    let (expected, got) = (facts(source), facts(target));
    let differing: Vec<_> =
        expected.iter().filter(|(path, fact)| got.get(*path) != Some(fact)).map(|(path, _)| path).collect();
    let more: Vec<_> = got.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(differing.is_empty() && more.is_empty(), "not restored: {differing:?}; too much: {more:?}");
}
