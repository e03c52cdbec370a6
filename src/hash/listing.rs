//! A tree as text, a line for each node; the text's SHA-256 is the tree's digest.
//!
//! ```text
//! meta-tree/1 dir            the first line; `meta-tree/1 file` for a single file, `meta-source/1` for sources
//! f <sha256> <size> <path>   a file
//! x <sha256> <size> <path>   a file that its owner may execute
//! l <sha256 of the text> <length of the text> <path>     a symbolic link
//! d - 0 <path>               a folder without anything in it (trees only)
//! t <sha256> <size> <path>   what a link that leaves the sources reaches; `t missing 0`, `t directory 0` (sources only)
//! ```
//! Lines are sorted by the bytes of their paths, `l` before `t`; each ends in a newline. A single file's path is `.`.

use std::cmp::Ordering;

use super::escape::{escape_into, unescape};
use super::{Hash, Hasher};
use crate::error::{Error, Result};
use crate::text::{Shown, parse_hex};

/// What a listing is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListingKind {
    /// An artifact that is a folder.
    Dir,
    /// An artifact that is one file.
    File,
    /// Sources: inputs of a key.
    Source,
}

impl ListingKind {
    fn first_line(self) -> &'static str {
        match self {
            ListingKind::Dir => "meta-tree/1 dir",
            ListingKind::File => "meta-tree/1 file",
            ListingKind::Source => "meta-source/1",
        }
    }
}

/// What a line says of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineKind {
    /// A regular file.
    File,
    /// An executable one.
    Executable,
    /// A symbolic link.
    Link,
    /// An empty folder.
    EmptyDir,
    /// The file that a link which leaves the sources reaches.
    Target,
    /// Such a link reaches nothing, or something special.
    TargetMissing,
    /// Such a link reaches a folder, whose contents are not covered.
    TargetDirectory,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: LineKind,
    /// Digest of its content, or of a link's text; of nothing, where it has none.
    pub hash: Hash,
    /// Bytes of its content, or of a link's text.
    pub size: u64,
    /// Its path, raw bytes, relative to the root.
    pub path: Vec<u8>,
}

impl Line {
    fn order(&self, other: &Line) -> Ordering {
        self.path.cmp(&other.path).then(self.kind.cmp(&other.kind))
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (kind, digest): (u8, &[u8]) = match self.kind {
            LineKind::File => (b'f', b""),
            LineKind::Executable => (b'x', b""),
            LineKind::Link => (b'l', b""),
            LineKind::EmptyDir => (b'd', b"-"),
            LineKind::Target => (b't', b""),
            LineKind::TargetMissing => (b't', b"missing"),
            LineKind::TargetDirectory => (b't', b"directory"),
        };
        out.extend_from_slice(&[kind, b' ']);
        if digest.is_empty() {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            for byte in self.hash.0 {
                out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
        } else {
            out.extend_from_slice(digest);
        }
        out.push(b' ');
        out.extend_from_slice(self.size.to_string().as_bytes());
        out.push(b' ');
        escape_into(&self.path, out);
        out.push(b'\n');
    }
}

/// The nodes of a tree, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    kind: ListingKind,
    lines: Vec<Line>,
}

impl Listing {
    /// Sorts lines into a listing.
    pub fn new(kind: ListingKind, mut lines: Vec<Line>) -> Self {
        if !lines.is_sorted_by(|a, b| a.order(b) != Ordering::Greater) {
            lines.sort_unstable_by(Line::order);
        }
        Listing { kind, lines }
    }

    /// What it is of.
    pub fn kind(&self) -> ListingKind {
        self.kind
    }

    /// Its lines, in order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Its text.
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.lines.len() * 128);
        out.extend_from_slice(self.kind.first_line().as_bytes());
        out.push(b'\n');
        self.lines.iter().for_each(|line| line.write(&mut out));
        out
    }

    /// The digest of its text, made without holding the text.
    pub fn digest(&self) -> Hash {
        let mut hasher = Hasher::new();
        hasher.update(self.kind.first_line().as_bytes());
        let mut block = vec![b'\n'];
        for line in &self.lines {
            line.write(&mut block);
            if block.len() > 32 << 10 {
                hasher.update(&block);
                block.clear();
            }
        }
        hasher.update(&block);
        hasher.finish()
    }

    /// Reads a listing. Anything but what [`Listing::text`] writes is an error of class `Damaged`.
    pub fn parse(text: &[u8]) -> Result<Listing> {
        let wrong = |number: usize, why: &str| Err(Error::damaged(format_args!("line {number} of a listing {why}")));
        let Some(body) = text.strip_suffix(b"\n") else { return wrong(1, "does not end") };
        let mut rows = body.split(|byte| *byte == b'\n');
        let first = rows.next().unwrap_or_default();
        let kinds = [ListingKind::Dir, ListingKind::File, ListingKind::Source];
        let Some(kind) = kinds.into_iter().find(|kind| kind.first_line().as_bytes() == first) else {
            return wrong(1, "names no known kind");
        };
        let mut lines: Vec<Line> = Vec::new();
        for (index, row) in rows.enumerate() {
            let number = index + 2;
            let Some(line) = parse_line(row) else {
                return wrong(number, &format!("is not understood: `{}`", Shown(&row[..row.len().min(100)])));
            };
            let line = Line { path: unescape(&line.path)?, ..line };
            if lines.last().is_some_and(|last| last.order(&line) != Ordering::Less) {
                return wrong(number, "is out of order");
            }
            lines.push(line);
        }
        Ok(Listing { kind, lines })
    }

    /// The line of a path, that of the link where there are two.
    pub fn find(&self, path: &[u8]) -> Option<&Line> {
        let at = self.lines.partition_point(|line| line.path.as_slice() < path);
        self.lines.get(at).filter(|line| line.path == path)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let files = self.lines.iter().filter(|line| matches!(line.kind, LineKind::File | LineKind::Executable));
        files.map(|line| line.size).sum()
    }

    /// How many lines are of these kinds.
    pub fn count(&self, kinds: &[LineKind]) -> u64 {
        self.lines.iter().filter(|line| kinds.contains(&line.kind)).count() as u64
    }
}

/// One line, its path still escaped.
fn parse_line(row: &[u8]) -> Option<Line> {
    let mut fields = row.splitn(4, |byte| *byte == b' ');
    let (kind, digest, size, path) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let plain = |hash: &[u8]| Some(Hash(parse_hex(std::str::from_utf8(hash).ok()?)?));
    let nothing = Hash([0; 32]);
    let (kind, hash) = match (kind, digest) {
        (b"f", hash) => (LineKind::File, plain(hash)?),
        (b"x", hash) => (LineKind::Executable, plain(hash)?),
        (b"l", hash) => (LineKind::Link, plain(hash)?),
        (b"d", b"-") => (LineKind::EmptyDir, nothing),
        (b"t", b"missing") => (LineKind::TargetMissing, nothing),
        (b"t", b"directory") => (LineKind::TargetDirectory, nothing),
        (b"t", hash) => (LineKind::Target, plain(hash)?),
        _ => return None,
    };
    let size: u64 = std::str::from_utf8(size).ok()?.parse().ok()?;
    let nothing_in_it = matches!(kind, LineKind::EmptyDir | LineKind::TargetMissing | LineKind::TargetDirectory);
    if path.is_empty() || nothing_in_it && size != 0 {
        return None;
    }
    Some(Line { kind, hash, size, path: path.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: LineKind, content: &[u8], path: &[u8]) -> Line {
        Line { kind, hash: Hash::of(content), size: content.len() as u64, path: path.to_vec() }
    }

    fn digest(kind: ListingKind, lines: &[Line]) -> String {
        let listing = Listing::new(kind, lines.to_vec());
        let text = listing.text();
        assert_eq!(listing.digest(), Hash::of(&text));
        assert_eq!(Listing::parse(&text).unwrap(), listing);
        listing.digest().to_string()
    }

    #[test]
    fn golden_digests_of_trees() {
        use LineKind::{EmptyDir, Executable, File, Link};
        let dir = ListingKind::Dir;
        let empty = Line { kind: EmptyDir, hash: Hash([0; 32]), size: 0, path: b"hollow".to_vec() };
        let v4 = [
            line(File, b"", b"zero"),
            line(File, b"1", b"a.b"),
            line(File, b"2", b"a/b"),
            line(Executable, b"#!/bin/sh\n", b"bin/tool"),
            empty,
            line(Link, b"bin/tool", b"run"),
        ];
        let v5 = [
            line(File, b"p", b"100%"),
            line(File, b"r", b"bad\xff"),
            line(File, b"u", b"caf\xc3\xa9"),
            line(File, b"n", b"new\nline"),
        ];
        for (kind, lines, expected) in [
            (dir, &[][..], "35e54b18961b82f2da63034d80075cd490a36df08bc4b4fd249a52e0e9021f0e"),
            (
                ListingKind::File,
                &[line(File, b"hi\n", b".")],
                "d6b3b97011142ba48f79983d630a1622995d419c2b240364745127c585b3ecde",
            ),
            (
                ListingKind::File,
                &[line(Executable, b"hi\n", b".")],
                "6cfe61d0c199c2276365ad4512fc2617295a6642293e49f58c7e32b479786c36",
            ),
            (dir, &v4, "e34dc4d201ec7895699af5d6c07454d263366e1ef5d10595b4310d532db2661b"),
            (dir, &v5, "57befd562bb34c5cfbe00d7b6722858b918a26b7bcbce95b0b41e0ae80552626"),
            (
                ListingKind::Source,
                &[line(File, b"int main(){}\n", b"src/m.c")],
                "2441eada427db59a806af29117391cf37702ab85509ddd185992ca21b54e058c",
            ),
        ] {
            assert_eq!(digest(kind, lines), expected);
        }
    }

    #[test]
    fn only_what_is_written_is_read() {
        let hash = Hash::of(b"x");
        for text in [
            String::new(),
            "meta-tree/1 dir".to_owned(),
            "meta-tree/2 dir\n".to_owned(),
            "meta-tree/1 dir\n\n".to_owned(),
            format!("meta-tree/1 dir\nf {hash} 1 b\nf {hash} 1 a\n"),
            format!("meta-tree/1 dir\nf {hash} 1 a\nf {hash} 1 a\n"),
            format!("meta-tree/1 dir\nq {hash} 1 a\n"),
            format!("meta-tree/1 dir\nf {hash} one a\n"),
            format!("meta-tree/1 dir\nf {hash} 1 a%zz\n"),
            "meta-tree/1 dir\nd - 1 a\n".to_owned(),
        ] {
            assert!(Listing::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
