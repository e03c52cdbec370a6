//! What changes between selecting and reading fails the packing: never is half of it in an archive.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use monofo::archive::codec::Codec;
use monofo::artifact::Format;
use monofo::error::Class;

use super::{FORMATS, chosen, pack_files};
use crate::harness::{Sandbox, set};

/// The status is taken, then the file changes: the same as a change between selecting and reading.
#[test]
fn a_file_that_is_not_what_was_selected_fails_the_packing() {
    type Change = fn(&Path);
    let changes: [(&str, Change, &str); 8] = [
        ("grows", |f| File::options().append(true).open(f).unwrap().write_all(b"more").unwrap(), "changed"),
        ("shrinks", |f| File::options().write(true).open(f).unwrap().set_len(100).unwrap(), "became shorter"),
        ("vanishes", |f| fs::remove_file(f).unwrap(), "vanished"),
        (
            "becomes a link",
            |f| {
                fs::remove_file(f).unwrap();
                symlink("other", f).unwrap();
            },
            "was replaced",
        ),
        (
            "becomes a folder",
            |f| {
                fs::remove_file(f).unwrap();
                fs::create_dir(f).unwrap();
            },
            "while it was packed",
        ),
        (
            "keeps size and time",
            |f| {
                File::options().write(true).open(f).unwrap().write_all_at(b"X", 5).unwrap();
                set(f, None, 1_600_000_000);
            },
            "changed",
        ),
        (
            "is another of the same size and time",
            |f| {
                let other = f.with_file_name("not selected");
                fs::write(&other, vec![b'w'; 5000]).unwrap();
                set(&other, None, 1_600_000_000);
                fs::rename(other, f).unwrap();
            },
            "changed",
        ),
        ("keeps its size", |f| File::options().write(true).open(f).unwrap().write_all_at(b"X", 5).unwrap(), "changed"),
    ];
    for (how, change, says) in changes {
        let sandbox = Sandbox::new();
        sandbox.write("other", vec![b'o'; 5000]);
        sandbox.write("victim", vec![b'v'; 5000]);
        set(&sandbox.work("victim"), None, 1_600_000_000);
        let files = chosen(&sandbox.work(""));
        change(&sandbox.work("victim"));
        for format in FORMATS {
            let codec = Codec::new(format, None).unwrap();
            let error = pack_files(&sandbox.work(""), &files, format, codec, &mut Vec::new()).unwrap_err();
            assert_eq!(error.class(), Class::Changed, "{how}: {}", error.chain());
            assert!(error.chain().contains("`victim`") && error.chain().contains(says), "{how}: {}", error.chain());
        }
    }
}

/// A thread keeps writing to a file that takes long to pack: exit 5, and nothing is published.
#[test]
fn a_file_that_changes_meanwhile_fails_the_upload() {
    let sandbox = Sandbox::new();
    let large = File::create(sandbox.work("large")).unwrap();
    // A hole costs nothing to make and much to read.
    large.set_len(256 << 20).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while !stop.load(Ordering::Relaxed) {
                large.write_all_at(b"x", at % (256 << 20)).unwrap();
                at += 4096;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let ran = sandbox.monofo(["upload", "a.tar.lz4", "large"]).exits(5);
        stop.store(true, Ordering::Relaxed);
        ran.says("`large` changed while it was packed").says("try again");
    });
    assert!(sandbox.artifacts().is_empty(), "{:?}", sandbox.artifacts());
}

/// What has no content to read is looked at once more as well.
#[test]
fn empty_files_and_links_that_change_are_noticed() {
    type Change = fn(&Sandbox);
    let changes: [(&str, Change); 5] = [
        ("empty", |sandbox| std::fs::write(sandbox.work("empty"), "more").unwrap()),
        ("empty", |sandbox| std::fs::remove_file(sandbox.work("empty")).unwrap()),
        ("link", |sandbox| {
            std::fs::remove_file(sandbox.work("link")).unwrap();
            std::fs::write(sandbox.work("link"), "").unwrap();
        }),
        ("link", |sandbox| std::fs::remove_file(sandbox.work("link")).unwrap()),
        ("second", |sandbox| std::fs::remove_file(sandbox.work("second")).unwrap()),
    ];
    for (name, change) in changes {
        let sandbox = Sandbox::new();
        sandbox.write("empty", "");
        sandbox.write("first", "one file");
        std::fs::hard_link(sandbox.work("first"), sandbox.work("second")).unwrap();
        std::os::unix::fs::symlink("first", sandbox.work("link")).unwrap();
        let files = chosen(&sandbox.work(""));
        pack_files(&sandbox.work(""), &files, Format::Tar, Codec::None, &mut Vec::new()).unwrap();
        change(&sandbox);
        let error = pack_files(&sandbox.work(""), &files, Format::Tar, Codec::None, &mut Vec::new()).unwrap_err();
        assert_eq!(error.class(), Class::Changed, "{}", error.chain());
        assert!(error.chain().contains(&format!("`{name}`")), "{}", error.chain());
    }
}
