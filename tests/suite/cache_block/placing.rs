//! Where the paths of an entry are put, and where never.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::json;

use super::{Machine, nothing};
use crate::harness::{Sandbox, set, walk};

#[test]
fn folders_that_nobody_may_write_to_come_back_too() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ["mod", "~/go/mod"] });
    let make = |sandbox: &Sandbox| {
        for root in [sandbox.work("mod"), sandbox.path("home/go/mod")] {
            fs::create_dir_all(root.join("m/v")).unwrap();
            fs::write(root.join("m/v/f"), "x").unwrap();
            for folder in ["m/v", "m", ""] {
                set(&root.join(folder), Some(0o555), 1_000_000_000);
            }
        }
    };
    machine.job(&cache, make);
    let modes = || {
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        ["", "m", "m/v"].map(|path| {
            (mode(machine.sandbox.work("mod").join(path)), mode(machine.sandbox.path("home/go/mod").join(path)))
        })
    };
    for _ in 0..2 {
        // Once over what is there, once where nothing is.
        assert_eq!(machine.job(&cache, nothing).0, "exact");
        assert_eq!(modes(), [(0o555, 0o555); 3]);
        for root in [machine.sandbox.work("mod"), machine.sandbox.path("home/go")] {
            assert!(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(&root).status().unwrap().success());
            fs::remove_dir_all(root).unwrap();
        }
    }
}

#[test]
fn what_is_below_home_is_merged_and_what_is_in_the_checkout_replaced() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ["deps", "~/.npm"] });
    let home = |path: &str| machine.sandbox.path("home/.npm").join(path);
    machine.job(&cache, |sandbox| {
        sandbox.write("deps/a", "cached");
        sandbox.write("../home/.npm/x/a", "cached");
        sandbox.write("../home/.npm/b", "cached");
        sandbox.write("../home/.npm/c", "cached");
    });
    machine.clean();
    machine.sandbox.write("deps/stale", "");
    fs::remove_file(home("x/a")).unwrap();
    for (path, when) in [("b", 1_000_000_000), ("c", 4_000_000_000)] {
        fs::write(home(path), "changed").unwrap();
        set(&home(path), None, when);
    }
    fs::write(home("x/other-job"), "kept").unwrap();
    let falls_back = json!({ "key": "b", "restore-keys": "a", "paths": ["deps", "~/.npm"], "save": "never" });
    assert_eq!(machine.job(&falls_back, nothing).0, "partial");
    machine.sandbox.assert_paths("work", &["deps", "deps/a"]);
    // What was written here since is newer than the entry, which is only something to begin with.
    let are = |of: [(&str, &str); 4]| {
        of.iter().for_each(|(path, content)| assert_eq!(fs::read_to_string(home(path)).unwrap(), *content, "{path}"));
        machine.sandbox.assert_paths("home/.npm", &["b", "c", "x", "x/a", "x/other-job"]);
    };
    are([("x/a", "cached"), ("b", "cached"), ("c", "changed"), ("x/other-job", "kept")]);
    // An exact hit is what the key promises, whenever it was written.
    assert_eq!(machine.job(&cache, nothing).0, "exact");
    are([("x/a", "cached"), ("b", "cached"), ("c", "cached"), ("x/other-job", "kept")]);
}

#[test]
fn an_exact_hit_below_home_never_has_the_files_of_another_key() {
    let machine = Machine::new();
    let cache = json!({ "key": "tool-{{ checksum \"lock\" }}", "restore-keys": "tool-", "paths": "~/.tool" });
    let tool = machine.sandbox.path("home/.tool/version");
    // Stored last is not made last.
    for (lock, hit, time) in
        [("2", "miss", 1_000_000_002), ("1", "partial", 1_000_000_009), ("2", "exact", 0), ("1", "exact", 0)]
    {
        machine.sandbox.write("lock", lock);
        let ran = machine.job(&cache, |sandbox| {
            if hit != "exact" {
                sandbox.write("../home/.tool/version", lock);
                set(&tool, None, time);
            }
        });
        assert_eq!((ran.0.as_str(), fs::read_to_string(&tool).unwrap().as_str()), (hit, lock), "{}", ran.1);
    }
}

#[test]
fn when_one_path_cannot_be_placed_the_others_stay_as_they_were() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ["a", "b", "~/.tool"] });
    machine.job(&cache, |sandbox| {
        sandbox.write("a/f", "cached");
        sandbox.write("b/f", "cached");
        sandbox.write("../home/.tool/f", "cached");
        for number in 0..50 {
            sandbox.write(format!("../home/.tool/n{number}"), "cached");
        }
        sandbox.write("../home/.tool/deep/er/f", "cached");
    });
    machine.clean();
    machine.sandbox.write("a/f", "old");
    // A file in place of a folder, which is not replaced.
    fs::remove_dir_all(machine.sandbox.path("home/.tool")).unwrap();
    fs::write(machine.sandbox.path("home/.tool"), "a file").unwrap();
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "miss" && log.contains("warning: a: ") && log.contains(".tool"), "{log}");
    assert_eq!(fs::read_to_string(machine.sandbox.work("a/f")).unwrap(), "old");
    machine.sandbox.assert_paths("work", &["a", "a/f"]);
    let strict = json!({ "key": "a", "paths": ["a", "b", "~/.tool"], "soft-fail": false });
    machine.pre(&strict, 6);
    // Nor is anything put in place where one cannot be, however deep.
    fs::remove_file(machine.sandbox.path("home/.tool")).unwrap();
    machine.sandbox.write("../home/.tool/deep/er", "a file");
    machine.sandbox.write("../home/.tool/f", "old");
    set(&machine.sandbox.path("home/.tool/f"), None, 1_000_000_000);
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "miss" && log.contains("deep/er` is a file or link here"), "{log}");
    assert!(log.contains("a: miss a"), "{log}");
    assert_eq!(fs::read_to_string(machine.sandbox.path("home/.tool/f")).unwrap(), "old");
    machine.sandbox.assert_paths("home/.tool", &["deep", "deep/er", "f"]);
    machine.sandbox.assert_paths("work", &["a", "a/f"]);
}

#[test]
fn a_link_in_the_way_is_neither_stored_nor_replaced_and_fails_no_job() {
    let machine = Machine::new();
    fs::create_dir_all(machine.sandbox.path("outside")).unwrap();
    machine.sandbox.write(".git/x", "");
    let strict = |paths: &[&str]| json!({ "key": "a", "paths": paths, "soft-fail": false });
    let cache = strict(&["deps", "more", "o/x", "p/x"]);
    // A link of the checkout, or of the job before, and nothing to be restored.
    symlink("../outside", machine.sandbox.work("o")).unwrap();
    symlink(".git", machine.sandbox.work("p")).unwrap();
    let (_, log) = machine.job(&cache, |sandbox| {
        sandbox.write("real/a", "");
        sandbox.write("more/a", "");
        symlink("real", sandbox.work("deps")).unwrap();
    });
    assert!(log.contains("warning: deps: `deps` is a link, and is left out"), "{log}");
    // The entry has nothing for the links.
    machine.sandbox.write("more/a", "changed");
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "exact" && !log.contains("warning"), "{log}");
    assert_eq!(fs::read_to_string(machine.sandbox.work("more/a")).unwrap(), "");
    assert!(fs::read_link(machine.sandbox.work("deps")).is_ok());

    // Now it has something.
    for (path, says) in [
        ("d", "`d` is a link"),
        ("e/x", "a link leads `e/x` out of the working folder"),
        ("f/x", "`f/x` is behind a link"),
    ] {
        let of = |soft: bool| json!({ "key": path, "paths": path, "soft-fail": soft });
        let link = path.split('/').next().unwrap();
        let leads_to = if link == "f" { ".git" } else { "../outside" };
        machine.job(&of(true), |sandbox| sandbox.write(path, "cached"));
        fs::remove_dir_all(machine.sandbox.work(link))
            .or_else(|_| fs::remove_file(machine.sandbox.work(link)))
            .unwrap();
        symlink(leads_to, machine.sandbox.work(link)).unwrap();
        let (hit, log) = machine.job(&of(true), nothing);
        assert!(hit == "miss" && log.contains(says) && log.contains("the entry has something for it"), "{log}");
        machine.pre(&of(false), 6).before.says("remove the link");
        assert!(fs::read_link(machine.sandbox.work(link)).is_ok());
    }
    assert_eq!(fs::read_dir(machine.sandbox.path("outside")).unwrap().count(), 0);
    machine.sandbox.assert_paths("work/.git", &["x"]);
}

/// The command may run where it sees less than the agent's user does.
#[test]
fn nothing_is_stored_from_where_a_link_of_the_command_leads() {
    let machine = Machine::new();
    machine.sandbox.write("../secret/x", "of the host");
    machine.sandbox.write("../secret/d/x", "of the host");
    machine.sandbox.write(".git/x", "of the repository");
    let cache = json!({ "key": "a", "paths": ["o/x", "o/d", "p/x", "q/x", "kept"] });
    let (_, log) = machine.job(&cache, |sandbox| {
        symlink("../secret", sandbox.work("o")).unwrap();
        symlink(sandbox.work(".git"), sandbox.work("p")).unwrap();
        symlink("real", sandbox.work("q")).unwrap();
        sandbox.write("real/x", "mine");
        sandbox.write("kept/x", "mine");
    });
    for says in ["`o/x` out of the working folder", "`o/d` out of the", "`p/x` into a git repository's own folder"] {
        assert!(log.contains(&format!("warning: x: a link leads {says}")), "{says}: {log}");
    }
    assert!(log.contains("x: stored a, 2 files"), "{log}");
    let cache = json!({ "key": "b", "paths": "o/x" });
    fs::remove_file(machine.sandbox.work("o")).unwrap();
    let (_, log) = machine.job(&cache, |sandbox| symlink("/etc", sandbox.work("o")).unwrap());
    assert!(log.contains("none of its paths is there") && !log.contains("stored b"), "{log}");
}

/// The name of the working folder leads elsewhere then, and so do all paths in it.
#[test]
fn nothing_is_stored_when_another_folder_is_in_the_working_folders_place() {
    let machine = Machine::new();
    machine.sandbox.write("../secret/deps/x", "of the host");
    let cache = json!({ "key": "a", "paths": "deps" });
    for is_link in [true, false] {
        let (_, log) = machine.job(&cache, |sandbox| {
            fs::rename(sandbox.work(""), sandbox.path(format!("moved-{is_link}"))).unwrap();
            match is_link {
                true => symlink("secret", sandbox.path("work")).unwrap(),
                false => sandbox.write("deps/x", "of another folder"),
            }
        });
        assert!(log.contains("warning: another folder is in the place of the working folder"), "{log}");
        assert!(!log.contains("stored a") && machine.entries() == 0, "{log}");
        if is_link {
            fs::remove_file(machine.sandbox.path("work")).unwrap();
            fs::create_dir(machine.sandbox.path("work")).unwrap();
        }
    }
    let (_, log) = machine.job(&cache, nothing);
    assert!(log.contains("stored a"), "{log}");
}

#[test]
fn links_below_home_are_followed_only_where_they_led_before_the_command() {
    let machine = Machine::new();
    machine.sandbox.write("../home/.ssh/id", "of the host");
    machine.sandbox.write("../home/.ssh/sub/id", "of the host");
    let cache = json!({ "key": "a", "paths": ["~/.tool/cache", "~/.up/sub", "deps"] });
    let (_, log) = machine.job(&cache, |sandbox| {
        sandbox.write("deps/a", "mine");
        fs::create_dir(sandbox.path("home/.tool")).unwrap();
        symlink("../.ssh", sandbox.path("home/.tool/cache")).unwrap();
        symlink(".ssh", sandbox.path("home/.up")).unwrap();
    });
    assert!(log.contains("`~/.tool/cache` is a link, and is left out"), "{log}");
    assert!(log.contains("a link leads `~/.up/sub` elsewhere than before the command, and it is left out"), "{log}");
    assert!(log.contains("cache: stored a, 1 file,"), "{log}");

    // Nor is anything put where the link of a job before leads.
    let own = json!({ "key": "b", "paths": "~/.own/cache" });
    machine.job(&own, |sandbox| sandbox.write("../home/.own/cache/planted", ""));
    fs::remove_dir_all(machine.sandbox.path("home/.own/cache")).unwrap();
    symlink("../.ssh", machine.sandbox.path("home/.own/cache")).unwrap();
    let (hit, log) = machine.job(&own, nothing);
    assert!(hit == "miss" && log.contains("`~/.own/cache` is a link, and the entry has something for it"), "{log}");
    machine.sandbox.assert_paths("home/.ssh", &["id", "sub", "sub/id"]);
    // One that leads nowhere fails no job.
    let broken = json!({ "key": "c", "paths": "~/.broken/cache" });
    symlink("nowhere", machine.sandbox.path("home/.broken")).unwrap();
    machine.job(&broken, nothing);

    // Whoever owns the machine has put a folder of `~` elsewhere.
    fs::create_dir_all(machine.sandbox.path("data")).unwrap();
    symlink("../data", machine.sandbox.path("home/.large")).unwrap();
    let large = json!({ "key": "d", "paths": "~/.large/tool" });
    let (_, log) = machine.job(&large, |sandbox| sandbox.write("../data/tool/a", ""));
    assert!(!log.contains("warning"), "{log}");
    fs::remove_dir_all(machine.sandbox.path("data/tool")).unwrap();
    assert_eq!(machine.job(&large, nothing).0, "exact");
    machine.sandbox.assert_paths("data", &["tool", "tool/a"]);
}

#[test]
fn a_link_that_the_command_left_makes_no_mistake_of_a_configuration() {
    let machine = Machine::new();
    let cache =
        json!([{ "id": "x", "key": "a", "paths": "v1/cache" }, { "id": "y", "key": "a", "paths": "current/cache" }]);
    machine.job(&cache, |sandbox| {
        sandbox.write("v1/cache/f", "");
        symlink("v1", sandbox.work("current")).unwrap();
    });
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "exact" && !log.contains("error"), "{log}");
    assert!(machine.sandbox.work("v1/cache/f").exists());
}

#[test]
fn a_link_that_leads_out_of_what_is_stored_is_no_warning() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ".venv" });
    let (_, log) = machine.job(&cache, |sandbox| {
        sandbox.write(".venv/lib/x", "");
        symlink("/usr/bin/python3", sandbox.work(".venv/python")).unwrap();
    });
    assert!(log.contains("venv: 1 symbolic link leads out of the tree"), "{log}");
    assert!(!log.contains("warning") && !log.contains("+++"), "{log}");
    machine.clean();
    let (hit, log) = machine.job(&cache, nothing);
    assert!(hit == "exact" && !log.contains("warning"), "{log}");
}

#[test]
fn what_is_in_the_way_is_told_in_the_words_of_the_block() {
    let machine = Machine::new();
    for (path, says) in [
        ("folder", "`folder` is a file here, and a folder in the entry"),
        ("file", "`file` is a folder with something in it here, and a file in the entry"),
    ] {
        let cache = json!({ "key": "a", "paths": path });
        machine.job(&cache, |sandbox| sandbox.write(if path == "file" { "file" } else { "folder/x" }, ""));
        machine.clean();
        machine.sandbox.write(if path == "file" { "file/x" } else { "folder" }, "");
        let (hit, log) = machine.job(&cache, nothing);
        assert!(hit == "miss" && log.contains(says), "{log}");
        assert!(!log.contains("artifact") && !log.contains("--target"), "{log}");
    }
    if crate::harness::is_root() {
        println!("SKIPPED: permissions do not bind root");
        return;
    }
    machine.clean();
    let (_, log) = machine.job(&json!({ "key": "b", "paths": "b" }), |sandbox| {
        fs::create_dir_all(sandbox.work("b/x")).unwrap();
        set(&sandbox.work("b/x"), Some(0), 1_000_000_000);
    });
    set(&machine.sandbox.work("b/x"), Some(0o755), 1_000_000_000);
    assert!(log.contains("b`: cannot read `x`"), "{log}");
}

#[test]
fn what_is_not_there_is_left_out_and_nothing_is_no_entry() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ["deps", "absent"] });
    let (_, log) = machine.job(&cache, nothing);
    assert!(log.contains("warning: absent: nothing is stored") || log.contains("deps: nothing is stored"), "{log}");
    assert_eq!(machine.entries(), 0);
    let (_, log) = machine.job(&cache, |sandbox| sandbox.write("deps/a", ""));
    assert!(log.contains("`absent` is not there, and is left out") && log.contains("stored a"), "{log}");
    machine.clean();
    machine.sandbox.write("absent/kept", "");
    assert_eq!(machine.job(&cache, nothing).0, "exact");
    machine.sandbox.assert_paths("work", &["absent", "absent/kept", "deps", "deps/a"]);
}

#[test]
fn places_that_are_never_replaced_fail_the_job_before_the_command() {
    let machine = Machine::new();
    fs::create_dir_all(machine.sandbox.work("repo/.git")).unwrap();
    for (path, says) in [
        (".git/x", "git repository's own folder"),
        ("repo", "holds a git repository"),
        ("~/.cache", "holds the cache, the store or the remote"),
        ("~/.cache/monofo/keyed/x", "lies in the cache, the store or the remote"),
    ] {
        let ran = machine.pre(&json!({ "key": "a", "paths": path }), 6).before;
        assert!(ran.stderr.contains(says), "{path}: {}", ran.stderr);
    }
}

#[test]
fn paths_mean_after_the_command_what_they_meant_before() {
    let mut machine = Machine::new();
    let cache = json!({ "key": "a", "paths": ["deps", "~/.tool"] });
    let job = machine.pre(&cache, 0);
    machine.sandbox.write("deps/a", "");
    machine.sandbox.write("../home/.tool/a", "");
    // A command hook may leave the hooks after it another folder and another HOME.
    machine.sandbox.write("sub/deps/wrong", "");
    fs::create_dir_all(machine.sandbox.path("other")).unwrap();
    let run = machine.hook("post-command", &job.configuration).env("BUILDKITE_COMMAND_EXIT_STATUS", "0");
    let run = run.within(machine.sandbox.work("sub")).env("HOME", machine.sandbox.path("other").to_str().unwrap());
    job.exports.iter().fold(run, |run, (name, value)| run.env(name, value)).exits(0).says("2 files");
    machine.clean();
    assert_eq!(machine.job(&cache, nothing).0, "exact");
    machine.sandbox.assert_paths("work", &["deps", "deps/a"]);

    let job = machine.pre(&json!({ "key": "b", "paths": "deps" }), 0);
    fs::rename(machine.sandbox.work(""), machine.sandbox.path("gone")).unwrap();
    let run = machine.hook("post-command", &job.configuration).env("BUILDKITE_COMMAND_EXIT_STATUS", "0");
    let run = run.within(machine.sandbox.path("gone"));
    job.exports.iter().fold(run, |run, (name, value)| run.env(name, value)).exits(0).says("is gone");
    fs::create_dir(machine.sandbox.work("")).unwrap();

    machine.set(&[("HOME", "")]);
    let said = machine.pre(&json!({ "key": "b", "paths": "deps" }), 0).before.stderr;
    assert_eq!(said.matches("warning: the cache lies in the checkout").count(), 1, "{said}");
}

#[test]
fn a_cache_or_remote_in_the_checkout_is_told_and_what_is_no_folder_is_refused() {
    let cache = json!({ "key": "b", "paths": "deps" });
    for (name, value, says) in [
        ("MONOFO_CACHE_DIR", "kept/here", "MONOFO_CACHE_DIR names a folder in it"),
        ("MONOFO_CACHE_DIR", "../beside", ""),
        ("MONOFO_REMOTE", "my-bucket", "MONOFO_REMOTE is the folder `my-bucket` in the checkout"),
        ("MONOFO_REMOTE", "../remote", ""),
    ] {
        let machine = Machine::with(&[(name, value)]);
        let said = machine.pre(&cache, 0).before.stderr;
        match says {
            "" => assert!(!said.contains("warning"), "{value}: {said}"),
            says => assert_eq!(said.matches(says).count(), 1, "{value}: {said}"),
        }
    }
    for (name, value) in [
        ("MONOFO_CACHE_DIR", "~/mcache"),
        ("MONOFO_REMOTE", "~/remote"),
        ("MONOFO_REMOTE", "user:hunter2@host:/x"),
        ("MONOFO_REMOTE", "https:/u:hunter2@h/x"),
    ] {
        let machine = Machine::with(&[(name, value)]);
        let said = machine.pre(&cache, 2).before.says(name).stderr;
        assert!(!said.contains("hunter2"), "{said}");
        machine.sandbox.assert_paths("work", &[]);
    }
}

#[test]
fn jobs_of_one_machine_may_restore_below_home_at_once() {
    let machine = Machine::new();
    let cache = json!({ "key": "a", "paths": "~/.tool", "soft-fail": false });
    machine.job(&cache, |sandbox| {
        for number in 0..300 {
            sandbox.write(format!("../home/.tool/{}/{}/f{number}", number % 7, number % 3), number.to_string());
        }
    });
    let before = walk(&machine.sandbox.path("home/.tool"));
    for emptied in [true, false] {
        if emptied {
            fs::remove_dir_all(machine.sandbox.path("home/.tool")).unwrap();
        }
        let configuration = json!({ "cache": cache });
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| machine.hook("pre-command", &configuration).exits(0).says("exact hit"));
            }
        });
        let mut after = walk(&machine.sandbox.path("home/.tool"));
        // Folders that were merged into have the time of that.
        for (path, node) in &mut after {
            if node.kind == 'd' {
                (node.mtime, node.mtime_nanos) = (before[path].mtime, before[path].mtime_nanos);
            } else {
                node.mtime_nanos = before[path].mtime_nanos;
            }
        }
        crate::harness::assert_same(&before, &after, "what is below home");
    }
}
