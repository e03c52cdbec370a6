//! Who is built when, and what is built at once.

use super::{apply, assert_statuses, built, of, run, statuses, workspace};
use crate::entries::manifest;
use crate::harness::Sandbox;

#[test]
fn what_is_needed_comes_first_however_many_run_at_once() {
    for jobs in ["1", "2", "8"] {
        let sandbox = workspace();
        let done = apply(&sandbox, &["--jobs", jobs], 0);
        assert_statuses(&done, &[("app", "built"), ("base", "built"), ("other", "built")]);
        let order = built(&sandbox);
        assert_eq!(order.len(), 3, "{order:?}");
        let at = |name| order.iter().position(|one| one == name).unwrap();
        assert!(at("base") < at("app"), "{order:?}");
        assert_eq!(std::fs::read_to_string(sandbox.work("components/app/out/text")).unwrap(), "base 1\napp 1\n");
        assert_statuses(
            &apply(&sandbox, &["--jobs", jobs], 0),
            &[("app", "hit local"), ("base", "hit local"), ("other", "hit local")],
        );
        assert!(built(&sandbox).is_empty());
    }
}

/// Each of the two builds waits for the other, so both only end when they run at once.
#[test]
fn independent_builds_run_at_once() {
    let sandbox = Sandbox::new();
    let wait = |own: &str, other: &str| {
        format!(
            "  {own}: {{build: \"touch ../{own}.mark; n=0; until test -e ../{other}.mark; do n=$((n+1)); test $n -lt 600 || \
             exit 9; sleep 0.05; done; touch out\", outputs: out}}\n"
        )
    };
    manifest(&sandbox, &format!("{}{}", wait("a", "b"), wait("b", "a")));
    sandbox.write("components/a/x", "");
    sandbox.write("components/b/x", "");
    assert_statuses(&apply(&sandbox, &["--jobs", "2"], 0), &[("a", "built"), ("b", "built")]);
}

#[test]
fn one_component_is_applied_with_what_it_needs() {
    let sandbox = workspace();
    assert_statuses(&apply(&sandbox, &["--component", "app"], 0), &[("app", "built"), ("base", "built")]);
    assert_statuses(
        &apply(&sandbox, &["--component", "base", "--component", "other"], 0),
        &[("base", "hit local"), ("other", "built")],
    );
    run(&sandbox, &["apply", "--component", "bsae"]).exits(4).says("did you mean `base`?");
}

#[test]
fn without_the_cache_all_is_built_and_stored_all_the_same() {
    let sandbox = workspace();
    apply(&sandbox, &[], 0);
    built(&sandbox);
    let done = apply(&sandbox, &["--no-cache"], 0);
    assert!(statuses(&done).values().all(|status| status == "built"), "{done:#}");
    assert_eq!(of(&done, "app")["why"], "the cache was not asked");
    assert_eq!(built(&sandbox).len(), 3);
    let done = apply(&sandbox, &[], 0);
    assert!(statuses(&done).values().all(|status| status == "hit local"), "{done:#}");
}

/// The second waits for the first, and then finds all that it built.
#[test]
fn two_at_once_build_everything_once() {
    let sandbox = workspace();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| apply(&sandbox, &[], 0))).collect();
        let mut words: Vec<String> =
            runs.into_iter().flat_map(|run| statuses(&run.join().unwrap()).into_values()).collect();
        words.sort();
        assert_eq!(words, ["built", "built", "built", "hit local", "hit local", "hit local"]);
    });
    assert_eq!(built(&sandbox).len(), 3);
}

#[test]
fn what_builds_say_is_shown_under_their_names_in_one_piece() {
    let sandbox = Sandbox::new();
    let talk = |name: &str, end: &str| {
        format!(
            "  {name}: {{build: \"for n in 1 2 3 4 5; do echo {name} $n; sleep 0.02; done; echo {name} oops >&2; {end}\", \
             outputs: out}}\n"
        )
    };
    manifest(&sandbox, &format!("{}{}", talk("a", "touch out"), talk("b", "exit 3")));
    sandbox.write("components/a/x", "");
    sandbox.write("components/b/x", "");
    let job =
        |args: &[&str]| run(&sandbox, args).env("BUILDKITE_JOB_ID", "j").env("MONOFO_CACHE_DIR", "cache").exits(1);
    for args in [&["apply", "--jobs", "2", "--no-cache"][..], &["apply", "--jobs", "1", "--no-cache"]] {
        let log = job(args).stderr;
        for name in ["a", "b"] {
            let whole: Vec<String> = (1..6).map(|n| format!("{name} {n}\n")).collect();
            let whole = format!("{}{name} oops\n", whole.concat());
            assert!(log.contains(&whole), "{args:?}: {log}");
        }
        let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no `{text}` in {log}"));
        assert!(at("--- build a") < at("a 1\n"), "{log}");
        if args.contains(&"2") {
            assert!(at("+++ build b: failed") < at("b 1\n"), "{log}");
        } else {
            assert!(
                at("b oops") < at("^^^ +++") && at("^^^ +++") < at("error: b: its build ended with status 3"),
                "{log}"
            );
        }
        at("+++ apply: 0 hit (0 local, 0 remote), 1 built, 1 failed");
    }
    // Who wants quiet hears of what failed alone.
    let log = run(&sandbox, &["--quiet", "apply", "--no-cache"]).exits(1).stderr;
    assert!(!log.contains("a 1") && log.contains("b 1") && !log.contains("built"), "{log}");
    // What a build says is no part of a document.
    assert!(apply(&sandbox, &[], 1)["ok"] == false);
}
