//! Targets: what is never replaced, what is, and what stays when a command fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::entries::{Sentinels, assert_restored, entries, json, manifest, payload, workspace};
use crate::harness::{Sandbox, assert_same, walk};

/// A workspace with a folder in the cache and the store, under the hash that is returned.
fn stored() -> (Sandbox, String) {
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).stdout.trim().to_owned();
    (sandbox, hash)
}

/// The same with a single file.
fn stored_file() -> (Sandbox, String) {
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out/data"]).exits(0);
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out/data"]).exits(0).stdout.trim().to_owned();
    (sandbox, hash)
}

#[test]
fn targets_that_are_never_replaced_are_refused_and_nothing_changes() {
    for ((sandbox, hash), is_file) in [(stored(), false), (stored_file(), true)] {
        let sentinels = Sentinels::place(&sandbox);
        fs::create_dir_all(sandbox.work("repository/.git")).unwrap();
        sandbox.write("repository/file", "");
        fs::create_dir_all(sandbox.work("submodule")).unwrap();
        sandbox.write("submodule/.git", "gitdir: ../x\n");
        fs::create_dir_all(sandbox.work("inner/current")).unwrap();
        sandbox.write("file", "a file");
        sandbox.write("shared/somebody's", "");
        fs::set_permissions(sandbox.work("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink(".meta-cache", sandbox.work("to-cache")).unwrap();
        let absolute = |path: &str| sandbox.path(path).to_str().unwrap().to_owned();
        let mut targets = vec![
            "/".to_owned(),
            "/proc".to_owned(),
            "/dev".to_owned(),
            ".".to_owned(),
            "..".to_owned(),
            "./".to_owned(),
            "out/..".to_owned(),
            "out/../".to_owned(),
            "repository".to_owned(),
            "submodule".to_owned(),
            "shared".to_owned(),
            "submodule/".to_owned(),
            ".meta-cache".to_owned(),
            ".meta-store".to_owned(),
            ".meta-cache/x".to_owned(),
            ".meta-cache/new/deep/x".to_owned(),
            ".meta-store/x".to_owned(),
            "to-cache/x".to_owned(),
            "to-cache/new/x".to_owned(),
            "out/../.meta-store/new/x".to_owned(),
            absolute("home"),
            absolute("home/"),
            absolute("work"),
            absolute(""),
            absolute("home/../home"),
            "".to_owned(),
        ];
        // What holds the sandbox, wherever TMPDIR has put it: a folder that does not would really be replaced.
        targets.push(sandbox.path("").canonicalize().unwrap().parent().unwrap().to_str().unwrap().to_owned());
        let before = walk(&sandbox.path(""));
        for target in &targets {
            for command in
                [&["cache", "get", "a", "--target", target][..], &["store", "get", &hash, "--target", target]]
            {
                // A file goes into a folder that is named like this, and takes nobody's place.
                if is_file && command[0] == "store" && target.len() > 1 && target.ends_with('/') {
                    continue;
                }
                let ran = sandbox.monofo(command).exits(if target.is_empty() { 2 } else { 6 });
                ran.says("--target");
                let mut after = walk(&sandbox.path(""));
                for path in [&b"work/.meta-cache"[..], b"work/.meta-store"] {
                    // Counters may count.
                    after.get_mut(path).unwrap().mtime_nanos = before[path].mtime_nanos;
                    after.get_mut(path).unwrap().mtime = before[path].mtime;
                }
                let counted = |path: &Vec<u8>| {
                    path.windows(8).any(|part| part == b"counters")
                        || path.ends_with(b"/tmp")
                        || path.ends_with(b"stat-cache")
                };
                let strip = |nodes: &std::collections::BTreeMap<Vec<u8>, crate::harness::Node>| {
                    nodes
                        .iter()
                        .filter(|(path, _)| !counted(path))
                        .map(|(path, node)| (path.clone(), node.clone()))
                        .collect()
                };
                assert_same(&strip(&before), &strip(&after), &format!("{} to `{target}`", command[0]));
            }
        }
        // Somewhere else the current folder is another one.
        let run = sandbox.monofo(["store", "get", &hash, "--target", "../../inner"]).within("work/inner/current");
        run.exits(6).says("current folder");
        sentinels.check("targets that are refused");
    }
}

#[test]
fn a_file_does_not_take_the_place_of_a_folder_nor_a_folder_that_of_a_file() {
    let (folders, folder) = stored();
    folders.write("file", "stays");
    let (files, file) = stored_file();
    files.write("full/x", "stays");
    fs::create_dir(files.work("empty")).unwrap();
    for (sandbox, hash, target) in [(&folders, &folder, "file"), (&files, &file, "full")] {
        let before = walk(&sandbox.work(target));
        sandbox.monofo(["cache", "get", "a", "--target", target]).exits(6).says(target);
        sandbox.monofo(["store", "get", hash, "--target", target]).exits(6).says(target);
        assert_same(&before, &walk(&sandbox.work(target)), target);
    }
    assert_eq!(fs::read(folders.work("file")).unwrap(), b"stays");
    // An empty folder is as good as nothing, and files replace files.
    files.monofo(["cache", "get", "a", "--target", "empty"]).exits(0);
    files.write("old", "old");
    files.monofo(["store", "get", &file, "--target", "old"]).exits(0);
    for target in ["empty", "old"] {
        assert_eq!(fs::read(files.work(target)).unwrap(), fs::read(files.work("out/data")).unwrap(), "{target}");
    }
}

#[test]
fn a_target_that_is_a_link_is_replaced_itself_and_links_above_it_are_followed() {
    for kind in ["folder", "file"] {
        let (sandbox, hash) = if kind == "folder" { stored() } else { stored_file() };
        let source = if kind == "folder" { "out" } else { "out/data" };
        let sentinels = Sentinels::place(&sandbox);
        for (command, name) in [("cache", "a"), ("store", hash.as_str())] {
            for to in ["../outside", "../outside/secret", "../nothing", "/", "link"] {
                let _ = fs::remove_dir_all(sandbox.work("link"));
                let _ = fs::remove_file(sandbox.work("link"));
                symlink(to, sandbox.work("link")).unwrap();
                sandbox.monofo([command, "get", name, "--target", "link"]).exits(0);
                assert!(!sandbox.work("link").is_symlink(), "{to}");
                assert_restored(&sandbox.work(source), &sandbox.work("link"));
                sentinels.check(to);
            }
            let _ = fs::remove_file(sandbox.work("parent"));
            fs::create_dir_all(sandbox.work("real")).unwrap();
            symlink("real", sandbox.work("parent")).unwrap();
            sandbox.monofo([command, "get", name, "--target", "parent/target"]).exits(0);
            assert_restored(&sandbox.work(source), &sandbox.work("real/target"));
            assert!(sandbox.work("parent").is_symlink());
        }
    }
}

#[test]
fn a_get_that_fails_leaves_the_target_and_nothing_beside_it() {
    let (sandbox, hash) = stored();
    let sentinels = Sentinels::place(&sandbox);
    sandbox.write("target/old", "old");
    let before = walk(&sandbox.work("target"));
    let metadata = entries(&sandbox.work(".meta-cache")).into_values().next().unwrap();
    let file = payload(&metadata);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&file, &bytes).unwrap();
    sandbox.monofo(["cache", "get", "a", "--target", "target"]).exits(3).says("damaged");
    assert_same(&before, &walk(&sandbox.work("target")), "a damaged payload");
    let stored = sandbox.work(format!(".meta-store/{}/{hash}/data", &hash[..2]));
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, "edited").unwrap();
    sandbox.monofo(["store", "get", &hash, "--target", "target"]).exits(7).says("damaged");
    assert_same(&before, &walk(&sandbox.work("target")), "a damaged artifact");
    sandbox.monofo(["cache", "get", "a", "--target", "never/was/here"]).exits(3);
    sandbox.monofo(["store", "get", &hash, "--target", "never/was/here"]).exits(3);
    assert!(!sandbox.work("never").exists());
    let names: Vec<_> = fs::read_dir(sandbox.work("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_str().unwrap().starts_with(".monofo-")), "{names:?}");
    sentinels.check("gets that fail");
}

#[test]
fn a_slash_at_the_end_means_nothing_for_a_folder_and_inside_for_a_file() {
    let (sandbox, hash) = stored();
    for (command, name) in [("cache", "a"), ("store", hash.as_str())] {
        sandbox.monofo([command, "get", name, "--target", "got/"]).exits(0);
        assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    }
    let (sandbox, hash) = stored_file();
    sandbox.write("into/beside", "stays");
    sandbox.monofo(["store", "get", &hash, "--target", "into/"]).exits(0);
    sandbox.monofo(["store", "get", &hash, "--target", "fresh/deep/"]).exits(0);
    sandbox.assert_paths("work/into", &["beside", "data"]);
    sandbox.assert_paths("work/fresh", &["deep", "deep/data"]);
}

#[test]
fn without_a_target_outputs_are_meant_and_without_outputs_that_is_an_error() {
    let sandbox = workspace();
    for command in [&["cache", "build", "a"][..], &["cache", "get", "a"], &["store", "add", "a"]] {
        sandbox.monofo(command).exits(2).says("outputs");
    }
    crate::entries::manifest(&sandbox, "  a: {outputs: built/here}\n");
    crate::entries::artifact(&sandbox, "components/a/built/here", "x");
    sandbox.monofo(["cache", "build", "a"]).exits(0);
    fs::rename(sandbox.work("components/a/built"), sandbox.work("kept")).unwrap();
    let run = sandbox.monofo(["--json", "cache", "get", "a"]).within("work/manifests");
    let document = crate::entries::document(run, 0);
    assert_eq!((document["result"].as_str(), document["source"].as_str()), (Some("hit"), Some("local")));
    assert_restored(&sandbox.work("kept/here"), &sandbox.work("components/a/built/here"));
    assert_eq!(json(&sandbox, &["cache", "stats"], 0)["hits"], 1);
}

#[test]
fn a_target_that_holds_the_folder_of_a_component_is_not_replaced() {
    let sandbox = workspace();
    manifest(&sandbox, "  a: {path: ., outputs: out}\n  b: {path: out/b}\n  c: {path: more/c}\n");
    sandbox.write("more/c/work", "precious");
    sandbox.monofo(["cache", "build", "a"]).exits(0);
    let hash = sandbox.monofo(["store", "add", "a"]).exits(0).stdout.trim().to_owned();
    // That of `b` is not there, so nothing of it could go.
    sandbox.monofo(["cache", "get", "a"]).exits(0);
    symlink("more", sandbox.work("alias")).unwrap();
    for target in ["more", "more/c", "alias/c"] {
        let words = format!("{target}` holds the folder of `c` (`more/c`), and is not replaced");
        sandbox.monofo(["cache", "get", "a", "--target", target]).exits(6).says(&words);
        sandbox.monofo(["store", "get", &hash, "--target", target]).exits(6).says(&words);
    }
    sandbox.write("out/b/work", "precious");
    let key = sandbox.monofo(["cache", "key", "a"]).exits(0).stdout.trim().to_owned();
    sandbox.monofo(["cache", "get", "a", "--key", &key]).exits(6).says("holds the folder of `b` (`out/b`)");
    assert!(sandbox.work("out/b/work").exists() && sandbox.work("more/c/work").exists());
}
