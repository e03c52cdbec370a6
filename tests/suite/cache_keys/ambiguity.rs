//! Trees that a careless join of names and contents would take for one another.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::entries::{json, manifest, sha256};
use crate::harness::{Sandbox, set};

/// Path and content; what begins with `->` is a link, with `+x` an executable file, `/` an empty folder.
type Tree<'a> = &'a [(&'a [u8], &'a [u8])];

const PAIRS: [(Tree<'static>, Tree<'static>); 44] = [
    (&[(b"ab", b"c")], &[(b"a", b"bc")]),
    (&[(b"a", b"b"), (b"c", b"d")], &[(b"a", b"bcd")]),
    (&[(b"a", b"b"), (b"c", b"d")], &[(b"a", b"d"), (b"c", b"b")]),
    (&[(b"a", b"b"), (b"c", b"d")], &[(b"ac", b"bd")]),
    (&[(b"a", b""), (b"b", b"")], &[(b"ab", b"")]),
    (&[(b"a", b"")], &[(b"a", b"\0")]),
    (&[(b"a", b"x\0")], &[(b"a", b"x")]),
    (&[(b"a", b"x\n")], &[(b"a", b"x")]),
    (&[(b"a", b"x\r\n")], &[(b"a", b"x\n")]),
    (&[(b"a/b", b"x")], &[(b"a", b"bx")]),
    (&[(b"a/b", b"x")], &[(b"a%2Fb", b"x")]),
    (&[(b"a b", b"x")], &[(b"a", b"b x")]),
    (&[(b"a b", b"x")], &[(b"a%20b", b"x")]),
    (&[(b"a\nb", b"x")], &[(b"a%0Ab", b"x")]),
    (&[(b"a\nb", b"x")], &[(b"a", b"x"), (b"b", b"x")]),
    (&[(b"%", b"x")], &[(b"%25", b"x")]),
    (&[(b"%25", b"x")], &[(b"%2525", b"x")]),
    (&[(b"\xff", b"x")], &[(b"%FF", b"x")]),
    (&[(b"\xff", b"x")], &[(b"\xfe", b"x")]),
    (&[(b"\xc3\xa9", b"x")], &[(b"e\xcc\x81", b"x")]),
    (&[(b"\xc3\xa9", b"x")], &[(b"%C3%A9", b"x")]),
    (&[(b"A", b"x")], &[(b"a", b"x")]),
    (&[(b"a\t", b"x")], &[(b"a", b"x")]),
    (&[(b"a ", b"x")], &[(b"a", b"x")]),
    (&[(b" a", b"x")], &[(b"a", b"x")]),
    (&[(b"a.", b"x")], &[(b"a", b"x")]),
    (&[(b"a", b"->b")], &[(b"a", b"b")]),
    (&[(b"a", b"->b")], &[(b"a", b"->b/")]),
    (&[(b"a", b"->b")], &[(b"a", b"->./b")]),
    (&[(b"a", b"->b%")], &[(b"a", b"->b%25")]),
    (&[(b"a", b"->b\nc")], &[(b"a", b"->b")]),
    (&[(b"a", b"+xb")], &[(b"a", b"b")]),
    (&[(b"a", b"+xb"), (b"b", b"b")], &[(b"a", b"b"), (b"b", b"+xb")]),
    (&[(b"a", b"+x")], &[(b"a", b"")]),
    (&[(b"a", b"+x->b")], &[(b"a", b"->b")]),
    (&[(b"a/b/c", b"x")], &[(b"a/bc", b"x")]),
    (&[(b"a-b", b"1"), (b"a/b", b"2")], &[(b"a-b", b"2"), (b"a/b", b"1")]),
    (&[(b"a.b", b"1"), (b"a/b", b"2")], &[(b"a.b", b"2"), (b"a/b", b"1")]),
    (&[(b"a", b"f e3b0 0 b")], &[(b"a", b"f e3b0 0 c")]),
    (&[(b"f 0 0 a", b"")], &[(b"x 0 0 a", b"")]),
    (&[(b"a\nf 0 0 b", b"")], &[(b"a", b""), (b"f 0 0 b", b"")]),
    (&[(b"meta-source", b"1")], &[(b"meta-tree", b"1")]),
    (&[(b"a", b"t missing 0 a")], &[(b"a", b"->../missing")]),
    (&[(b"-", b"0")], &[(b"--", b"0")]),
];

/// These too differ as artifacts; empty folders do not count in sources.
const ARTIFACTS_ONLY: [(Tree<'static>, Tree<'static>); 4] = [
    (&[], &[(b"a", b"/")]),
    (&[(b"a", b"/")], &[(b"a", b"")]),
    (&[(b"a/b", b"/")], &[(b"a", b"/")]),
    (&[(b"a", b"/"), (b"b", b"x")], &[(b"b", b"x")]),
];

fn make(folder: &Path, tree: Tree<'_>) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    for (path, content) in tree {
        let path = folder.join(OsStr::from_bytes(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if *content == b"/" {
            fs::create_dir(path).unwrap();
        } else if let Some(to) = content.strip_prefix(b"->") {
            symlink(OsStr::from_bytes(to), path).unwrap();
        } else {
            let bytes = content.strip_prefix(b"+x").unwrap_or(content);
            fs::write(&path, bytes).unwrap();
            set(&path, Some(if bytes.len() < content.len() { 0o755 } else { 0o644 }), 1);
        }
    }
}

#[test]
fn no_two_different_trees_have_one_digest_as_sources_or_artifacts() {
    let sandbox = Sandbox::new();
    manifest(&sandbox, "  a: {}\n");
    let source = |tree: Tree<'_>| {
        make(&sandbox.work("components/a"), tree);
        json(&sandbox, &["cache", "key", "a"], 0)["record"]["source"]["listing"].clone()
    };
    let output = |tree: Tree<'_>| {
        make(&sandbox.work("components/a"), &[]);
        make(&sandbox.work("out"), tree);
        json(&sandbox, &["cache", "build", "a", "--source", "out"], 0)["entry"]["output"]["tree"].clone()
    };
    for (one, other) in PAIRS {
        assert_ne!(source(one), source(other), "{one:?} and {other:?}");
    }
    for (one, other) in PAIRS.into_iter().chain(ARTIFACTS_ONLY) {
        assert_ne!(output(one), output(other), "{one:?} and {other:?}");
    }
    assert_eq!(source(&[]), source(&[(b"a", b"/")]));
}

#[test]
fn a_file_and_a_folder_that_holds_it_are_different_artifacts() {
    let sandbox = Sandbox::new();
    make(&sandbox.work("out"), &[(b"a", b"x")]);
    let tree =
        |path: &str| json(&sandbox, &["cache", "build", "a", "--source", path], 0)["entry"]["output"]["tree"].clone();
    let (folder, file) = (tree("out"), tree("out/a"));
    assert_ne!(folder, file);
    let listing = format!("meta-tree/1 file\nf {} 1 .\n", sha256(b"x"));
    assert_eq!(file, sha256(listing.as_bytes()));
}
