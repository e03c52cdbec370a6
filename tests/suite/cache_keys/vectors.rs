//! Hashes that another program computed from the specification, compared with the binary's.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use monofo::key::{KeyRecord, native_platform};
use serde_json::Value;

use crate::entries::{json, manifest};
use crate::harness::Sandbox;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../checker/vectors.json")).unwrap()
}

fn list(of: &Value) -> &[Value] {
    of.as_array().unwrap()
}

fn text(of: &Value) -> &str {
    of.as_str().unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = text(hex).as_bytes();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// What a file of a vector holds: bytes, or one byte many times and then some.
fn content(node: &Value) -> Vec<u8> {
    match node.get("repeat") {
        None => bytes(&node["content"]),
        Some(repeat) => {
            let mut content = bytes(&repeat["byte"]).repeat(text(&repeat["times"]).parse().unwrap());
            content.extend(bytes(&repeat["then"]));
            content
        }
    }
}

fn make(folder: &Path, nodes: &[Value]) {
    for node in nodes {
        let path = folder.join(OsStr::from_bytes(&bytes(&node["path"])));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text(&node["kind"]) {
            "directory" => fs::create_dir_all(&path).unwrap(),
            "link" => symlink(OsStr::from_bytes(&bytes(&node["target"])), &path).unwrap(),
            kind => {
                fs::write(&path, content(node)).unwrap();
                let mode = if kind == "executable" { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

#[test]
fn trees_have_the_digests_that_another_program_computed_in_cache_and_store() {
    for (number, vector) in list(&vectors()["trees"]).iter().enumerate() {
        let sandbox = Sandbox::new();
        let (nodes, source) = (list(&vector["nodes"]), sandbox.work("out"));
        if vector["root"] == "file" {
            // The name of a single file does not count.
            fs::create_dir(&source).unwrap();
            make(
                &source,
                nodes
                    .iter()
                    .map(|node| {
                        let mut node = node.clone();
                        node["path"] = Value::from("6e616d65");
                        node
                    })
                    .collect::<Vec<_>>()
                    .as_slice(),
            );
        } else {
            fs::create_dir(&source).unwrap();
            make(&source, nodes);
        }
        let path = if vector["root"] == "file" { "out/name" } else { "out" };
        let name = format!("c{number}");
        for command in ["cache", "store"] {
            let verb = if command == "cache" { "build" } else { "add" };
            let document = json(&sandbox, &[command, verb, &name, "--source", path], 0);
            assert_eq!(document["entry"]["output"]["tree"], vector["tree"], "{command}: {}", vector["name"]);
        }
    }
}

#[test]
fn sources_have_the_digests_that_another_program_computed() {
    for vector in list(&vectors()["sources"]) {
        let sandbox = Sandbox::new();
        manifest(&sandbox, "  a: {}\n");
        fs::create_dir_all(sandbox.work("components/a")).unwrap();
        fs::create_dir_all(sandbox.work("components/folder")).unwrap();
        sandbox.write("components/beside", "outside\n");
        make(&sandbox.work("components/a"), list(&vector["nodes"]));
        let document = json(&sandbox, &["cache", "key", "a"], 0);
        assert_eq!(document["record"]["source"]["listing"], vector["digest"], "{}", vector["name"]);
    }
}

#[test]
fn records_of_keys_have_the_digests_that_another_program_computed() {
    let vectors = vectors();
    for vector in list(&vectors["keys"]) {
        let record = KeyRecord::parse(&vector["record"]).unwrap();
        assert_eq!(record.canonical(), text(&vector["canonical"]).as_bytes(), "{}", vector["name"]);
        assert_eq!(record.key().to_string(), text(&vector["key"]), "{}", vector["name"]);
    }
}

#[test]
fn the_keys_and_the_address_of_the_specification_come_out_of_the_command() {
    if native_platform() != "linux-x86_64" {
        eprintln!("skipped: the golden keys are those of linux-x86_64");
        return;
    }
    let sandbox = Sandbox::new();
    manifest(
        &sandbox,
        "  a: {version: v1.2.3, type: bazel, build_target: \"//a:all\", env: [DEBUG, CFLAGS], depends_on: [b]}\n  \
         b: {version: v1.0.0, type: bazel, build_target: \"//b:all\"}\n",
    );
    sandbox.write("components/a/src/m.c", "int main(){}\n");
    let golden = |name: &str, key: &str| {
        let ran = sandbox.monofo(["cache", "key", name]).env("CFLAGS", "-O2").exits(0);
        assert_eq!(ran.stdout.trim(), key, "the key of {name}");
    };
    golden("b", "5670a1057f8c1e8616136a447781e22f094af378312fcd00c1f2e01cb86f0208");
    golden("a", "1d6a7fabe5cbdafa46c28f707ddad8b09d97d8d241a8f6a7fbb874e7b68b77cb");
    sandbox.write("out/a.b", "1");
    sandbox.write("out/a/b", "2");
    sandbox.write("out/bin/tool", "#!/bin/sh\n");
    fs::set_permissions(sandbox.work("out/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(sandbox.work("out/hollow")).unwrap();
    symlink("bin/tool", sandbox.work("out/run")).unwrap();
    sandbox.write("out/zero", "");
    let added = sandbox.monofo(["store", "add", "a", "--source", "out"]).env("CFLAGS", "-O2").exits(0);
    assert_eq!(added.stdout.trim(), "986f17193907943a61d86c9de994e6ef2789645b5b55705bdc7764ee3a35cb26");
}
