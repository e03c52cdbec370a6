//! Entries of the cache: by age, by size, on demand; and what crashes leave.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::entries::{DAY, Sentinels, age, artifact, entries, json, payload, sha256, workspace};
use crate::harness::{Sandbox, assert_same, set, walk};

/// A cache with these components, each used so many seconds ago; their metadata, by component.
pub(super) fn cache(used: &[(&str, u64)]) -> (Sandbox, Vec<PathBuf>) {
    let sandbox = Sandbox::new();
    let mut all = Vec::new();
    for (name, _) in used {
        artifact(&sandbox, name, name);
        let document = json(&sandbox, &["cache", "build", name, "--source", name], 0);
        all.push(entries(&sandbox.work(".meta-cache"))[document["key"].as_str().unwrap()].clone());
    }
    for ((_, seconds), metadata) in used.iter().zip(&all) {
        age(metadata, *seconds);
    }
    (sandbox, all)
}

pub(super) fn removed(document: &Value) -> Vec<&str> {
    document["cache"]["removed"].as_array().unwrap().iter().map(|one| one["component"].as_str().unwrap()).collect()
}

/// Bytes on disk below a folder, each inode once.
fn disk(sandbox: &Sandbox) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let root = sandbox.work(".meta-cache");
    let mut seen = std::collections::BTreeSet::new();
    let counted = walk(&root).into_keys().filter_map(|path| {
        let status = fs::symlink_metadata(crate::harness::join(&root, &path)).unwrap();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        let ours = name.len() == 64 || name.windows(5).any(|part| part == b"metad" || part == b"paylo");
        (ours && seen.insert(status.ino())).then(|| status.blocks() * 512)
    });
    counted.sum()
}

#[test]
fn entries_go_by_age_and_what_is_within_the_grace_stays() {
    for (args, expected) in [
        (&["gc", "cache"][..], &["old", "older"][..]),
        (&["gc", "cache", "--max-age", "5"], &["old", "older", "week"]),
        (&["gc", "cache", "--max-age", "5d"], &["old", "older", "week"]),
        (&["gc", "cache", "--max-age", "2h"], &["day", "old", "older", "week"]),
        (&["gc", "cache", "--max-age", "0"], &["day", "old", "older", "week"]),
        (&["gc", "cache", "--max-age", "0", "--grace", "0"], &["day", "minute", "old", "older", "week"]),
        (&["gc", "cache", "--max-age", "100d"], &["older"]),
        (&["gc", "cache", "--max-age", "1000d"], &[]),
    ] {
        let (sandbox, _) =
            cache(&[("older", 200 * DAY), ("minute", 60), ("week", 7 * DAY), ("old", 40 * DAY), ("day", DAY)]);
        let dry = json(&sandbox, &[args, &["--dry-run"]].concat(), 0);
        let before = disk(&sandbox);
        let real = json(&sandbox, args, 0);
        let mut names = removed(&real);
        names.sort_unstable();
        assert_eq!(names, expected, "{args:?}");
        assert_eq!(
            (removed(&dry), &dry["cache"]["freed_bytes"]),
            (removed(&real), &real["cache"]["freed_bytes"]),
            "{args:?}"
        );
        let files = before - disk(&sandbox);
        assert!(real["cache"]["freed_bytes"].as_u64().unwrap() >= files, "{args:?}");
        assert_eq!(entries(&sandbox.work(".meta-cache")).len(), 5 - expected.len());
        assert_eq!(removed(&json(&sandbox, args, 0)).len(), 0, "a second time there is nothing left to do");
    }
}

#[test]
fn over_a_size_what_was_used_longest_ago_goes_first_with_ties_by_name() {
    let used = [("a", 3 * DAY), ("b", 2 * DAY), ("c", 2 * DAY), ("d", DAY), ("e", 60)];
    let (sandbox, all) = cache(&used);
    let moment = fs::metadata(&all[1]).unwrap().modified().unwrap();
    File::open(&all[2]).unwrap().set_modified(moment).unwrap();
    let tied = if all[1] < all[2] { ["b", "c"] } else { ["c", "b"] };
    let order = ["a", tied[0], tied[1], "d"];
    // They count as well, and go by ways of their own.
    fs::remove_dir_all(sandbox.work(".meta-cache/facts")).unwrap();
    let whole = disk(&sandbox);
    let mut left = whole;
    for (count, name) in order.iter().enumerate() {
        let limit = (left - 1).to_string();
        let gone = json(&sandbox, &["gc", "cache", "--dry-run", "--max-size", &limit], 0);
        assert_eq!(removed(&gone), order[..=count], "{name}");
        let metadata = &all[used.iter().position(|(known, _)| known == name).unwrap()];
        use std::os::unix::fs::MetadataExt;
        let payload = payload(metadata);
        let files = [metadata.as_path(), payload.as_path(), payload.parent().unwrap()];
        left -= files.iter().map(|file| 512 * fs::metadata(file).unwrap().blocks()).sum::<u64>();
    }
    assert_eq!(removed(&json(&sandbox, &["gc", "cache", "--max-size", &whole.to_string()], 0)).len(), 0);
    assert_eq!(
        removed(&json(&sandbox, &["gc", "cache", "--max-size", "0"], 0)),
        order,
        "the youngest is within the grace"
    );
    assert_eq!(removed(&json(&sandbox, &["gc", "cache", "--max-size", "0", "--grace", "0"], 0)), ["e"]);
    for wrong in [["--max-size", "x"], ["--max-size", "-1"], ["--max-age", "soon"], ["--grace", "1y2"]] {
        sandbox.monofo([&["gc", "cache"][..], &wrong].concat()).exits(2);
    }
}

#[test]
fn a_dry_run_changes_nothing_at_all() {
    let (sandbox, _) = cache(&[("a", 100 * DAY), ("b", 1)]);
    fs::create_dir(sandbox.work(".meta-cache/tmp/0123456789abcdef")).unwrap();
    let before = walk(&sandbox.work(".meta-cache"));
    sandbox.monofo(["gc", "all", "--dry-run", "--grace", "0"]).exits(0);
    sandbox.monofo(["cache", "invalidate", "--all", "--dry-run"]).exits(0).says("would remove 2");
    let mut after = walk(&sandbox.work(".meta-cache"));
    after.get_mut(&b"tmp"[..]).unwrap().clone_from(&before[&b"tmp"[..]]);
    assert_same(&before, &after, "a dry run");
}

#[test]
fn what_is_being_read_stays_and_goes_once_it_is_let_go() {
    let (sandbox, all) = cache(&[("a", 100 * DAY), ("b", 100 * DAY)]);
    let reader = File::open(&all[0]).unwrap();
    flock(&reader, FlockOperation::NonBlockingLockShared).unwrap();
    let document = json(&sandbox, &["gc", "cache"], 0);
    assert_eq!(removed(&document), ["b"]);
    assert_eq!(document["cache"]["kept"][0]["reason"], "in use");
    drop(reader);
    let writer =
        File::open(all[0].with_file_name(all[0].file_name().unwrap().to_str().unwrap().split('.').next().unwrap()))
            .unwrap();
    flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(removed(&json(&sandbox, &["gc", "cache"], 0)).is_empty(), "what is being written stays, too");
    // A get waits for neither.
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).at_most(10).exits(0);
    drop(writer);
    age(&all[0], 100 * DAY);
    assert_eq!(removed(&json(&sandbox, &["gc", "cache"], 0)), ["a"]);
}

#[test]
fn a_get_keeps_an_entry_young() {
    let (sandbox, all) = cache(&[("a", 100 * DAY)]);
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(0);
    assert!(fs::metadata(&all[0]).unwrap().modified().unwrap().elapsed().unwrap() < Duration::from_secs(100));
    assert!(removed(&json(&sandbox, &["gc", "cache", "--grace", "0"], 0)).is_empty());
}

#[test]
fn clocks_that_jump_remove_nothing_that_lives() {
    let (sandbox, all) = cache(&[("future", 0), ("ancient", 0), ("now", 0)]);
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    set(&all[0], None, now + 400 * i64::try_from(DAY).unwrap());
    set(&all[1], None, 0);
    // The last gc lies in the future: the clock was set back.
    let usage = sandbox.work(".meta-cache/counters/usage");
    let counted = fs::read_to_string(&usage).unwrap();
    fs::write(&usage, format!("{counted}{} gc 0\n", now + 10 * 86_400)).unwrap();
    let ran = sandbox.monofo(["gc", "cache", "--dry-run"]).exits(0).says("clock");
    assert!(ran.stdout.contains("would remove 0 of 3"), "{}", ran.stdout);
    fs::write(&usage, counted).unwrap();
    assert_eq!(removed(&json(&sandbox, &["gc", "cache"], 0)), ["ancient"]);
    assert_eq!(removed(&json(&sandbox, &["gc", "cache", "--max-size", "0", "--grace", "0"], 0)).len(), 2);
}

#[test]
fn names_that_are_none_of_ours_and_entries_of_later_versions_stay() {
    let (sandbox, all) = cache(&[("a", 100 * DAY)]);
    let root = sandbox.work(".meta-cache");
    let newer = sha256(b"newer");
    let shard = root.join(&newer[..2]);
    fs::create_dir_all(shard.join(&newer)).unwrap();
    fs::write(shard.join(format!("{newer}.metadata.json")), "{\"schema\":\"meta.cache-entry/2\"}").unwrap();
    fs::write(shard.join(&newer).join("payload"), "of a later version").unwrap();
    age(&shard.join(format!("{newer}.metadata.json")), 900 * DAY);
    let ours = all[0].parent().unwrap();
    for foreign in [
        root.join("lost+found/x"),
        root.join("notes.txt"),
        root.join("zz/x"),
        root.join("tmp/mine/x"),
        root.join("tmp/0123456789ABCDEF"),
        root.join("quarantine/mine/x"),
        ours.join("notes~"),
        ours.join(".nfs0001"),
        ours.join("0123.metadata.json"),
        root.join("ab/short"),
        ours.join(format!("{}.metadata.json.bak", sha256(b"x"))),
        root.join(format!("00/{}", "f".repeat(64))),
    ] {
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        fs::write(&foreign, "foreign").unwrap();
        age(&foreign, 900 * DAY);
        age(foreign.parent().unwrap(), 900 * DAY);
    }
    let foreign = |root: &std::path::Path| -> std::collections::BTreeMap<_, _> {
        walk(root)
            .into_iter()
            .filter(|(path, node)| {
                node.kind == 'f' && (node.size == 7 || path.windows(64).any(|part| part == newer.as_bytes()))
            })
            .collect()
    };
    let before = foreign(&root);
    assert_eq!(before.len(), 14);
    for args in [
        &["gc", "all", "--grace", "0"][..],
        &["gc", "cache", "--max-size", "0", "--grace", "0"],
        &["cache", "verify"],
        &["cache", "invalidate", "--all"],
    ] {
        sandbox.monofo(args).exits(0);
        assert_same(&before, &foreign(&root), &args.join(" "));
    }
    assert!(!all[0].exists());
    assert_eq!(json(&sandbox, &["cache", "stats"], 0)["newer_format"], 1);
}

#[test]
fn a_folder_that_is_no_cache_is_neither_cleaned_nor_invalidated_nor_written_to() {
    let sandbox = workspace();
    let sentinels = Sentinels::place(&sandbox);
    fs::write(sandbox.path("outside/tmp"), "").unwrap();
    let _ = fs::remove_file(sandbox.path("outside/tmp"));
    let other = sandbox.path("outside").to_str().unwrap().to_owned();
    for args in [
        &["gc", "cache"][..],
        &["gc", "all"],
        &["cache", "invalidate", "--all"],
        &["cache", "build", "a", "--source", "out"],
        &["cache", "get", "a", "--target", "got"],
        &["cache", "list"],
        &["cache", "stats"],
        &["cache", "verify"],
        &["cache", "key", "a"],
    ] {
        sandbox.monofo(args).env("MONOFO_CACHE_DIR", &other).exits(6).says("no cache of ours");
        sentinels.check(&args.join(" "));
    }
    fs::create_dir(sandbox.path("store")).unwrap();
    fs::write(sandbox.path("store/FORMAT"), "meta-store 1\n").unwrap();
    sandbox.monofo(["gc", "cache"]).env("MONOFO_CACHE_DIR", sandbox.path("store").to_str().unwrap()).exits(6);
    fs::write(sandbox.path("store/FORMAT"), "meta-cache 2\n").unwrap();
    sandbox
        .monofo(["gc", "cache"])
        .env("MONOFO_CACHE_DIR", sandbox.path("store").to_str().unwrap())
        .exits(6)
        .says("meta-cache 2");
    // Nor is one whose tmp leads elsewhere.
    let (sandbox, _) = cache(&[("a", 0)]);
    let sentinels = Sentinels::place(&sandbox);
    fs::remove_dir_all(sandbox.work(".meta-cache/tmp")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("outside"), sandbox.work(".meta-cache/tmp")).unwrap();
    sandbox.monofo(["gc", "cache", "--grace", "0"]).exits(0);
    sentinels.check("a link in place of tmp");
}

#[test]
fn invalidation_takes_one_component_one_key_or_all() {
    let (sandbox, all) = cache(&[("a", 0), ("b", 0), ("c", 0)]);
    let key = |metadata: &PathBuf| metadata.file_name().unwrap().to_str().unwrap()[..64].to_owned();
    for wrong in [&[][..], &["--all", "--component", "a"], &["--key", "abcdef", "--all"]] {
        sandbox.monofo([&["cache", "invalidate"][..], wrong].concat()).exits(2);
    }
    sandbox.monofo(["cache", "invalidate", "--component", "none"]).exits(0).says("removed 0");
    sandbox.monofo(["cache", "invalidate", "--key", &"0".repeat(64)]).exits(3);
    sandbox.monofo(["cache", "invalidate", "--component", "a"]).exits(0).says("removed 1");
    sandbox.monofo(["cache", "invalidate", "--key", &key(&all[1])[..12]]).exits(0);
    assert_eq!(entries(&sandbox.work(".meta-cache")).into_values().collect::<Vec<_>>(), [all[2].clone()]);
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(3);
    sandbox.monofo(["cache", "get", "c", "--target", "got"]).exits(0);
    assert_eq!(json(&sandbox, &["cache", "invalidate", "--all"], 0)["removed"].as_array().unwrap().len(), 1);
    sandbox.monofo(["cache", "invalidate", "--all"]).exits(0);
    assert!(sandbox.work(".meta-cache/FORMAT").exists());
}

/// Starts a command and kills it as soon as something of it lies in `tmp`. False when it was too quick.
fn kill_in_the_middle(sandbox: &Sandbox, args: &[&str]) -> bool {
    let mut child: Child = Command::new(env!("CARGO_BIN_EXE_monofo"))
        .args(args)
        .current_dir(sandbox.work(""))
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let tmp = sandbox.work(".meta-cache/tmp");
    loop {
        let staged = fs::read_dir(&tmp).map_or(0, Iterator::count) > 0;
        if staged || child.try_wait().unwrap().is_some() || started.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    fs::read_dir(&tmp).map_or(0, Iterator::count) > 0
}

#[test]
fn what_killed_processes_leave_goes_with_the_next_gc_and_nothing_else() {
    let sandbox = workspace();
    for file in 0..300 {
        sandbox.write(format!("big/{file}"), vec![b'x'; 20_000]);
    }
    sandbox.monofo(["cache", "build", "a", "--source", "big"]).exits(0);
    sandbox.write("target/old", "old");
    let beside = || {
        let names =
            fs::read_dir(sandbox.work("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".monofo-restore-")).count()
    };
    let mut left = [0; 2];
    for _ in 0..10 {
        left[0] += usize::from(kill_in_the_middle(&sandbox, &["cache", "get", "a", "--target", "target"]));
        let target: Vec<_> = walk(&sandbox.work("target")).into_keys().collect();
        assert!(target == [b"old".to_vec()] || target.len() == 300, "{target:?}");
        let debris = beside();
        let told = json(&sandbox, &["gc", "cache"], 0);
        assert_eq!(beside(), 0, "of {debris} folders beside the target");
        assert_eq!(fs::read_dir(sandbox.work(".meta-cache/tmp")).unwrap().count(), 0, "{told:#}");
        sandbox.write("big/changed", format!("{:?}", Instant::now()));
        left[1] += usize::from(kill_in_the_middle(&sandbox, &["cache", "build", "a", "--source", "big"]));
        sandbox.monofo(["gc", "cache"]).exits(0);
        assert_eq!(fs::read_dir(sandbox.work(".meta-cache/tmp")).unwrap().count(), 0);
        sandbox.monofo(["cache", "verify"]).exits(0);
    }
    assert!(left[0] > 0 && left[1] > 0, "no kill came in the middle, so nothing was tested: {left:?}");
    assert_eq!(entries(&sandbox.work(".meta-cache")).len(), 1);
    sandbox.monofo(["cache", "build", "a", "--source", "big"]).exits(0);
    sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(0);
}

#[test]
fn quarantine_goes_after_a_week_and_staging_that_is_held_stays() {
    let (sandbox, all) = cache(&[("a", 0)]);
    fs::remove_file(payload(&all[0])).unwrap();
    sandbox.monofo(["cache", "verify"]).exits(7);
    let quarantine = sandbox.work(".meta-cache/quarantine");
    let aside = fs::read_dir(&quarantine).unwrap().next().unwrap().unwrap().path();
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert!(aside.exists());
    age(&aside, 8 * DAY);
    let held = sandbox.work(".meta-cache/tmp/00000000000000ff");
    fs::create_dir(&held).unwrap();
    let lock = File::open(&held).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert!(!aside.exists() && held.exists());
    drop(lock);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert!(!held.exists());
}
