//! What looks like an attack or like damage and is neither: all of this must unpack.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::harness::{Sandbox, assert_same, walk};
use crate::hostile::{guarded, outside};
use crate::tars::{Tar, compressed};

/// Unpacks with the real binary and gives the sandbox back.
#[track_caller]
fn unpacked(tar: Tar) -> Sandbox {
    into(guarded(), tar)
}

#[track_caller]
fn into(sandbox: Sandbox, tar: Tar) -> Sandbox {
    fs::write(sandbox.path("a.tar"), tar.end()).unwrap();
    let before = outside(&sandbox);
    sandbox.monofo(["inflate", "../a.tar", "-C", "out"]).exits(0);
    assert_same(&before, &outside(&sandbox), "outside");
    sandbox
}

fn read(sandbox: &Sandbox, path: &str) -> String {
    fs::read_to_string(sandbox.work("out").join(path)).unwrap()
}

#[test]
fn names_with_dots_and_slashes() {
    let sandbox = unpacked(
        Tar::new()
            .dir("./")
            .file("..name", "1")
            .file("a/..b", "2")
            .file("./x", "3")
            .dir("d//")
            .file("d///e", "4")
            .file("...", "5")
            .file("d/./f", "6")
            .file("-rf", "7")
            .file("a b\nc", "8"),
    );
    sandbox.assert_paths("work/out", &["-rf", "...", "..name", "a", "a b\nc", "a/..b", "d", "d/e", "d/f", "x"]);
    assert_eq!(read(&sandbox, "d/e"), "4");
}

#[test]
fn case_pairs_and_composed_letters_are_different_names() {
    let sandbox =
        unpacked(Tar::new().file("Readme", "1").file("README", "2").file("e\u{301}", "3").file("\u{e9}", "4"));
    // A file system that folds names would hold fewer; there the last one wins.
    assert_eq!(read(&sandbox, "README"), "2");
    assert_eq!(read(&sandbox, "\u{e9}"), "4");
}

#[test]
fn links_that_are_only_links() {
    let sandbox = unpacked(
        Tar::new()
            .dir("d")
            .file("d/f", "")
            .symlink("inside", "d")
            .symlink("dangling", "nowhere/at/all")
            .symlink("to-the-top", ".")
            .symlink("loop", "loop")
            .file("inside-not-below", ""),
    );
    assert_eq!(fs::read_link(sandbox.work("out/dangling")).unwrap().to_str(), Some("nowhere/at/all"));
    sandbox.assert_paths("work/out", &["d", "d/f", "dangling", "inside", "inside-not-below", "loop", "to-the-top"]);
}

#[test]
fn links_that_lead_out_are_kept_and_said() {
    let sandbox = guarded();
    let archive =
        Tar::new().symlink("abs", "/etc/hostname").dir("d").symlink("d/up", "../../x").symlink("d/in", "../d");
    fs::write(sandbox.path("a.tar"), archive.end()).unwrap();
    sandbox.monofo(["inflate", "../a.tar", "-C", "out"]).exits(0).says("2 symbolic links lead out");
    assert_eq!(fs::read_link(sandbox.work("out/abs")).unwrap().to_str(), Some("/etc/hostname"));
}

#[test]
fn of_an_appended_duplicate_the_last_wins() {
    let sandbox = unpacked(
        Tar::new()
            .file("f", "old")
            .symlink("l", "old")
            .file("t", "kept")
            .hard_link("h", "f")
            .file("f", "new")
            .symlink("l", "new")
            .hard_link("h", "t")
            .hard_link("f2", "f"),
    );
    assert_eq!(read(&sandbox, "f"), "new");
    assert_eq!(read(&sandbox, "h"), "kept");
    assert_eq!(read(&sandbox, "f2"), "new");
    assert_eq!(fs::read_link(sandbox.work("out/l")).unwrap().to_str(), Some("new"));
}

/// What GNU tar and bsdtar make of `ln -s nowhere a; ln a b`.
#[test]
fn a_symbolic_link_may_have_two_names() {
    let sandbox = unpacked(Tar::new().symlink("a", "no/where").hard_link("d/b", "a"));
    for name in ["a", "d/b"] {
        assert_eq!(fs::read_link(sandbox.work("out").join(name)).unwrap().to_str(), Some("no/where"));
    }
}

/// POSIX: an empty value takes back what an earlier header said.
#[test]
fn an_empty_pax_value_overrides_nothing() {
    let records: [(&str, &[u8]); 3] = [("path", b""), ("size", b""), ("mtime", b"")];
    let sandbox = unpacked(Tar::new().pax(b'x', &records).file("f", "content"));
    assert_eq!(read(&sandbox, "f"), "content");
}

/// With a default ACL the kernel gives new files what that says, whatever the umask.
#[test]
fn modes_are_as_stored_below_a_default_acl() {
    let sandbox = guarded();
    fs::create_dir_all(sandbox.work("out")).unwrap();
    // Version 2; owner rw-, group r--, others nothing.
    let acl: Vec<u8> = [&2u32.to_le_bytes()[..]]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain([(1u16, 6u16), (4, 4), (0x20, 0)].map(|(tag, permissions)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
        }))
        .flatten()
        .collect();
    let name = c"system.posix_acl_default";
    if let Err(error) = rustix::fs::setxattr(sandbox.work("out"), name, &acl, rustix::fs::XattrFlags::empty()) {
        println!("SKIPPED: no default ACL can be set here: {error}");
        return;
    }
    let executable = |header: &mut tar::Header| header.set_mode(0o755);
    let sandbox = into(sandbox, Tar::new().changed(b'0', "run", b"x", executable).file("d/f", "y"));
    for (path, mode) in [("run", 0o755), ("d/f", 0o644)] {
        assert_eq!(fs::metadata(sandbox.work("out").join(path)).unwrap().mode() & 0o7777, mode, "{path}");
    }
}

/// `tar -r` of one name of a file with two: that name comes as a hard link first and as a file later.
#[test]
fn a_hard_link_may_come_again_as_a_file_and_back() {
    let sandbox =
        unpacked(Tar::new().file("a", "old").hard_link("b", "a").file("b", "new").file("c", "").hard_link("c", "b"));
    assert_eq!(read(&sandbox, "a"), "old");
    assert_eq!(read(&sandbox, "b"), "new");
    assert_eq!(read(&sandbox, "c"), "new");
}

#[test]
fn of_a_folder_that_comes_twice_the_later_mode_counts() {
    let mode = |mode| move |header: &mut tar::Header| header.set_mode(mode);
    let sandbox = unpacked(
        Tar::new()
            .changed(b'5', "d", b"", mode(0o700))
            .file("d/f", "")
            .changed(b'5', "d/", b"", mode(0o555))
            .file("d/g", ""),
    );
    assert_eq!(walk(&sandbox.work("out"))[&b"d"[..]].mode, 0o555);
    sandbox.assert_paths("work/out", &["d", "d/f", "d/g"]);
}

#[test]
fn headers_of_other_makers() {
    let mut v7 = tar::Header::new_old();
    v7.as_old_mut().name[..3].copy_from_slice(b"v7f");
    v7.as_old_mut().linkflag[0] = 0;
    v7.set_mode(0o600);
    v7.set_size(2);
    v7.set_mtime(1);
    v7.set_cksum();
    let mut v7_dir = tar::Header::new_old();
    v7_dir.as_old_mut().name[..4].copy_from_slice(b"v7d/");
    v7_dir.as_old_mut().linkflag[0] = 0;
    v7_dir.set_mode(0o755);
    v7_dir.set_size(0);
    v7_dir.set_mtime(1);
    v7_dir.set_cksum();
    let sandbox = unpacked(
        Tar::new()
            .pax(b'g', &[("comment", b"0123456789012345678901234567890123456789")])
            .raw(v7.as_bytes())
            .raw(b"v7")
            .raw(&[0; 510])
            .raw(v7_dir.as_bytes())
            .entry(b'7', b"contiguous", b"", b"c")
            .pax(b'x', &[("mtime", b"1600000000.123456789"), ("SCHILY.xattr.user.x", b"\0\xff"), ("comment", b"")])
            .file("pax", "p")
            .pax(b'x', &[("mtime", b"-1.25")])
            .file("before-1970", "")
            .changed(b'0', "blank", b"", |header| {
                header.as_old_mut().mtime = [b' '; 12];
                header.as_old_mut().uid = [0; 8];
            })
            .changed(b'0', "binary-time", b"", |header| {
                // Negative, in base 256.
                header.as_old_mut().mtime = [0xff; 12];
            })
            .changed(b'V', "label", b"", |header| header.as_old_mut().size = [0; 12])
            .long(b'L', b"gnu/long/name")
            .file("gnu/long/nam", "l"),
    );
    let tree = walk(&sandbox.work("out"));
    let node = |name: &str| &tree[name.as_bytes()];
    assert_eq!((node("v7f").kind, node("v7f").mode, node("v7f").mtime), ('f', 0o600, 1));
    assert_eq!(node("v7d").kind, 'd');
    assert_eq!((node("pax").mtime, node("pax").mtime_nanos), (1_600_000_000, 123_456_789));
    assert_eq!((node("before-1970").mtime, node("before-1970").mtime_nanos), (-2, 750_000_000));
    assert_eq!((node("blank").mtime, node("binary-time").mtime), (0, -1));
    assert_eq!(read(&sandbox, "gnu/long/name"), "l");
    assert!(!tree.contains_key(&b"label"[..]));
}

#[test]
fn sums_of_signed_bytes() {
    let mut tar = Tar::new();
    let mut header = crate::tars::header(b'0', b"n\xff\xfe", b"", 0);
    let bytes = header.as_bytes();
    let sum: i32 =
        (0..512).map(|at| if (148..156).contains(&at) { 32 } else { i32::from(bytes[at].cast_signed()) }).sum();
    header.as_old_mut().cksum.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar = tar.raw(header.as_bytes());
    let sandbox = unpacked(tar);
    assert_eq!(walk(&sandbox.work("out")).into_keys().collect::<Vec<_>>(), [b"n\xff\xfe"]);
}

#[test]
fn sparse_files_in_all_four_encodings() {
    let mut expected = vec![0u8; 5000];
    expected[512..1024].fill(7);
    expected[4000..4096].fill(8);
    let stored = [[7u8; 512].as_slice(), &[8; 96]].concat();
    let mut old = tar::Header::new_gnu();
    old.as_gnu_mut().unwrap().name[..3].copy_from_slice(b"old");
    old.set_entry_type(tar::EntryType::new(b'S'));
    old.set_mode(0o644);
    old.set_mtime(0);
    // One extent in the header, the other in an extension block.
    old.set_size(608);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.sparse[0].offset = *b"00000001000\0";
    gnu.sparse[0].numbytes = *b"00000001000\0";
    gnu.isextended = [1];
    gnu.realsize = *b"00000011610\0";
    old.set_cksum();
    let mut extension = [0u8; 512];
    extension[..24].copy_from_slice(b"00000007640\x0000000000140\0");
    let mut in_content = b"2\n512\n512\n4000\n96\n".to_vec();
    in_content.resize(512, 0);
    in_content.extend_from_slice(&stored);
    let sandbox = unpacked(
        Tar::new()
            .raw(old.as_bytes())
            .raw(&extension)
            .raw(&stored)
            .raw(&[0; 416])
            .pax(
                b'x',
                &[
                    ("GNU.sparse.size", b"5000"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"512"),
                    ("GNU.sparse.numbytes", b"512"),
                    ("GNU.sparse.offset", b"4000"),
                    ("GNU.sparse.numbytes", b"96"),
                ],
            )
            .entry(b'0', b"pax-0.0", b"", &stored)
            .pax(
                b'x',
                &[
                    ("GNU.sparse.name", b"pax-0.1"),
                    ("GNU.sparse.size", b"5000"),
                    ("GNU.sparse.map", b"512,512,4000,96"),
                ],
            )
            .entry(b'0', b"GNUSparseFile.1/pax-0.1", b"", &stored)
            .pax(
                b'x',
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"pax-1.0"),
                    ("GNU.sparse.realsize", b"5000"),
                ],
            )
            .entry(b'0', b"GNUSparseFile.1/pax-1.0", b"", &in_content)
            .file("after", "in step"),
    );
    for name in ["old", "pax-0.0", "pax-0.1", "pax-1.0"] {
        assert!(fs::read(sandbox.work("out").join(name)).unwrap() == expected, "{name}");
    }
    sandbox.assert_paths("work/out", &["after", "old", "pax-0.0", "pax-0.1", "pax-1.0"]);
}

#[test]
fn what_is_there_is_merged_or_replaced() {
    let sandbox = guarded();
    sandbox.write("out/d/stays", "mine");
    sandbox.write("out/d/f", "a longer old content");
    sandbox.write("out/was-a-file", "");
    symlink("d", sandbox.work("out/was-a-link")).unwrap();
    fs::write(sandbox.path("outside/shared"), "shared").unwrap();
    fs::hard_link(sandbox.path("outside/shared"), sandbox.work("out/shared")).unwrap();
    let sandbox = into(
        sandbox,
        Tar::new()
            .dir("d")
            .file("d/f", "new")
            .file("was-a-file/now-a-folder", "")
            .file("was-a-link", "now a file")
            .file("shared", "not shared any more"),
    );
    assert_eq!(read(&sandbox, "d/f"), "new");
    assert_eq!(read(&sandbox, "d/stays"), "mine");
    assert_eq!(read(&sandbox, "was-a-link"), "now a file");
    assert_eq!(fs::read_to_string(sandbox.path("outside/shared")).unwrap(), "shared");
    assert_eq!(fs::metadata(sandbox.path("outside/shared")).unwrap().nlink(), 1);
    assert!(fs::metadata(sandbox.work("out/was-a-file/now-a-folder")).unwrap().is_file());
}

#[test]
fn the_same_archive_twice_gives_the_same_tree() {
    let sandbox = guarded();
    let archive = crate::damaged::sample();
    let sandbox = into(sandbox, archive.clone());
    let once = walk(&sandbox.work("out"));
    let sandbox = into(sandbox, archive);
    assert_same(&once, &walk(&sandbox.work("out")), "second run");
}

#[test]
fn the_target_may_be_reached_through_a_link() {
    let sandbox = guarded();
    symlink("out", sandbox.work("via")).unwrap();
    fs::write(sandbox.path("a.tar"), Tar::new().file("f", "x").end()).unwrap();
    sandbox.monofo(["inflate", "../a.tar", "-C", "via"]).exits(0);
    assert_eq!(read(&sandbox, "f"), "x");
}

#[test]
fn padding_and_empty_archives() {
    for tar in [Tar::new(), Tar::new().raw(&[0; 10240])] {
        unpacked(tar).assert_paths("work/out", &[]);
    }
    let sandbox = guarded();
    for (format, bytes) in compressed(&Tar::new().file("f", "x").raw(&[0; 10240]).end()) {
        sandbox.monofo(["inflate", "-", "-C", format]).stdin(bytes).exits(0);
        sandbox.assert_paths(&format!("work/{format}"), &["f"]);
    }
}

/// Deeper than a process may have open files.
#[test]
fn a_path_with_more_parts_than_open_files() {
    let sandbox = guarded();
    let mut tar = Tar::new();
    for depth in [2000, 700, 1300] {
        for leaf in 0..40 {
            let path = [b"d/".repeat(depth + leaf), b"f".to_vec()].concat();
            tar = tar.pax(b'x', &[("path", &path)]).file("f", "deep");
        }
    }
    fs::write(sandbox.path("a.tar"), tar.end()).unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 1024 && exec \"$0\" inflate ../a.tar -C out", env!("CARGO_BIN_EXE_monofo")])
        .current_dir(sandbox.path("work"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = Command::new("find").arg(sandbox.work("out")).args(["-type", "f"]).output().unwrap();
    assert_eq!(found.stdout.iter().filter(|byte| **byte == b'\n').count(), 120);
    // The standard library's clean-up keeps a folder open for each level; this does not.
    assert!(Command::new("rm").arg("-rf").arg(sandbox.work("out")).status().unwrap().success());
}
