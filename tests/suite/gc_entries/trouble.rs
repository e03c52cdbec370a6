//! gc where something is in its way: a full disk, what cannot be removed, somebody who holds a lock, a clock that was wrong.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use monofo::cancel::Cancel;
use monofo::engine::entries::gc::{GcRequest, References, collect};
use monofo::entry::{Home, HomeKind};
use monofo::error::{Class, Error};
use rustix::fs::{FlockOperation, flock};

use super::cache::{cache, removed};
use super::store::{gone, store};
use crate::entries::{DAY, age, artifact, entries, json, manifest, payload, workspace};
use crate::harness::{Sandbox, assert_same, set, walk};

fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A small file system of its own, until this is dropped.
struct Small(PathBuf);

impl Small {
    fn mount(place: &Path) -> Option<Small> {
        fs::create_dir_all(place).unwrap();
        let mounted = works("mount", &["-t", "tmpfs", "-o", "size=4m,nr_inodes=400", "tmpfs", place.to_str().unwrap()]);
        if !mounted {
            println!("SKIPPED: nothing can be mounted here");
        }
        mounted.then(|| Small(place.to_owned()))
    }

    /// Leaves no room for another file or folder.
    fn fill(&self) {
        let full = (0..1000).find(|number| fs::write(self.0.join(format!("fill-{number}")), "").is_err());
        assert!(full.is_some() && fs::create_dir(self.0.join("folder")).is_err(), "there is room left");
    }

    fn free(&self) -> u64 {
        let status = rustix::fs::statvfs(&self.0).unwrap();
        status.f_bfree * status.f_frsize
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        works("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// A file that not even root removes, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn make(path: &Path) -> Option<Immutable> {
        let made = works("chattr", &["+i", path.to_str().unwrap()]);
        if !made {
            println!("SKIPPED: files cannot be made immutable here");
        }
        made.then(|| Immutable(path.to_owned()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let cache = self.0.ancestors().find(|folder| folder.join("FORMAT").exists()).unwrap();
        works("chattr", &["-R", "-i", cache.to_str().unwrap()]);
    }
}

#[test]
fn on_a_full_disk_entries_can_be_removed_and_what_is_said_to_be_freed_is() {
    let sandbox = workspace();
    let Some(disk) = Small::mount(&sandbox.work(".meta-cache")) else { return };
    let build = |sandbox: &Sandbox| {
        for name in ["a", "b", "c"] {
            artifact(sandbox, name, name);
            let made = sandbox.monofo(["cache", "build", name, "--source", name, "--input", "out/data"]);
            made.env("MONOFO_GC_AUTO", "0").exits(0);
        }
        for metadata in entries(&sandbox.work(".meta-cache")).values() {
            age(metadata, 100 * DAY);
        }
        // The line that gc counts itself with needs no more room.
        fs::create_dir_all(sandbox.work(".meta-cache/counters")).unwrap();
        fs::write(sandbox.work(".meta-cache/counters/usage"), "1 miss 0\n").unwrap();
        disk.fill();
    };
    manifest(&sandbox, "  a: {version: v1}\n  b: {version: v1}\n  c: {version: v1}\n");
    for name in ["b", "c"] {
        sandbox.write(format!("components/{name}/main.c"), name);
    }
    build(&sandbox);
    let before = disk.free();
    let told = json(&sandbox, &["gc", "cache", "--grace", "0"], 0);
    assert_eq!(removed(&told).len(), 3, "{told:#}");
    assert_eq!(told["cache"]["freed_bytes"].as_u64().unwrap(), disk.free() - before);
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
    for file in fs::read_dir(&disk.0).unwrap().map(|file| file.unwrap()) {
        if file.file_name().to_str().unwrap().starts_with("fill-") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    build(&sandbox);
    let told = json(&sandbox, &["cache", "invalidate", "--all"], 0);
    assert_eq!(told["removed"].as_array().unwrap().len(), 3);
    assert!(entries(&sandbox.work(".meta-cache")).is_empty());
    assert_eq!(fs::read_dir(sandbox.work(".meta-cache/tmp")).unwrap().count(), 0);
}

#[test]
fn on_a_full_disk_artifacts_leftovers_of_generations_and_orphans_go_from_the_store() {
    let (sandbox, old, new) = store();
    let kept = sandbox.path("kept");
    fs::rename(sandbox.work(".meta-store"), &kept).unwrap();
    let Some(disk) = Small::mount(&sandbox.work(".meta-store")) else { return };
    assert!(works("cp", &["-a", &format!("{}/.", kept.display()), disk.0.to_str().unwrap()]));
    fs::create_dir_all(disk.0.join("profiles/prod/gen-7")).unwrap();
    let orphan = disk.0.join(format!("ab/{}", "ab".repeat(32)));
    fs::create_dir_all(&orphan).unwrap();
    disk.fill();
    assert_eq!(gone(&sandbox), [old]);
    assert!(!disk.0.join("profiles/prod/gen-7").exists() && !orphan.exists());
    assert_eq!(entries(&disk.0).into_keys().collect::<Vec<_>>(), [new]);
}

#[test]
fn without_a_folder_to_move_them_to_entries_go_where_they_lie() {
    let (sandbox, _) = cache(&[("a", 100 * DAY), ("b", 1)]);
    fs::remove_dir_all(sandbox.work(".meta-cache/tmp")).unwrap();
    let orphan = sandbox.work(format!(".meta-cache/ab/{}", "ab".repeat(32)));
    fs::create_dir_all(orphan.join("deep")).unwrap();
    assert_eq!(removed(&json(&sandbox, &["gc", "cache"], 0)), ["a"]);
    assert!(!orphan.exists());
    assert_eq!(json(&sandbox, &["cache", "invalidate", "--all"], 0)["removed"].as_array().unwrap().len(), 1);
    assert!(walk(&sandbox.work(".meta-cache")).into_keys().all(|path| {
        !path
            .windows(64)
            .any(|part| part.is_ascii() && part.iter().all(u8::is_ascii_hexdigit) && !path.starts_with(b"facts"))
    }));
}

#[test]
fn a_leftover_that_cannot_be_removed_keeps_no_entry_from_going() {
    let (sandbox, _) = cache(&[("a", 100 * DAY), ("b", 1)]);
    let aside = sandbox.work(format!(".meta-cache/quarantine/{}-0123456789abcdef", "ab".repeat(32)));
    for folder in [sandbox.work(".meta-cache/tmp/0123456789abcdef"), aside.clone()] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("stuck"), "").unwrap();
    }
    age(&aside, 8 * DAY);
    let Some(_stuck) = Immutable::make(&sandbox.work(".meta-cache/tmp/0123456789abcdef/stuck")) else { return };
    let Some(_too) = Immutable::make(&aside.join("stuck")) else { return };
    let told = sandbox.monofo(["gc", "cache"]).exits(0).says("tmp/0123456789abcdef").says("quarantine/");
    assert!(told.stdout.contains("removed 1 of 2 entries"), "{}", told.stdout);
}

#[test]
fn an_entry_that_cannot_be_removed_keeps_no_other_from_going_and_is_told_with_status_1() {
    let (sandbox, all) = cache(&[("a", 102 * DAY), ("b", 101 * DAY), ("c", 100 * DAY)]);
    let Some(_stuck) = Immutable::make(&all[0]) else { return };
    let told = json(&sandbox, &["gc", "cache"], 1);
    assert_eq!(removed(&told), ["b", "c"]);
    assert_eq!(told["cache"]["kept"][0]["reason"], "could not be removed");
    assert!(told["cache"]["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(json(&sandbox, &["cache", "stats"], 0)["last_gc"]["freed_bytes"], told["cache"]["freed_bytes"]);
    artifact(&sandbox, "b", "b");
    sandbox.monofo(["cache", "build", "b", "--source", "b"]).exits(0);
    let told = json(&sandbox, &["cache", "invalidate", "--all"], 1);
    assert_eq!(told["removed"].as_array().unwrap().len(), 1, "{told:#}");
}

#[test]
fn content_that_cannot_be_removed_is_told_and_the_entry_is_gone() {
    let (sandbox, all) = cache(&[("a", 101 * DAY), ("b", 100 * DAY)]);
    let Some(_stuck) = Immutable::make(&payload(&all[0])) else { return };
    let told = sandbox.monofo(["--json", "gc", "cache"]).exits(0).says("stays");
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(removed(&told), ["a", "b"]);
    assert!(!all[0].exists());
}

fn request() -> GcRequest {
    GcRequest {
        grace: Duration::ZERO,
        max_age: Some(DAY_TIME),
        max_size: None,
        dry_run: false,
        within: None,
        now: SystemTime::now(),
    }
}

const DAY_TIME: Duration = Duration::from_secs(DAY);

#[test]
fn what_was_removed_before_an_error_or_a_signal_is_told_and_counted() {
    type Trouble = fn(&Cancel) -> Option<Error>;
    let broken: Trouble = |_| Some(Error::failed("a pin cannot be read").with_class(Class::Workspace));
    let stopped: Trouble = |cancel| {
        cancel.stop(15);
        None
    };
    for (trouble, class) in [(broken, Class::Workspace), (stopped, Class::Interrupted { signal: 15 })] {
        let (sandbox, _, _) = store();
        artifact(&sandbox, "old", "older");
        for version in ["v3", "v4"] {
            manifest(&sandbox, &format!("  a: {{version: {version}}}\n"));
            sandbox.monofo(["store", "add", "a", "--source", "old"]).exits(0);
        }
        let home = Home::new(sandbox.work(".meta-store"), HomeKind::Store);
        let (cancel, asked) = (Cancel::new(), Cell::new(0));
        let references = |_: &_| {
            asked.set(asked.get() + 1);
            // Asked once before all, and once for each entry.
            match asked.get() {
                3 => trouble(&cancel).map_or_else(|| Ok(References::new()), Err),
                _ => Ok(References::new()),
            }
        };
        let done = collect(&home, &request(), &references, &cancel).unwrap();
        assert_eq!(done.trouble.as_ref().map(Error::class), Some(class));
        let expected = if class == Class::Workspace { 1 } else { 2 };
        assert_eq!((done.gone.len(), entries(home.root()).len()), (expected, 4 - expected));
        assert_eq!(done.kept["left when gc ended"] as usize, 4 - expected);
        assert!(done.freed > 0);
        let counted = fs::read_to_string(home.root().join("counters/usage")).unwrap();
        assert!(counted.ends_with(&format!(" gc {}\n", done.freed)), "{counted}");
    }
}

#[test]
fn once_the_time_is_over_nothing_more_is_begun_leftovers_included() {
    let (sandbox, _) = cache(&[("a", 100 * DAY)]);
    let left = sandbox.work(".meta-cache/tmp/0123456789abcdef");
    fs::create_dir(&left).unwrap();
    let home = Home::new(sandbox.work(".meta-cache"), HomeKind::Cache);
    let asked = GcRequest { within: Some(Duration::ZERO), ..request() };
    let done = collect(&home, &asked, &|_| Ok(References::new()), &Cancel::new()).unwrap();
    assert!(left.exists() && done.gone.is_empty() && done.leftovers == 0, "{done:?}");
    assert_eq!(done.kept["left for the next time"], 1);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_clock_that_was_ahead_is_told_once_and_the_next_gc_is_as_always() {
    for long in [false, true] {
        let (sandbox, _) = cache(&[("a", 100 * DAY), ("b", 1)]);
        let usage = sandbox.work(".meta-cache/counters/usage");
        let line = format!("{} gc 5\n", now() + 400 * DAY);
        let many = "1600000000 hit 7\n".repeat(70_000);
        fs::write(&usage, if long { format!("{many}{line}") } else { line }).unwrap();
        let ran = sandbox.monofo(["gc", "cache"]).exits(0).says("clock");
        assert!(ran.stdout.contains("removed 0 of 2"), "{}", ran.stdout);
        assert!(fs::metadata(&usage).unwrap().len() < 10_000, "it was added up");
        let ran = sandbox.monofo(["gc", "cache"]).exits(0).does_not_say("clock");
        assert!(ran.stdout.contains("removed 1 of 2"), "{}", ran.stdout);
        let stats = json(&sandbox, &["cache", "stats"], 0);
        assert!(stats["last_gc"]["freed_bytes"].as_u64().unwrap() > 5, "{stats:#}");
        assert_eq!(stats["hits"], if long { 70_000 } else { 0 });
    }
}

#[test]
fn a_stamp_in_the_future_does_not_turn_automatic_cleaning_off() {
    let (sandbox, all) = cache(&[("a", 100 * DAY), ("b", 1)]);
    let stamp = sandbox.work(".meta-cache/counters/cleaned");
    assert!(stamp.exists());
    set(&stamp, None, (now() + 3600).cast_signed());
    sandbox.monofo(["cache", "build", "b", "--source", "b"]).exits(0).says("cleaned up the cache: 1 entry");
    assert!(!all[0].exists());
    assert!(fs::metadata(&stamp).unwrap().modified().unwrap() <= SystemTime::now());
}

#[test]
fn gc_waits_for_no_profile_and_counts_what_a_switch_left() {
    let (sandbox, old, new) = store();
    sandbox.monofo(["store", "switch", "prod", &new]).exits(0);
    let profile = sandbox.work(".meta-store/profiles/prod");
    let left = profile.join("gen-9");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("a"), vec![b'x'; 100_000]).unwrap();
    let held = File::open(&profile).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    sandbox.monofo(["gc", "store", "--dry-run"]).at_most(30).exits(0);
    let told = json(&sandbox, &["gc", "store", "--grace", "0"], 0);
    assert_eq!((told["store"]["removed"][0]["name"].as_str(), left.exists()), (Some(old.as_str()), true));
    // Not by closing it: what other tests start may hold it a little longer.
    flock(&held, FlockOperation::Unlock).unwrap();
    for args in [&["gc", "store", "--dry-run"][..], &["gc", "store"]] {
        let told = json(&sandbox, args, 0);
        assert_eq!(told["store"]["leftovers"], 1, "{told:#}");
        assert!(told["store"]["freed_bytes"].as_u64().unwrap() >= 100_000, "{told:#}");
    }
    assert!(!left.exists());
}

#[test]
fn a_profile_that_a_failed_switch_left_empty_is_a_leftover() {
    let (sandbox, _, new) = store();
    let profile = sandbox.work(".meta-store/profiles/prod");
    // The switch makes its profile, and has nowhere to work.
    let tmp = sandbox.work(".meta-store/tmp");
    fs::remove_dir_all(&tmp).unwrap();
    fs::write(&tmp, "").unwrap();
    sandbox.monofo(["store", "switch", "prod", &new]).exits(1);
    fs::remove_file(&tmp).unwrap();
    assert_eq!(fs::read_dir(&profile).unwrap().count(), 0);
    let held = File::open(&profile).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(json(&sandbox, &["gc", "store"], 0)["store"]["leftovers"], 0);
    assert!(profile.exists(), "somebody switches it now");
    flock(&held, FlockOperation::Unlock).unwrap();
    for args in [&["gc", "store", "--dry-run"][..], &["gc", "store"]] {
        assert!(profile.exists());
        assert_eq!(json(&sandbox, args, 0)["store"]["leftovers"], 1);
    }
    assert!(!profile.exists());
    sandbox.monofo(["store", "switch", "prod", &new]).exits(0);
    assert_eq!(json(&sandbox, &["gc", "store"], 0)["store"]["leftovers"], 0);
}

#[test]
fn no_profile_goes_back_to_a_generation_that_is_not_whole() {
    type Break = fn(&Sandbox, &str);
    let breaks: [(Break, i32); 4] = [
        (|sandbox, hash| fs::remove_file(&entries(&sandbox.work(".meta-store"))[hash]).unwrap(), 3),
        (|sandbox, hash| fs::remove_dir_all(sandbox.work(format!(".meta-store/{}/{hash}", &hash[..2]))).unwrap(), 7),
        (|sandbox, _| fs::remove_dir_all(sandbox.work(".meta-store/profiles/prod/gen-1")).unwrap(), 7),
        (|sandbox, _| fs::remove_file(sandbox.work(".meta-store/profiles/prod/gen-1/a")).unwrap(), 7),
    ];
    for (damage, status) in breaks {
        let (sandbox, old, new) = store();
        sandbox.monofo(["store", "switch", "prod", &old]).exits(0);
        sandbox.monofo(["store", "switch", "prod", &new]).exits(0);
        damage(&sandbox, &old);
        let before = walk(&sandbox.work(".meta-store/profiles"));
        sandbox.monofo(["store", "switch", "prod", "--back"]).exits(status);
        sandbox.monofo(["store", "switch", "prod", "--to", "1"]).exits(status);
        assert_same(&before, &walk(&sandbox.work(".meta-store/profiles")), "the profile");
    }
}

#[test]
fn looking_removes_no_damaged_text_and_building_again_mends_it() {
    let sandbox = workspace();
    // Texts of what it depends on are read, too.
    manifest(&sandbox, "  a: {version: v1, depends_on: [b]}\n  b: {version: v1}\n");
    sandbox.write("components/b/main.c", "b");
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    let facts: Vec<_> = crate::desk::files(&sandbox.work(".meta-cache/facts"), ".zst");
    let whole: Vec<_> = facts.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(facts.len() >= 4, "{facts:?}");
    for path in &facts {
        fs::write(path, "damaged").unwrap();
    }
    sandbox.monofo(["gc", "cache", "--dry-run"]).exits(0);
    sandbox.write("components/a/main.c", "so that the key is another");
    sandbox.monofo(["cache", "explain", "a"]).exits(0);
    sandbox.monofo(["cache", "get", "a", "--target", "got"]).exits(3);
    sandbox.write("components/a/main.c", "int main(){}\n");
    for path in &facts {
        assert_eq!(fs::read(path).unwrap(), b"damaged");
    }
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    for (path, whole) in facts.iter().zip(whole) {
        assert_eq!(fs::read(path).unwrap(), whole);
    }
    fs::write(&facts[0], "damaged").unwrap();
    sandbox.monofo(["cache", "verify"]).exits(7);
    assert!(!facts[0].exists());
}

#[test]
fn what_a_grace_of_nothing_would_free_is_no_less_than_told() {
    let (sandbox, old, _) = store();
    age(&entries(&sandbox.work(".meta-store"))[&old], 3600);
    sandbox.monofo(["gc", "store"]).exits(0).stdout.contains("would free at least").then_some(()).unwrap();
    assert_eq!(gone(&sandbox), [old]);
}
