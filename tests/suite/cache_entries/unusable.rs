//! Caches and entries that cannot be used as they should: full, without rights, with the wrong name, replaced meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::entries::{assert_restored, document, entries, json, key, payload, workspace};
use crate::harness::{Sandbox, is_root, set};

/// A command of a user for whom modes count, root having been somebody else. `None` where that cannot be.
fn unprivileged(sandbox: &Sandbox, args: &[&str]) -> Option<(i32, Value)> {
    let copied = sandbox.path("monofo");
    if !copied.exists() {
        fs::copy(env!("CARGO_BIN_EXE_monofo"), &copied).unwrap();
        let owned = Command::new("chown").arg("-R").arg("65534:65534").arg(sandbox.path("")).status();
        assert!(!is_root() || owned.unwrap().success());
    }
    let mut command = if is_root() {
        if Command::new("setpriv").arg("--version").output().is_err() {
            eprintln!("SKIPPED: this is root, and there is no setpriv to be somebody else");
            return None;
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copied);
        command
    } else {
        Command::new(&copied)
    };
    let ran = command.arg("--json").args(args).current_dir(sandbox.work("")).env_clear().env("PATH", "/usr/bin:/bin");
    let ran = ran.output().unwrap();
    let document = serde_json::from_slice(&ran.stdout);
    Some((ran.status.code().unwrap(), document.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ran.stderr)))))
}

#[test]
fn an_entry_that_cannot_be_read_is_a_miss_with_a_warning_and_stays() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    let metadata = entries(&sandbox.work(".meta-cache")).into_values().next().unwrap();
    for locked in [payload(&metadata), metadata.clone()] {
        set(&locked, Some(0), 1_000_000_000);
        let Some((status, missed)) = unprivileged(&sandbox, &["cache", "get", "a", "--target", "got"]) else { return };
        assert_eq!((status, &missed["unreadable"]), (3, &json!(true)), "{missed:#}");
        assert_eq!(missed["warnings"].as_array().map(Vec::len), Some(1), "{missed:#}");
        let (status, got) =
            unprivileged(&sandbox, &["cache", "get", "a", "--target", "got", "--remote", &url]).unwrap();
        assert_eq!((status, &got["source"]), (0, &json!("remote")), "{got:#}");
        assert_restored(&sandbox.work("out"), &sandbox.work("got"));
        let (status, checked) = unprivileged(&sandbox, &["cache", "verify"]).unwrap();
        assert_eq!((status, &checked["damaged"]), (1, &json!([])), "{checked:#}");
        assert_eq!(checked["not_checked"], json!([key(&sandbox, "a")]), "{checked:#}");
        assert!(!sandbox.work(".meta-cache/quarantine").exists());
        set(&locked, Some(0o644), 1_000_000_000);
        let (status, got) = unprivileged(&sandbox, &["cache", "get", "a", "--target", "got"]).unwrap();
        assert_eq!((status, &got["source"]), (0, &json!("local")), "{got:#}");
    }
}

#[test]
fn an_artifact_that_cannot_be_read_is_not_taken_for_a_damaged_one() {
    let sandbox = workspace();
    let hash = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).stdout.trim().to_owned();
    let file = sandbox.work(format!(".meta-store/{}/{hash}/data", &hash[..2]));
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    let time = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    set(&file, Some(0), time);
    let Some((status, checked)) = unprivileged(&sandbox, &["store", "verify"]) else { return };
    assert_eq!((status, &checked["not_checked"]), (1, &json!([hash])), "{checked:#}");
    set(&file, Some(0o444), time);
    let facts = crate::harness::walk(&sandbox.work(".meta-store/facts"));
    let fact = facts.keys().find(|path| path.ends_with(b".zst")).unwrap();
    let fact = crate::harness::join(&sandbox.work(".meta-store/facts"), fact);
    set(&fact, Some(0), time);
    let (status, checked) = unprivileged(&sandbox, &["store", "verify"]).unwrap();
    assert_eq!((status, &checked["damaged"]), (1, &json!([])), "{checked:#}");
    set(&fact, Some(0o644), time);
    sandbox.monofo(["store", "verify"]).exits(0);
}

#[test]
fn what_could_not_be_moved_to_quarantine_is_not_said_to_have_been() {
    let sandbox = workspace();
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    sandbox.write(".meta-cache/quarantine", "in the way");
    let metadata = entries(&sandbox.work(".meta-cache")).into_values().next().unwrap();
    let bytes = fs::read(payload(&metadata)).unwrap();
    fs::write(payload(&metadata), &bytes[..bytes.len() / 2]).unwrap();
    let missed = json(&sandbox, &["cache", "get", "a", "--target", "got"], 3);
    let warned = missed["warnings"].to_string();
    assert!(warned.contains("could not be moved to quarantine"), "{missed:#}");
    let checked = json(&sandbox, &["cache", "verify"], 7);
    let said = checked["error"]["message"].as_str().unwrap();
    assert!(said.contains("of which 0 could be moved away"), "{checked:#}");
    fs::remove_file(sandbox.work(".meta-cache/quarantine")).unwrap();
    let checked = json(&sandbox, &["cache", "verify"], 7);
    assert!(checked["error"]["message"].as_str().unwrap().contains("and moved away"), "{checked:#}");
    assert!(checked["warnings"].to_string().contains("it was moved to quarantine"), "{checked:#}");
}

#[test]
fn an_artifact_whose_file_has_another_name_is_damaged_for_every_command() {
    let stored = || {
        let sandbox = workspace();
        let hash = sandbox.monofo(["store", "add", "a", "--source", "out/data"]).exits(0).stdout.trim().to_owned();
        let folder = sandbox.work(format!(".meta-store/{}/{hash}", &hash[..2]));
        fs::rename(folder.join("data"), folder.join("other")).unwrap();
        (sandbox, hash)
    };
    let (sandbox, hash) = stored();
    assert_eq!(json(&sandbox, &["store", "verify"], 7)["damaged"], json!([hash]));
    let (sandbox, hash) = stored();
    let added = json(&sandbox, &["store", "add", "a", "--source", "out/data"], 0);
    assert_eq!((&added["hash"], &added["already_there"]), (&json!(hash), &json!(false)), "{added:#}");
    assert!(added["warnings"].to_string().contains("stored again"), "{added:#}");
    sandbox.monofo(["store", "get", &hash, "--target", "got"]).exits(0);
    // The same content under another name is the same artifact, and keeps the name that it has there.
    sandbox.write("named/otherwise", fs::read(sandbox.work("out/data")).unwrap());
    let again = json(&sandbox, &["store", "add", "a", "--source", "named/otherwise"], 0);
    assert_eq!((&again["hash"], &again["already_there"]), (&json!(hash), &json!(true)), "{again:#}");
    let (sandbox, hash) = stored();
    let got = json(&sandbox, &["store", "get", &hash, "--target", "got"], 7);
    assert_eq!(got["error"]["hint"], "build it and add it again", "{got:#}");
}

/// A small file system, unmounted in the end. `None` where none can be mounted.
struct Small(PathBuf);

impl Small {
    fn mount(place: &Path) -> Option<Small> {
        let args = ["-t", "tmpfs", "-o", "size=256k", "none", place.to_str()?];
        match Command::new("mount").args(args).output() {
            Ok(output) if output.status.success() => Some(Small(place.to_owned())),
            _ => {
                eprintln!("SKIPPED: no file system can be mounted here");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_hit_needs_no_room_in_a_cache_that_is_full() {
    let sandbox = workspace();
    fs::create_dir(sandbox.path("small")).unwrap();
    let Some(small) = Small::mount(&sandbox.path("small")) else { return };
    let cache = small.0.join("cache");
    let with = |args: &[&str], status: i32| {
        let run = sandbox.monofo([&["--json"], args].concat());
        document(run.env("MONOFO_CACHE_DIR", cache.to_str().unwrap()), status)
    };
    with(&["cache", "build", "a", "--source", "out"], 0);
    // Until not a byte more fits.
    let filler = vec![0; 1 << 20];
    for number in 0..3 {
        let _ = fs::write(small.0.join(format!("filler-{number}")), &filler);
    }
    let got = with(&["cache", "get", "a", "--target", "got"], 0);
    assert_eq!(got["source"], "local", "{got:#}");
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    assert!(
        !fs::read_dir(sandbox.work(""))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_str().unwrap().starts_with(".monofo-restore-") })
    );
}

#[test]
fn what_a_remote_has_and_no_room_is_left_for_is_this_machines_trouble() {
    let sandbox = workspace();
    let noise: Vec<u8> = (0..100_000_u64).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()).collect();
    fs::write(sandbox.work("out/noise"), noise).unwrap();
    let url = format!("file://{}", sandbox.path("remote").display());
    sandbox.monofo(["cache", "build", "a", "--source", "out", "--remote", &url]).exits(0);
    fs::create_dir(sandbox.path("small")).unwrap();
    let Some(small) = Small::mount(&sandbox.path("small")) else { return };
    let get = |args: &[&str], status: i32| {
        let run =
            sandbox.monofo([&["--json", "cache", "get", "a", "--target", "got", "--remote", &url], args].concat());
        document(run.env("MONOFO_CACHE_DIR", small.0.join("cache").to_str().unwrap()), status)
    };
    let missed = get(&[], 3);
    assert!(missed["error"]["message"].as_str().unwrap().contains("could not be kept here"), "{missed:#}");
    let failed = get(&["--remote-required"], 1);
    assert!(failed["error"]["message"].as_str().unwrap().contains("could not be kept here"), "{failed:#}");
}

#[test]
fn an_entry_that_was_replaced_while_it_was_shared_fails_no_build() {
    let sandbox = workspace();
    let url = format!("file://{}", sandbox.path("remote").display());
    for (place, content) in [("one", "1"), ("two", "2")] {
        sandbox.write(format!("{place}/data"), content.repeat(100_000));
    }
    fs::create_dir(sandbox.path("remote")).unwrap();
    for _ in 0..30 {
        let build = |place: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_monofo"));
            let args = ["cache", "build", "a", "--source", place, "--remote", &url];
            command.args(args).current_dir(sandbox.work("")).env_clear();
            command.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let builds: Vec<_> = ["one", "two", "one", "two"].map(build).into_iter().collect();
        for build in builds {
            let output = build.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("remote refused"), "{said}");
        }
    }
}

#[test]
fn where_no_more_files_can_be_opened_nothing_is_left_that_gc_does_not_find() {
    let sandbox = workspace();
    for number in 0..300 {
        sandbox.write(format!("out/many/{number}"), format!("{number}"));
    }
    sandbox.monofo(["cache", "build", "a", "--source", "out"]).exits(0);
    let beside = || -> Vec<_> {
        let names =
            fs::read_dir(sandbox.work("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".monofo-restore-")).collect()
    };
    let staged = || fs::read_dir(sandbox.work(".meta-cache/tmp")).unwrap().count();
    let (mut hits, mut failed) = (0, 0);
    for most in 5..24 {
        let ran = Command::new("sh")
            .args(["-c", &format!("ulimit -n {most} && exec \"$0\" cache get a --target got")])
            .arg(env!("CARGO_BIN_EXE_monofo"))
            .current_dir(sandbox.work(""))
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        if ran.status.success() {
            hits += 1;
            assert_restored(&sandbox.work("out"), &sandbox.work("got"));
        } else {
            failed += 1;
        }
        let left = beside();
        assert!(left.iter().all(|name| said.contains(name.as_str())), "{most}: {left:?} goes unsaid: {said}");
        assert!(staged() <= left.len(), "{most}: {} folders for {left:?}: {said}", staged());
        sandbox.monofo(["gc", "cache"]).exits(0);
        assert!(beside().is_empty() && staged() == 0, "{most}: gc leaves {:?}: {said}", beside());
    }
    assert!(hits > 0 && failed > 0, "{hits} went well and {failed} did not: nothing was tested");
}
