//! What goes wrong with components, and what that means for the others.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{apply, assert_statuses, built, of, run, workspace};
use crate::entries::{document, entries, manifest};
use crate::harness::Sandbox;

/// Components with these builds, each with a source and `out`.
pub(super) fn with(builds: &[(&str, &str, &str)]) -> Sandbox {
    let sandbox = Sandbox::new();
    let lines = builds.iter().map(|(name, needs, build)| {
        let build = if build.is_empty() { String::new() } else { format!("build: \"{build}\", ") };
        format!("  {name}: {{depends_on: [{needs}], {build}outputs: out}}\n")
    });
    manifest(&sandbox, &lines.collect::<String>());
    for (name, ..) in builds {
        sandbox.write(format!("components/{name}/src"), *name);
    }
    sandbox
}

#[test]
fn a_failed_build_skips_those_that_need_it_and_nobody_else() {
    let sandbox = with(&[
        ("a", "", "exit 7"),
        ("b", "a", "touch out"),
        ("c", "b", "touch out"),
        ("d", "", "touch out"),
        ("e", "d", "touch out"),
    ]);
    let done = apply(&sandbox, &[], 1);
    let expected = [("a", "failed"), ("b", "skipped"), ("c", "skipped"), ("d", "built"), ("e", "built")];
    assert_statuses(&done, &expected);
    assert!(of(&done, "a")["error"]["message"].as_str().unwrap().contains("status 7"));
    assert_eq!((&of(&done, "c")["failed"], &done["counts"]["skipped"]), (&"a".into(), &2.into()));
    let ran = run(&sandbox, &["apply"]).exits(1);
    ran.says("skipped c: it needs a, which failed").says("2 hit (2 local, 0 remote), 0 built, 1 failed, 2 skipped");
    // What failed is tried again, and the others are there.
    manifest(
        &sandbox,
        "  a: {build: \"touch out\", outputs: out}\n  b: {depends_on: [a], build: \"touch out\", outputs: out}\n",
    );
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "built"), ("b", "built")]);
}

#[test]
fn without_a_build_a_miss_is_a_failure_and_a_hit_is_not() {
    let sandbox = with(&[("a", "", ""), ("b", "a", "touch out")]);
    let done = apply(&sandbox, &[], 1);
    assert_statuses(&done, &[("a", "needs-build"), ("b", "skipped")]);
    sandbox.write("components/a/out/x", "made elsewhere");
    sandbox.monofo(["cache", "build", "a"]).exits(0);
    fs::remove_dir_all(sandbox.work("components/a/out")).unwrap();
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local"), ("b", "built")]);
    assert!(sandbox.work("components/a/out/x").exists());
}

#[test]
fn a_build_that_makes_no_outputs_fails_and_names_them() {
    let sandbox = with(&[("a", "", "mkdir wrong")]);
    let done = apply(&sandbox, &[], 1);
    let error = of(&done, "a")["error"]["message"].as_str().unwrap();
    assert!(error.contains("`components/a/out` is not there"), "{error}");
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
}

#[test]
fn a_build_that_writes_to_its_sources_is_kept_and_not_cached() {
    let sandbox = with(&[("a", "", "date +%s%N >> src; touch out"), ("b", "a", "touch out")]);
    let done = apply(&sandbox, &[], 0);
    assert_statuses(&done, &[("a", "built"), ("b", "built")]);
    assert_eq!(of(&done, "a")["cached"], false);
    assert!(sandbox.work("components/a/out").exists());
    assert!(done["warnings"][0].as_str().unwrap().contains("a: its inputs changed while it was built"), "{done:#}");
    // The other one was built from a key that is not true any more.
    assert_eq!(of(&done, "b")["cached"], false);
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
}

#[test]
fn an_edit_during_a_build_is_noticed() {
    let sandbox = with(&[("a", "", "cat src > out; echo edited > ../a/src")]);
    assert_eq!(of(&apply(&sandbox, &[], 0), "a")["cached"], false);
    // Now it writes what is there already, so nothing changes.
    assert_eq!(of(&apply(&sandbox, &[], 0), "a")["cached"], true);
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "hit local")]);
}

#[test]
fn what_cannot_be_one_is_refused_before_anything_is_built() {
    let cases: [(&str, &str); 8] = [
        ("  a: {build: \"touch out\"}\n", "`a` has a `build` and no `outputs`"),
        (
            "  a: {path: x, build: \"true\", outputs: out}\n  b: {path: x/out, build: \"true\", outputs: z}\n",
            "the outputs of `b` (`x/out/z`) lie in those of `a` (`x/out`)",
        ),
        (
            "  a: {path: x, build: \"true\", outputs: out}\n  b: {path: x/out/b}\n",
            "the folder of `b` (`x/out/b`) lies in the outputs of `a` (`x/out`)",
        ),
        (
            "  a: {path: ., build: \"true\", outputs: components}\n  b: {}\n",
            "the folder of `b` (`components/b`) lies in the outputs of `a` (`components`)",
        ),
        (
            "  a: {path: x, build: \"true\", outputs: out}\n  b: {path: x/out}\n",
            "the folder of `b` (`x/out`) lies in the outputs of `a` (`x/out`)",
        ),
        ("  a: {depends_on: [b]}\n", "there is no component `b`"),
        ("  a: {depends_on: [b]}\n  b: {depends_on: [a]}\n", "a"),
        ("  a: 1\n", "expected a map"),
    ];
    for (components, words) in cases {
        let sandbox = Sandbox::new();
        manifest(&sandbox, components);
        let error = apply(&sandbox, &[], 4);
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{words}: {error:#}");
    }
    let none = Sandbox::new();
    let error = apply(&none, &[], 4);
    assert!(error["error"]["message"].as_str().unwrap().contains("manifests/components.yaml"), "{error:#}");
    assert!(error["error"]["hint"].is_string());
    none.assert_paths("work", &[]);
}

#[test]
fn sources_that_are_missing_or_cannot_be_read_fail_their_component_alone() {
    let sandbox = workspace();
    fs::remove_dir_all(sandbox.work("components/base")).unwrap();
    let done = apply(&sandbox, &[], 1);
    assert_statuses(&done, &[("app", "skipped"), ("base", "failed"), ("other", "built")]);
    assert!(of(&done, "base")["error"]["message"].as_str().unwrap().contains("sources are not here"));
    built(&sandbox);
    // A component of sources alone has nothing to build.
    manifest(&sandbox, "  lib: {}\n  a: {depends_on: [lib], build: \"touch out\", outputs: out}\n");
    sandbox.write("components/lib/x.h", "");
    sandbox.write("components/a/x.c", "");
    assert_statuses(&apply(&sandbox, &[], 0), &[("a", "built"), ("lib", "sources")]);
    sandbox.write("components/lib/x.h", "changed");
    let done = apply(&sandbox, &[], 0);
    assert_statuses(&done, &[("a", "built"), ("lib", "sources")]);
    assert!(of(&done, "a")["why"].as_str().unwrap().contains("`x.h` changed"), "{done:#}");
}

#[test]
fn a_damaged_entry_is_built_again() {
    let sandbox = workspace();
    apply(&sandbox, &[], 0);
    for metadata in entries(&sandbox.work(".meta-cache")).into_values() {
        let payload = crate::entries::payload(&metadata);
        let mut bytes = fs::read(&payload).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::remove_file(&payload).unwrap();
        fs::write(&payload, bytes).unwrap();
    }
    let done = apply(&sandbox, &[], 0);
    assert_statuses(&done, &[("app", "built"), ("base", "built"), ("other", "built")]);
    assert_eq!(done["warnings"].as_array().unwrap().len(), 3, "{done:#}");
    assert_statuses(&apply(&sandbox, &[], 0), &[("app", "hit local"), ("base", "hit local"), ("other", "hit local")]);
}

#[test]
fn a_cache_that_cannot_be_made_is_said_and_everything_is_built() {
    let sandbox = workspace();
    let ran = |args: &[&str]| run(&sandbox, args).env("MONOFO_CACHE_DIR", "/proc/none/cache");
    let done = document(ran(&["--json", "apply"]), 0);
    assert!(
        done["components"].as_array().unwrap().iter().all(|one| one["status"] == "built" && one["cached"] == false)
    );
    assert!(!done["warnings"].as_array().unwrap().is_empty());
}

#[test]
fn every_ending_is_one_document() {
    let sandbox = workspace();
    for (args, status) in [
        (&["--env", "prod"][..], 2),
        (&["--jobs", "0"], 2),
        (&["--component", "a b"], 2),
        (&["--locked", "--env", "a/b"], 2),
        (&["--remote", "http://x"], 2),
        (&["--component", "nobody"], 4),
        (&["--locked"], 4),
        (&["--dry-run"], 0),
        (&[], 0),
    ] {
        let done = document(run(&sandbox, &[&["--json", "apply"], args].concat()), status);
        assert!(done["schema"].as_str().unwrap().starts_with("meta."), "{args:?}");
    }
}

#[test]
fn a_folder_that_is_no_cache_is_refused() {
    let sandbox = workspace();
    sandbox.write("taken/file", "somebody's");
    let ran = run(&sandbox, &["--json", "apply"]).env("MONOFO_CACHE_DIR", "taken");
    assert_eq!(document(ran, 6)["error"]["kind"], "refused");
    sandbox.assert_paths("work/taken", &["file"]);
}

#[test]
fn a_remote_that_is_required_has_to_be_named() {
    let sandbox = workspace();
    let refused = document(run(&sandbox, &["--json", "apply", "--remote-required"]), 2);
    assert!(refused["error"]["hint"].as_str().unwrap().contains("MONOFO_REMOTE"), "{refused:#}");
}

#[test]
fn what_was_built_from_outputs_that_changed_is_not_cached() {
    let sandbox = with(&[
        ("a", "", "rm -rf out; mkdir out; echo 1 > out/x"),
        ("b", "a", "rm -rf out; mkdir out; cp ../a/out/x out/; echo poisoned >> ../a/out/x"),
        ("c", "a, b", "rm -rf out; mkdir out; cp ../a/out/x out/"),
        ("d", "a", "cp ../d/src out"),
    ]);
    sandbox.monofo(["lock", "--env", "p"]).exits(0);
    let ran = run(&sandbox, &["apply", "--jobs", "1"]).exits(0);
    let said = |name: &str| {
        format!(
            "{name}: the outputs of `a` changed after they were put in place; what came out of `{name}` was not cached"
        )
    };
    ran.says(&said("b")).says(&said("c"));
    // Only the one whose outputs it was, and the file that nothing was done to afterwards.
    let cached = entries(&sandbox.work(".meta-cache")).len();
    assert_eq!(cached, 1, "{cached} are cached");
    for _ in 0..2 {
        let done = apply(&sandbox, &["--locked", "--env", "p", "--jobs", "1"], 5);
        assert_eq!(done["error"]["kind"], "changed");
        assert_eq!(
            (&of(&done, "b")["error"]["kind"], &of(&done, "b")["error"]["code"]),
            (&"changed".into(), &5.into())
        );
        assert!(!sandbox.work(".meta-store").exists());
    }
}

#[test]
fn a_file_that_is_needed_and_unchanged_is_no_reason_against_caching() {
    let sandbox = with(&[
        ("a", "", "printf '#!/bin/sh' > out; chmod +x out"),
        ("b", "a", "mkdir -p out/deep/empty; ln -sfn ../x out/link; cp ../a/out out/x"),
        ("c", "b, a", "cp ../b/out/x out"),
    ]);
    let done = apply(&sandbox, &[], 0);
    for name in ["a", "b", "c"] {
        assert_eq!(of(&done, name)["cached"], true, "{done:#}");
    }
    // Once more with what is restored.
    sandbox.write("components/c/src", "changed");
    let done = apply(&sandbox, &[], 0);
    assert_statuses(&done, &[("a", "hit local"), ("b", "hit local"), ("c", "built")]);
    assert_eq!(of(&done, "c")["cached"], true, "{done:#}");
}

#[test]
fn what_a_build_leaves_running_is_stopped_and_told_once() {
    let sandbox = with(&[("a", "", "(sleep 77; touch late) & mkdir -p out")]);
    let ran = run(&sandbox, &["apply"]).exits(0);
    let ran = ran.says("warning: a: its build ended and left processes behind, which were stopped");
    assert_eq!(ran.stderr.matches("left processes behind").count(), 1);
}

#[test]
fn a_component_whose_folder_is_not_there_fails_with_those_that_need_it() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  lost: {path: nope}\n  user: {depends_on: [lost], build: \"touch out\", outputs: out}\n");
    sandbox.write("components/user/src", "");
    let done = apply(&sandbox, &[], 1);
    assert_statuses(&done, &[("lost", "failed"), ("user", "skipped")]);
    assert_eq!(of(&done, "lost")["error"]["kind"], "not-there");
    sandbox.monofo(["lock"]).exits(4).says("the sources of `lost` are not here");
}

#[test]
fn a_result_that_could_not_be_replaced_later_is_not_cached() {
    let sandbox = with(&[("a", "", "mkdir -p out/.git; touch out/f"), ("b", "", "ln -s nowhere out")]);
    for _ in 0..2 {
        let done = apply(&sandbox, &[], 1);
        assert_statuses(&done, &[("a", "failed"), ("b", "failed")]);
        let error = &of(&done, "a")["error"];
        assert_eq!(error["hint"], "set `outputs` to another folder", "{error:#}");
        assert!(
            of(&done, "b")["error"]["message"].as_str().unwrap().contains("is a link that leads nowhere"),
            "{done:#}"
        );
        let _ = fs::remove_file(sandbox.work("components/b/out"));
    }
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
}

#[test]
fn nothing_that_a_build_says_opens_a_group_of_a_job_or_colours_what_follows() {
    let sandbox =
        with(&[("a", "", "echo '+++ not ours'; printf '\\\\033[31mred\\\\n'; touch out"), ("b", "", "touch out")]);
    let ran = run(&sandbox, &["apply", "--jobs", "2"]).env("BUILDKITE", "true").env("BUILDKITE_JOB_ID", "1").exits(0);
    assert!(ran.stderr.contains("\n  +++ not ours\n\u{1b}[31mred\u{1b}[0m\n"), "{}", ran.stderr);
}

#[test]
fn a_build_has_no_terminal_to_wait_for() {
    let script = Path::new("/usr/bin/script");
    if !script.exists() {
        eprintln!("SKIPPED: no `script` makes a terminal here");
        return;
    }
    let reads = "if (read answer < /dev/tty) 2> $ERRORS; then echo read > out; else echo none > out; fi";
    for (jobs, build) in [("1", reads), ("2", reads), ("1", "echo loud >&2; echo none > out")] {
        let sandbox = with(&[("a", "", build)]);
        // A background process that writes is stopped then, if the terminal is that of its session.
        let monofo = env!("CARGO_BIN_EXE_monofo");
        let line = format!("stty tostop; timeout --foreground 60 {monofo} apply --jobs {jobs}");
        let ran = Command::new(script)
            .args(["-qec", &line, "/dev/null"])
            .current_dir(sandbox.work(""))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", sandbox.path("home"))
            .env("ERRORS", sandbox.path("errors"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{build}: {:?}: {said}", ran.status);
        assert_eq!(fs::read_to_string(sandbox.work("components/a/out")).unwrap(), "none\n", "{said}");
    }
}

#[test]
fn a_folder_for_temporary_files_that_is_not_there_is_named() {
    let sandbox = with(&[("a", "", "touch out"), ("b", "", "touch out")]);
    let nowhere = sandbox.path("nowhere").to_str().unwrap().to_owned();
    let ran = run(&sandbox, &["apply", "--jobs", "2"]).env("TMPDIR", &nowhere).exits(1);
    ran.says(&format!("what its build says in `{nowhere}`"))
        .says("hint: set TMPDIR to a folder that can be written to");
    run(&sandbox, &["apply", "--jobs", "1"]).env("TMPDIR", &nowhere).exits(0);
}

#[test]
fn a_component_that_is_the_workspace_is_named_without_a_dot() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {path: ., exclude: [x], build: \"touch manifests/x\", outputs: manifests}\n");
    let done = apply(&sandbox, &[], 1);
    let message = of(&done, "a")["error"]["message"].as_str().unwrap();
    let place = sandbox.work("manifests").canonicalize().unwrap();
    assert!(message.starts_with(&format!("`{}` ", place.display())), "{message}");
}

#[test]
fn what_one_build_at_a_time_says_in_a_job_keeps_to_its_group() {
    let says = "echo '+++ not ours'; touch out; printf 'no end of line'";
    let sandbox = with(&[("a", "", &format!("{says}; exit 3")), ("b", "", says), ("c", "", "touch out")]);
    let ran = run(&sandbox, &["apply", "--jobs", "1"]).env("BUILDKITE", "true").env("BUILDKITE_JOB_ID", "1").exits(1);
    let build = |name: &str| format!("--- build {name}\n  +++ not ours\nno end of line\n");
    let ran = ran.says(&format!("{}^^^ +++\n", build("a"))).says(&format!("{}--- monofo: apply\nbuilt b", build("b")));
    ran.says("--- build c\n--- monofo: apply\nbuilt c");
}

#[test]
fn who_is_left_in_a_session_of_its_own_holds_up_no_job() {
    let Ok(_) = Command::new("setsid").arg("true").output() else {
        eprintln!("SKIPPED: no `setsid` to leave a session behind with");
        return;
    };
    let sandbox = with(&[(
        "a",
        "",
        "(setsid sh -c 'echo $$ > pid; exec sleep 300') & echo said; until [ -s pid ]; do sleep 0.01; done; mv pid out",
    )]);
    let started = std::time::Instant::now();
    let ran = run(&sandbox, &["apply", "--jobs", "1"]).env("BUILDKITE", "true").env("BUILDKITE_JOB_ID", "1").exits(0);
    assert!(started.elapsed().as_secs() < 100, "it was waited for");
    ran.says("--- build a\nsaid\n");
    let pid = fs::read_to_string(sandbox.work("components/a/out")).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success(), "it was stopped");
}

#[test]
fn builds_run_where_a_loader_started_us() {
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loaders.into_iter().find(|loader| Path::new(loader).exists()) else {
        println!("SKIPPED: no loader is known here");
        return;
    };
    let sandbox = workspace();
    let ran = Command::new(loader)
        .args([env!("CARGO_BIN_EXE_monofo"), "apply"])
        .current_dir(sandbox.work(""))
        .env("LOG", sandbox.path("log"))
        .env("HOME", sandbox.path("home"))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(built(&sandbox).len(), 3);
}
