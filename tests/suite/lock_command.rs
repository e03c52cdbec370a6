//! `monofo lock`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::entries::{json, manifest};
use crate::harness::{Sandbox, assert_same, walk};

const PROD: &str = "manifests/components.lock.prod.yaml";

fn workspace() -> Sandbox {
    let sandbox = Sandbox::new();
    manifest(
        &sandbox,
        "  b: {version: \"1.10\", depends_on: [a]}\n  a: {version: v1, type: bazel, build_target: \"//a:all\", repo: \"git@host:a.git\"}\n",
    );
    sandbox.write("components/a/x", "a");
    sandbox.write("components/b/x", "b");
    sandbox
}

fn text(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.work(PROD)).unwrap()
}

#[test]
fn a_lock_says_what_the_manifest_and_the_sources_say() {
    let sandbox = workspace();
    let done = json(&sandbox, &["lock", "--env", "prod"], 0);
    assert_eq!((&done["schema"], &done["path"], &done["components"]), (&"meta.lock/1".into(), &PROD.into(), &2.into()));
    let written = text(&sandbox);
    let lines: Vec<&str> =
        written.lines().filter(|line| !line.starts_with(['#']) && !line.contains("generated_at")).collect();
    let source = |name: &str| {
        // The digest of the listing that the documentation describes, made here.
        let file = crate::entries::sha256(name.as_bytes());
        crate::entries::sha256(format!("meta-source/1\nf {file} 1 x\n").as_bytes())
    };
    let expected = format!(
        "lock_version: 1\nmode: reference\nenvironment: \"prod\"\ncomponents:\n  a:\n    version: \"v1\"\n    type: \"bazel\"\n    \
         build_target: \"//a:all\"\n    repo: \"git@host:a.git\"\n    source: \"{}\"\n  b:\n    version: \"1.10\"\n    source: \
         \"{}\"\n    depends_on: [a]",
        source("a"),
        source("b"),
    );
    assert_eq!(lines.join("\n"), expected);
    assert_eq!(fs::metadata(sandbox.work(PROD)).unwrap().permissions().mode() & 0o444, 0o444);
    // The general lock is another file.
    sandbox.monofo(["lock"]).exits(0).says("wrote manifests/components.lock.yaml: 2 components");
    assert!(!fs::read_to_string(sandbox.work("manifests/components.lock.yaml")).unwrap().contains("environment"));
    // Nothing else is left there.
    sandbox.assert_paths("work/manifests", &["components.lock.prod.yaml", "components.lock.yaml", "components.yaml"]);
}

#[test]
fn with_nothing_changed_nothing_is_written() {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    // Comments of people stay as long as the file need not be written.
    let commented = text(&sandbox).replace("components:", "# ours\ncomponents:");
    sandbox.write(PROD, &commented);
    let before = walk(&sandbox.path(""));
    let done = json(&sandbox, &["lock", "--env", "prod"], 0);
    assert_eq!(done["changes"], serde_json::json!([]));
    sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("is up to date: 2 components");
    assert_same(&before, &walk(&sandbox.path("")), "locking again");
    sandbox.write("components/a/x", "changed");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("a: source was ").does_not_say("b: ");
    assert!(!text(&sandbox).contains("# ours"));
    assert!(text(&sandbox).starts_with("# Written by `monofo lock`"));
}

#[test]
fn what_is_not_known_stays_and_what_is_stale_goes() {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let hash = "d".repeat(64);
    let more = format!(
        "    artifact:\n      - {{platform: linux-x86_64, hash: {hash}}}\n    vendored_at: 2024-01-02\n    owner: {{team: \"x: y\", \
         size: 1.50, list: [1, two, {{three: null}}], empty: [], none: {{}}}}\n    note: |\n      two\n      lines\n"
    );
    let with = text(&sandbox).replace("  b:\n", &format!("{more}  b:\n{more}")).replace(
        "lock_version: 1\n",
        "lock_version: 1\npromoted_from: dev\npromoted_at: 2024-01-02T03:04:05Z\nx-tool: {number: 007}\n",
    );
    sandbox.write(PROD, &with);
    sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("up to date");
    // b changes, and a does not: only b's artifact is one of other inputs now.
    sandbox.write("components/b/x", "changed");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let written = text(&sandbox);
    assert_eq!(written.matches(&hash).count(), 1, "{written}");
    assert!(written.find(&hash).unwrap() < written.find("  b:").unwrap(), "{written}");
    for (line, times) in [
        ("promoted_from: dev\n", 1),
        ("promoted_at: 2024-01-02T03:04:05Z\n", 1),
        ("x-tool:\n  number: 007\n", 1),
        ("    vendored_at: 2024-01-02\n", 2),
        (
            "    owner:\n      team: \"x: y\"\n      size: 1.50\n      list:\n        - 1\n        - two\n        - three: null\n",
            2,
        ),
        ("      empty: []\n      none: {}\n", 2),
        ("    note: \"two\\nlines\\n\"\n", 2),
    ] {
        assert_eq!(written.matches(line).count(), times, "{line:?} in:\n{written}");
    }
    // What was written says the same to who reads it again.
    sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("up to date");
    // A change below makes the artifacts of all above it stale.
    sandbox.write("components/a/x", "changed");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    assert!(!text(&sandbox).contains(&hash));
    // A component that is gone goes.
    manifest(&sandbox, "  a: {version: v2}\n");
    let ran = sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    ran.says("a: version was v1 and is v2").says("b: is not in the manifest any more");
    assert!(!text(&sandbox).contains("  b:"));
}

#[test]
fn what_cannot_be_locked_is_said() {
    let none = Sandbox::new();
    assert!(json(&none, &["lock"], 4)["error"]["hint"].is_string());
    let sandbox = workspace();
    json(&sandbox, &["lock", "--env", "../x"], 2);
    // A lock that cannot be understood is not overwritten.
    sandbox.write(PROD, "components: [");
    json(&sandbox, &["lock", "--env", "prod"], 4);
    assert_eq!(text(&sandbox), "components: [");
    fs::remove_file(sandbox.work(PROD)).unwrap();
    // A checkout whose commit cannot be told.
    sandbox.write("components/a/.git/config", "");
    let error = json(&sandbox, &["lock", "--env", "prod"], 4);
    assert!(error["error"]["message"].as_str().unwrap().contains("there is no `HEAD`"), "{error:#}");
    assert!(!sandbox.work(PROD).exists());
    fs::remove_dir_all(sandbox.work("components/a")).unwrap();
    // Nor can sources that are not here be locked.
    let error = json(&sandbox, &["lock", "--env", "prod"], 4);
    assert!(error["error"]["message"].as_str().unwrap().contains("the sources of `a` are not here"), "{error:#}");
    assert!(!sandbox.work(PROD).exists());
}

#[test]
fn a_link_in_the_locks_place_stays_one() {
    let sandbox = workspace();
    fs::create_dir(sandbox.work("locks")).unwrap();
    fs::write(sandbox.work("locks/prod.yaml"), "components: {}\n").unwrap();
    std::os::unix::fs::symlink("../locks/prod.yaml", sandbox.work(PROD)).unwrap();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    assert!(fs::symlink_metadata(sandbox.work(PROD)).unwrap().is_symlink());
    assert!(fs::read_to_string(sandbox.work("locks/prod.yaml")).unwrap().contains("  b:"));
    sandbox.assert_paths("work/locks", &["prod.yaml"]);
}

#[test]
fn a_component_that_holds_the_lock_is_locked_without_its_sources() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {version: v1, path: ., build: \"cp x out\", outputs: out}\n");
    sandbox.write("x", "a");
    let ran = sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    ran.says("hold the lock itself");
    assert!(!text(&sandbox).contains("source:"));
    // So writing it changes nothing that it says.
    sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("is up to date");
    sandbox.monofo(["apply", "--locked", "--env", "prod"]).exits(0);
}

/// A lock with a field at its top, brought up to date after a change.
fn with_field(field: &str, status: i32) -> (String, String) {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let before = text(&sandbox).replace("components:", &format!("{field}\ncomponents:"));
    sandbox.write(PROD, &before);
    sandbox.write("components/b/x", "changed");
    let ran = sandbox.monofo(["lock", "--env", "prod"]).exits(status);
    if status == 0 {
        sandbox.monofo(["lock", "--env", "prod"]).exits(0).says("up to date");
    } else {
        assert_eq!(text(&sandbox), before, "{field}");
    }
    (text(&sandbox), ran.stderr)
}

#[test]
fn fields_that_it_does_not_know_say_the_same_afterwards() {
    for (field, written) in [
        ("x: \"\\x7f \\x85 \\u2028 \\u2029 \\ufeff\"", "x: \"\\u007f \\u0085 \\u2028 \\u2029 \\ufeff\"\n"),
        ("5: five\n\"6\": six\ntrue: {7: seven}", "5: five\n\"6\": six\ntrue:\n  7: seven\n"),
        ("x: hi !you\ny: # what !now\n  a: [b !c, d]", "x: hi !you\ny:\n  a:\n    - b !c\n    - d\n"),
        ("x: !!str 1.10", "x: \"1.10\"\n"),
    ] {
        let (text, _) = with_field(field, 0);
        assert!(text.contains(written), "{field}: {text}");
    }
    for (field, tag) in [
        ("x: !foo bar", "!foo"),
        ("x: !!binary aGVsbG8=", "!!binary"),
        ("x: !foo # here\n  a: 1", "!foo"),
        ("x: &anchor !foo |\n  text", "!foo"),
        ("x: [1, {a: !foo b}]", "!foo"),
        ("!foo x: 1", "!foo"),
        ("x: {!!int \"5\": 1}", "!!int"),
    ] {
        let (_, said) = with_field(field, 4);
        let words = format!("manifests/components.lock.prod.yaml:7: `x`: found the tag `{tag}`");
        assert!(said.contains(&words), "{field}: {said}");
    }
}

#[test]
fn a_tag_of_a_component_or_of_all_is_not_lost_without_a_word() {
    for (before, after) in [("  a:", "  a: !foo"), ("  a:", "  !foo a:"), ("components:", "components: !foo")] {
        let sandbox = Sandbox::new();
        manifest(&sandbox, "  a: {version: v1}\n");
        sandbox.write("components/a/src", "");
        sandbox.monofo(["lock"]).exits(0);
        let lock = sandbox.work("manifests/components.lock.yaml");
        let text = fs::read_to_string(&lock).unwrap().replace(&format!("\n{before}\n"), &format!("\n{after}\n"));
        assert!(text.contains("!foo"), "{text}");
        fs::write(&lock, &text).unwrap();
        manifest(&sandbox, "  a: {version: v2}\n");
        sandbox.monofo(["lock"]).exits(4).says("found the tag `!foo`, which would be lost");
        assert_eq!(fs::read_to_string(&lock).unwrap(), text);
    }
}
