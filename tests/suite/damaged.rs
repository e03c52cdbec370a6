//! Archives that were cut or changed: never a silent partial success, never a wrong file.

use std::fs;

use monofo::error::Class;

use crate::harness::{assert_same, walk};
use crate::hostile::{guarded, outside, unpack};
use crate::tars::{Tar, compressed, record};

/// An archive with some of everything, a few KiB.
pub fn sample() -> Tar {
    Tar::new()
        .dir("d/")
        .file("d/a", "some content")
        .file("d/empty", "")
        .symlink("d/link", "a")
        .hard_link("d/hard", "d/a")
        .pax(b'x', &[("path", b"d/pax"), ("mtime", b"1700000000.5")])
        .file("d/short", &"x".repeat(700))
        .long(b'L', b"d/long")
        .file("d/cut", "long")
        .pax(b'x', &[("GNU.sparse.map", b"0,512,2048,512"), ("GNU.sparse.size", b"5000")])
        .entry(b'0', b"d/sparse", b"", &[9; 1024])
        .dir("e")
        .file("e/last", &"0123456789".repeat(60))
}

#[test]
fn a_stream_cut_anywhere_is_damaged() {
    let sandbox = guarded();
    let members = sample().0.len();
    let whole = sample().end();
    let before = outside(&sandbox);
    let cuts = (0..2048).chain((2048..whole.len()).step_by(512));
    for keep in cuts {
        let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
        match unpack(&whole[..keep], into.path()) {
            // All content and one of the two zero blocks are there.
            Ok(()) => assert!(keep >= members + 512, "cut at {keep}"),
            Err(error) => {
                assert_eq!(error.class(), Class::Damaged, "cut at {keep}: {}", error.chain());
                assert!(error.chain().contains("byte"), "{}", error.chain());
            }
        }
    }
    for (format, bytes) in compressed(&whole) {
        for keep in (0..bytes.len()).step_by(3).chain(bytes.len() - 16..bytes.len()) {
            let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
            let error = unpack(&bytes[..keep], into.path()).expect_err(format);
            assert_eq!(error.class(), Class::Damaged, "{format} cut at {keep}: {}", error.chain());
        }
    }
    assert_same(&before, &outside(&sandbox), "cuts");
}

#[test]
fn a_flipped_bit_never_makes_a_wrong_file() {
    let sandbox = guarded();
    let whole = sample().end();
    let good = sandbox.path("good");
    unpack(&whole, &good).unwrap();
    let expected = walk(&good);
    let before = outside(&sandbox);
    for (format, bytes) in compressed(&whole) {
        for step in 0..500 {
            let at = step * bytes.len() / 500;
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (step % 8);
            let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
            match unpack(&flipped, into.path()) {
                Ok(()) => assert_same(&expected, &walk(into.path()), &format!("{format}, bit flipped at {at}")),
                Err(error) => {
                    let fits = matches!(error.class(), Class::Damaged | Class::Refused);
                    assert!(fits, "{format}, bit flipped at {at}: {}", error.chain());
                }
            }
        }
    }
    assert_same(&before, &outside(&sandbox), "flips");
}

#[test]
fn a_large_file_that_is_cut_does_not_stay() {
    let sandbox = guarded();
    let large = vec![b'x'; 3 << 20];
    let whole = Tar::new().file("first", "whole").entry(b'0', b"large", b"", &large).end();
    fs::write(sandbox.path("a.tar"), &whole[..whole.len() / 2]).unwrap();
    let ran = sandbox.monofo(["inflate", "../a.tar", "-C", "out"]).exits(7);
    ran.says("inside `large`").says("only a part of the archive");
    // What came before may be there; the half of a file may not.
    assert!(!sandbox.work("out/large").exists());
}

#[test]
fn a_record_counts_itself() {
    assert_eq!(record("path", b"a"), b"9 path=a\n");
    assert_eq!(record("k", &[b'v'; 93]).len(), 99);
    assert_eq!(record("k", &[b'v'; 94]).len(), 101);
}
