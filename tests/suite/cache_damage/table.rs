//! Every file of a cache and a store, damaged in every way, met by every command.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, mknodat};

use crate::entries::{Sentinels, assert_restored, entries, payload, workspace};
use crate::harness::{Node, Sandbox, assert_same, set, walk};

type Damage = fn(&Path);

/// What is tried on files that belong to no entry.
const FEW: [&str; 6] = ["emptied", "with a flipped bit", "gone", "a folder", "a link to a file elsewhere", "a fifo"];

const DAMAGES: [(&str, Damage); 14] = [
    ("emptied", |path| cut(path, |_| 0)),
    ("cut to one byte", |path| cut(path, |_| 1)),
    ("cut in the middle", |path| cut(path, |len| len / 2)),
    ("without its last byte", |path| cut(path, |len| len.saturating_sub(1))),
    ("longer by a byte", |path| edit(path, |bytes| bytes.push(b'\n'))),
    ("longer by itself", |path| edit(path, |bytes| bytes.extend(bytes.clone()))),
    ("with a flipped bit", |path| {
        edit(path, |bytes| {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 4;
            }
        });
    }),
    ("full of zeros", |path| edit(path, |bytes| bytes.fill(0))),
    ("gone", remove),
    ("a folder", |path| {
        remove(path);
        fs::create_dir(path).unwrap();
        fs::write(path.join("inside"), "x").unwrap();
    }),
    ("a link to a file elsewhere", |path| {
        remove(path);
        symlink(elsewhere(path).join("secret"), path).unwrap();
    }),
    ("a link to a folder elsewhere", |path| {
        remove(path);
        symlink(elsewhere(path), path).unwrap();
    }),
    ("a link to nothing", |path| {
        remove(path);
        symlink("nothing", path).unwrap();
    }),
    ("a fifo", |path| {
        remove(path);
        mknodat(CWD, path, FileType::Fifo, 0o644.into(), 0).unwrap();
    }),
];

fn remove(path: &Path) {
    if path.symlink_metadata().unwrap().is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

fn cut(path: &Path, to: fn(usize) -> usize) {
    edit(path, |bytes| bytes.truncate(to(bytes.len())));
}

/// Files alone can be edited; in place, as a failing disk would, and whatever their mode.
fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    if !path.symlink_metadata().unwrap().is_file() {
        return;
    }
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    set(path, Some(0o644), 1_700_000_000);
    fs::write(path, bytes).unwrap();
}

fn elsewhere(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.ends_with("work")).unwrap().with_file_name("outside")
}

/// A workspace with an entry in cache and store, a pin and a profile, and the hash of what is stored.
struct Kept {
    sandbox: Sandbox,
    hash: String,
    target: std::collections::BTreeMap<Vec<u8>, Node>,
    sentinels: Sentinels,
}

fn kept() -> Kept {
    let sandbox = workspace();
    crate::entries::settle(&sandbox.work("components"));
    let sentinels = Sentinels::place(&sandbox);
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).stdout.trim().to_owned();
    sandbox.monofo(["store", "pin", "keep", &hash]).exits(0);
    sandbox.monofo(["store", "switch", "prod", &hash]).exits(0);
    sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(0);
    sandbox.write("target/mine", "stays unless all is well");
    let target = walk(&sandbox.work("target"));
    for home in [".meta-cache", ".meta-store"] {
        let copied = Command::new("cp").arg("-a").arg(sandbox.work(home)).arg(sandbox.path("")).status().unwrap();
        assert!(copied.success());
    }
    Kept { sandbox, hash, target, sentinels }
}

impl Kept {
    /// Everything as it was.
    fn again(&self) {
        for home in [".meta-cache", ".meta-store"] {
            let _ = Command::new("rm").arg("-rf").arg(self.sandbox.work(home)).status().unwrap();
            let copied =
                Command::new("cp").arg("-a").arg(self.sandbox.path(home)).arg(self.sandbox.work("")).status().unwrap();
            assert!(copied.success());
        }
        let _ = fs::remove_dir_all(self.sandbox.work("target"));
        self.sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(0);
        self.sandbox.write("target/mine", "stays unless all is well");
        for (path, node) in &self.target {
            set(
                &crate::harness::join(&self.sandbox.work("target"), path),
                (node.kind != 'l').then_some(node.mode),
                node.mtime,
            );
        }
    }

    /// Runs a command on something damaged; answers whether it succeeded.
    #[track_caller]
    fn met(&self, args: &[&str], what: &str) -> bool {
        self.met_with(args, what, false)
    }

    /// The same; what belongs to no entry may also be in the way of the work, and be named.
    #[track_caller]
    fn met_with(&self, args: &[&str], what: &str, may_be_in_the_way: bool) -> bool {
        let before = walk(&self.sandbox.work("target"));
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_monofo"))
            .args(args)
            .current_dir(self.sandbox.work(""))
            .env_clear()
            .env("HOME", self.sandbox.path("home"))
            .timeout(std::time::Duration::from_secs(10))
            .output()
            .unwrap();
        let (status, stderr) = (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned());
        let told = format!("{args:?} with {what}: {status:?}\n{stderr}");
        assert!(!stderr.contains("panicked"), "{told}");
        match status {
            Some(0) => {}
            Some(1) => assert!(may_be_in_the_way && stderr.contains("error: cannot"), "{told}"),
            Some(3 | 4 | 6 | 7) => assert!(!stderr.is_empty(), "{told}"),
            _ => panic!("{told}"),
        }
        if args[1] == "get" && status == Some(0) {
            assert_restored(&self.sandbox.work("out"), &self.sandbox.work("target"));
            self.sandbox.write("target/mine", "again");
        } else {
            assert_same(&before, &walk(&self.sandbox.work("target")), &told);
        }
        self.sentinels.check(&told);
        status == Some(0)
    }

    fn files_of_cache(&self) -> Vec<(PathBuf, bool)> {
        let root = self.sandbox.work(".meta-cache");
        let metadata = entries(&root).into_values().next().unwrap();
        let payload = payload(&metadata);
        let folder = payload.parent().unwrap().to_owned();
        let mut files = vec![(metadata, true), (payload, true), (folder, true)];
        let mut others: Vec<PathBuf> = walk(&root)
            .into_iter()
            .filter(|(_, node)| node.kind == 'f')
            .map(|(path, _)| crate::harness::join(&root, &path))
            .filter(|path| !files.iter().any(|(known, _)| known == path))
            .collect();
        others.extend([root.join("tmp"), root.join("counters"), root.join("facts")]);
        files.extend(others.into_iter().map(|path| (path, false)));
        files
    }

    /// Spoils every file of the cache in every way, each time from the start: the file, whether it is the entry's, what spoils it,
    /// and what to call that.
    fn each_damage_of_cache(&self, mut then: impl FnMut(&Path, bool, fn(&Path), &str)) {
        for (file, of_entry) in self.files_of_cache() {
            for (damage, spoil) in DAMAGES {
                if of_entry || FEW.contains(&damage) {
                    self.again();
                    spoil(&file);
                    then(&file, of_entry, spoil, &format!("{} {damage}", file.display()));
                }
            }
        }
    }
}

#[test]
fn whatever_of_a_cache_is_damaged_a_get_is_exact_or_a_miss_and_the_next_build_repairs_it() {
    let kept = kept();
    kept.each_damage_of_cache(|_, of_entry, _, what| {
        kept.met_with(&["cache", "get", "a", "--target", "target"], what, !of_entry);
        if of_entry {
            let repaired = kept.met(&["cache", "build", "a", "--source", "out"], what)
                && kept.met(&["cache", "get", "a", "--target", "target"], what);
            assert!(repaired, "{what}: not repaired by the next build");
        }
    });
}

#[test]
fn whatever_of_a_cache_is_damaged_every_other_command_ends_and_verify_leaves_it_whole() {
    let kept = kept();
    kept.each_damage_of_cache(|file, of_entry, spoil, what| {
        for args in [
            &["cache", "list"][..],
            &["cache", "stats"],
            &["cache", "explain", "a"],
            &["gc", "cache", "--dry-run", "--grace", "0"],
            &["gc", "cache"],
            &["cache", "verify"],
        ] {
            kept.met_with(args, what, !of_entry);
        }
        if of_entry {
            assert!(kept.met(&["cache", "verify"], what), "{what}: verify did not put it aside");
            let repaired = kept.met(&["cache", "build", "a", "--source", "out"], what)
                && kept.met(&["cache", "get", "a", "--target", "target"], what);
            assert!(repaired, "{what}: not repaired");
            kept.again();
            spoil(file);
            assert!(kept.met(&["cache", "invalidate", "--all"], what), "{what}");
            assert!(entries(&kept.sandbox.work(".meta-cache")).is_empty(), "{what}: still there after invalidate");
        }
    });
}

#[test]
fn whatever_of_a_store_is_damaged_is_exact_or_named_and_repaired_by_adding_it_again() {
    let kept = kept();
    let root = kept.sandbox.work(".meta-store");
    let folder = root.join(&kept.hash[..2]).join(&kept.hash);
    let of_entry = [
        root.join(&kept.hash[..2]).join(format!("{}.metadata.json", kept.hash)),
        folder.join("data"),
        folder.join("bin/tool"),
        folder.join("zero"),
        folder.join("run"),
        folder.join("hollow"),
        folder.join("bin"),
        folder.clone(),
    ];
    let hash = kept.hash.as_str();
    for file in &of_entry {
        for (damage, spoil) in DAMAGES {
            for first in [&["store", "get", hash, "--target", "target"][..], &["store", "verify"]] {
                kept.again();
                let before = walk(&root);
                spoil(file);
                if walk(&root) == before {
                    continue;
                }
                let what = format!("{} {damage}", file.display());
                for args in [
                    &["store", "list"][..],
                    &["store", "stats"],
                    &["store", "query", hash],
                    &["gc", "store", "--dry-run"],
                ] {
                    kept.met(args, &what);
                }
                kept.met(first, &what);
                let repaired = kept.met(&["store", "add", "a", "--source", "out"], &what)
                    && kept.met(&["store", "verify"], &what)
                    && kept.met(&["store", "get", hash, "--target", "target"], &what);
                assert!(repaired, "{what}: not repaired");
            }
        }
    }
}

#[test]
fn damaged_pins_and_profiles_stop_gc_before_it_removes_anything_and_hang_nothing() {
    let kept = kept();
    let root = kept.sandbox.work(".meta-store");
    let hash = kept.hash.as_str();
    for file in [
        "roots/pins/keep.json",
        "profiles/prod/gen-1.json",
        "profiles/prod/current",
        "roots/pins",
        "profiles/prod",
        "profiles",
    ] {
        for (damage, spoil) in DAMAGES {
            kept.again();
            spoil(&root.join(file));
            let what = format!("{file} {damage}");
            kept.met(&["gc", "store", "--grace", "0"], &what);
            for args in
                [&["store", "list"][..], &["store", "stats"], &["store", "generations", "prod"], &["store", "verify"]]
            {
                kept.met(args, &what);
            }
            assert!(kept.met(&["store", "get", hash, "--target", "target"], &what), "{what}: the artifact is gone");
        }
    }
}

#[test]
fn payloads_and_metadata_that_changed_places_are_found() {
    for swapped in ["payload", "metadata", "copied"] {
        let sandbox = workspace();
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        let first = entries(&sandbox.work(".meta-cache")).into_values().next().unwrap();
        sandbox.write("components/a/main.c", "another");
        crate::entries::artifact(&sandbox, "out", "v2");
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        let second = entries(&sandbox.work(".meta-cache")).into_values().find(|path| *path != first).unwrap();
        let (one, other) = match swapped {
            "payload" => (payload(&first), payload(&second)),
            _ => (first.clone(), second.clone()),
        };
        let aside = sandbox.path("aside");
        fs::rename(&other, &aside).unwrap();
        if swapped == "copied" { fs::copy(&one, &other).map(drop) } else { fs::rename(&one, &other) }.unwrap();
        if swapped != "copied" {
            fs::rename(&aside, &one).unwrap();
        }
        sandbox.write("target/old", "old");
        sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(3).says("damaged");
        sandbox.assert_paths("work/target", &["old"]);
        let left = if swapped == "copied" { 0 } else { 7 };
        sandbox.monofo(["cache", "verify"]).exits(left);
        sandbox.monofo(["cache", "verify"]).exits(0);
        let quarantine = fs::read_dir(sandbox.work(".meta-cache/quarantine")).unwrap().count();
        assert_eq!(quarantine, if swapped == "copied" { 1 } else { 2 }, "{swapped}");
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(0);
        assert_restored(&sandbox.work("out"), &sandbox.work("target"));
    }
}

#[test]
fn a_build_of_the_same_repairs_a_payload_that_nobody_has_read_since_it_rotted() {
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    let file = payload(&entries(&sandbox.work(".meta-cache")).into_values().next().unwrap());
    edit(&file, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0).says("already cached");
    sandbox.monofo(["cache", "verify"]).exits(0);
    sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(0);
    assert_restored(&sandbox.work("out"), &sandbox.work("target"));
}
