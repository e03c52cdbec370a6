//! Outputs of `monofo apply`: where they may lie, and what they may take the place of.

use std::fs;
use std::os::unix::fs::symlink;

use super::faults::with;
use super::{apply, assert_statuses, built, forget, of, run};
use crate::entries::{entries, json, manifest};
use crate::harness::Sandbox;

#[test]
fn sources_that_a_link_leads_into_outputs_to_are_refused_too() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {build: \"mkdir -p out\", outputs: out}\n  b: {path: alias/b}\n");
    sandbox.write("components/a/out/b/work", "precious");
    symlink("components/a/out", sandbox.work("alias")).unwrap();
    let error = apply(&sandbox, &["--component", "a"], 4);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("the folder of `b` (`alias/b`) lies in the outputs of `a`"), "{message}");
}

#[test]
fn a_hit_does_not_take_a_repository_away_unless_it_is_part_of_the_artifact() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {build: \"mkdir -p out/own/.git; touch out/own/.git/HEAD\", outputs: out}\n");
    sandbox.write("components/a/src", "");
    apply(&sandbox, &[], 0);
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local")]);
    sandbox.write("components/a/out/deep/er/clone/.git/HEAD", "unpushed");
    let clone = sandbox.work("components/a/out/deep/er/clone/.git/HEAD");
    // Its own build may: it is run instead, and decides about what it left there.
    let done = apply(&sandbox, &[], 0);
    assert_statuses(&done, &[("a", "built")]);
    let told = done["warnings"].to_string();
    assert!(told.contains("passed over") && told.contains("holds a git repository"), "{done:#}");
    assert!(told.contains("out/deep/er/clone`"), "{done:#}");
    assert!(clone.exists(), "it is gone");
    // Which what was built brings along now.
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local")]);
    sandbox.write("components/a/out/another/.git", "gitdir: x");
    // A release leads to what was built before, and not to what somebody put beside it.
    sandbox.monofo(["lock", "--env", "dev"]).exits(0);
    assert_statuses(&apply(&sandbox, &["--locked", "--env", "dev"], 1), &[("a", "failed")]);
    assert!(!sandbox.work(".meta-store/profiles/dev").exists());
    let got = json(&sandbox, &["cache", "get", "a", "--target", "components/a/out"], 6);
    let message = got["error"]["message"].as_str().unwrap();
    assert!(message.contains("holds a git repository") && message.contains("out/another`"), "{message}");
    // Where nothing says how to build it, there is nothing else to do.
    manifest(&sandbox, "  a: {outputs: out}\n");
    let done = apply(&sandbox, &[], 1);
    let error = &of(&done, "a")["error"];
    assert_eq!(error["code"], 6, "{error:#}");
    assert!(!error["hint"].as_str().unwrap().contains("--target"), "{error:#}");
}

#[test]
fn outputs_that_are_never_replaced_fail_the_component() {
    let sandbox = Sandbox::new();
    manifest(
        &sandbox,
        "  a: {path: ., exclude: [components], build: \"touch manifests/x\", outputs: manifests}\n  b: {build: \"touch out\", outputs: out}\n",
    );
    sandbox.write("components/b/src", "");
    let done = apply(&sandbox, &[], 1);
    assert_statuses(&done, &[("a", "failed"), ("b", "built")]);
    assert_eq!(of(&done, "a")["error"]["kind"], "refused");
    assert_eq!(of(&done, "a")["error"]["code"], 6);
    assert!(!sandbox.work("manifests/x").exists(), "it was built all the same");
}

#[test]
fn a_link_in_the_place_of_outputs_is_followed_within_the_workspace_alone() {
    let build = "mkdir -p v2 && touch v2/made && ln -sfn v2 out";
    let outside = "ln -sfn $PWD/../../../outside out";
    let sandbox = with(&[("a", "", build), ("b", "", outside)]);
    sandbox.write("components/a/.gitignore", "v2\n");
    sandbox.write("../outside/foreign", "not ours");
    let done = apply(&sandbox, &[], 1);
    assert_statuses(&done, &[("a", "built"), ("b", "failed")]);
    let error = &of(&done, "b")["error"];
    assert_eq!(error["code"], 6, "{error:#}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("`components/b/out` a link that leads out of the workspace"), "{message}");
    assert_eq!(entries(&sandbox.work(".meta-cache")).len(), 1);
    fs::remove_dir_all(sandbox.work("components/a/v2")).unwrap();
    assert_statuses(&apply(&sandbox, &["--component", "a"], 0), &[("a", "hit local")]);
    assert!(fs::symlink_metadata(sandbox.work("components/a/out")).unwrap().is_dir());
}

#[test]
fn outputs_that_would_become_sources_of_another_are_warned_of_before_anything_is_built() {
    let two = |path: &str, more: &str| {
        let sandbox = Sandbox::new();
        let build = |out: &str| {
            format!("build: \"echo built >> $LOG; mkdir -p {out}; echo {out} > {out}/made\", outputs: {out}")
        };
        let lines = format!(
            "  a: {{path: in/a, {}}}\n  b: {{path: {path}, depends_on: [a], {}{more}}}\n",
            build("o1"),
            build("o2")
        );
        manifest(&sandbox, &lines);
        sandbox.write("in/a/src", "");
        sandbox
    };
    let warned = |sandbox: &Sandbox, more: &[&str]| {
        let ran = run(sandbox, &[&["apply"], more].concat()).exits(0);
        ran.stderr.lines().filter(|line| line.contains("would be sources of")).map(str::to_owned).collect::<Vec<_>>()
    };
    for (path, place, below) in [("in/a", "in/a/o1", "o1"), ("in", "in/a/o1", "a/o1")] {
        let sandbox = two(path, "");
        for more in [&["--dry-run"][..], &[]] {
            let told = warned(&sandbox, more).join("\n");
            assert!(told.contains(&format!("the outputs of `a` (`{place}`) would be sources of `b`")), "{told}");
        }
        // It was built all the same, and what went wrong is told.
        assert_eq!(built(&sandbox).len(), 2);
        forget(&sandbox, &["work/in/a/o1", "work/in/a/o2", "work/in/o2"]);
        let ran = run(&sandbox, &["apply", "--no-cache"]).exits(0);
        ran.says("its inputs changed while it was built").says(&format!("hint: set `exclude: [\"{below}\"]` for `b`"));
        forget(&sandbox, &["work/in/a/o1"]);
        assert_eq!(warned(&sandbox, &["--component", "a"]), [""; 0]);
    }
    let ignored = |text: &str| {
        let sandbox = two("in", "");
        sandbox.write("in/.gitignore", text);
        sandbox
    };
    let good = [
        two("in", ", exclude: [\"a/o1\"]"),
        two("in", ", exclude: [\"**/o1/**\"]"),
        ignored("o1/\n"),
        ignored("/a/o1/*\n"),
        ignored("*\n!src\n"),
    ];
    for sandbox in good {
        assert_eq!(warned(&sandbox, &["--dry-run"]), [""; 0]);
        assert_statuses(&apply(&sandbox, &[], 0), &[("a", "built"), ("b", "built")]);
        forget(&sandbox, &["work/in/a/o1", "work/in/a/o2", "work/in/o2"]);
        assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local"), ("b", "hit local")]);
    }
    // Rules that speak of other files leave none of this out; those in the folder of the outputs' component count as well.
    for text in ["o1\n!o1\n", "o2\n", "/o1\n"] {
        assert_eq!(warned(&ignored(text), &[]).len(), 1, "{text}");
    }
    // A component whose key nobody's artifact depends on may change as it likes.
    let sandbox = two("in", "");
    manifest(&sandbox, "  a: {path: in/a, build: \"echo built >> $LOG; touch o1\", outputs: o1}\n  b: {path: in}\n");
    assert_eq!(warned(&sandbox, &[]), [""; 0]);
    fs::remove_file(sandbox.work("in/a/o1")).unwrap();
    manifest(
        &sandbox,
        "  a: {path: in/a, build: \"touch o1\", outputs: o1}\n  b: {path: in}\n  c: {depends_on: [b], build: \"touch o\", outputs: o}\n",
    );
    sandbox.write("components/c/src", "");
    assert_eq!(warned(&sandbox, &["--dry-run"]).len(), 1);
    let sandbox = two("in", "");
    sandbox.write("in/a/.gitignore", "/o1\n");
    apply(&sandbox, &[], 0);
    // What is checked in may well stay as it is.
    let sandbox = two("in", "");
    sandbox.write("in/a/o1/made", "o1\n");
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "built"), ("b", "built")]);
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local"), ("b", "hit local")]);
}

#[test]
fn outputs_below_a_link_that_the_build_made_are_its_own_and_outputs_that_are_such_a_link_are_not() {
    let sandbox = Sandbox::new();
    let real = sandbox.path("elsewhere");
    fs::create_dir(&real).unwrap();
    let build = format!("mkdir -p '{0}/bin'; cp src '{0}/bin/tool'; ln -sfn '{0}' bazel-bin", real.display());
    manifest(&sandbox, &format!("  a: {{build: \"{build}\", outputs: bazel-bin/bin, exclude: [bazel-bin]}}\n"));
    sandbox.write("components/a/src", "tool");
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "built")]);
    fs::remove_file(real.join("bin/tool")).unwrap();
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local")]);
    assert_eq!(fs::read_to_string(real.join("bin/tool")).unwrap(), "tool");
    manifest(&sandbox, &format!("  a: {{build: \"{build}\", outputs: bazel-bin}}\n"));
    fs::remove_file(sandbox.work("components/a/bazel-bin")).unwrap();
    let done = apply(&sandbox, &["--no-cache"], 1);
    let error = &of(&done, "a")["error"];
    assert!(error["message"].as_str().unwrap().contains("a link that leads out of the workspace"), "{error:#}");
}
