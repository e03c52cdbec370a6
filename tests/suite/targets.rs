//! What is never replaced by a restore, and what becomes of what was replaced.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::Sandbox;

const NEW: &str = "new content";
const OLD: &str = "old content";
const OURS: &str = ".monofo-restore-0123456789abcdef";

/// A workspace with a history, manifests, and an entry for `w` in the cache: a folder with the file `f`.
fn workspace() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("a/f", NEW);
    sandbox.monofo(["cache", "build", "w", "--source", "a"]).exits(0);
    sandbox
}

fn get(sandbox: &Sandbox, target: &str, status: i32) -> String {
    sandbox.monofo(["cache", "get", "w", "--target", target]).exits(status).stderr
}

#[track_caller]
fn assert_content(path: &Path, content: &str) {
    assert_eq!(fs::read_to_string(path).unwrap(), content, "{}", path.display());
}

/// Folders beside targets that are there.
fn besides(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".monofo-restore-")).collect()
}

/// Notes a folder beside a target, as a restore does that is killed.
fn note(sandbox: &Sandbox, number: u64, paths: &[&Path]) -> PathBuf {
    let folder = sandbox.work(".meta-cache/tmp").join(format!("{number:016x}"));
    fs::create_dir_all(&folder).unwrap();
    let paths: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    fs::write(folder.join("beside"), paths.join("\0")).unwrap();
    folder
}

fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Something bound to a place, until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn bind(what: &Path, place: &Path) -> Option<Mount> {
        let bound = works("mount", &["--bind", what.to_str()?, place.to_str()?]);
        if !bound {
            println!("SKIPPED: nothing can be mounted here");
        }
        bound.then(|| Mount(place.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        works("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// A file that not even root removes, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn make(path: &Path) -> Option<Immutable> {
        let made = works("chattr", &["+i", path.to_str()?]);
        if !made {
            println!("SKIPPED: files cannot be made immutable here");
        }
        made.then(|| Immutable(path.to_owned()))
    }

    fn find(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                Immutable::find(&path);
            } else {
                works("chattr", &["-i", path.to_str().unwrap()]);
            }
        }
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        // It may have been moved.
        Immutable::find(self.0.parent().unwrap().parent().unwrap());
    }
}

#[test]
fn a_target_with_a_mount_inside_is_refused_and_the_mounted_data_stays() {
    let sandbox = workspace();
    sandbox.write("data/precious", OLD);
    sandbox.write("out/f", OLD);
    fs::create_dir_all(sandbox.work("out/deep/a vol\\1")).unwrap();
    let Some(_mount) = Mount::bind(&sandbox.work("data"), &sandbox.work("out/deep/a vol\\1")) else { return };
    let told = get(&sandbox, "out", 6);
    assert!(told.contains("holds a mount point"), "{told}");
    get(&sandbox, "out/deep", 6);
    assert_content(&sandbox.work("data/precious"), OLD);
    assert_content(&sandbox.work("out/f"), OLD);
    // What is beside a mount is no mount, though its name begins alike.
    get(&sandbox, "out/dee", 0);
    assert_content(&sandbox.work("out/dee/f"), NEW);
}

#[test]
fn a_target_that_is_a_mount_point_is_refused_also_on_the_same_file_system() {
    let sandbox = workspace();
    sandbox.write("data/precious", OLD);
    fs::create_dir(sandbox.work("out")).unwrap();
    let Some(_mount) = Mount::bind(&sandbox.work("data"), &sandbox.work("out")) else { return };
    let told = get(&sandbox, "out", 6);
    assert!(told.contains("is a mount point"), "{told}");
    assert_content(&sandbox.work("data/precious"), OLD);
    get(&sandbox, "out/within", 0);
    assert_content(&sandbox.work("data/within/f"), NEW);
}

#[test]
fn gc_leaves_a_noted_folder_with_a_mount_in_it_and_keeps_its_note() {
    let sandbox = workspace();
    sandbox.write("data/precious", OLD);
    let beside = sandbox.work(OURS);
    fs::create_dir_all(beside.join("tree/vol")).unwrap();
    let noted = note(&sandbox, 1, &[&beside, &sandbox.work("out")]);
    let Some(mount) = Mount::bind(&sandbox.work("data"), &beside.join("tree/vol")) else { return };
    for args in [&["gc", "cache"][..], &["gc", "cache", "--dry-run"]] {
        let told = sandbox.monofo(args).exits(0).stderr;
        assert!(told.contains(OURS) && told.contains("mounted"), "{told}");
        assert_content(&sandbox.work("data/precious"), OLD);
        assert!(noted.exists());
    }
    drop(mount);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert!(!beside.exists() && !noted.exists());
    assert_content(&sandbox.work("data/precious"), OLD);
}

#[test]
fn histories_and_what_is_in_them_are_never_replaced() {
    let sandbox = workspace();
    sandbox.write(".git/hooks/pre-commit", OLD);
    sandbox.write("sub/.git/HEAD", OLD);
    for target in [".git", ".git/", ".git/hooks", ".git/new", ".git/new/deep", "sub", "sub/.git/HEAD", "missing/.git"] {
        get(&sandbox, target, 6);
    }
    symlink(".git", sandbox.work("link")).unwrap();
    get(&sandbox, "link/hooks", 6);
    get(&sandbox, "link/new/deep", 6);
    assert_content(&sandbox.work(".git/hooks/pre-commit"), OLD);
    assert_content(&sandbox.work("sub/.git/HEAD"), OLD);
    assert!(!sandbox.work(".git/new").exists() && !sandbox.work("missing").exists());
    // The link itself is a name like any other.
    get(&sandbox, "link", 0);
    assert_content(&sandbox.work("link/f"), NEW);
    assert_content(&sandbox.work(".git/hooks/pre-commit"), OLD);
}

#[test]
fn nothing_is_put_into_cache_and_store_however_it_is_named() {
    let sandbox = workspace();
    symlink(".", sandbox.work("here")).unwrap();
    symlink(".meta-cache", sandbox.work("link")).unwrap();
    fs::create_dir(sandbox.work("d")).unwrap();
    for target in [
        ".meta-cache",
        ".meta-cache/new/out",
        ".meta-cache/tmp",
        "here/.meta-cache/new/out",
        "link/new/out",
        "d/../.meta-cache/new/out",
        // There is no store yet.
        ".meta-store",
        ".meta-store/profiles/p/gen-1",
        "here/.meta-store/profiles/p/gen-1",
        "missing/../.meta-store/x",
        "missing/../out",
    ] {
        get(&sandbox, target, 6);
    }
    assert!(!sandbox.work(".meta-store").exists() && !sandbox.work("missing").exists());
    assert!(!sandbox.work(".meta-cache/new").exists());
    get(&sandbox, "out", 0);
}

#[test]
fn nothing_is_stored_that_lies_in_cache_store_or_history() {
    let sandbox = workspace();
    let hash = file_in_store(&sandbox);
    sandbox.monofo(["store", "switch", "p", &hash]).exits(0);
    sandbox.write(".git/hooks/pre-commit", OLD);
    symlink(".meta-cache/tmp", sandbox.work("link")).unwrap();
    for source in
        [".meta-cache", ".meta-cache/tmp", "link", ".meta-cache/FORMAT", ".meta-store/profiles/p/current", ".git/hooks"]
    {
        for command in [["cache", "build"], ["store", "add"]] {
            let args = [&command[..], &["z", "--source", source, "--input", "out/data"]].concat();
            sandbox.monofo(args).exits(6).says("no part of an artifact");
        }
    }
    // Beside them, with a name that begins like theirs, is another place.
    sandbox.write(".meta-cache-of-ours/x", "x");
    sandbox.monofo(["cache", "build", "z", "--source", ".meta-cache-of-ours", "--input", "out/data"]).exits(0);
}

#[test]
fn a_link_that_is_the_cache_or_leads_to_it_is_not_replaced() {
    let sandbox = workspace();
    fs::create_dir(sandbox.path("big")).unwrap();
    fs::rename(sandbox.work(".meta-cache"), sandbox.path("big/cache")).unwrap();
    symlink(sandbox.path("big/cache"), sandbox.work(".meta-cache")).unwrap();
    get(&sandbox, ".meta-cache", 6);
    get(&sandbox, ".meta-cache/new/out", 6);
    get(&sandbox, sandbox.path("big").to_str().unwrap(), 6);
    assert!(sandbox.work(".meta-cache").is_symlink());
    get(&sandbox, "out", 0);
}

#[test]
fn manifests_are_not_replaced_and_a_folder_that_only_has_their_name_is() {
    let sandbox = workspace();
    sandbox.write("manifests/x", OLD);
    get(&sandbox, "manifests", 0);
    assert_content(&sandbox.work("manifests/f"), NEW);

    sandbox.write("manifests/components.yaml", "components:\n  w:\n    path: a\n    type: x\n");
    let guards = monofo::engine::entries::target::Guards { workspace: sandbox.work(""), ..Default::default() };
    for target in ["manifests", "manifests/locks", "manifests/new/deep"] {
        let judged = monofo::engine::entries::target::Target::new(&sandbox.work(target), &guards);
        assert_eq!(judged.unwrap_err().class().exit_status(), 6, "{target}");
    }
}

#[test]
fn a_link_on_the_way_that_leads_nowhere_is_refused() {
    let sandbox = workspace();
    symlink("nowhere", sandbox.work("link")).unwrap();
    get(&sandbox, "link/out", 6);
    assert!(!sandbox.work("nowhere").exists());
    get(&sandbox, "link", 0);
    assert_content(&sandbox.work("link/f"), NEW);
}

#[test]
fn gc_moves_back_what_a_kill_left_aside() {
    let sandbox = workspace();
    let beside = sandbox.work(OURS);
    fs::create_dir_all(beside.join("aside")).unwrap();
    fs::write(beside.join("aside/precious"), OLD).unwrap();
    fs::create_dir(beside.join("tree")).unwrap();
    let noted = note(&sandbox, 1, &[&beside, &sandbox.work("out")]);
    sandbox.monofo(["gc", "cache", "--dry-run"]).exits(0);
    assert_content(&beside.join("aside/precious"), OLD);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert_content(&sandbox.work("out/precious"), OLD);
    assert!(!beside.exists() && !noted.exists());
}

#[test]
fn gc_puts_nothing_aside_in_place_of_a_target_that_is_there() {
    let sandbox = workspace();
    sandbox.write("out/f", NEW);
    let beside = sandbox.work(OURS);
    fs::create_dir_all(beside.join("aside")).unwrap();
    fs::write(beside.join("aside/f"), OLD).unwrap();
    note(&sandbox, 1, &[&beside, &sandbox.work("out")]);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert_content(&sandbox.work("out/f"), NEW);
    assert!(!beside.exists());
}

#[test]
fn a_kill_between_the_two_renames_where_names_cannot_be_exchanged_loses_nothing() {
    let sandbox = workspace();
    sandbox.write("out/precious", OLD);
    let args = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=renameat2:error=EINVAL"];
    let kill = ["-e", "inject=rename:signal=KILL:when=2", env!("CARGO_BIN_EXE_monofo")];
    let run = Command::new("strace")
        .args(args)
        .args(kill)
        .args(["cache", "get", "w", "--target", "out"])
        .current_dir(sandbox.work(""))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", sandbox.path("home"))
        .output();
    if run.is_err() || sandbox.work("out").exists() {
        println!("SKIPPED: strace cannot inject a kill here");
        return;
    }
    assert_eq!(besides(&sandbox.work("")).len(), 1);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert_content(&sandbox.work("out/precious"), OLD);
    assert!(besides(&sandbox.work("")).is_empty());
}

#[test]
fn what_was_replaced_and_cannot_be_removed_is_told_and_gc_removes_it_later() {
    let sandbox = workspace();
    sandbox.write("out/stuck", OLD);
    let Some(immutable) = Immutable::make(&sandbox.work("out/stuck")) else { return };
    let told = get(&sandbox, "out", 0);
    assert!(told.contains(".monofo-restore-") && told.contains("gc tries again"), "{told}");
    assert_content(&sandbox.work("out/f"), NEW);
    let left = besides(&sandbox.work(""));
    assert_eq!(left.len(), 1);

    let told = sandbox.monofo(["gc", "cache"]).exits(0).stderr;
    assert!(told.contains(".monofo-restore-"), "{told}");
    assert!(left[0].exists());

    drop(immutable);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert!(!left[0].exists());
    assert_eq!(fs::read_dir(sandbox.work(".meta-cache/tmp")).unwrap().count(), 0);
}

#[test]
fn a_dry_run_of_gc_tells_the_bytes_that_the_run_frees() {
    for options in [&["--grace", "0", "--max-size", "0"][..], &[]] {
        let sandbox = Sandbox::new();
        let noise: Vec<u8> = (0..300_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        sandbox.write("a/f", &noise);
        sandbox.monofo(["cache", "build", "w", "--source", "a"]).exits(0);
        let cache = sandbox.work(".meta-cache");
        let payload = crate::desk::files(&cache, "").into_iter();
        let payload = payload.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        assert!(payload.to_str().unwrap().contains("payload-"), "{payload:?}");
        // Leftovers, one of which is the payload under another name, what lies beside it, and a noted folder.
        fs::create_dir_all(cache.join("tmp/0000000000000001")).unwrap();
        fs::write(cache.join("tmp/0000000000000001/own"), &noise).unwrap();
        fs::hard_link(&payload, cache.join("tmp/0000000000000001/shared")).unwrap();
        fs::write(payload.with_file_name("payload-stray"), &noise).unwrap();
        let beside = sandbox.work(OURS);
        fs::create_dir_all(beside.join("tree")).unwrap();
        fs::write(beside.join("tree/f"), &noise).unwrap();
        note(&sandbox, 2, &[&beside, &sandbox.work("out")]);
        let old = cache.join(format!("quarantine/{:064}-0000000000000003", 0));
        fs::create_dir_all(&old).unwrap();
        fs::hard_link(cache.join("tmp/0000000000000001/own"), old.join("content")).unwrap();
        let week = SystemTime::now() - Duration::from_secs(8 * 86_400);
        fs::File::open(&old).unwrap().set_modified(week).unwrap();

        let run = |more: &[&str]| {
            let args = ["gc", "cache", "--json"].iter().chain(options).chain(more);
            let document: Value = serde_json::from_str(&sandbox.monofo(args).exits(0).stdout).unwrap();
            let cache = &document["cache"];
            ["freed_bytes", "unshared_bytes", "leftovers"].map(|word| cache[word].as_u64().unwrap())
        };
        let told = run(&["--dry-run"]);
        assert!(beside.exists() && old.exists());
        let (at_least, leftovers) = (3 * 300_000, 4);
        assert!(told[0] >= at_least && told[2] >= leftovers, "{told:?}");
        assert_eq!(run(&[]), told, "{options:?}");
        assert!(!beside.exists() && !old.exists());
    }
}

/// The hash of an artifact in the store that is a file named `tool`.
fn file_in_store(sandbox: &Sandbox) -> String {
    sandbox.write("a/tool", NEW);
    let hash = sandbox.monofo(["store", "add", "w", "--source", "a/tool"]).exits(0).stdout;
    hash.trim().to_owned()
}

#[test]
fn a_file_goes_into_a_folder_that_itself_would_not_be_replaced() {
    let sandbox = Sandbox::new();
    let hash = file_in_store(&sandbox);
    sandbox.write("repo/.git/HEAD", OLD);
    fs::create_dir(sandbox.work("empty")).unwrap();
    for (target, file) in
        [("./", "tool"), ("repo/", "repo/tool"), ("empty/", "empty/tool"), ("no/such/", "no/such/tool")]
    {
        sandbox.monofo(["store", "get", &hash, "--target", target]).exits(0);
        assert_content(&sandbox.work(file), NEW);
    }
    assert_content(&sandbox.work("repo/.git/HEAD"), OLD);
    for target in [".git/", "repo/.git/", ".meta-store/", ".meta-store/new/"] {
        sandbox.monofo(["store", "get", &hash, "--target", target]).exits(6);
    }
    assert!(!sandbox.work(".git").exists() && !sandbox.work(".meta-store/new").exists());
}

#[test]
fn a_file_does_not_go_into_a_file() {
    let sandbox = Sandbox::new();
    let hash = file_in_store(&sandbox);
    sandbox.write("plain", OLD);
    let told = sandbox.monofo(["store", "get", &hash, "--target", "plain/"]).exits(6).stderr;
    assert!(told.contains("`plain` is no folder"), "{told}");
    assert_content(&sandbox.work("plain"), OLD);
}

#[test]
fn a_folder_with_a_slash_behind_it_is_judged_itself() {
    let sandbox = Sandbox::new();
    sandbox.write("a/f", NEW);
    let hash = sandbox.monofo(["store", "add", "w", "--source", "a"]).exits(0).stdout.trim().to_owned();
    sandbox.write("repo/.git/HEAD", OLD);
    for target in ["./", "repo/"] {
        sandbox.monofo(["store", "get", &hash, "--target", target]).exits(6);
    }
    sandbox.write("out/old", OLD);
    sandbox.monofo(["store", "get", &hash, "--target", "out/"]).exits(0);
    sandbox.assert_paths("work/out", &["f"]);
}

#[test]
fn gc_follows_no_note_that_a_restore_would_not_have_written() {
    let sandbox = workspace();
    let upper = sandbox.work(".monofo-restore-0123456789ABCDEF");
    let other = sandbox.work(".monofo-restore-precious-content");
    let behind = sandbox.path("elsewhere").join(OURS);
    for folder in [&upper, &other, &behind] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("precious"), OLD).unwrap();
    }
    symlink(sandbox.path("elsewhere"), sandbox.work("link")).unwrap();
    note(&sandbox, 1, &[&upper]);
    note(&sandbox, 2, &[&other]);
    note(&sandbox, 3, &[&sandbox.work("link").join(OURS)]);
    note(&sandbox, 4, &[&sandbox.work("a/..").join("../elsewhere").join(OURS)]);
    symlink(sandbox.path("elsewhere"), sandbox.work(OURS)).unwrap();
    note(&sandbox, 5, &[&sandbox.work(OURS)]);
    sandbox.monofo(["gc", "cache"]).exits(0);
    for folder in [&upper, &other, &behind] {
        assert_content(&folder.join("precious"), OLD);
    }
}

#[test]
fn gc_moves_nothing_to_a_target_that_is_not_beside_the_folder() {
    let sandbox = workspace();
    let beside = sandbox.work(OURS);
    fs::create_dir_all(beside.join("aside")).unwrap();
    note(&sandbox, 1, &[&beside, &sandbox.path("elsewhere")]);
    sandbox.monofo(["gc", "cache"]).exits(0);
    assert!(!sandbox.path("elsewhere").exists() && !beside.exists());
}

#[test]
fn gc_leaves_the_noted_folder_of_another_user() {
    let sandbox = workspace();
    let beside = sandbox.work(OURS);
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("precious"), OLD).unwrap();
    if std::os::unix::fs::chown(&beside, Some(12_345), None).is_err() {
        println!("SKIPPED: only root gives files away");
        return;
    }
    let noted = note(&sandbox, 1, &[&beside]);
    let told = sandbox.monofo(["gc", "cache"]).exits(0).stderr;
    assert!(told.contains("another user"), "{told}");
    assert_content(&beside.join("precious"), OLD);
    assert!(noted.exists());
}

#[test]
fn a_target_that_its_owner_may_not_write_is_replaced_whole() {
    let sandbox = workspace();
    sandbox.write("out/closed/f", OLD);
    fs::set_permissions(sandbox.work("out/closed"), fs::Permissions::from_mode(0o500)).unwrap();
    let told = get(&sandbox, "out", 0);
    assert!(!told.contains("could not"), "{told}");
    sandbox.assert_paths("work/out", &["f"]);
    assert!(besides(&sandbox.work("")).is_empty());
    assert_eq!(fs::metadata(sandbox.work("out")).unwrap().uid(), fs::metadata(sandbox.work("a")).unwrap().uid());
}
