//! Archives that lie about sizes and lengths, or break off: all of it is damage.

use std::fs;

use super::{guarded, story, tell, unpack};
use crate::tars::{Tar, compressed};

#[test]
fn numbers_that_lie_are_damage() {
    tell(|_| {
        let size = |bytes: &[u8; 12]| {
            let bytes = *bytes;
            Tar::new().file("ok", "").changed(b'0', "f", b"content", move |header| {
                header.as_old_mut().size = bytes;
            })
        };
        let mut most = [0xff; 12];
        most[0] = 0x80;
        most[1..4].fill(0);
        let mut whole_blocks = most;
        whole_blocks[10..].copy_from_slice(&[0xfe, 0]);
        let pax = |records: &[(&str, &[u8])]| Tar::new().pax(b'x', records).file("f", "content");
        let map = |map: &str, real: &str, content: &[u8]| {
            Tar::new()
                .pax(b'x', &[("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", real.as_bytes())])
                .entry(b'0', b"f", b"", content)
        };
        let text_map = |map: &[u8], real: &str| {
            let mut content = map.to_vec();
            content.resize(content.len().next_multiple_of(512), 0);
            Tar::new()
                .pax(
                    b'x',
                    &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", real.as_bytes())],
                )
                .entry(b'0', b"f", b"", &content)
        };
        let old_gnu = |offset: &[u8; 12], len: &[u8; 12], real: &[u8; 12]| {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[0] = b'f';
            header.set_entry_type(tar::EntryType::new(b'S'));
            header.set_size(512);
            header.set_mode(0o644);
            header.set_mtime(0);
            let gnu = header.as_gnu_mut().unwrap();
            gnu.sparse[0].offset = *offset;
            gnu.sparse[0].numbytes = *len;
            gnu.realsize = *real;
            header.set_cksum();
            Tar::new().raw(header.as_bytes()).raw(&[7; 512])
        };
        vec![
            story("the largest size", 7, "impossible size", size(&most)),
            story("the largest size in whole blocks", 7, "truncated", size(&whole_blocks)),
            story("a negative size", 7, "impossible size", size(&[0xff; 12])),
            story("a size with a minus", 7, "size", size(b"-0000000007\0")),
            story("a size in letters", 7, "size", size(b"size of it!\0")),
            story("the largest octal size", 7, "inside `f`", size(b"77777777777\0")),
            story("a pax size that is too small", 7, "checksum", {
                Tar::new().pax(b'x', &[("size", b"5")]).entry(b'0', b"f", b"", &[b'x'; 2000])
            }),
            story("a pax size that is too large", 7, "inside `f`", pax(&[("size", b"123456789")])),
            story("a pax size below zero", 7, "number", pax(&[("size", b"-1")])),
            story("a pax size beyond all numbers", 7, "number", pax(&[("size", b"99999999999999999999999")])),
            story("a pax time in letters", 7, "time", pax(&[("mtime", b"yesterday")])),
            story(
                "a pax record without end",
                7,
                "malformed",
                Tar::new().entry(b'x', b"p", b"", b"20 path=x").file("f", ""),
            ),
            story("a pax record longer than all", 7, "malformed", {
                Tar::new().entry(b'x', b"p", b"", b"18446744073709551615 path=x\n").file("f", "")
            }),
            story(
                "a pax record of length 0",
                7,
                "malformed",
                Tar::new().entry(b'x', b"p", b"", b"0 path=x\n").file("f", ""),
            ),
            story("a pax header of 1 GiB", 7, "1 MiB", {
                Tar::new().changed(b'x', "p", b"", |header| header.set_size(1 << 30)).file("f", "")
            }),
            story("a long name of 1 GiB", 7, "1 MiB", {
                Tar::new().changed(b'L', "p", b"", |header| header.set_size(1 << 30)).file("f", "")
            }),
            story("a pax header for nothing", 7, "extended header", Tar::new().pax(b'x', &[("path", b"x")])),
            story("a long name for nothing", 7, "extended header", Tar::new().long(b'L', b"x")),
            story("a global header that names every member", 7, "every member", {
                Tar::new().pax(b'g', &[("path", b"evil")]).file("a", "").file("b", "")
            }),
            story("a global header that sizes every member", 7, "every member", {
                Tar::new().pax(b'g', &[("size", b"3")]).file("a", "abc").file("b", "abc")
            }),
            story("a sparse map that overlaps", 7, "overlap", map("0,512,256,512", "4096", &[1; 1024])),
            story("a sparse map beyond its file", 7, "does not fit", map("0,512,4000,512", "4096", &[1; 1024])),
            story("a sparse map of less than is stored", 7, "does not fit", map("0,512", "4096", &[1; 1024])),
            story("a sparse map of more than is stored", 7, "does not fit", map("0,4096", "4096", &[1; 1024])),
            story("a sparse map that overflows", 7, "sparse", map("18446744073709551615,512", "4096", &[1; 512])),
            story("a sparse map with an odd number", 7, "odd", map("0,512,600", "4096", &[1; 512])),
            story("a sparse map in letters", 7, "bad map", map("0,x", "4096", &[1; 512])),
            story("a sparse file larger than any", 7, "impossible size", map("", "18446744073709551615", &[])),
            story("a sparse file without a size", 7, "without a size", {
                Tar::new().pax(b'x', &[("GNU.sparse.map", b"0,1")]).file("f", "x")
            }),
            story("a sparse length before its offset", 7, "before its offset", {
                Tar::new().pax(b'x', &[("GNU.sparse.numbytes", b"1"), ("GNU.sparse.size", b"1")]).file("f", "x")
            }),
            story(
                "a sparse map in the content that is cut",
                7,
                "cut",
                text_map(&[&b"900\n"[..], &b"0\n0\n".repeat(127)].concat(), "4096"),
            ),
            story("a sparse map in the content in letters", 7, "bad map", text_map(b"many\n", "4096")),
            story(
                "a sparse map in the content that overflows",
                7,
                "sparse",
                text_map(b"1\n18446744073709551615\n9\n", "4096"),
            ),
            story("an old sparse map beyond its file", 7, "does not fit", {
                old_gnu(b"00000001000\0", b"00000001000\0", b"00000001000\0")
            }),
            story(
                "an old sparse map in letters",
                7,
                "bad map",
                old_gnu(b"offset     \0", b"00000001000\0", b"00000001000\0"),
            ),
            story("a wrong checksum", 7, "checksum", {
                let mut broken = Tar::new().file("ok", "").file("f", "");
                broken.0[512] ^= 1;
                broken
            }),
        ]
    });
}

#[test]
fn streams_that_break_are_damage() {
    let end = Tar::new().file("a", "content").end();
    let sandbox = guarded();
    let sparse_pair = Tar::new()
        .pax(b'x', &[("GNU.sparse.map", b""), ("GNU.sparse.size", b"9223372036854775807")])
        .file("f", "")
        .pax(b'x', &[("GNU.sparse.map", b""), ("GNU.sparse.size", b"9223372036854775807")])
        .file("g", "")
        .end();
    for (name, bytes, says) in [
        ("nothing", vec![], "empty"),
        ("garbage", b"this is no archive of any kind".repeat(100), "not a tar archive"),
        ("a short text", b"hello".to_vec(), "not a tar archive"),
        ("no end mark", Tar::new().file("a", "content").0, "end-of-archive mark"),
        ("trailing data", [end.clone(), b"more".to_vec()].concat(), "more data after the end"),
        ("a second archive behind the first", [end.clone(), end.clone()].concat(), "more data after the end"),
        ("a zero block in the middle", Tar::new().file("a", "").raw(&[0; 512]).file("b", "").end(), "zero block"),
    ] {
        fs::write(sandbox.path("archive.tar"), &bytes).unwrap();
        sandbox.monofo(["inflate", "../archive.tar", "-C", "out"]).exits(7).says(says);
        // Standard input is the same.
        sandbox.monofo(["inflate", "-", "-C", "out"]).stdin(bytes).exits(7).says(says);
        let _ = name;
    }
    // Larger than file systems allow: no panic, whatever this one says.
    let error = unpack(&sparse_pair, &sandbox.work("out"));
    drop(error);
    for (format, bytes) in compressed(&end) {
        let trailing = [bytes.clone(), b"trailing garbage".to_vec()].concat();
        fs::write(sandbox.path("archive"), trailing).unwrap();
        sandbox.monofo(["inflate", "../archive", "-C", "out"]).exits(7);
        fs::write(sandbox.path("archive"), &bytes[..bytes.len() - 1]).unwrap();
        sandbox.monofo(["inflate", "../archive", "-C", "out"]).exits(7).says("truncated");
        let _ = format;
    }
}

#[test]
fn an_impossible_owner_is_damage() {
    for records in [("uid", &b"4294967295"[..]), ("gid", b"18446744073709551615"), ("uid", b"-2")] {
        let sandbox = guarded();
        fs::write(sandbox.path("a.tar"), Tar::new().pax(b'x', &[records]).file("f", "").end()).unwrap();
        sandbox.monofo(["inflate", "../a.tar", "-C", "out", "--same-owner"]).exits(7);
    }
}
