//! Archives that try to write outside, or lie: one story per attack, each with a sentinel outside.

mod lies;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use monofo::context::Context;
use monofo::engine::{Chunks, inflate};
use monofo::error::{Class, Result};

use crate::harness::{Node, Sandbox, assert_same, set, walk};
use crate::tars::{Tar, compressed};

/// A sandbox with a target folder `work/out`, and `outside` beside it, which nothing may touch.
pub fn guarded() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.work("out")).unwrap();
    fs::create_dir_all(sandbox.path("outside/folder")).unwrap();
    fs::write(sandbox.path("outside/sentinel"), "kept").unwrap();
    fs::write(sandbox.path("outside/folder/inner"), "kept too").unwrap();
    symlink("sentinel", sandbox.path("outside/link")).unwrap();
    set(&sandbox.path("outside/sentinel"), Some(0o640), 1_600_000_000);
    set(&sandbox.path("outside/folder"), Some(0o750), 1_600_000_000);
    set(&sandbox.path("outside"), Some(0o750), 1_600_000_000);
    sandbox
}

/// Everything in the sandbox but the target folder.
pub fn outside(sandbox: &Sandbox) -> BTreeMap<Vec<u8>, Node> {
    let mut all = walk(&sandbox.path(""));
    all.retain(|path, _| path.as_slice() != b"work/out" && !path.starts_with(b"work/out/"));
    all
}

/// Unpacks in this process.
pub fn unpack(archive: &[u8], into: &Path) -> Result<()> {
    inflate(Box::new(Cursor::new(archive.to_vec())), into, false, &Chunks::none(), &Context::default()).map(|_| ())
}

struct Story {
    name: &'static str,
    /// What lies in the target folder before; the path is that of the sandbox.
    before: fn(&Sandbox),
    archive: Vec<u8>,
    status: i32,
    says: String,
}

fn story(name: &'static str, status: i32, says: &str, archive: Tar) -> Story {
    Story { name, before: no_setup, archive: archive.end(), status, says: says.to_owned() }
}

fn in_tree(name: &'static str, before: fn(&Sandbox), status: i32, says: &str, archive: Tar) -> Story {
    Story { before, ..story(name, status, says, archive) }
}

/// Runs stories through the real binary, and those that need nothing in the tree compressed as well.
fn tell(stories: impl Fn(&Sandbox) -> Vec<Story>) {
    let count = stories(&guarded()).len();
    let mut names = std::collections::BTreeSet::new();
    let mut failures = Vec::new();
    for index in 0..count {
        let sandbox = guarded();
        let story = stories(&sandbox).swap_remove(index);
        assert!(names.insert(story.name), "two stories are called `{}`", story.name);
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tell_one(&sandbox, &story, index)));
        if told.is_err() {
            failures.push(story.name);
        }
    }
    assert!(failures.is_empty(), "{} of {count} stories end otherwise: {failures:#?}", failures.len());
}

fn tell_one(sandbox: &Sandbox, story: &Story, index: usize) {
    (story.before)(sandbox);
    let kept = walk(&sandbox.work("out"));
    fs::write(sandbox.path("archive.tar"), &story.archive).unwrap();
    let before = outside(sandbox);
    sandbox.monofo(["inflate", "../archive.tar", "-C", "out"]).exits(story.status).says(&story.says);
    assert_same(&before, &outside(sandbox), story.name);
    if story.status != 0 {
        // What was in the tree may have been replaced, but nothing of it is gone.
        let now = walk(&sandbox.work("out"));
        for path in kept.keys() {
            assert!(now.contains_key(path), "{}: `{}` is gone", story.name, path.escape_ascii());
        }
    }
    if kept.is_empty() {
        let (format, bytes) = compressed(&story.archive).swap_remove(index % 3);
        let status = unpack(&bytes, &sandbox.work("out/again")).err().map_or(0, |e| i32::from(e.class().exit_status()));
        assert_eq!(status, story.status, "{} in {format}", story.name);
        assert_same(&before, &outside(sandbox), story.name);
    }
}

fn no_setup(_: &Sandbox) {}

#[test]
fn names_that_lead_out_are_refused() {
    tell(|sandbox| {
        let outside = sandbox.path("outside").to_str().unwrap().to_owned();
        let file = |name: &str| Tar::new().file("ok", "fine").file(name, "evil");
        vec![
            story("an absolute name", 6, "absolute", file(&format!("{outside}/sentinel"))),
            story("dots first", 6, "../../outside/new", file("../../outside/new")),
            story("dots in the middle", 6, "`..`", file("a/../../../outside/new")),
            story("dots at the end", 6, "entry `a/..`", Tar::new().dir("a/..")),
            story("dots after a folder that exists", 6, "`..`", Tar::new().dir("a").file("a/../../../outside/new", "")),
            story("two dots alone", 6, "`..`", Tar::new().dir("..")),
            story(
                "a pax path with dots",
                6,
                "../../outside/sentinel",
                Tar::new().pax(b'x', &[("path", b"../../outside/sentinel")]).file("harmless", "evil"),
            ),
            story(
                "an absolute GNU long name",
                6,
                "absolute",
                Tar::new().long(b'L', format!("{outside}/new").as_bytes()).file("harmless", "evil"),
            ),
            story("a ustar prefix with dots", 6, "../..", {
                Tar::new().changed(b'0', "outside/new", b"evil", |header| {
                    header.as_ustar_mut().unwrap().prefix[..5].copy_from_slice(b"../..");
                })
            }),
            story(
                "a sparse file's real name",
                6,
                "../x",
                Tar::new()
                    .pax(b'x', &[("GNU.sparse.name", b"../x"), ("GNU.sparse.size", b"0"), ("GNU.sparse.map", b"")])
                    .file("harmless", ""),
            ),
            story(
                "a NUL in a pax path",
                6,
                "NUL",
                Tar::new().pax(b'x', &[("path", b"ok\0/../../outside/new")]).file("harmless", "evil"),
            ),
            story("the folder itself as a file", 6, "folder itself", file(".")),
            story("the folder itself as a link", 6, "folder itself", Tar::new().symlink("./", &outside)),
            story("no name at all", 6, "folder itself", file("")),
            story("a name of 256 bytes", 6, "255", Tar::new().long(b'L', &[b'n'; 256]).file("n", "")),
            story(
                "a path of 5000 bytes",
                6,
                "4096",
                Tar::new().pax(b'x', &[("path", &b"p/".repeat(2500))]).file("n", ""),
            ),
            story("a name that drives terminals", 6, r"\x1b[31m", file("\x1b[31mred\n/../../x")),
        ]
    });
}

#[test]
fn links_are_never_written_through() {
    tell(|sandbox| {
        let outside = sandbox.path("outside").to_str().unwrap().to_owned();
        let sentinel = format!("{outside}/sentinel");
        let through = |text: &str| Tar::new().symlink("l", text).file("l/new", "evil");
        vec![
            story("a relative link", 6, "entry `l/new`", through("../../outside")),
            story("an absolute link", 6, "entry `l/new`", through(&outside)),
            story("a link to the folder itself", 6, "entry `l/new`", through(".")),
            story("a link to the folder above", 6, "entry `l/new`", through("..")),
            story(
                "two links",
                6,
                "entry `b/new`",
                Tar::new().symlink("a", "../..").symlink("b", "a/outside").file("b/new", "evil"),
            ),
            story(
                "a chain of links",
                6,
                "entry `a/new`",
                Tar::new().symlink("a", "b").symlink("b", "c").symlink("c", &outside).file("a/new", "evil"),
            ),
            story(
                "a link far above",
                6,
                "entry `d/l/x/y/z`",
                Tar::new().dir("d").symlink("d/l", &outside).file("d/l/x/y/z", "evil"),
            ),
            story("a folder below a link", 6, "entry `l/new`", Tar::new().symlink("l", &outside).dir("l/new")),
            story("a link below a link", 6, "entry `l/new`", Tar::new().symlink("l", &outside).symlink("l/new", "x")),
            story("a folder over a link", 6, "entry `l` comes twice", Tar::new().symlink("l", &outside).dir("l")),
            story(
                "a folder over a link, with slash, then a file",
                6,
                "entry `l` comes twice",
                Tar::new().symlink("l", &outside).dir("l/").file("l/new", "evil"),
            ),
            story(
                "a link over a folder",
                6,
                "entry `d` comes twice",
                Tar::new().dir("d").symlink("d", &outside).file("d/x", ""),
            ),
            story(
                "a link over a folder without an entry",
                6,
                "entry `d` is a file in the archive and a folder here",
                Tar::new().file("d/a", "").symlink("d", &outside).file("d/x", "evil"),
            ),
            story(
                "a file over a link, to change the target's mode",
                6,
                "entry `l` comes twice",
                Tar::new().symlink("l", &sentinel).changed(b'0', "l", b"", |header| header.set_mode(0o777)),
            ),
            story(
                "a link over a file, then below it",
                6,
                "entry `f` comes twice",
                Tar::new().file("f", "").symlink("f", &outside).file("f/x", "evil"),
            ),
            story(
                "a link under another spelling",
                6,
                "entry `l/new`",
                Tar::new().symlink("./l", &outside).file("././l//new", "evil"),
            ),
            in_tree(
                "a link in the tree",
                |s| symlink(s.path("outside"), s.work("out/l")).unwrap(),
                6,
                "symbolic link",
                Tar::new().file("l/new", "evil"),
            ),
            in_tree(
                "a link deep in the tree",
                |s| {
                    fs::create_dir(s.work("out/d")).unwrap();
                    symlink(s.path("outside"), s.work("out/d/l")).unwrap();
                },
                6,
                "through `l`",
                Tar::new().file("d/l/folder/inner", "evil"),
            ),
            in_tree(
                "a link in the tree that stays inside",
                |s| {
                    fs::create_dir(s.work("out/d")).unwrap();
                    symlink("d", s.work("out/l")).unwrap();
                },
                6,
                "symbolic link",
                Tar::new().file("l/new", ""),
            ),
            in_tree(
                "a folder over a link in the tree, to change the target's mode",
                |s| symlink(s.path("outside"), s.work("out/l")).unwrap(),
                6,
                "entry `l`",
                Tar::new().changed(b'5', "l", b"", |header| header.set_mode(0o777)),
            ),
            in_tree(
                "a file where a link to a file lies",
                |s| symlink(s.path("outside/sentinel"), s.work("out/f")).unwrap(),
                0,
                "",
                Tar::new().file("f", "new"),
            ),
            in_tree(
                "a hard link where a link to a file lies",
                |s| symlink(s.path("outside/sentinel"), s.work("out/f")).unwrap(),
                0,
                "",
                Tar::new().file("a", "new").hard_link("f", "a"),
            ),
            in_tree(
                "a link where a link lies",
                |s| symlink(s.path("outside"), s.work("out/f")).unwrap(),
                0,
                "",
                Tar::new().symlink("f", "nowhere"),
            ),
            in_tree(
                "a link where a folder lies",
                |s| fs::create_dir(s.work("out/d")).unwrap(),
                6,
                "folder is not replaced",
                Tar::new().symlink("d", &outside),
            ),
            in_tree(
                "a file with another name outside",
                |s| fs::hard_link(s.path("outside/sentinel"), s.work("out/f")).unwrap(),
                0,
                "",
                Tar::new().changed(b'0', "f", b"new content", |header| header.set_mode(0o777)),
            ),
            story("a link to nowhere at all", 7, "entry `l`", Tar::new().symlink("l", "")),
            story(
                "a link with a NUL",
                7,
                "entry `l`",
                Tar::new().pax(b'x', &[("linkpath", b"a\0b")]).symlink("l", "a"),
            ),
            story("a link of 5000 bytes", 6, "entry `l`", Tar::new().long(b'K', &[b't'; 5000]).symlink("l", "a")),
        ]
    });
}

#[test]
fn hard_links_stay_inside() {
    tell(|sandbox| {
        let outside = sandbox.path("outside").to_str().unwrap().to_owned();
        let sentinel = format!("{outside}/sentinel");
        vec![
            story("an absolute hard link", 6, "entry `h`", Tar::new().hard_link("h", &sentinel)),
            story("a hard link with dots", 6, "entry `h`", Tar::new().hard_link("h", "../../outside/sentinel")),
            story(
                "a hard link through a link",
                6,
                "entry `h`",
                Tar::new().symlink("l", &outside).hard_link("h", "l/sentinel").file("h", "evil"),
            ),
            in_tree(
                "a hard link through a link in the tree",
                |s| symlink(s.path("outside"), s.work("out/l")).unwrap(),
                6,
                "through `l`",
                Tar::new().hard_link("h", "l/sentinel"),
            ),
            in_tree(
                "a hard link below a link in the tree",
                |s| symlink(s.path("outside"), s.work("out/l")).unwrap(),
                6,
                "through `l`",
                Tar::new().file("f", "evil").hard_link("l/h", "f"),
            ),
            story(
                "a file below the second name of a link",
                6,
                "entry `h/planted`",
                Tar::new().symlink("link", "../../outside").hard_link("h", "link").file("h/planted", "bad"),
            ),
            story(
                "a file in place of the second name of a link",
                0,
                "",
                Tar::new().symlink("link", "../../outside/sentinel").hard_link("h", "link").file("h", "fine"),
            ),
            story(
                "a link's second name of a second name",
                0,
                "",
                Tar::new().symlink("link", &sentinel).hard_link("h", "link").hard_link("i", "link"),
            ),
            story("a hard link to itself", 6, "entry `h`", Tar::new().hard_link("h", "h")),
            story("a hard link to itself, spelt otherwise", 6, "entry `h`", Tar::new().hard_link("h", "./h")),
            story("a hard link to the folder", 6, "entry `h`", Tar::new().hard_link("h", ".")),
            story("a hard link to a folder", 6, "neither a file nor a link", Tar::new().dir("d").hard_link("h", "d")),
            story("a hard link to nothing", 7, "does not exist", Tar::new().hard_link("h", "no/such")),
            in_tree(
                "a hard link to below a file of the tree",
                |s| fs::write(s.work("out/mine"), "mine").unwrap(),
                7,
                "does not exist",
                Tar::new().hard_link("h", "mine/x"),
            ),
            story(
                "a hard link whose folder becomes a link",
                6,
                "symbolic link",
                Tar::new().file("t", "evil").hard_link("d/h", "t").symlink("d", &outside),
            ),
            story(
                "a hard link whose target's folder becomes a link",
                6,
                "entry `t/new`",
                Tar::new().hard_link("h", "t/sentinel").symlink("t", &outside).file("t/new", "evil"),
            ),
            story(
                "a hard link whose target's folder becomes a link at last",
                6,
                "symbolic link",
                Tar::new().hard_link("h", "t/sentinel").symlink("t", &outside),
            ),
            story(
                "a hard link with a NUL",
                6,
                "NUL",
                Tar::new().file("a", "").pax(b'x', &[("linkpath", b"a\0b")]).hard_link("h", "a"),
            ),
        ]
    });
}

#[test]
fn kinds_do_not_change_and_specials_are_not_made() {
    tell(|_| {
        let special = |kind| Tar::new().file("ok", "").entry(kind, b"dev", b"", b"");
        vec![
            story("a character device", 6, "entry `dev` is a character device", special(b'3')),
            story("a block device", 6, "entry `dev` is a block device", special(b'4')),
            story("a FIFO", 6, "entry `dev` is a FIFO", special(b'6')),
            story("a file, then a folder", 6, "entry `a` comes twice", Tar::new().file("a", "").dir("a")),
            story("a folder, then a file", 6, "entry `a` comes twice", Tar::new().dir("a").file("a", "")),
            story("a file, then something below it", 6, "entry `a/b`", Tar::new().file("a", "").file("a/b", "")),
            story("something below, then a file", 6, "entry `a`", Tar::new().file("a/b", "").file("a", "")),
            story(
                "a hard link, then a link",
                6,
                "entry `h`",
                Tar::new().file("f", "").hard_link("h", "f").symlink("h", "x"),
            ),
            story("an unknown kind", 7, "unknown member type", special(b'Z')),
            story("a continued volume", 7, "multi-volume", special(b'M')),
        ]
    });
}

#[test]
fn set_id_bits_are_dropped() {
    let sandbox = guarded();
    let archive = Tar::new()
        .changed(b'0', "suid", b"#!", |header| header.set_mode(0o6755))
        .changed(b'5', "sgid", b"", |header| header.set_mode(0o7770))
        .end();
    fs::write(sandbox.path("a.tar"), archive).unwrap();
    sandbox.monofo(["inflate", "../a.tar", "-C", "out"]).exits(0);
    let tree = walk(&sandbox.work("out"));
    assert_eq!(tree[&b"suid"[..]].mode, 0o755);
    assert_eq!(tree[&b"sgid"[..]].mode, 0o1770);
}

/// Another process exchanges a folder and a link to outside, again and again, while archives are unpacked.
#[test]
fn a_folder_swapped_for_a_link_leads_nowhere() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    const SWAPS: u64 = 5000;
    let sandbox = guarded();
    let out = sandbox.work("out");
    let mut tar = Tar::new();
    // Folders alternate, so that each entry has to reach its folder anew.
    for index in 0..100 {
        tar = tar
            .file(&format!("d/f{index}"), "evil")
            .dir(&format!("e/sub{index}"))
            .symlink(&format!("d/l{index}"), "x")
            .hard_link(&format!("d/h{index}"), &format!("d/f{index}"))
            .dir(&format!("d/sub{index}"))
            .file(&format!("e/f{index}"), "");
    }
    let archive = tar.end();
    fs::create_dir(out.join("d")).unwrap();
    symlink(sandbox.path("outside"), out.join("swap")).unwrap();
    let before = outside(&sandbox);
    let (swaps, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if renameat_with(CWD, out.join("d"), CWD, out.join("swap"), RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        for _ in 0..2000 {
            if swaps.load(Ordering::Relaxed) >= SWAPS && refused > 0 {
                break;
            }
            match unpack(&archive, &out) {
                Ok(()) => whole += 1,
                Err(error) => {
                    // Refused by the link, or something was not where it was put a moment ago.
                    assert_ne!(error.class(), Class::Usage, "{}", error.chain());
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_same(&before, &outside(&sandbox), "swaps");
    assert!(swaps.into_inner() >= 1000 && refused > 0, "{whole} unpacked, {refused} refused");
}
