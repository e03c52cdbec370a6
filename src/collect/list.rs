//! Lists of paths: bytes separated by newlines or NULs, to names relative to the root.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::text::Shown;

/// Longest path, in bytes: the kernel's limit.
const LONGEST: usize = 4095;

/// Resolves `.` and `..` in a path as text. An empty result is the starting folder itself.
///
/// The error says what is wrong, as the end of a sentence that begins with the path.
pub(super) fn relative(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.first() == Some(&b'/') {
        return Err("is absolute");
    }
    if path.contains(&0) {
        return Err("contains a NUL byte");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or("leads out of the working directory")?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Whether a path is already what [`relative`] would make of it, the case of nearly every path in a long list.
fn is_plain(path: &[u8]) -> bool {
    let mut start = true;
    let mut bytes = path.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            0 => return false,
            b'/' if start => return false,
            b'/' => start = true,
            // A part that begins with a dot may be `.` or `..`: let the slow way decide.
            b'.' if start && matches!(bytes.peek(), None | Some(b'.' | b'/')) => return false,
            _ => start = false,
        }
    }
    !start
}

/// Walks over the items of a list, without holding it: `(where it stands, its line or number from 1)`. Empty items are
/// passed over.
#[derive(Debug)]
pub(super) struct Items {
    separator: u8,
    at: usize,
    number: usize,
}

impl Items {
    /// From the start of a list that is separated by NULs or by newlines.
    pub(super) fn new(null_separated: bool) -> Self {
        Items { separator: if null_separated { 0 } else { b'\n' }, at: 0, number: 0 }
    }

    /// The next item of this list.
    pub(super) fn next(&mut self, list: &[u8]) -> Option<(Range<usize>, usize)> {
        while self.at < list.len() {
            let start = self.at;
            let len = list[start..].iter().position(|byte| *byte == self.separator).unwrap_or(list.len() - start);
            self.at = start + len + 1;
            self.number += 1;
            if len > 0 {
                return Some((start..start + len, self.number));
            }
        }
        None
    }
}

/// An item as a path from the root, empty for the root itself; `None` when it is one as it stands. A bad path is an error
/// naming it and its line.
pub(super) fn resolve(written: &[u8], null_separated: bool, origin: &str, number: usize) -> Result<Option<Vec<u8>>> {
    let plain = is_plain(written);
    let path = if plain { Ok(None) } else { relative(written).map(Some) };
    let longest = path.as_ref().map_or(0, |path| path.as_ref().map_or(written.len(), Vec::len));
    let path = if longest > LONGEST { Err("is longer than 4095 bytes, the most that a path can have") } else { path };
    path.map_err(|why| {
        let error = Error::refused(format_args!("{}: `{}` {why}", at(origin, null_separated, number), Shown(written)));
        if !null_separated && written.contains(&0) {
            error.hint("the list is separated by NUL bytes: add --null (in a pipeline, `null: true`)")
        } else {
            error.hint("list paths relative to the working directory and below it")
        }
    })
}

/// `files.list, line 3` or `files.list, item 3`.
pub(super) fn at(origin: &str, null_separated: bool, line: usize) -> String {
    format!("{origin}, {} {line}", if null_separated { "item" } else { "line" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn dots_are_resolved_as_text() {
        for (path, resolved) in [
            (&b"a/b"[..], Ok(&b"a/b"[..])),
            (b"./a//b/", Ok(b"a/b")),
            (b"a/../b", Ok(b"b")),
            (b".", Ok(b"")),
            (b"a/..", Ok(b"")),
            (b"...", Ok(b"...")),
            (b"..a/.b", Ok(b"..a/.b")),
            (b"..", Err("leads out of the working directory")),
            (b"a/../../a", Err("leads out of the working directory")),
            (b"/a", Err("is absolute")),
            (b"a\0b", Err("contains a NUL byte")),
        ] {
            assert_eq!(relative(path).as_deref(), resolved.as_deref(), "{}", Shown(path));
            if is_plain(path) {
                assert_eq!(resolved, Ok(path));
            }
        }
    }

    /// All paths of a list, or the first error.
    fn paths(list: &[u8], null_separated: bool) -> Result<Vec<Vec<u8>>> {
        let mut items = Items::new(null_separated);
        std::iter::from_fn(|| items.next(list))
            .map(|(range, number)| {
                let written = &list[range];
                Ok(resolve(written, null_separated, "files.list", number)?.unwrap_or_else(|| written.to_vec()))
            })
            .collect()
    }

    #[test]
    fn a_bad_path_is_named_with_its_line() {
        let error = paths(b"ok\n\n../bad\n", false).unwrap_err();
        assert_eq!(error.to_string(), "files.list, line 3: `../bad` leads out of the working directory");
        assert_eq!(error.class(), Class::Refused);
        let error = paths(b"a\0b\0", false).unwrap_err();
        assert!(error.next_step().unwrap().contains("--null"));
        for long in ["a/".repeat(40_000), "x".repeat(70_000)] {
            let error = paths(format!("ok\n{long}\n").as_bytes(), false).unwrap_err();
            assert!(error.to_string().starts_with("files.list, line 2: `"), "{error}");
        }
    }

    #[test]
    fn names_are_bytes() {
        let list = b"new\nline\0-dash\0./\xff\xfe\0\0.";
        assert_eq!(paths(list, true).unwrap(), [&b"new\nline"[..], b"-dash", b"\xff\xfe", b""]);
        assert_eq!(paths(b"", false).unwrap(), [b""; 0]);
    }
}
