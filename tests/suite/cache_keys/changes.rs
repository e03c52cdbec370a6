//! What must and what must not change a key: one workspace, changed in one place, and changed back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::entries::{json, key, manifest};
use crate::harness::{Run, Sandbox, is_root, set};

const MANIFEST: &str = "  a:\n    version: \"v1\"\n    type: make\n    build_target: all\n    outputs: out\n    \
                        exclude: [\"docs/**\"]\n    inputs: [\"tools/**\"]\n    env: [FLAGS]\n    depends_on: [b]\n  \
                        b: {version: \"v1\", depends_on: [c]}\n  c: {version: \"v1\", env: [DEEP]}\n  d: {version: \"v1\"}\n";

fn workspace() -> Sandbox {
    let sandbox = Sandbox::new();
    fill(&sandbox);
    sandbox
}

fn fill(sandbox: &Sandbox) {
    manifest(sandbox, MANIFEST);
    for (file, content) in [
        ("components/a/main.c", "int main(){}\n"),
        ("components/a/run.sh", "#!/bin/sh\n"),
        ("components/a/one", "1"),
        ("components/a/two", "2"),
        ("components/a/.gitignore", "*.log\nbuild/\n!keep.log\n"),
        ("components/a/docs/page", "read me"),
        ("components/a/out/old", "built"),
        ("components/b/b.c", "b"),
        ("components/c/c.c", "c"),
        ("components/d/d.c", "d"),
        ("components/beside", "beside"),
        ("tools/tool", "tool"),
        ("elsewhere/file", "elsewhere"),
    ] {
        sandbox.write(file, content);
    }
    symlink("main.c", sandbox.work("components/a/link")).unwrap();
    symlink("../beside", sandbox.work("components/a/leaves")).unwrap();
    symlink("../nothing", sandbox.work("components/a/dangles")).unwrap();
}

fn rewrite(sandbox: &Sandbox, was: &str, now: &str) {
    let path = sandbox.work("manifests/components.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(was), "{was}");
    fs::write(path, text.replacen(was, now, 1)).unwrap();
}

fn relink(sandbox: &Sandbox, path: &str, to: &str) {
    fs::remove_file(sandbox.work(path)).unwrap();
    symlink(to, sandbox.work(path)).unwrap();
}

type Change = fn(&Sandbox);

const MUST: [(&str, Change); 30] = [
    ("one bit of a source", |s| s.write("components/a/main.c", "int main(){}\x0b")),
    ("an executable bit", |s| set(&s.work("components/a/run.sh"), Some(0o744), 5)),
    ("a file renamed", |s| fs::rename(s.work("components/a/one"), s.work("components/a/eins")).unwrap()),
    ("a file moved", |s| {
        fs::create_dir(s.work("components/a/sub")).unwrap();
        fs::rename(s.work("components/a/one"), s.work("components/a/sub/one")).unwrap();
    }),
    ("two contents swapped", |s| {
        s.write("components/a/one", "2");
        s.write("components/a/two", "1");
    }),
    ("a file added", |s| s.write("components/a/new", "")),
    ("a file removed", |s| fs::remove_file(s.work("components/a/one")).unwrap()),
    ("a hidden file added", |s| s.write("components/a/.hidden/x", "")),
    ("the text of a link", |s| relink(s, "components/a/link", "run.sh")),
    ("a link in place of a file", |s| {
        fs::remove_file(s.work("components/a/one")).unwrap();
        symlink("two", s.work("components/a/one")).unwrap();
    }),
    ("a folder in place of a file", |s| {
        fs::remove_file(s.work("components/a/one")).unwrap();
        s.write("components/a/one/one", "1");
    }),
    ("what a link that leaves reaches", |s| s.write("components/beside", "besides")),
    ("a dangling link that reaches something now", |s| s.write("components/nothing", "")),
    ("an ignored file that is kept again", |s| s.write("components/a/keep.log", "")),
    ("an ignore file", |s| s.write("components/a/.gitignore", "*.log\nbuild/\n!keep.log\n#\n")),
    ("the version", |s| rewrite(s, "version: \"v1\"", "version: v2")),
    ("the type", |s| rewrite(s, "type: make", "type: ninja")),
    ("the build target", |s| rewrite(s, "build_target: all", "build_target: most")),
    ("the platform", |s| rewrite(s, "type: make", "type: make\n    platform: any")),
    ("a variable less", |s| rewrite(s, "env: [FLAGS]", "env: []")),
    ("another dependency", |s| rewrite(s, "depends_on: [b]", "depends_on: [b, d]")),
    ("a dependency less", |s| rewrite(s, "depends_on: [b]", "depends_on: []")),
    ("the version of a dependency", |s| rewrite(s, "b: {version: \"v1\"", "b: {version: v2")),
    ("the version of a dependency's dependency", |s| rewrite(s, "c: {version: \"v1\"", "c: {version: v2")),
    ("a source of a dependency", |s| s.write("components/b/b.c", "B")),
    ("a source of a dependency's dependency", |s| s.write("components/c/c.c", "C")),
    ("an input", |s| s.write("tools/tool", "tools")),
    ("an input more", |s| s.write("tools/more/tool", "")),
    ("what is excluded", |s| rewrite(s, "exclude: [\"docs/**\"]", "exclude: []")),
    ("a source that is not here any more", |s| fs::remove_dir_all(s.work("components/b")).unwrap()),
];

const MUST_NOT: [(&str, Change); 26] = [
    ("times", |s| set(&s.work("components/a/main.c"), None, 1)),
    ("other bits of modes", |s| set(&s.work("components/a/main.c"), Some(0o600), 1)),
    ("executable by others only", |s| set(&s.work("components/a/main.c"), Some(0o655), 1)),
    ("set-id bits", |s| set(&s.work("components/a/run.sh"), Some(0o6644), 1)),
    ("an empty folder", |s| fs::create_dir(s.work("components/a/hollow")).unwrap()),
    ("an ignored file", |s| s.write("components/a/trace.log", "x")),
    ("an ignored folder", |s| s.write("components/a/build/x", "x")),
    ("the outputs", |s| s.write("components/a/out/new", "built again")),
    ("what is excluded", |s| s.write("components/a/docs/page", "read it")),
    ("a history", |s| s.write("components/a/.git/HEAD", "ref")),
    ("a history deep inside", |s| s.write("components/a/sub/.svn/x", "ref")),
    ("a cache of ours inside", |s| s.write("components/a/.meta-cache/FORMAT", "meta-cache 1\n")),
    ("a store of ours inside", |s| s.write("components/a/sub/.meta-store/FORMAT", "meta-store 1\n")),
    ("rules above", |s| s.write(".gitignore", "components/\n*.c\n")),
    ("rules of the repository", |s| {
        s.write(".git/info/exclude", "*.c\n");
        s.write(".git/HEAD", "ref: refs/heads/main\n");
    }),
    ("rules of the user", |s| {
        fs::create_dir_all(s.path("home/.config/git")).unwrap();
        fs::write(s.path("home/.config/git/ignore"), "*.c\n").unwrap();
        fs::write(s.path("home/.gitconfig"), "[core]\n\texcludesFile = ~/.config/git/ignore\n").unwrap();
    }),
    ("rules of other tools", |s| s.write(".ignore", "*.c\n")),
    ("a component that is none of its dependencies", |s| s.write("components/d/d.c", "D")),
    ("a file beside the inputs", |s| s.write("elsewhere/file", "there")),
    ("a comment in the manifest", |s| rewrite(s, "type: make", "type: make # or ninja")),
    ("a field that nobody knows", |s| rewrite(s, "type: make", "type: make\n    owner: us\n    repo: \"git@x:y\"")),
    ("the order of components", |s| rewrite(s, "  d: {version: \"v1\"}\n", "")),
    ("a dependency named with a range", |s| rewrite(s, "depends_on: [b]", "depends_on: [\"b:^1\"]")),
    ("two names of one file", |s| {
        fs::remove_file(s.work("components/a/one")).unwrap();
        fs::write(s.path("one"), "1").unwrap();
        fs::hard_link(s.path("one"), s.work("components/a/one")).unwrap();
    }),
    ("a file written anew", |s| {
        let content = fs::read(s.work("components/a/main.c")).unwrap();
        fs::remove_file(s.work("components/a/main.c")).unwrap();
        s.write("components/a/main.c", content);
    }),
    ("an owner", |s| {
        if is_root() {
            std::os::unix::fs::chown(s.work("components/a/main.c"), Some(4321), Some(4321)).unwrap();
        }
    }),
];

#[test]
fn whatever_goes_into_an_artifact_changes_its_key_and_changing_it_back_restores_it() {
    let before = key(&workspace(), "a");
    for (what, change) in MUST {
        let sandbox = workspace();
        assert_eq!(key(&sandbox, "a"), before, "another folder is another key");
        change(&sandbox);
        let after = key(&sandbox, "a");
        assert_ne!(after, before, "{what}");
        for folder in ["components", "manifests", "tools", "elsewhere"] {
            fs::remove_dir_all(sandbox.work(folder)).unwrap();
        }
        fill(&sandbox);
        assert_eq!(key(&sandbox, "a"), before, "{what}, and back");
    }
}

#[test]
fn whatever_does_not_go_into_an_artifact_leaves_its_key() {
    let before = key(&workspace(), "a");
    for (what, change) in MUST_NOT {
        let sandbox = workspace();
        // Known by their status, too.
        crate::entries::settle(&sandbox.work("components"));
        assert_eq!(key(&sandbox, "a"), before);
        change(&sandbox);
        assert_eq!(key(&sandbox, "a"), before, "{what}");
    }
}

#[test]
fn surroundings_leave_a_key_and_declared_variables_and_the_salt_change_it() {
    let sandbox = workspace();
    let key = |with: &dyn Fn(Run<'_>) -> String| with(sandbox.monofo(["cache", "key", "a"]));
    let plain = key(&|run| run.exits(0).stdout);
    for (name, value) in [
        ("TZ", "Asia/Tokyo"),
        ("LANG", "tr_TR.UTF-8"),
        ("LC_ALL", "C"),
        ("USER", "x"),
        ("OTHER", "y"),
        ("MONOFO_CACHE_FORMAT", "tar.zst"),
    ] {
        assert_eq!(key(&|run| run.env(name, value).exits(0).stdout), plain, "{name}");
    }
    let mut keys = vec![plain];
    for (name, value) in
        [("FLAGS", ""), ("FLAGS", "-O2"), ("FLAGS", "-O2 "), ("DEEP", "x"), ("MONOFO_CACHE_SALT", "again")]
    {
        keys.push(key(&|run| run.env(name, value).exits(0).stdout));
    }
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "unset, empty and set variables are different things");
}

#[test]
fn a_parent_folder_of_any_name_does_not_empty_the_sources() {
    let sandbox = Sandbox::new();
    for parent in ["node_modules", ".git", ".meta-cache", "build"] {
        let work = format!("{parent}/ws");
        for (file, content) in [("manifests/components.yaml", "components: {a: {}}\n"), ("components/a/x.c", "x")] {
            let path = sandbox.path(&work).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let run = sandbox.monofo(["--json", "cache", "key", "a"]).within(&work);
        let record = crate::entries::document(run, 0)["record"].clone();
        let line = format!("meta-source/1\nf {} 1 x.c\n", crate::entries::sha256(b"x"));
        assert_eq!(record["source"]["listing"], crate::entries::sha256(line.as_bytes()), "{parent}");
    }
}

#[test]
fn a_cache_of_any_name_inside_a_component_is_no_source() {
    let sandbox = workspace();
    let before = key(&sandbox, "a");
    for place in ["components/a/kept", "components/a/deep/er"] {
        let with = |args: &[&str]| {
            sandbox
                .monofo(args)
                .env("MONOFO_CACHE_DIR", sandbox.work(place).to_str().unwrap())
                .env("MONOFO_STORE_DIR", sandbox.work("components/a/stored").to_str().unwrap())
        };
        with(&["cache", "build", "a", "--source", "components/a/out"]).exits(0);
        with(&["store", "add", "a", "--source", "components/a/out"]).exits(0);
        assert!(Path::new(&sandbox.work(place).join("FORMAT")).exists());
        assert_eq!(with(&["cache", "key", "a"]).exits(0).stdout.trim(), before, "{place}");
        fs::remove_dir_all(sandbox.work(place)).unwrap();
        fs::remove_dir_all(sandbox.work("components/a/stored")).unwrap();
    }
}

#[test]
fn further_inputs_belong_to_the_key_with_and_without_a_manifest() {
    for with_manifest in [true, false] {
        let sandbox = workspace();
        if !with_manifest {
            fs::remove_dir_all(sandbox.work("manifests")).unwrap();
        }
        let key = |inputs: &[&str]| {
            let flags = inputs.iter().flat_map(|input| ["--input", *input]);
            sandbox.monofo(["cache", "key", "a"].into_iter().chain(flags)).exits(0).stdout
        };
        let (none, one, more) = (key(&[]), key(&["elsewhere/*"]), key(&["elsewhere/**", "components/d/**"]));
        assert!(none != one && one != more && none != more);
        assert_eq!(key(&["elsewhere/file"]), one, "the files count, not the globs");
        assert_eq!(key(&["components/d/*", "elsewhere/*"]), more, "nor their order");
        assert_eq!(key(&["**/file", "!components/**"]), one);
        sandbox.write("elsewhere/file", "changed");
        assert_ne!(key(&["elsewhere/*"]), one);
        assert_eq!(key(&[]), none);
        sandbox.monofo(["cache", "key", "a", "--input", "../*"]).exits(6);
        sandbox.monofo(["cache", "key", "a", "--input", "/etc/*"]).exits(6);
        // With a manifest there are inputs that it can be taken out of.
        sandbox.monofo(["cache", "key", "a", "--input", "!x"]).exits(if with_manifest { 0 } else { 2 });
    }
}

#[test]
fn without_a_manifest_a_key_of_a_name_alone_says_so_once() {
    let sandbox = Sandbox::new();
    let ran = sandbox.monofo(["cache", "key", "web"]).exits(0).says("covers only its name and the platform");
    assert_eq!(ran.stderr.matches("warning:").count(), 1, "{}", ran.stderr);
    let (web, app) = (key(&sandbox, "web"), key(&sandbox, "app"));
    assert_ne!(web, app);
    let record = json(&sandbox, &["cache", "key", "web"], 0)["record"].clone();
    assert_eq!((record["files"].is_null(), record["component"].as_str()), (true, Some("web")));
}

#[test]
fn the_key_that_was_computed_before_a_build_can_be_insisted_on() {
    let sandbox = workspace();
    let before = key(&sandbox, "a");
    let build = ["cache", "build", "a", "--source", "components/a/out", "--expect-key", &before];
    sandbox.monofo(build).exits(0);
    sandbox.monofo(["cache", "invalidate", "--all"]).exits(0);
    sandbox.write("components/a/main.c", "changed while it was built");
    let document = json(&sandbox, &build, 5);
    assert_eq!(document["error"]["code"], 5);
    assert!(crate::entries::entries(&sandbox.work(".meta-cache")).is_empty());
    sandbox.monofo(["cache", "build", "a", "--source", "components/a/out", "--expect-key", "xyz"]).exits(2);
}
