//! Payloads made by hand to do harm, with records that add up: in the cache, and through a remote.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::entries::{Sentinels, assert_restored, entries, payload, sha256, workspace};
use crate::harness::{Sandbox, assert_same, set, walk};

/// One member of an archive, header and content.
fn member(name: &str, kind: u8, link: &str, size: usize, content: &[u8], mode: u32) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    member(name, b'0', "", content.len(), content.as_bytes(), 0o644)
}

fn link(name: &str, to: &str) -> Vec<u8> {
    member(name, b'2', to, 0, b"", 0o777)
}

fn pax(record: &str) -> Vec<u8> {
    let mut len = record.len() + 2;
    while format!("{len} {record}\n").len() != len {
        len += 1;
    }
    let content = format!("{len} {record}\n");
    member("pax", b'x', "", content.len(), content.as_bytes(), 0o644)
}

/// Archives, and the lines that their listing would have, were they taken at their word.
fn archives(outside: &Path) -> Vec<(&'static str, Vec<u8>, String)> {
    let absolute = outside.join("secret").to_str().unwrap().to_owned();
    let to_outside = outside.to_str().unwrap();
    let evil = |path: &str| format!("f {} 4 {path}\n", sha256(b"evil"));
    let linked = |path: &str, to: &str| format!("l {} {} {path}\n", sha256(to.as_bytes()), to.len());
    let end = || vec![0; 1024];
    let mut all = vec![
        ("an absolute path", [file(&absolute, "evil"), end()].concat(), evil(&absolute)),
        ("a path that leaves", [file("../../outside/secret", "evil"), end()].concat(), evil("../../outside/secret")),
        (
            "a path that leaves from inside",
            [file("a/../../../outside/secret", "evil"), end()].concat(),
            evil("a/../../../outside/secret"),
        ),
        (
            "a link, then a file through it",
            [link("a", to_outside), file("a/secret", "evil"), end()].concat(),
            linked("a", to_outside) + &evil("a/secret"),
        ),
        ("a link, then a file in its place", [link("a", &absolute), file("a", "evil"), end()].concat(), evil("a")),
        (
            "a link, then a folder in its place",
            [link("a", to_outside), member("a/", b'5', "", 0, b"", 0o755), file("a/secret", "evil"), end()].concat(),
            evil("a/secret"),
        ),
        (
            "a folder, then a link in its place",
            [member("a/", b'5', "", 0, b"", 0o755), link("a", to_outside), file("a/secret", "evil"), end()].concat(),
            linked("a", to_outside) + &evil("a/secret"),
        ),
        (
            "two links in a row",
            [link("a", "b"), link("b", to_outside), file("a/secret", "evil"), end()].concat(),
            linked("a", "b") + &evil("a/secret") + &linked("b", to_outside),
        ),
        (
            "a hard link to a file outside",
            [member("a", b'1', &absolute, 0, b"", 0o644), end()].concat(),
            format!("f {} 9 a\n", sha256(b"untouched")),
        ),
        (
            "a hard link, then a file through it",
            [member("a", b'1', "../../outside/secret", 0, b"", 0o644), file("a", "evil"), end()].concat(),
            evil("a"),
        ),
        (
            "a hard link inside",
            [file("a", "evil"), member("b", b'1', "a", 0, b"", 0o644), end()].concat(),
            evil("a") + &evil("b"),
        ),
        ("a device", [member("a", b'3', "", 0, b"", 0o666), end()].concat(), format!("f {} 0 a\n", sha256(b""))),
        ("a block device", [member("a", b'4', "", 0, b"", 0o666), end()].concat(), format!("f {} 0 a\n", sha256(b""))),
        ("a fifo", [member("a", b'6', "", 0, b"", 0o666), end()].concat(), format!("f {} 0 a\n", sha256(b""))),
        ("a file twice", [file("a", "good"), file("a", "evil"), end()].concat(), evil("a")),
        (
            "a file, then a file in it",
            [file("a", "evil"), file("a/b", "evil"), end()].concat(),
            evil("a") + &evil("a/b"),
        ),
        ("a name of dots", [file("..", "evil"), end()].concat(), evil("..")),
        ("an empty name", [file("", "evil"), end()].concat(), evil("")),
        ("a folder that is the root", [member("./", b'5', "", 0, b"", 0o777), end()].concat(), String::new()),
        (
            "a path of PAX that leaves",
            [pax("path=../../outside/secret"), file("a", "evil"), end()].concat(),
            evil("../../outside/secret"),
        ),
        ("a size of PAX that disagrees", [pax("size=1048576"), file("a", "evil"), end()].concat(), evil("a")),
        (
            "a sparse file",
            [pax("GNU.sparse.major=1"), pax("GNU.sparse.realsize=99999999999"), file("a", "evil"), end()].concat(),
            evil("a"),
        ),
        ("a size without content", member("a", b'0', "", 1 << 33, b"evil", 0o644), evil("a")),
        (
            "more bytes than the record says",
            [member("a", b'0', "", 64 << 20, &vec![0; 64 << 20], 0o644), end()].concat(),
            evil("a"),
        ),
        ("no end", file("a", "evil")[..700].to_vec(), evil("a")),
        ("no archive", b"<!DOCTYPE html><html>log in</html>".to_vec(), evil("a")),
        ("nothing", Vec::new(), evil("a")),
    ];
    let mut wrong_sum = file("a", "evil");
    wrong_sum[0] = b'b';
    all.push(("a wrong checksum", [wrong_sum, end()].concat(), evil("b")));
    let long = vec!["l".repeat(99); 60].join("/");
    all.push((
        "a path that is too long",
        [pax(&format!("path={long}")), file("a", "evil"), end()].concat(),
        evil(&long),
    ));
    let wide = "w".repeat(256);
    all.push((
        "a name that is too long",
        [pax(&format!("path={wide}")), file("a", "evil"), end()].concat(),
        evil(&wide),
    ));
    all
}

/// Rewrites a record so that it fits a payload and a listing; returns the payload.
fn rewrite(record: &mut Value, archive: &[u8], lines: &str) -> Vec<u8> {
    let packed = zstd::bulk::compress(archive, 1).unwrap();
    let digest = sha256(&packed);
    record["payload"] = json!({
        "file": format!("payload-{digest}.tar.zst"), "encoding": "tar.zst", "sha256": digest, "bytes": packed.len(),
    });
    let output = &mut record["output"];
    output["tree"] = json!(sha256(format!("meta-tree/1 dir\n{lines}").as_bytes()));
    output["bytes"] = json!(
        lines
            .lines()
            .filter(|line| line.starts_with("f "))
            .map(|line| line.split(' ').nth(2).unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    );
    packed
}

fn rewrite_file(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut record);
    set(path, Some(0o644), 1_700_000_000);
    fs::write(path, record.to_string()).unwrap();
}

fn prepared() -> (Sandbox, Sentinels) {
    let sandbox = workspace();
    let sentinels = Sentinels::place(&sandbox);
    sandbox.write("target/old", "old");
    symlink(sandbox.path("outside"), sandbox.work("target/link")).unwrap();
    (sandbox, sentinels)
}

#[test]
fn no_payload_in_a_cache_does_harm_and_a_build_takes_its_place() {
    let (sandbox, sentinels) = prepared();
    let before = walk(&sandbox.work("target"));
    for (what, archive, lines) in archives(&sandbox.path("outside")) {
        let _ = fs::remove_dir_all(sandbox.work(".meta-cache"));
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        let metadata = entries(&sandbox.work(".meta-cache")).into_values().next().unwrap();
        let old = payload(&metadata);
        let mut packed = Vec::new();
        let mut digest = String::new();
        rewrite_file(&metadata, |record| {
            packed = rewrite(record, &archive, &lines);
            digest = record["payload"]["file"].as_str().unwrap().to_owned();
        });
        fs::write(old.with_file_name(digest), &packed).unwrap();
        fs::remove_file(old).unwrap();
        let status = failing_get(&sandbox, &["cache", "get", "a", "--target", "target"]);
        assert!([3, 6, 7].contains(&status), "{what}: exit status {status}");
        assert_same(&before, &walk(&sandbox.work("target")), what);
        sentinels.check(what);
        sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
        sandbox.monofo(["cache", "get", "a", "--target", "fresh"]).exits(0);
        assert_restored(&sandbox.work("out"), &sandbox.work("fresh"));
    }
}

fn failing_get(sandbox: &Sandbox, args: &[&str]) -> i32 {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_monofo"))
        .args(args)
        .current_dir(sandbox.work(""))
        .env_clear()
        .env("HOME", sandbox.path("home"))
        .timeout(std::time::Duration::from_secs(10))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    output.status.code().unwrap_or(-1)
}

/// The one record in a remote folder, and its payload.
fn objects(remote: &Path) -> (PathBuf, PathBuf) {
    let files: Vec<PathBuf> = walk(remote)
        .into_iter()
        .filter(|(_, node)| node.kind == 'f')
        .map(|(path, _)| crate::harness::join(remote, &path))
        .collect();
    let named = |end: &str| {
        files.iter().find(|path| path.to_str().unwrap().ends_with(end)).unwrap_or_else(|| panic!("{files:?}")).clone()
    };
    (named("/record.json"), files.iter().find(|path| path.to_str().unwrap().contains(".tar.")).unwrap().clone())
}

#[test]
fn no_payload_in_a_remote_does_harm_to_cache_or_store() {
    for kind in ["cache", "store"] {
        let (sandbox, sentinels) = prepared();
        let before = walk(&sandbox.work("target"));
        let url = format!("file://{}", sandbox.path("remote").display());
        for (what, archive, lines) in archives(&sandbox.path("outside")) {
            for folder in [".meta-cache", ".meta-store", "../remote"] {
                let _ = fs::remove_dir_all(sandbox.work(folder));
            }
            let mut name = if kind == "cache" {
                sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
                "a".to_owned()
            } else {
                sandbox
                    .monofo(["store", "add", "a", "--source", "out", "--remote", &url])
                    .exits(0)
                    .stdout
                    .trim()
                    .to_owned()
            };
            let (record, object) = objects(&sandbox.path("remote"));
            let (mut packed, mut digest) = (Vec::new(), String::new());
            let mut moved = record.parent().unwrap().to_owned();
            rewrite_file(&record, |record| {
                packed = rewrite(record, &archive, &lines);
                digest = record["payload"]["sha256"].as_str().unwrap().to_owned();
                if kind == "store" {
                    // So that the address commits to what the payload is said to be.
                    let address = format!(
                        "{{\"component\":\"a\",\"inputs\":{},\"output\":{},\"schema\":\"meta.store-entry/1\"}}",
                        record["inputs_key"], record["output"]["tree"]
                    );
                    name = sha256(address.as_bytes());
                    record["content_hash"] = json!(name);
                    moved = moved.parent().unwrap().with_file_name(&name[..2]).join(&name);
                }
            });
            fs::write(object.with_file_name(format!("{digest}.tar.zst")), &packed).unwrap();
            fs::remove_file(&object).unwrap();
            if kind == "store" {
                fs::create_dir_all(moved.parent().unwrap()).unwrap();
                fs::rename(record.parent().unwrap(), &moved).unwrap();
            }
            for folder in [".meta-cache", ".meta-store"] {
                let _ = fs::remove_dir_all(sandbox.work(folder));
            }
            let args = [kind, "get", &name, "--target", "target", "--remote", &url];
            let status = failing_get(&sandbox, &args);
            assert!([3, 6, 7].contains(&status), "{kind}: {what}: exit status {status}");
            assert_same(&before, &walk(&sandbox.work("target")), what);
            sentinels.check(what);
            let required = failing_get(&sandbox, &[&args[..], &["--remote-required"]].concat());
            assert!([6, 7, 8].contains(&required), "{kind}: {what}: required: exit status {required}");
            sentinels.check(what);
            if kind == "cache" {
                sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
                sandbox.monofo(["cache", "get", "a", "--target", "fresh"]).exits(0);
                assert_restored(&sandbox.work("out"), &sandbox.work("fresh"));
            }
        }
    }
}
