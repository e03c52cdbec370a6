use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::archive::source::Source;
use crate::cancel::Cancel;
use crate::chunk::Digest;
use crate::collect::{Globs, Source as Selecting, select};
use crate::context::Context;

/// Every file and folder below, at 2017-07-14T02:40:00Z, with the usual modes.
fn settle(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let status = path.symlink_metadata().unwrap();
        if status.is_dir() {
            settle(&path);
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        } else if status.is_file() {
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        } else {
            let time = rustix::fs::Timespec { tv_sec: 1_500_000_000, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
            continue;
        }
        File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)).unwrap();
    }
}

/// The catar of a folder in two ways: as a whole, and in spans of a few bytes. The root is given the time of the others.
fn catar(folder: &Path) -> Vec<u8> {
    settle(folder);
    let globs = Globs::new(&["**".to_owned()], &[]).unwrap();
    let asked = Selecting { root: folder, globs: &globs, list: None, null_separated: false };
    let files = select(asked, &Cancel::new()).unwrap().files;
    let layout = Layout::new(&files, Digest::default()).unwrap();
    let source = Source::new(folder, &files).unwrap();
    let spans = |len: usize| {
        let mut out = Vec::new();
        let mut scratch = Vec::new();
        while out.len() as u64 != layout.len() {
            let start = out.len();
            let end = (start + len).min(layout.len() as usize);
            out.resize(end, 0xee);
            let span = start as u64..end as u64;
            source.fill(&layout, span, &mut out[start..], &mut scratch, &Context::default()).unwrap();
        }
        out
    };
    let whole = spans(usize::MAX / 2);
    assert!(spans(7) == whole, "spans give other bytes than the whole");
    whole
}

/// The SHA-256, with the root's time as casync stored it.
fn digest(mut catar: Vec<u8>) -> String {
    catar[56..64].copy_from_slice(&1_500_000_000_000_000_000u64.to_le_bytes());
    Digest::Sha256.id(&catar).to_string()
}

#[test]
fn archives_are_casyncs_to_the_byte() {
    let temp = tempfile::tempdir().unwrap();
    assert_eq!(digest(catar(temp.path())), "47180e22990afd08666bc040a62f97f3c05e60c19c7349787c2d07de0e3e670a");
    fs::write(temp.path().join("a.txt"), "hello\n").unwrap();
    let one = catar(temp.path());
    assert_eq!(one.len(), 236);
    assert_eq!(digest(one), "3cd4200d9efc145d990ef25944272ca34ca066725d243ee77e667da8fed84294");
    fs::write(temp.path().join("empty"), "").unwrap();
    fs::create_dir(temp.path().join("emptydir")).unwrap();
    fs::create_dir(temp.path().join("sub")).unwrap();
    fs::write(temp.path().join("sub/b"), "x").unwrap();
    std::os::unix::fs::symlink("../a.txt", temp.path().join("sub/link")).unwrap();
    let third = catar(temp.path());
    assert_eq!(third.len(), 920);
    assert_eq!(digest(third), "d91da4486a7b87f1092aeae3e8115d188b1e3a7babe9521f831fa0119058024e");
}

#[test]
fn search_trees_of_all_shapes_are_casyncs() {
    for (files, sha256) in [
        (1, "454838c32d1263e7eca165ace2aee7247f9533923a5af34e58a59fb7588c69b8"),
        (2, "643131225a03575a874dbb254653861f42f0af8579d811d37e24455191154bf0"),
        (6, "c493842c5082b9dcd9a8d08f67750a5a130d84e7ac08e011715599398fefb822"),
        (11, "9be239420db3831ae397f1cdea9a959d1d3ad9539ca30c5143c1c30197f840d7"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        for number in 1..=files {
            fs::write(temp.path().join(format!("f{number}")), number.to_string()).unwrap();
        }
        assert_eq!(digest(catar(temp.path())), sha256, "{files} files");
    }
    let temp = tempfile::tempdir().unwrap();
    for number in 1..=1000 {
        fs::write(temp.path().join(number.to_string()), "").unwrap();
    }
    let many = digest(catar(temp.path()));
    assert_eq!(many, "55faf66e7517e7b79a96324dd2163fc1ecc2f3e897d46c2178465c904ceab0a0");
    assert_eq!(search_tree(5), [3, 1, 4, 0, 2]);
    assert_eq!(search_tree(6), [3, 1, 5, 0, 2, 4]);
}
