//! Catars built by hand, element by element, so that they can lie; and what becomes of every kind of unusual one.

use std::fs;
use std::io::Cursor;

use monofo::context::Context;
use monofo::engine::{Chunks, inflate};
use monofo::error::Class;

use crate::harness::{assert_same, walk};
use crate::hostile::{guarded, outside, unpack};

pub const ENTRY: u64 = 0x1396_fabc_ea5b_bb51;
pub const FILENAME: u64 = 0x6dbb_6ebc_b316_1f0b;
pub const PAYLOAD: u64 = 0x8b9e_1d93_d6dc_ffc9;
pub const SYMLINK: u64 = 0x664a_6fb6_830e_0d6c;
pub const DEVICE: u64 = 0xac3d_ace3_69df_e643;
pub const GOODBYE: u64 = 0xdfd3_5c5e_8327_c403;
const TAIL: u64 = 0x5744_6fa5_3370_2943;
const USER: u64 = 0xf453_131a_aeea_ccb3;
const GROUP: u64 = 0x25eb_6ac9_6939_6a52;
const XATTR: u64 = 0xb815_7091_f80b_c486;
const QUOTA_PROJID: u64 = 0x161b_af2d_8772_a72b;
const FLAGS: u64 = 0xb000_0000_1000_1f22;
const TIME: u64 = 1_500_000_000_123_456_789;

/// A catar under construction; the root's ENTRY is there from the start.
#[derive(Clone)]
pub struct Catar {
    pub bytes: Vec<u8>,
    /// Where the ENTRYs of open folders start.
    open: Vec<usize>,
    /// Where elements end.
    pub ends: Vec<usize>,
}

impl Catar {
    pub fn new() -> Self {
        let mut catar = Catar { bytes: Vec::new(), open: Vec::new(), ends: Vec::new() };
        catar.open.push(0);
        catar.entry(0o040_755)
    }

    /// An element that says it is as long as this.
    pub fn element(mut self, len: u64, kind: u64, body: &[u8]) -> Self {
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(body);
        self.ends.push(self.bytes.len());
        self
    }

    /// An element with its true length.
    pub fn right(self, kind: u64, body: &[u8]) -> Self {
        self.element(16 + body.len() as u64, kind, body)
    }

    pub fn any_entry(self, flags: u64, mode: u64, mtime: u64) -> Self {
        let words = [flags, mode, 0, 0, 0, mtime];
        self.right(ENTRY, &words.map(u64::to_le_bytes).concat())
    }

    pub fn entry(self, mode: u64) -> Self {
        self.any_entry(FLAGS, mode, TIME)
    }

    pub fn name(self, name: &[u8]) -> Self {
        self.right(FILENAME, &[name, b"\0"].concat())
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.name(name.as_bytes()).entry(0o100_644).right(PAYLOAD, content)
    }

    pub fn symlink(self, name: &str, text: &[u8]) -> Self {
        self.name(name.as_bytes()).entry(0o120_777).right(SYMLINK, &[text, b"\0"].concat())
    }

    /// Begins a folder.
    pub fn dir(self, name: &str) -> Self {
        let mut catar = self.name(name.as_bytes());
        catar.open.push(catar.bytes.len());
        catar.entry(0o040_755)
    }

    /// Ends the innermost folder, with items of garbage and this change of where it says that its ENTRY is.
    pub fn goodbye(mut self, items: usize, off: u64) -> Self {
        let entry = self.open.pop().unwrap();
        let back = (self.bytes.len() - entry) as u64;
        let len = 16 + 24 * (items as u64 + 1);
        let mut body = vec![0xab; 24 * items];
        for word in [back.wrapping_add(off), len, TAIL] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        self.right(GOODBYE, &body)
    }

    /// Ends the innermost folder.
    pub fn up(self) -> Self {
        self.goodbye(0, 0)
    }

    /// Ends all folders.
    pub fn end(mut self) -> Vec<u8> {
        while !self.open.is_empty() {
            self = self.up();
        }
        self.bytes
    }
}

/// A catar with some of everything that is unpacked.
pub fn sample() -> Catar {
    Catar::new()
        .file("a", b"some content")
        .dir("d")
        .file("empty", b"")
        .file("more", &b"0123456789".repeat(30))
        .symlink("text", b"more")
        .dir("inner")
        .up()
        .up()
        .file("last", b"x")
        .goodbye(3, 0)
}

struct Story {
    name: &'static str,
    archive: Vec<u8>,
    ends: Ends,
}

enum Ends {
    /// Exit 0 with these paths.
    With(&'static [&'static str]),
    /// An error of this class that says this.
    In(Class, &'static str),
}

fn fine(name: &'static str, paths: &'static [&'static str], archive: Catar) -> Story {
    Story { name, archive: archive.end(), ends: Ends::With(paths) }
}

fn damaged(name: &'static str, says: &'static str, archive: Catar) -> Story {
    Story { name, archive: archive.end(), ends: Ends::In(Class::Damaged, says) }
}

fn refused(name: &'static str, says: &'static str, archive: Catar) -> Story {
    Story { name, archive: archive.end(), ends: Ends::In(Class::Refused, says) }
}

fn tell(stories: Vec<Story>) {
    let mut failures = Vec::new();
    for Story { name, archive, ends } in stories {
        let sandbox = guarded();
        fs::write(sandbox.path("archive.catar"), &archive).unwrap();
        let before = outside(&sandbox);
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let result = unpack(&archive, &sandbox.work("out"));
            match &ends {
                Ends::With(paths) => {
                    result.unwrap_or_else(|error| panic!("{}", error.chain()));
                    sandbox.assert_paths("work/out", paths);
                }
                Ends::In(class, says) => {
                    let error = result.expect_err("it was unpacked");
                    assert_eq!(error.class(), *class, "{}", error.chain());
                    assert!(error.chain().contains(says), "`{says}` in {}", error.chain());
                    let status = i32::from(error.class().exit_status());
                    sandbox.monofo(["inflate", "../archive.catar", "-C", "out"]).exits(status).says(says);
                }
            }
            assert_same(&before, &outside(&sandbox), name);
        }));
        if told.is_err() {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "these end otherwise: {failures:#?}");
}

#[test]
fn names_that_are_none_reach_nothing_outside() {
    let with = |name: &[u8]| Catar::new().name(name).entry(0o100_644).right(PAYLOAD, b"evil");
    let raw = |body: &[u8]| Catar::new().right(FILENAME, body).entry(0o100_644).right(PAYLOAD, b"evil");
    tell(vec![
        refused("a slash", "no plain name", with(b"d/x")),
        refused("an absolute name", "no plain name", with(b"/tmp/x")),
        refused("up and out", "no plain name", with(b"../../outside/sentinel")),
        refused("up", "no plain name", with(b"..")),
        refused("here", "no plain name", with(b".")),
        refused("a slash behind", "no plain name", with(b"x/")),
        damaged("no name", "a name of 1 bytes", with(b"")),
        damaged("no name and no NUL", "a name of 0 bytes", raw(b"")),
        damaged("no NUL", "only NUL", raw(b"name")),
        damaged("a NUL inside", "only NUL", raw(b"na\0me\0")),
        damaged("two NULs", "only NUL", raw(b"name\0\0")),
        damaged("256 bytes", "a name of 257 bytes", with(&[b'n'; 256])),
        damaged("a huge name", "a name of", Catar::new().element(u64::MAX, FILENAME, b"x\0")),
        fine("a backslash", &["a\\b"], with(b"a\\b")),
        fine("three dots, and control bytes", &["\u{1b}[31m", "..."], with(b"...").file("\u{1b}[31m", b"")),
        refused("up as a folder", "no plain name", Catar::new().dir("..").file("x", b"evil").up()),
        refused("an absolute folder", "no plain name", Catar::new().dir("/tmp").file("x", b"evil").up()),
        refused("deep in folders", "no plain name", Catar::new().dir("d").dir("e").file("../../../x", b"")),
    ]);
}

#[test]
fn links_are_made_and_never_followed() {
    let below = |catar: Catar, name: &str| catar.dir(name).file("x", b"evil").up();
    let link = || Catar::new().symlink("l", b"../../outside");
    tell(vec![
        refused("a folder where a link is", "comes twice", below(link(), "l")),
        refused("a file where a link is", "comes twice", link().file("l", b"evil")),
        refused("a link where a file is", "comes twice", Catar::new().file("l", b"").symlink("l", b"../../outside/x")),
        refused("a link where a folder is", "comes twice", below(Catar::new(), "l").symlink("l", b"../../outside")),
        fine("a link that leads out", &["l"], link()),
        fine("a link twice", &["l"], Catar::new().symlink("l", b"a").symlink("l", b"b")),
        fine("a long text", &["l"], Catar::new().symlink("l", &[b't'; 4095])),
        damaged("a longer text", "the text of a link", Catar::new().symlink("l", &[b't'; 4096])),
        damaged("no text", "the text of a link", Catar::new().symlink("l", b"")),
        damaged("a NUL in the text", "only NUL", Catar::new().symlink("l", b"a\0b")),
        damaged("no NUL", "only NUL", Catar::new().name(b"l").entry(0o120_777).right(SYMLINK, b"abc")),
        damaged("a huge text", "the text", Catar::new().name(b"l").entry(0o120_777).element(u64::MAX, SYMLINK, b"")),
        damaged("content", "without a text", Catar::new().name(b"l").entry(0o120_777).right(PAYLOAD, b"x")),
    ]);
}

#[test]
fn what_is_no_file_folder_or_link_is_refused() {
    let node = |mode| Catar::new().file("before", b"").name(b"n").entry(mode);
    let numbers = [1u64.to_le_bytes(), 3u64.to_le_bytes()].concat();
    tell(vec![
        refused("a FIFO", "is a FIFO", node(0o010_644).file("z", b"")),
        refused("a FIFO at the end", "is a FIFO", node(0o010_644)),
        refused("a socket", "is a socket", node(0o140_644)),
        refused("a character device", "a character device", node(0o020_644).right(DEVICE, &numbers)),
        refused("a block device", "a block device", node(0o060_644).right(DEVICE, &numbers)),
        damaged("a device without numbers", "without numbers", node(0o020_644)),
        damaged("a device with short numbers", "without numbers", node(0o060_644).right(DEVICE, &numbers[..8])),
        damaged("no kind", "unknown kind", node(0o644)),
        damaged("two kinds", "unknown kind", node(0o170_644)),
        damaged("a file without content", "without content", node(0o100_644)),
        damaged("a file with a device's numbers", "without content", node(0o100_644).right(DEVICE, &numbers)),
        damaged("a file as root", "the folder of all others", {
            let mut catar = Catar::new();
            catar.bytes.clear();
            catar.entry(0o100_644).right(PAYLOAD, b"x")
        }),
    ]);
}

#[test]
fn elements_that_do_not_fit_are_damage() {
    let word = |word: u64| word.to_le_bytes();
    tell(vec![
        damaged("other flags", "other flags", {
            let catar = Catar::new().file("a", b"").name(b"b").any_entry(FLAGS ^ 0x20 ^ 0x10, 0o100_644, TIME);
            catar.right(PAYLOAD, b"")
        }),
        damaged("unknown flags", "no version of the format", {
            Catar::new().name(b"b").any_entry(FLAGS | 0x2_0000_0000, 0o100_644, TIME).right(PAYLOAD, b"")
        }),
        damaged("no time", "impossible time", Catar::new().name(b"b").any_entry(FLAGS, 0o100_644, u64::MAX)),
        damaged("a wrong tail", "does not fit its start", Catar::new().file("a", b"").goodbye(0, 1)),
        damaged("a wrong tail inside", "does not fit its start", Catar::new().dir("a").goodbye(0, u64::MAX)),
        damaged("half an item", "impossible length", Catar::new().right(GOODBYE, &[0; 12])),
        damaged("no tail", "impossible length", Catar::new().right(GOODBYE, &[])),
        damaged("a huge end", "impossible length", Catar::new().element(u64::MAX, GOODBYE, &[0; 24])),
        damaged("an end that never ends", "truncated", Catar::new().element(u64::MAX - 23, GOODBYE, &[0; 24])),
        damaged(
            "another mark",
            "does not fit",
            Catar::new().right(GOODBYE, &[word(64), word(40), word(TAIL ^ 1)].concat()),
        ),
        damaged("content of nobody", "where a name should be", Catar::new().right(PAYLOAD, b"x")),
        damaged("an entry of nobody", "where a name should be", Catar::new().entry(0o100_644)),
        damaged("an unknown element", "where a name should be", Catar::new().right(42, b"x")),
        damaged("no length", "shorter than its header", Catar::new().element(0, FILENAME, b"x\0")),
        damaged("a length of 15", "shorter than its header", Catar::new().element(15, FILENAME, b"x\0")),
        damaged("a long entry", "where an entry should be", {
            Catar::new().name(b"x").element(72, ENTRY, &[0; 56]).right(PAYLOAD, b"")
        }),
        damaged("metadata that is too long", "more than 64 KiB", Catar::new().right(XATTR, &[0; 70_000])),
        damaged("huge metadata", "more than 64 KiB", Catar::new().element(u64::MAX, USER, b"x\0")),
        damaged("a name without an entry, then content", "where a name should be", {
            Catar::new().name(b"x").right(PAYLOAD, b"")
        }),
        damaged("a huge file", "", Catar::new().name(b"x").entry(0o100_644).element(u64::MAX, PAYLOAD, b"abc")),
        damaged("a file of 8 EiB", "", Catar::new().name(b"x").entry(0o100_644).element(1 << 63, PAYLOAD, b"abc")),
        damaged("a file of 1 TiB", "", Catar::new().name(b"x").entry(0o100_644).element(1 << 40, PAYLOAD, b"abc")),
    ]);
}

#[test]
fn what_others_write_is_read() {
    let acl = |bytes: usize| vec![7; bytes];
    let metadata = Catar::new()
        .right(USER, b"somebody\0")
        .name(b"a")
        .entry(0o100_640)
        .right(USER, b"somebody\0")
        .right(GROUP, b"some\0")
        .right(XATTR, b"user.name\0value")
        .right(XATTR, b"user.other\0\0")
        .right(0x297d_c88b_2ef1_2faf, &acl(16)) // ACL_USER without a name
        .right(0x36f2_acb5_6cb3_dd0b, &acl(21)) // ACL_GROUP
        .right(0x2304_7110_441f_38f3, &acl(8)) // ACL_GROUP_OBJ
        .right(0xfe3e_eda6_823c_8cd0, &acl(32)) // ACL_DEFAULT
        .right(0xbdf0_3df9_bd01_0a91, &acl(16)) // ACL_DEFAULT_USER
        .right(0xa0cb_1168_782d_1f51, &acl(16)) // ACL_DEFAULT_GROUP
        .right(0x46fa_f060_2fd2_6c59, b"label\0") // SELINUX
        .right(0xf726_7db0_afed_0629, &acl(20)) // FCAPS
        .right(QUOTA_PROJID, &acl(8))
        .right(PAYLOAD, b"content")
        .file("b", b"");
    tell(vec![
        fine("metadata of all kinds", &["a", "b"], metadata),
        fine("nothing", &[], Catar::new()),
        fine("unsorted names", &["a", "b", "c"], Catar::new().file("c", b"").file("a", b"").file("b", b"")),
        fine("items that say nothing", &["a"], Catar::new().file("a", b"").goodbye(7, 0)),
        fine("a folder twice", &["a", "a/x", "a/y"], {
            Catar::new().dir("a").file("x", b"").up().dir("a").file("y", b"").up()
        }),
    ]);
}

#[test]
fn the_last_of_the_same_name_counts() {
    let sandbox = guarded();
    unpack(&Catar::new().file("a", b"first").file("a", b"second").end(), &sandbox.work("out")).unwrap();
    assert_eq!(fs::read(sandbox.work("out/a")).unwrap(), b"second");
}

#[test]
fn a_name_without_anything_behind_is_left_out_and_said() {
    let sandbox = guarded();
    let archive =
        Catar::new().file("a", b"").name(b"fifo").name(b"../other").dir("d").name(b"last").up().file("z", b"");
    let input = Box::new(Cursor::new(archive.end()));
    let (unpacked, _) = inflate(input, &sandbox.work("out"), false, &Chunks::none(), &Context::default()).unwrap();
    sandbox.assert_paths("work/out", &["a", "d", "z"]);
    assert_eq!(unpacked.warnings.len(), 1);
    assert!(unpacked.warnings[0].contains("3 names without anything behind"), "{:?}", unpacked.warnings);
}

#[test]
fn modes_and_times_come_to_the_nanosecond() {
    let sandbox = guarded();
    let before_1970 = (-1_500_000_000i64).cast_unsigned();
    let archive = Catar::new()
        .file("a", b"x")
        .symlink("l", b"a")
        .name(b"old")
        .any_entry(FLAGS, 0o106_755, before_1970)
        .right(PAYLOAD, b"");
    unpack(&archive.dir("d").up().end(), &sandbox.work("out")).unwrap();
    let tree = walk(&sandbox.work("out"));
    for name in [&b"a"[..], b"l", b"d"] {
        assert_eq!((tree[name].mtime, tree[name].mtime_nanos), (1_500_000_000, 123_456_789), "{name:?}");
    }
    assert_eq!((tree[&b"old"[..]].mtime, tree[&b"old"[..]].mtime_nanos), (-2, 500_000_000));
    assert_eq!(tree[&b"old"[..]].mode, 0o755, "set-id bits go");
}

#[test]
fn folders_nest_as_deep_as_paths_go_and_no_deeper() {
    let nested = |levels: usize, name: &str| {
        let catar = (0..levels).fold(Catar::new(), |catar, _| catar.dir(name));
        catar.file("f", b"deep").end()
    };
    let sandbox = guarded();
    let before = outside(&sandbox);
    unpack(&nested(300, "d"), &sandbox.work("out")).unwrap();
    assert_eq!(fs::read(sandbox.work("out").join("d/".repeat(300)).join("f")).unwrap(), b"deep");
    for (levels, name) in [(2100, "d".to_owned()), (20, "d".repeat(255))] {
        let error = unpack(&nested(levels, &name), &sandbox.work("out/new")).unwrap_err();
        assert_eq!(error.class(), Class::Refused, "{levels}: {}", error.chain());
        // Looking at all of it takes longer than making it did.
        fs::remove_dir_all(sandbox.work("out/new")).unwrap();
    }
    assert_same(&before, &outside(&sandbox), "deep");
}

#[test]
fn a_catar_cut_anywhere_is_damaged() {
    let sandbox = guarded();
    let small = Catar::new().dir("d").file("a", b"some content").up().symlink("l", b"d/a");
    let (small_ends, small) = (small.ends.clone(), small.end());
    unpack(&small, &sandbox.path("good")).unwrap();
    let good = walk(&sandbox.path("good"));
    let before = outside(&sandbox);
    for keep in 0..small.len() {
        let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
        let error = unpack(&small[..keep], into.path()).expect_err(&format!("cut at {keep}"));
        assert_eq!(error.class(), Class::Damaged, "cut at {keep}: {}", error.chain());
        for (path, node) in walk(into.path()) {
            // What is there is whole: the file in the middle of which it ends is not.
            assert!(node.kind != 'f' || node.digest == good[&path].digest, "cut at {keep}: {}", path.escape_ascii());
        }
    }
    for end in small_ends {
        fs::write(sandbox.work("out/cut.catar"), &small[..end]).unwrap();
        sandbox.monofo(["inflate", "out/cut.catar", "-C", "out/cut"]).exits(7).says("truncated");
    }
    let sample = sample();
    let whole = &sample.bytes;
    for end in sample.ends {
        let unpacked = unpack(&whole[..end], &sandbox.work("out/sample"));
        assert_eq!(unpacked.is_ok(), end == whole.len(), "cut at {end}");
    }
    for more in [&b"x"[..], &[0; 8], &[0; 512], whole] {
        let error = unpack(&[whole, more].concat(), &sandbox.work("out/more")).unwrap_err();
        assert_eq!(error.class(), Class::Damaged, "{}", error.chain());
        assert!(error.chain().contains("follows its end"), "{}", error.chain());
    }
    assert_same(&before, &outside(&sandbox), "cuts");
}

/// Content has no checksum in a catar; everything else is noticed, or stays within what an archive may hold.
#[test]
fn a_flipped_bit_reaches_nothing_outside() {
    let sandbox = guarded();
    let whole = sample().bytes;
    let before = outside(&sandbox);
    let mut damaged = 0;
    for at in (0..whole.len()).step_by(3) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
        if let Err(error) = unpack(&flipped, into.path()) {
            let fits = matches!(error.class(), Class::Damaged | Class::Refused);
            assert!(fits, "bit flipped at {at}: {:?}: {}", error.class(), error.chain());
            damaged += 1;
        }
    }
    assert!(damaged > 100, "{damaged}");
    assert_same(&before, &outside(&sandbox), "flips");
}
