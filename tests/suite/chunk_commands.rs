//! `monofo index` and `monofo gc chunks`: what they tell, what they find, and above all what they leave.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use monofo::chunk::{ChunkId, Index};
use serde_json::Value;

use crate::harness::{Run, Sandbox, set};

const DAY: u64 = 24 * 60 * 60;

/// Bytes that do not compress, other ones for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

/// A command with a chunk store in `chunks`.
fn monofo<'a>(sandbox: &'a Sandbox, args: &[&str]) -> Run<'a> {
    sandbox.monofo(args).env("MONOFO_DESYNC_STORE", sandbox.path("chunks").to_str().unwrap())
}

fn json(sandbox: &Sandbox, args: &[&str], status: i32) -> Value {
    let ran = monofo(sandbox, &[&["--json"], args].concat()).exits(status);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["status"], status);
    assert_eq!(document["artifacts"], Value::Array(vec![]));
    document
}

/// Uploads these files, and puts the index beside the working directory, where commands find it as `../NAME`.
fn upload(sandbox: &Sandbox, name: &str, files: &[(&str, &[u8])]) -> Index {
    let folder = format!("from-{name}");
    for (file, content) in files {
        sandbox.write(format!("{folder}/{file}"), content);
    }
    monofo(sandbox, &["upload", name, "**", "-C", &folder]).exits(0);
    let newest = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let mine = sandbox.artifacts().into_iter().filter(|path| path.parent().unwrap().ends_with(name));
    let bytes = fs::read(mine.max_by_key(newest).unwrap()).unwrap();
    fs::write(sandbox.path(name), &bytes).unwrap();
    Index::read(&bytes).unwrap()
}

fn ids(index: &Index) -> BTreeSet<ChunkId> {
    index.items.iter().map(|item| item.id).collect()
}

fn chunk(sandbox: &Sandbox, id: &ChunkId) -> PathBuf {
    let id = id.to_string();
    sandbox.path("chunks").join(&id[..4]).join(format!("{id}.cacnk"))
}

/// Every file in the store.
fn stored(sandbox: &Sandbox) -> Vec<PathBuf> {
    let folders = fs::read_dir(sandbox.path("chunks")).unwrap();
    let mut files: Vec<_> = folders
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

fn age(path: &Path, seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    set(path, None, (now - Duration::from_secs(seconds)).as_secs().cast_signed());
}

fn age_all(sandbox: &Sandbox, seconds: u64) {
    stored(sandbox).iter().for_each(|path| age(path, seconds));
}

#[test]
fn info_counts_what_is_where() {
    let sandbox = Sandbox::new();
    let content = noise(1, 1_500_000);
    let index = upload(&sandbox, "a.catar.caibx", &[("one", &content), ("two", &content)]);
    let document = json(&sandbox, &["index", "info", "../a.catar.caibx"], 0);
    assert_eq!(document["command"], "index info");
    let info = &document["index"];
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(number(&info["chunks"]), index.items.len() as u64);
    assert_eq!(number(&info["bytes"]), index.len());
    assert_eq!(info["digest"], "sha512-256");
    assert_eq!(number(&info["unique"]["chunks"]), ids(&index).len() as u64);
    assert!(number(&info["repeated_bytes"]) > 1_000_000);
    assert_eq!(number(&info["unique"]["bytes"]) + number(&info["repeated_bytes"]), index.len());
    assert_eq!((&info["cache"], &info["seeds"]), (&Value::Null, &Value::Null));
    let store = &info["stores"][0];
    assert_eq!(store["there"], info["unique"]);
    assert_eq!(store["missing"]["chunks"], 0);
    let packed: u64 = stored(&sandbox).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(number(&store["packed_bytes"]), packed);

    fs::remove_file(chunk(&sandbox, &index.items[0].id)).unwrap();
    fs::write(chunk(&sandbox, &index.items[1].id), "").unwrap();
    let document = json(&sandbox, &["index", "info", "../a.catar.caibx"], 0);
    let missing = &document["index"]["stores"][0]["missing"];
    assert_eq!((&missing["chunks"], number(&missing["bytes"])), (&Value::from(2), index.items[1].end));
    let ran = sandbox.monofo(["index", "info", "-"]).stdin(index.write()).exits(0);
    ran.says("16:64:256 KiB").says("repeated").does_not_say("missing");
}

#[test]
fn info_looks_at_seeds_and_cache() {
    let sandbox = Sandbox::new();
    let content = noise(2, 600_000);
    let index = upload(&sandbox, "a.catar.caibx", &[("one", &content)]);
    sandbox.write("again/one", &content);
    let (chunks, seeds) = (sandbox.path("chunks"), sandbox.path("seeds"));
    let near = |run: Run<'_>| {
        run.env("MONOFO_DESYNC_SEED_DIR", seeds.to_str().unwrap())
            .env("MONOFO_DESYNC_CACHE", chunks.to_str().unwrap())
            .exits(0)
    };
    let elsewhere = monofo(&sandbox, &["upload", "b.catar.caibx", "**", "-C", "again"]);
    near(elsewhere.env("MONOFO_DESYNC_STORE", sandbox.path("elsewhere").to_str().unwrap()));
    let ran = near(sandbox.monofo(["--json", "index", "info", "../a.catar.caibx"]));
    let info: Value = serde_json::from_str(&ran.stdout).unwrap();
    let info = &info["index"];
    assert_eq!(info["unique"]["chunks"], ids(&index).len());
    assert_eq!(info["cache"], info["unique"]);
    // The first chunk has the folder's time in it.
    assert!(info["seeds"]["chunks"].as_u64().unwrap() + 2 >= ids(&index).len() as u64, "{info}");
    assert_eq!(info["stores"], Value::Array(vec![]));
}

#[test]
fn what_cannot_be_told_is_no_missing_chunk() {
    let sandbox = Sandbox::new();
    let index = upload(&sandbox, "a.catar.caibx", &[("one", &noise(3, 200_000))]);
    let bytes = index.write();
    fs::write(sandbox.path("cut"), &bytes[..bytes.len() - 1]).unwrap();
    sandbox.write("file", "");
    for verb in ["info", "verify"] {
        let unusable = json(&sandbox, &["index", verb, "../a.catar.caibx", "--store", "../none"], 8);
        assert_eq!(unusable["error"]["class"], "unavailable");
        monofo(&sandbox, &["index", verb, "../a.catar.caibx", "--store", "file"]).exits(8);
        monofo(&sandbox, &["index", verb, "../a.catar.caibx", "--store", "agent"]).exits(2);
        monofo(&sandbox, &["index", verb, "../cut"]).exits(7).says("damaged");
        monofo(&sandbox, &["index", verb, "file"]).exits(7).says("no index");
        monofo(&sandbox, &["index", verb, "../nothing"]).exits(3);
        monofo(&sandbox, &["index", verb, ".."]).exits(2);
    }
    // Somebody who cannot agree with himself must not have good chunks taken away.
    let mut two_lengths = index.clone();
    let last = two_lengths.items.len() - 1;
    two_lengths.items[last].id = two_lengths.items[0].id;
    fs::write(sandbox.path("two"), two_lengths.write()).unwrap();
    let before = stored(&sandbox);
    monofo(&sandbox, &["index", "verify", "../two", "--repair"]).exits(7).says("two lengths");
    let mut shorter = index.clone();
    shorter.items[last].end -= 1;
    fs::write(sandbox.path("shorter"), shorter.write()).unwrap();
    monofo(&sandbox, &["index", "verify", "../shorter", "--repair"]).exits(7).says("another length than the index");
    assert_eq!(stored(&sandbox), before);
}

#[test]
fn verify_finds_every_bad_chunk_and_repair_lets_an_upload_heal_it() {
    let sandbox = Sandbox::new();
    let content = noise(4, 1_500_000);
    let index = upload(&sandbox, "a.catar.caibx", &[("one", &content)]);
    monofo(&sandbox, &["index", "verify", "../a.catar.caibx"]).exits(0).says("are there and right");
    let [flipped, cut, gone] = [2, 5, 8].map(|number| index.items[number].id);
    let mut bytes = fs::read(chunk(&sandbox, &flipped)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(chunk(&sandbox, &flipped), bytes).unwrap();
    let bytes = fs::read(chunk(&sandbox, &cut)).unwrap();
    fs::write(chunk(&sandbox, &cut), &bytes[..bytes.len() - 1]).unwrap();
    fs::remove_file(chunk(&sandbox, &gone)).unwrap();

    let before = stored(&sandbox);
    let document = json(&sandbox, &["index", "verify", "../a.catar.caibx"], 7);
    let found = &document["index"];
    assert_eq!(found["missing"], serde_json::json!([gone.to_string()]));
    assert_eq!(found["wrong"][0]["id"], flipped.to_string());
    assert_eq!(found["wrong"][1]["id"], cut.to_string());
    assert_eq!(found["wrong"][2], Value::Null);
    assert_eq!(found["right"], ids(&index).len() - 3);
    assert_eq!(stored(&sandbox), before);

    let ran = monofo(&sandbox, &["index", "verify", "../a.catar.caibx", "--repair"]).exits(7);
    ran.says(&format!("chunk {gone} is missing")).says(&format!("chunk {cut} is wrong")).says("it was renamed");
    let document = json(&sandbox, &["index", "verify", "../a.catar.caibx"], 7);
    assert_eq!(document["index"]["missing"].as_array().unwrap().len(), 3);
    monofo(&sandbox, &["upload", "a.catar.caibx", "**", "-C", "from-a.catar.caibx"]).exits(0);
    monofo(&sandbox, &["index", "verify", "../a.catar.caibx"]).exits(0);
}

#[test]
fn verify_names_at_most_twenty_and_takes_either_digest() {
    let sandbox = Sandbox::new();
    let mut index = upload(&sandbox, "a.catar.caibx", &[("one", &noise(5, 3_000_000))]);
    index.digest = index.digest.other();
    fs::write(sandbox.path("other"), index.write()).unwrap();
    monofo(&sandbox, &["index", "verify", "../other"]).exits(0);
    stored(&sandbox).iter().for_each(|path| fs::remove_file(path).unwrap());
    let ran = monofo(&sandbox, &["index", "verify", "../a.catar.caibx"]).exits(7);
    assert_eq!(ran.stderr.matches("warning: chunk ").count(), 20);
    ran.says(&format!("and {} more chunks", ids(&index).len() - 20));
}

#[test]
fn a_clean_up_removes_what_is_old_and_in_no_kept_index() {
    let sandbox = Sandbox::new();
    let kept = upload(&sandbox, "kept.catar.caibx", &[("one", &noise(6, 800_000))]);
    let other = upload(&sandbox, "other.catar.caibx", &[("two", &noise(7, 800_000))]);
    age_all(&sandbox, 10 * DAY);
    let young = upload(&sandbox, "young.catar.caibx", &[("three", &noise(8, 300_000))]);
    let leftovers = ["old", "new"].map(|name| sandbox.path("chunks/0000").join(format!(".tmp-cacnk{name}")));
    fs::create_dir_all(sandbox.path("chunks/0000")).unwrap();
    leftovers.iter().for_each(|path| fs::write(path, "x").unwrap());
    age(&leftovers[0], 10 * DAY);
    age(&leftovers[1], 30 * 60);
    let before = stored(&sandbox);

    let gc = ["gc", "chunks", "--keep", "../kept.catar.caibx"];
    let dry = json(&sandbox, &[&gc[..], &["--dry-run"]].concat(), 0);
    assert_eq!(stored(&sandbox), before);
    let real = json(&sandbox, &gc, 0);
    for document in [&dry, &real] {
        let gc = &document["gc"];
        assert_eq!(document["command"], "gc chunks");
        assert_eq!(gc["removed"], ids(&other).len());
        assert_eq!(gc["leftovers"], 1);
        assert_eq!(gc["in_use"], ids(&kept).len());
        assert_eq!(gc["young"], ids(&young).len());
        assert_eq!((&gc["lacking"], &gc["spared"]), (&Value::from(0), &Value::from(0)));
        assert!(gc["bytes"].as_u64().unwrap() > 800_000);
    }
    assert!(!leftovers[0].exists() && leftovers[1].exists());
    for (name, status) in [("kept", 0), ("young", 0), ("other", 7)] {
        monofo(&sandbox, &["index", "verify", &format!("../{name}.catar.caibx")]).exits(status);
    }
    monofo(&sandbox, &["upload", "other.catar.caibx", "**", "-C", "from-other.catar.caibx"]).exits(0);
    monofo(&sandbox, &["index", "verify", "../other.catar.caibx"]).exits(0);

    let ran = monofo(&sandbox, &[&gc[..], &["--older-than", "0s"]].concat()).exits(0);
    ran.says("uploads that run now are not protected").says("0 younger than 0s stay");
    assert!(leftovers[1].exists());
    assert_eq!(stored(&sandbox).len(), ids(&kept).len() + 1);
    fs::remove_file(chunk(&sandbox, &kept.items[0].id)).unwrap();
    monofo(&sandbox, &gc).exits(0).says("1 chunk that kept indexes name");
}

#[test]
fn a_clean_up_finds_indexes_in_artifact_folders() {
    let sandbox = Sandbox::new();
    upload(&sandbox, "a.catar.caibx", &[("one", &noise(9, 300_000))]);
    upload(&sandbox, "b.catar.caibx", &[("two", &noise(10, 300_000))]);
    monofo(&sandbox, &["upload", "c.txt", "from-a.catar.caibx/one"]).exits(0);
    age_all(&sandbox, 10 * DAY);
    let done = json(&sandbox, &["gc", "chunks", "--keep", "../artifacts"], 0);
    assert_eq!((&done["gc"]["indexes"], &done["gc"]["removed"]), (&Value::from(2), &Value::from(0)));
    symlink(sandbox.path("work"), sandbox.path("artifacts/link")).unwrap();
    monofo(&sandbox, &["gc", "chunks", "--keep", "../artifacts"]).exits(0).says("1 link");
}

#[test]
fn a_clean_up_that_cannot_be_sure_removes_nothing() {
    let sandbox = Sandbox::new();
    let kept = upload(&sandbox, "kept.catar.caibx", &[("one", &noise(11, 200_000))]);
    upload(&sandbox, "other.catar.caibx", &[("two", &noise(12, 200_000))]);
    age_all(&sandbox, 10 * DAY);
    let before = stored(&sandbox);
    let bytes = kept.write();
    sandbox.write("cut/kept.caibx", &bytes);
    sandbox.write("cut/no-suffix", &bytes[..bytes.len() - 1]);
    sandbox.write("text/kept.caibx", &bytes);
    sandbox.write("text/deep/wrong.caidx", "text");
    sandbox.write("empty/file", "text");
    sandbox.write("linked/kept.caibx", &bytes);
    symlink("../../kept.catar.caibx", sandbox.work("linked/link.caibx")).unwrap();
    let mut foreign = kept.clone();
    foreign.items.iter_mut().for_each(|item| item.id.0[0] ^= 1);
    sandbox.write("foreign.caibx", foreign.write());
    let none = sandbox.path("none");
    for (args, status, says) in [
        (&["--keep", "cut"][..], 7, "no-suffix"),
        (&["--keep", "../kept.catar.caibx", "text"], 7, "wrong.caidx"),
        (&["--keep", "empty"], 2, "there is no index in `empty`"),
        (&["--keep", "../kept.catar.caibx", "--keep", "empty/file"], 7, "empty/file"),
        (&["--keep", "../kept.catar.caibx", "nothing"], 3, "nothing"),
        (&["--keep", "linked"], 2, "link.caibx"),
        (&["--keep", "foreign.caibx"], 6, "none of the chunks"),
        (&["--keep", "../kept.catar.caibx", "--older-than", "soon"], 2, "7d"),
        (&["--keep", "../kept.catar.caibx", "--store", none.to_str().unwrap()], 8, "none"),
        (&[], 2, "--keep"),
    ] {
        monofo(&sandbox, &[&["gc", "chunks"], args].concat()).exits(status).says(says);
        assert_eq!(stored(&sandbox), before, "{args:?}");
    }
    sandbox.monofo(["gc", "chunks", "--keep", "../kept.catar.caibx"]).exits(2).says("MONOFO_DESYNC_STORE");
}

#[test]
fn an_upload_makes_the_chunks_young_that_it_relies_on() {
    let sandbox = Sandbox::new();
    let content = noise(13, 300_000);
    upload(&sandbox, "kept.catar.caibx", &[("one", &noise(14, 200_000))]);
    upload(&sandbox, "a.catar.caibx", &[("one", &content)]);
    age_all(&sandbox, 10 * DAY);
    upload(&sandbox, "a.catar.caibx", &[("one", &content)]);
    monofo(&sandbox, &["gc", "chunks", "--keep", "../kept.catar.caibx"]).exits(0);
    monofo(&sandbox, &["index", "verify", "../a.catar.caibx"]).exits(0);
}
