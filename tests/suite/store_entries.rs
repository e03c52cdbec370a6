//! The store: added, found by hash, prefix and inputs, shared on disk, kept by pins and profiles.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use crate::entries::{Sentinels, artifact, assert_restored, entries, json, key, sha256, workspace};
use crate::harness::{Sandbox, assert_same, is_root, set, walk};

fn add(sandbox: &Sandbox, source: &str) -> String {
    sandbox.monofo(["store", "add", "a", "--source", source]).exits(0).stdout.trim().to_owned()
}

fn stored(sandbox: &Sandbox, hash: &str, file: &str) -> PathBuf {
    sandbox.work(format!(".meta-store/{}/{hash}/{file}", &hash[..2]))
}

#[test]
fn an_address_commits_to_inputs_and_output_and_the_source_stays_as_it_is() {
    let sandbox = workspace();
    let before = walk(&sandbox.work("out"));
    let hash = add(&sandbox, "out");
    assert_same(&before, &walk(&sandbox.work("out")), "the source, to the nanosecond");
    let record = json(&sandbox, &["store", "query", &hash], 0);
    let key = key(&sandbox, "a");
    let tree = record["output"]["tree"].as_str().unwrap();
    let address =
        format!("{{\"component\":\"a\",\"inputs\":\"{key}\",\"output\":\"{tree}\",\"schema\":\"meta.store-entry/1\"}}");
    assert_eq!(hash, sha256(address.as_bytes()));
    assert_eq!(
        (record["content_hash"].as_str(), record["inputs_key"].as_str()),
        (Some(hash.as_str()), Some(key.as_str()))
    );
    assert_eq!(record["schema"], "meta.store-entry/1");
    sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).says("already in the store");
    sandbox.write("out/data", "other");
    let ran = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).says("not reproducible").says("`data`");
    assert_ne!(ran.stdout.trim(), hash);
    assert_eq!(entries(&sandbox.work(".meta-store")).len(), 2, "both are kept");
    assert_eq!(json(&sandbox, &["store", "list"], 0)["total"]["entries"], 2);
}

#[test]
fn files_of_the_store_are_read_only_its_folders_are_not_and_git_clean_removes_it() {
    let sandbox = workspace();
    let hash = add(&sandbox, "out");
    for (file, mode) in [("data", 0o444), ("bin/tool", 0o555), ("bin", 0o755), ("hollow", 0o755), ("", 0o755)] {
        assert_eq!(fs::metadata(stored(&sandbox, &hash, file)).unwrap().permissions().mode() & 0o7777, mode, "{file}");
    }
    let metadata = entries(&sandbox.work(".meta-store")).into_values().next().unwrap();
    assert_eq!(fs::metadata(metadata).unwrap().permissions().mode() & 0o7777, 0o444);
    fs::remove_dir_all(sandbox.work(".meta-store")).unwrap();
}

#[test]
fn files_that_are_known_by_their_status_are_added_as_they_are_now() {
    let sandbox = workspace();
    let data = sandbox.work("out/data");
    fs::write(&data, "first").unwrap();
    // What changed within the last two seconds is not remembered.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let first = add(&sandbox, "out");
    let remembered = sandbox.work(".meta-store/stat-cache");
    assert_eq!(remembered.exists(), is_trusted(&sandbox.work(".")), "only where times tell of every change");
    // Same size and same time of change, other content.
    let time = fs::metadata(&data).unwrap().modified().unwrap();
    fs::write(&data, "other").unwrap();
    fs::File::options().write(true).open(&data).unwrap().set_modified(time).unwrap();
    let second = add(&sandbox, "out");
    assert_ne!(second, first);
    assert_eq!(fs::read_to_string(stored(&sandbox, &second, "data")).unwrap(), "other");
    // What is known and has gone from the store is read again.
    fs::write(&data, "first").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(add(&sandbox, "out"), first);
    for hash in [&first, &second] {
        let folder = sandbox.work(format!(".meta-store/{}", &hash[..2]));
        fs::remove_dir_all(folder).unwrap();
    }
    assert_eq!(add(&sandbox, "out"), first);
    assert_eq!(fs::read_to_string(stored(&sandbox, &first, "data")).unwrap(), "first");
    json(&sandbox, &["store", "verify"], 0);
}

#[test]
fn what_rotted_unseen_is_replaced_by_what_is_read_and_not_by_itself() {
    for source in ["out", "out/large"] {
        let sandbox = workspace();
        sandbox.write("out/large", vec![7; 3 << 20]);
        let hash = add(&sandbox, source);
        for file in ["data", "large"] {
            let stored = stored(&sandbox, &hash, file);
            if !stored.exists() {
                continue;
            }
            rot(&stored);
            sandbox.monofo(["store", "add", "a", "--source", source]).exits(0).says("the artifact was stored again");
            assert_eq!(fs::read(&stored).unwrap(), fs::read(sandbox.work(format!("out/{file}"))).unwrap(), "{file}");
            json(&sandbox, &["store", "verify"], 0);
            sandbox.monofo(["store", "add", "a", "--source", source]).exits(0).says("already in the store");
        }
    }
}

/// Other bytes in a file of the store, of which its status tells nothing.
pub fn rot(file: &std::path::Path) {
    let (mut bytes, time) = (fs::read(file).unwrap(), fs::metadata(file).unwrap().modified().unwrap());
    bytes[0] ^= 1;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(file, bytes).unwrap();
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn what_is_written_over_is_not_stored_although_its_time_is_set_back() {
    let sandbox = workspace();
    let ran = crate::cache_keys::trouble::rewriting_in_place(&sandbox.work("out/large"), || {
        sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(5)
    });
    ran.says("`large` changed while it was read");
    assert!(entries(&sandbox.work(".meta-store")).is_empty());
}

#[test]
fn holes_take_no_room_in_a_store_nor_out_of_it() {
    use std::os::unix::fs::FileExt;
    let sandbox = workspace();
    let len = 48 << 20;
    let file = fs::File::create(sandbox.work("out/holes")).unwrap();
    file.set_len(len).unwrap();
    for (at, bytes) in [(5, &b"begin"[..]), (20 << 20, b"middle")] {
        file.write_all_at(bytes, at).unwrap();
    }
    let room = |path: PathBuf| {
        let status = fs::metadata(path).unwrap();
        assert_eq!(status.len(), len);
        status.blocks() * 512
    };
    if room(sandbox.work("out/holes")) > 1 << 20 {
        println!("SKIPPED: there are no holes here");
        return;
    }
    let hash = add(&sandbox, "out");
    assert!(room(stored(&sandbox, &hash, "holes")) <= 1 << 20);
    for how in ["reflink", "copy"] {
        sandbox.monofo(["store", "get", &hash, "--target", how, "--link", how]).exits(0);
        assert!(room(sandbox.work(format!("{how}/holes"))) <= 1 << 20, "{how}");
        assert_eq!(
            fs::read(sandbox.work(format!("{how}/holes"))).unwrap(),
            fs::read(sandbox.work("out/holes")).unwrap()
        );
    }
    json(&sandbox, &["store", "verify"], 0);
}

fn is_trusted(folder: &std::path::Path) -> bool {
    let run = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(folder).output().unwrap();
    let known = ["ext2/ext3", "xfs", "btrfs", "f2fs", "bcachefs"];
    known.contains(&String::from_utf8_lossy(&run.stdout).trim())
}

#[test]
fn a_hash_can_be_shortened_and_inputs_name_an_artifact_too() {
    let sandbox = workspace();
    let hash = add(&sandbox, "out");
    let key = key(&sandbox, "a");
    let by_key = (format!("inputs:{key}"), format!("inputs:{}", &key[..12]));
    for name in [&hash, &hash[..6], &hash[..12], &hash[..63], &by_key.0, &by_key.1] {
        assert_eq!(json(&sandbox, &["store", "query", name], 0)["content_hash"], hash, "{name}");
        sandbox.monofo(["store", "get", name, "--target", "got"]).exits(0);
        assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    }
    sandbox.monofo(["store", "pin", "short", &hash[..8]]).exits(0);
    let printed = sandbox.monofo(["store", "list"]).exits(0).stdout;
    let typed = printed.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    sandbox.monofo(["store", "query", typed]).exits(0);
    // Names that begin alike: made, since they cannot be waited for.
    let alike = format!("{}{}", &hash[..10], "0".repeat(54));
    fs::write(sandbox.work(format!(".meta-store/{}/{alike}.metadata.json", &hash[..2])), "{}").unwrap();
    let ran = sandbox.monofo(["store", "query", &hash[..8]]).exits(2);
    ran.says(&hash).says(&alike);
    sandbox.monofo(["store", "query", &hash[..11]]).exits(if hash[..11] == alike[..11] { 2 } else { 0 });
    sandbox.write("out/data", "another output of the same inputs");
    let other = add(&sandbox, "out");
    sandbox.monofo(["store", "query", &by_key.0]).exits(2).says(&hash).says(&other);
    sandbox.monofo(["store", "query", &format!("inputs:{}", "0".repeat(64))]).exits(3);
}

#[test]
fn names_that_are_no_hashes_are_refused_before_any_path_is_made() {
    let sandbox = workspace();
    add(&sandbox, "out");
    let sentinels = Sentinels::place(&sandbox);
    sandbox.write("secret.metadata.json", "{}");
    let long = "a".repeat(100_000);
    let upper = "A".repeat(64);
    let before = walk(&sandbox.work(".meta-store"));
    for name in [
        "../x",
        "../../outside/secret",
        "..",
        ".",
        "",
        "/etc/passwd",
        "ab/cd",
        "abcde",
        "xyzxyz",
        "abcdef/",
        "abcdef\n",
        " abcdef",
        "%2e%2e",
        "inputs:",
        "inputs:../x",
        "inputs:abc",
        "inputs:inputs:abcdef",
        &long,
        &upper,
        "*",
        "-",
    ] {
        for command in [&["query"][..], &["get", "--target", "got"], &["pin", "name"]] {
            let args: Vec<&str> =
                ["--json", "store"].into_iter().chain(command.iter().copied()).chain(["--", name]).collect();
            let document = crate::entries::document(sandbox.monofo(&args), 2);
            assert_eq!(document["error"]["kind"], "usage", "{name:.40}");
        }
        assert!(!sandbox.work("got").exists());
    }
    for name in ["../x", "a/b", "", ".", "..", "-x", "a b", "a\u{1b}", &"a".repeat(65)] {
        for command in [
            &["pin", "--", name, "abcdef"][..],
            &["unpin", "--", name],
            &["switch", "--", name, "abcdef"],
            &["generations", "--", name],
        ] {
            let status = assert_cmd::Command::new(env!("CARGO_BIN_EXE_monofo"))
                .arg("store")
                .args(command)
                .current_dir(sandbox.work(""))
                .env_clear()
                .output()
                .unwrap();
            assert!(matches!(status.status.code(), Some(2 | 3)), "{command:?}: {status:?}");
            assert!(!String::from_utf8_lossy(&status.stderr).contains('\u{1b}'));
        }
    }
    assert_same(&before, &walk(&sandbox.work(".meta-store")), "the store");
    sentinels.check("names that are no hashes");
}

#[test]
fn equal_files_are_one_on_disk_and_different_ones_are_not() {
    let sandbox = workspace();
    let first = add(&sandbox, "out");
    artifact(&sandbox, "next", "v1");
    sandbox.write("next/more", "something new");
    sandbox.write("next/bin/tool", "another tool");
    set(&sandbox.work("next/bin/tool"), Some(0o755), 1);
    set(&sandbox.work("next/data"), Some(0o755), 1);
    fs::copy(sandbox.work("out/data"), sandbox.work("next/copy")).unwrap();
    set(&sandbox.work("next/copy"), Some(0o644), 1);
    let second = add(&sandbox, "next");
    let inode = |hash: &str, file: &str| fs::metadata(stored(&sandbox, hash, file)).unwrap();
    assert_eq!(inode(&first, "data").ino(), inode(&second, "copy").ino(), "equal bytes, equal bit");
    assert_eq!(inode(&first, "data").nlink(), 2);
    assert_ne!(inode(&first, "data").ino(), inode(&second, "data").ino(), "executable there, and not here");
    assert_ne!(inode(&first, "bin/tool").ino(), inode(&second, "bin/tool").ino());
    let stats = json(&sandbox, &["store", "stats"], 0);
    assert_eq!(stats["entries"], 2);
    assert!(stats["saved_by_sharing_bytes"].as_u64().unwrap() >= 8192, "{stats:#}");
    // What was edited in the store is not shared on.
    let edited = stored(&sandbox, &first, "data");
    set(&edited, Some(0o644), 1);
    fs::write(&edited, fs::read(&edited).unwrap().to_ascii_uppercase()).unwrap();
    artifact(&sandbox, "third", "v1");
    sandbox.write("third/x", "x");
    let third = add(&sandbox, "third");
    assert_ne!(inode(&third, "data").ino(), inode(&first, "data").ino());
    sandbox.monofo(["store", "get", &third, "--target", "got"]).exits(0);
    assert_restored(&sandbox.work("third"), &sandbox.work("got"));
    sandbox.monofo(["store", "verify"]).exits(7).says(&first[..12]).says(&second[..12]).does_not_say(&third[..12]);
    sandbox.monofo(["store", "verify"]).exits(0);
}

#[test]
fn hard_links_share_with_the_store_and_copies_do_not() {
    for (link, shares) in [("hard", true), ("copy", false), ("reflink", false)] {
        let sandbox = workspace();
        let hash = add(&sandbox, "out");
        let ran = sandbox.monofo(["store", "get", &hash, "--target", "got", "--link", link]).exits(0);
        assert_restored(&sandbox.work("out"), &sandbox.work("got"));
        let (there, here) =
            (fs::metadata(stored(&sandbox, &hash, "data")).unwrap(), fs::metadata(sandbox.work("got/data")).unwrap());
        assert_eq!(there.ino() == here.ino(), shares, "{link}");
        assert_eq!(here.permissions().mode() & 0o222 == 0, shares, "{link}");
        if shares {
            let _ = ran.says("read-only");
            // Written to all the same: noticed, and nothing wrong is given out.
            set(&sandbox.work("got/data"), Some(0o644), 1);
            fs::write(sandbox.work("got/data"), "edited").unwrap();
            sandbox.monofo(["store", "get", &hash, "--target", "again"]).exits(7).says("damaged");
            assert!(!sandbox.work("again").exists());
        } else {
            fs::write(sandbox.work("got/data"), "edited").unwrap();
            sandbox.monofo(["store", "verify"]).exits(0);
        }
    }
}

#[test]
fn going_back_leads_to_what_was_live_before_and_not_to_what_was_rolled_back() {
    let sandbox = workspace();
    let hashes: Vec<String> = (1..=3)
        .map(|number| {
            sandbox.write("out/data", format!("v{number}"));
            add(&sandbox, "out")
        })
        .collect();
    let switch = |to: &str, status| sandbox.monofo(["store", "switch", "prod", to]).exits(status);
    let current = || json(&sandbox, &["store", "generations", "prod"], 0)["current"].as_u64().unwrap();
    switch(&hashes[0], 0);
    switch(&hashes[1], 0);
    switch("--back", 0);
    switch(&hashes[2], 0);
    assert_eq!(current(), 3);
    switch("--back", 0);
    assert_eq!(current(), 1, "2 had been rolled back");
    switch("--back", 3);
    let document = |number: u64| sandbox.work(format!(".meta-store/profiles/prod/gen-{number}.json"));
    let generations = json(&sandbox, &["store", "generations", "prod"], 0);
    let before: Vec<_> = generations["generations"].as_array().unwrap().iter().map(|one| &one["before"]).collect();
    assert_eq!(before, [&serde_json::Value::Null, &serde_json::json!(1), &serde_json::json!(1)]);
    // What an earlier version wrote does not tell, and what was before may be gone: then the number decides.
    sandbox.monofo(["store", "switch", "prod", "--to", "3"]).exits(0);
    let text = fs::read_to_string(document(3)).unwrap();
    fs::write(document(3), text.replace("\"before\": 1,", "")).unwrap();
    switch("--back", 0);
    assert_eq!(current(), 2);
    fs::remove_file(document(1)).unwrap();
    switch("--back", 3);
    fs::write(document(3), text.replace("\"before\": 1,", "\"before\": 3,")).unwrap();
    switch("--back", 7);
}

#[test]
fn going_back_finds_a_generation_although_it_is_not_known_which_was_live() {
    let sandbox = workspace();
    let mut hashes = Vec::new();
    for number in 1..=3 {
        sandbox.write("out/data", number.to_string());
        hashes.push(add(&sandbox, "out"));
    }
    let current = sandbox.work(".meta-store/profiles/prod/current");
    for (at, hash) in hashes.iter().enumerate() {
        sandbox.monofo(["store", "switch", "prod", hash]).exits(0);
        if at == 1 {
            fs::remove_file(&current).unwrap();
        }
    }
    assert!(json(&sandbox, &["store", "generations", "prod"], 0)["generations"][2]["before"].is_null());
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(0);
    assert_eq!(fs::read_link(&current).unwrap(), PathBuf::from("gen-2"));
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(0);
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(3);
}

#[test]
fn profiles_are_switched_and_go_back_and_name_what_is_missing() {
    let sandbox = workspace();
    let first = add(&sandbox, "out");
    sandbox.write("out/data", "v2");
    let second = add(&sandbox, "out");
    let file = sandbox.monofo(["store", "add", "a", "--source", "out/zero"]).exits(0).stdout.trim().to_owned();
    let current = sandbox.work(".meta-store/profiles/prod/current");
    let data = || fs::read_to_string(current.join("a/data")).unwrap();
    sandbox.monofo(["store", "switch", "prod", &first]).exits(0);
    assert_eq!(data(), "v1".repeat(5000));
    sandbox.monofo(["store", "switch", "prod", &second[..12]]).exits(0);
    assert_eq!(data(), "v2");
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(0);
    assert_eq!(data(), "v1".repeat(5000));
    sandbox.monofo(["store", "switch", "prod", "--back"]).exits(3);
    sandbox.monofo(["store", "switch", "prod", "--to", "2"]).exits(0);
    assert_eq!(data(), "v2");
    let missing = "0".repeat(64);
    sandbox.monofo(["store", "switch", "prod", "--to", "9"]).exits(3);
    sandbox.monofo(["store", "switch", "prod", &first, &missing]).exits(3).says(&missing);
    sandbox.monofo(["store", "switch", "prod", &first, &second]).exits(2).says("`a`");
    sandbox.monofo(["store", "switch", "prod"]).exits(2);
    assert_eq!(data(), "v2", "what failed changed nothing");
    let told = json(&sandbox, &["store", "generations", "prod"], 0);
    assert_eq!((told["current"].as_u64(), told["generations"].as_array().unwrap().len()), (Some(2), 2));
    // A single file is linked as such, and the whole store can be moved.
    sandbox.monofo(["store", "switch", "prod", &file]).exits(0);
    assert!(fs::metadata(current.join("a")).unwrap().is_file());
    fs::rename(sandbox.work(".meta-store"), sandbox.path("moved")).unwrap();
    assert!(fs::metadata(sandbox.path("moved/profiles/prod/current/a")).unwrap().is_file());
}

#[test]
fn a_profile_can_be_what_a_lock_file_names() {
    let sandbox = workspace();
    let hash = add(&sandbox, "out");
    let platform = monofo::key::native_platform();
    let lock = |artifacts: &str| {
        sandbox.write(
            "manifests/components.lock.prod.yaml",
            format!("components:\n  a:\n    version: v1\n    artifact: {artifacts}\n"),
        );
    };
    lock(&format!("[{{platform: {platform}, hash: {hash}}}, {{platform: other-cpu, hash: {}}}]", "1".repeat(64)));
    let path = "manifests/components.lock.prod.yaml";
    let told = json(&sandbox, &["store", "switch", "prod", "--lock", path], 0);
    assert_eq!(told["generation"]["artifacts"][0]["hash"], hash);
    let text = fs::read(sandbox.work(path)).unwrap();
    assert_eq!(told["generation"]["lock"], sha256(&text));
    // What was made for here wins over what runs everywhere, in whichever order they stand.
    sandbox.write("components/a/main.c", "int main(){return 1;}\n");
    let everywhere = add(&sandbox, "out");
    for order in [["any", &platform], [&platform, "any"]] {
        let artifact =
            |of: &str| format!("{{platform: {of}, hash: {}}}", if of == "any" { &everywhere } else { &hash });
        lock(&format!("[{}, {}]", artifact(order[0]), artifact(order[1])));
        let told = json(&sandbox, &["store", "switch", "both", "--lock", path], 0);
        assert_eq!(told["generation"]["artifacts"], serde_json::json!([{ "component": "a", "hash": hash }]));
    }
    lock(&format!("[{{platform: any, hash: {everywhere}}}]"));
    let told = json(&sandbox, &["store", "switch", "both", "--lock", path], 0);
    assert_eq!(told["generation"]["artifacts"][0]["hash"], everywhere);
    lock(&format!("[{{platform: {platform}, hash: {}}}]", "2".repeat(64)));
    sandbox.monofo(["store", "switch", "prod", "--lock", path]).exits(3).says(&"2".repeat(64));
    lock("[]");
    sandbox.monofo(["store", "switch", "prod", "--lock", path]).exits(4);
    sandbox.write(path, "components: [");
    sandbox.monofo(["store", "switch", "prod", "--lock", path]).exits(4).says("components.lock.prod.yaml");
    assert_eq!(json(&sandbox, &["store", "generations", "prod"], 0)["generations"].as_array().unwrap().len(), 1);
}

#[test]
fn pins_are_shown_moved_and_removed() {
    let sandbox = workspace();
    let first = add(&sandbox, "out");
    sandbox.write("out/data", "v2");
    let second = add(&sandbox, "out");
    sandbox.monofo(["store", "pin", "release", &first]).exits(0);
    let roots = || {
        let list = json(&sandbox, &["store", "list"], 0);
        let of = |hash: &str| {
            list["entries"].as_array().unwrap().iter().find(|entry| entry["content_hash"] == hash).unwrap()["roots"]
                .clone()
        };
        (of(&first), of(&second))
    };
    assert_eq!(roots(), (serde_json::json!(["pin:release"]), serde_json::json!([])));
    sandbox.monofo(["store", "pin", "release", &second]).exits(0);
    assert_eq!(roots(), (serde_json::json!([]), serde_json::json!(["pin:release"])));
    sandbox.monofo(["store", "pin", "none", &"0".repeat(64)]).exits(3);
    sandbox.monofo(["store", "unpin", "release"]).exits(0);
    sandbox.monofo(["store", "unpin", "release"]).exits(3).says("`release`");
    assert_eq!(roots().1, serde_json::json!([]));
}

#[test]
fn links_in_an_artifact_stay_links_and_nothing_behind_them_is_stored_or_changed() {
    let sandbox = workspace();
    let sentinels = Sentinels::place(&sandbox);
    symlink("../../outside", sandbox.work("out/leaves")).unwrap();
    symlink("/etc/passwd", sandbox.work("out/absolute")).unwrap();
    let ran = sandbox.monofo(["store", "add", "a", "--source", "out"]).exits(0).says("2 symbolic links");
    let hash = ran.stdout.trim().to_owned();
    assert!(stored(&sandbox, &hash, "leaves").is_symlink() && stored(&sandbox, &hash, "absolute").is_symlink());
    sandbox.monofo(["store", "get", &hash, "--target", "got"]).exits(0);
    assert_restored(&sandbox.work("out"), &sandbox.work("got"));
    sandbox.monofo(["gc", "store", "--grace", "0"]).exits(0);
    sentinels.check("links that leave");
    assert!(!is_root() || fs::metadata("/etc/passwd").is_ok());
}
