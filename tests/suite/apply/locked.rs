//! `apply --locked`: only what is locked, or nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::{apply, assert_statuses, of, run, statuses, workspace};
use crate::entries::{json, manifest};
use crate::harness::Sandbox;

const LOCK: &str = "manifests/components.lock.yaml";

fn locked() -> Sandbox {
    let sandbox = workspace();
    sandbox.monofo(["lock"]).exits(0);
    sandbox
}

#[test]
fn each_environment_has_its_own_lock_and_no_other_stands_in() {
    let sandbox = locked();
    apply(&sandbox, &["--locked"], 0);
    let error = apply(&sandbox, &["--locked", "--env", "prod"], 4);
    assert!(error["error"]["message"].as_str().unwrap().contains("`manifests/components.lock.prod.yaml`"));
    assert!(error["error"]["hint"].as_str().unwrap().contains("`monofo lock --env prod`"), "{error:#}");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    assert_eq!(apply(&sandbox, &["--locked", "--env", "prod"], 0)["environment"], "prod");
    assert!(sandbox.work(".meta-store/profiles/prod/current").exists());
    // Without an environment there is no profile to switch.
    assert!(apply(&sandbox, &["--locked"], 0)["profile"].is_null());
}

#[test]
fn a_release_over_rot_leads_to_what_is_in_place_and_the_next_has_nothing_to_mend() {
    let sandbox = locked();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let release = || apply(&sandbox, &["--locked", "--env", "prod"], 0);
    release();
    let released = sandbox.work(".meta-store/profiles/prod/current/app/text");
    crate::store_entries::rot(&released.canonicalize().unwrap());
    let mended = release();
    assert!(mended["warnings"].to_string().contains("the artifact was stored again"), "{mended:#}");
    assert_eq!(fs::read(&released).unwrap(), fs::read(sandbox.work("components/app/out/text")).unwrap());
    json(&sandbox, &["store", "verify"], 0);
    let next = release();
    assert!(!next["warnings"].to_string().contains("quarantine"), "{next:#}");
    assert_eq!(fs::read_dir(sandbox.work(".meta-store/quarantine")).unwrap().count(), 1);
}

#[test]
fn a_release_shares_no_rot_with_an_earlier_one() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {build: \"rm -rf out; mkdir -p out; cp s out/f; cp ../big out/big\", outputs: out}\n");
    sandbox.write("components/big", vec![7; 200_000]);
    let release = |content: &str| {
        sandbox.write("components/a/s", content);
        sandbox.monofo(["lock", "--env", "prod"]).exits(0);
        apply(&sandbox, &["--locked", "--env", "prod"], 0)
    };
    release("1");
    let released = sandbox.work(".meta-store/profiles/prod/current/a/big");
    crate::store_entries::rot(&released.canonicalize().unwrap());
    let told = release("2");
    assert!(told["warnings"].to_string().contains("the artifact was stored again"), "{told:#}");
    assert_eq!(fs::read(&released).unwrap(), vec![7; 200_000]);
}

#[test]
fn a_manifest_that_differs_is_refused_and_each_difference_named() {
    let sandbox = locked();
    let text = fs::read_to_string(sandbox.work(LOCK)).unwrap();
    let text = text
        .replace("app:\n    version: \"v1\"", "app:\n    version: \"v0\"")
        .replace("depends_on: [base]", "depends_on: [other]")
        .replace(
            "other:\n    version: \"v1\"",
            "other:\n    version: \"v1\"\n    type: rust\n    build_target: \"//x\"",
        );
    sandbox.write(LOCK, text);
    let error = apply(&sandbox, &["--locked"], 4);
    for words in [
        "`app`: version is `v1` in the manifest and `v0` in the lock",
        "`app`: depends on `base` in the manifest and not in the lock",
        "`app`: depends on `other` in the lock and not in the manifest",
        "`other`: type is",
        "`other`: build_target is",
    ] {
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{words}: {error:#}");
    }
    assert!(!sandbox.path("log").exists(), "something was built");
    // What is not applied need not be right.
    apply(&sandbox, &["--locked", "--component", "base"], 0);
    // Only warned of, and then the lock's versions count.
    let done = apply(&sandbox, &["--locked", "--allow-drift"], 0);
    assert_eq!(done["warnings"].as_array().unwrap().len(), 5, "{done:#}");
    let record = json(&sandbox, &["cache", "list"], 0);
    let versions: Vec<&Value> = record["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["component"] == "app")
        .map(|one| &one["version"])
        .collect();
    assert_eq!(versions, ["v0"]);
    // So it is another key than without a lock.
    assert_eq!(statuses(&apply(&sandbox, &[], 0))["app"], "built");
}

#[test]
fn a_component_that_the_lock_lacks_is_refused() {
    let sandbox = locked();
    let text = fs::read_to_string(sandbox.work(LOCK)).unwrap();
    let at = text.find("  other:").unwrap();
    sandbox.write(LOCK, &text[..at]);
    for more in [&[][..], &["--allow-drift"]] {
        let error = apply(&sandbox, &[&["--locked"], more].concat(), 4);
        assert!(error["error"]["message"].as_str().unwrap().contains("has no component `other`"), "{error:#}");
    }
    apply(&sandbox, &["--locked", "--component", "app"], 0);
}

#[test]
fn sources_that_are_not_those_that_are_locked_fail_their_component() {
    let sandbox = locked();
    sandbox.write("components/other/src.txt", "edited\n");
    let done = apply(&sandbox, &["--locked"], 1);
    assert_statuses(&done, &[("app", "built"), ("base", "built"), ("other", "failed")]);
    assert!(of(&done, "other")["error"]["message"].as_str().unwrap().contains("not those that are locked"), "{done:#}");
    // Nothing is released of a run that did not go well.
    sandbox.write("components/other/src.txt", "other 1\n");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    sandbox.write("components/other/src.txt", "edited\n");
    apply(&sandbox, &["--locked", "--env", "prod"], 1);
    assert!(!sandbox.work(".meta-store").exists());
}

#[test]
fn a_checkout_has_to_be_at_the_commit_that_is_locked() {
    let sandbox = workspace();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=x", "-c", "user.email=x@example.invalid", "-c", "commit.gpgsign=false"])
            .args(args);
        command.current_dir(sandbox.work("components/base")).env("HOME", sandbox.path("home"));
        command.env("GIT_CONFIG_NOSYSTEM", "1").output()
    };
    if git(&["init", "-q"]).is_err() {
        println!("SKIPPED: no git to make a checkout with");
        return;
    }
    let commit = |text: &str| {
        sandbox.write("components/base/src.txt", text);
        git(&["add", "-A"]).unwrap();
        assert!(git(&["commit", "-q", "-m", text]).unwrap().status.success());
        String::from_utf8(git(&["rev-parse", "HEAD"]).unwrap().stdout).unwrap().trim().to_owned()
    };
    sandbox.write("components/base/.gitignore", "/out/\n");
    let one = commit("base 1");
    sandbox.monofo(["lock"]).exits(0);
    let text = fs::read_to_string(sandbox.work(LOCK)).unwrap();
    assert!(text.contains(&format!("    commit: \"{one}\"")), "{text}");
    apply(&sandbox, &["--locked"], 0);
    let two = commit("base 2");
    git(&["checkout", "-q", &one]).unwrap();
    assert_statuses(
        &apply(&sandbox, &["--locked"], 0),
        &[("app", "hit local"), ("base", "hit local"), ("other", "hit local")],
    );
    // By its commit alone, too.
    git(&["checkout", "-q", &two]).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("source:")).collect();
    sandbox.write(LOCK, lines.join("\n"));
    let done = apply(&sandbox, &["--locked"], 1);
    assert_statuses(&done, &[("app", "skipped"), ("base", "failed"), ("other", "hit local")]);
    let message = of(&done, "base")["error"]["message"].as_str().unwrap();
    assert!(message.contains(&one) && message.contains(&two), "{message}");
    // Packed names and a worktree are read as well.
    git(&["checkout", "-q", "-B", "work", &one]).unwrap();
    git(&["pack-refs", "--all"]).unwrap();
    apply(&sandbox, &["--locked"], 0);
    // So are the first digits of a commit, however they are written.
    sandbox.write(LOCK, lines.join("\n").replace(&one, &one[..12].to_uppercase()));
    apply(&sandbox, &["--locked"], 0);
    // An export is no checkout: its commit cannot be told, and that is said.
    fs::remove_dir_all(sandbox.work("components/base/.git")).unwrap();
    let done = apply(&sandbox, &["--locked"], 0);
    assert!(done["warnings"][0].as_str().unwrap().contains("base: it is no checkout"), "{done:#}");
}

#[test]
fn a_release_of_some_components_does_not_switch_the_profile() {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let ran = run(&sandbox, &["apply", "--locked", "--env", "prod", "--component", "app"]).exits(0);
    ran.says("profile prod stays as it is");
    assert!(!sandbox.work(".meta-store").exists());
    apply(&sandbox, &["--locked", "--env", "prod"], 0);
    let listed = json(&sandbox, &["store", "list"], 0);
    assert_eq!(listed["entries"].as_array().unwrap().len(), 3);
    // What the store holds has the key that the cache has.
    let generation = json(&sandbox, &["store", "generations", "prod"], 0);
    assert_eq!(generation["generations"][0]["artifacts"].as_array().unwrap().len(), 3);
    assert!(generation["generations"][0]["lock"].is_string());
}

#[test]
fn a_release_leads_to_what_was_put_in_place_whatever_became_of_the_store() {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    apply(&sandbox, &["--locked", "--env", "prod"], 0);
    let profile = sandbox.work(".meta-store/profiles/prod");
    let text = profile.join("current/base/text");
    let artifact = fs::canonicalize(profile.join("current/base")).unwrap();
    let writable = |path: &std::path::Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let spoil = || {
        writable(&text);
        fs::write(&text, "evil 1\n").unwrap();
    };
    type Damage<'a> = &'a dyn Fn();
    let cases: [(&str, bool, Damage<'_>); 5] = [
        ("written to, without a profile", true, &|| {
            spoil();
            fs::remove_dir_all(&profile).unwrap();
        }),
        ("written to", false, &spoil),
        ("a file is gone", false, &|| fs::remove_file(&text).unwrap()),
        ("all files are gone", false, &|| fs::remove_dir_all(&artifact).unwrap()),
        ("the generation leads nowhere", true, &|| fs::remove_file(profile.join("current/base")).unwrap()),
    ];
    for (what, switched, damage) in cases {
        damage();
        let done = apply(&sandbox, &["--locked", "--env", "prod"], 0);
        assert_eq!(done["profile"]["switched"], switched, "{what}: {done:#}");
        assert_eq!(fs::read_to_string(&text).unwrap(), "base 1\n", "{what}");
        json(&sandbox, &["store", "verify"], 0);
    }
}

#[test]
fn an_artifact_whose_inputs_changed_is_not_released() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {build: \"touch out; echo x >> src\", outputs: out}\n");
    sandbox.write("components/a/src", "");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let error = apply(&sandbox, &["--locked", "--env", "prod"], 5);
    assert_eq!(error["error"]["kind"], "changed");
    assert_eq!(error["counts"]["failed"], 1);
    let message = of(&error, "a")["error"]["message"].as_str().unwrap();
    assert!(message.contains("its inputs changed while it was built"), "{message}");
    assert!(!sandbox.work(".meta-store/profiles/prod/current").exists());
}

#[test]
fn a_lock_of_another_environment_or_of_no_commit_is_refused() {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let prod = "manifests/components.lock.prod.yaml";
    let text = fs::read_to_string(sandbox.work(prod)).unwrap();
    sandbox.write(prod, text.replace("environment: \"prod\"", "environment: \"test\""));
    let error = apply(&sandbox, &["--locked", "--env", "prod"], 4);
    assert!(error["error"]["message"].as_str().unwrap().contains("for the environment `test`"), "{error:#}");
    for commit in ["", "1234", "main", "123456g"] {
        let commits = format!("  base:\n    commit: \"{commit}\"");
        sandbox.write(prod, text.replace("  base:", &commits));
        let status = if commit.is_empty() { 0 } else { 4 };
        let done = apply(&sandbox, &["--locked", "--env", "prod"], status);
        assert!(
            commit.is_empty() || done["error"]["message"].as_str().unwrap().contains("names no commit"),
            "{done:#}"
        );
    }
}

#[test]
fn what_would_stop_a_release_is_told_before_anything_is_built() {
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    sandbox.write(".meta-store", "");
    for more in [&["--dry-run"][..], &[]] {
        let error = apply(&sandbox, &[&["--locked", "--env", "prod"], more].concat(), 6);
        assert_eq!(error["error"]["kind"], "refused");
        assert!(!sandbox.path("log").exists(), "it was built");
    }
    // Nor could anything be put into it.
    let sandbox = workspace();
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    apply(&sandbox, &["--locked", "--env", "prod"], 0);
    fs::remove_dir_all(sandbox.work(".meta-store/tmp")).unwrap();
    sandbox.write(".meta-store/tmp", "");
    fs::remove_file(sandbox.path("log")).unwrap();
    let error = apply(&sandbox, &["--locked", "--env", "prod", "--no-cache"], 1);
    assert!(error["error"]["message"].as_str().unwrap().contains("nothing could be released"), "{error:#}");
    assert!(!sandbox.path("log").exists(), "it was built");
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {}\n");
    sandbox.write("components/a/src", "");
    sandbox.monofo(["lock", "--env", "q"]).exits(0);
    for more in [&["--dry-run"][..], &[]] {
        let error = apply(&sandbox, &[&["--locked", "--env", "q"], more].concat(), 4);
        assert!(error["error"]["message"].as_str().unwrap().contains("there is no artifact to switch to"));
    }
}

/// Runs a command while the workspace is held by somebody who makes changes before letting go.
fn behind_another(sandbox: &Sandbox, args: &[&str], change: impl FnOnce() + Send + 'static) {
    let held = fs::File::open(sandbox.work("manifests")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        change();
        drop(held);
    });
    let ran = run(sandbox, args).exits(0);
    other.join().unwrap();
    ran.says("waiting for another `apply`");
}

#[test]
fn what_changed_while_it_waited_counts() {
    let sandbox = Sandbox::new();
    let write = |version: &str| {
        manifest(&sandbox, &format!("  a: {{version: {version}, build: \"echo {version} > out\", outputs: out}}\n"));
    };
    let edit = |from: &'static str, to: &'static str| {
        let path = sandbox.work("manifests/components.yaml");
        move || fs::write(&path, fs::read_to_string(&path).unwrap().replace(from, to)).unwrap()
    };
    write("v1");
    sandbox.write("components/a/src", "");
    behind_another(&sandbox, &["apply"], edit("v1", "v2"));
    assert_eq!(fs::read_to_string(sandbox.work("components/a/out")).unwrap(), "v2\n");
    behind_another(&sandbox, &["lock"], edit("v2", "v3"));
    assert!(fs::read_to_string(sandbox.work(LOCK)).unwrap().contains("version: \"v3\""));
    // A folder in the place of the one that was held is held as well.
    let (manifests, aside) = (sandbox.work("manifests"), sandbox.work("aside"));
    behind_another(&sandbox, &["lock"], move || {
        fs::rename(&manifests, &aside).unwrap();
        fs::create_dir(&manifests).unwrap();
        let text = fs::read_to_string(aside.join("components.yaml")).unwrap();
        fs::write(manifests.join("components.yaml"), text.replace("v3", "v4")).unwrap();
    });
    assert!(fs::read_to_string(sandbox.work(LOCK)).unwrap().contains("version: \"v4\""));
}

#[test]
fn a_generation_names_the_lock_that_was_read() {
    let sandbox = Sandbox::new();
    let gone = "rm ../../manifests/components.lock.prod.yaml";
    manifest(&sandbox, &format!("  a: {{build: \"{gone}; touch out\", outputs: out}}\n"));
    sandbox.write("components/a/src", "");
    sandbox.monofo(["lock", "--env", "prod"]).exits(0);
    let lock = fs::read(sandbox.work("manifests/components.lock.prod.yaml")).unwrap();
    let done = apply(&sandbox, &["--locked", "--env", "prod"], 0);
    assert_eq!(done["profile"]["generation"]["lock"], crate::entries::sha256(&lock), "{done:#}");
}

#[test]
fn whoever_waits_for_another_one_is_told() {
    let sandbox = locked();
    let held = fs::File::open(sandbox.work("manifests")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        drop(held);
    });
    let ran = run(&sandbox, &["apply"]).exits(0);
    release.join().unwrap();
    assert_eq!(ran.stderr.matches("waiting for another `apply`").count(), 1, "{}", ran.stderr);
}
