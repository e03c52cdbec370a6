//! Lists of paths: bytes separated by newlines or NULs, to names relative to the root.

use crate::error::{Error, Result};
use crate::text::Shown;

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

/// A path of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed<'a> {
    /// As it stands in the list.
    pub(super) written: &'a [u8],
    /// Resolved; empty for the root itself.
    pub(super) path: std::borrow::Cow<'a, [u8]>,
    /// Line of the list, or number of the item when separated by NULs, from 1.
    pub(super) line: usize,
}

/// Splits a list. Empty lines are passed over; a bad path is an error naming it and its line.
pub(super) fn parse<'a>(
    list: &'a [u8],
    null_separated: bool,
    origin: &'a str,
) -> impl Iterator<Item = Result<Listed<'a>>> {
    let separator = if null_separated { 0 } else { b'\n' };
    list.split(move |byte| *byte == separator).enumerate().filter(|(_, path)| !path.is_empty()).map(
        move |(index, written)| {
            let line = index + 1;
            if is_plain(written) {
                return Ok(Listed { written, path: written.into(), line });
            }
            let path = relative(written).map_err(|why| {
                let error =
                    Error::refused(format_args!("{}: `{}` {why}", at(origin, null_separated, line), Shown(written)));
                if !null_separated && written.contains(&0) {
                    error.hint("the list is separated by NUL bytes: add --null (in a pipeline, `null: true`)")
                } else {
                    error.hint("list paths relative to the working directory and below it")
                }
            })?;
            Ok(Listed { written, path: path.into(), line })
        },
    )
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

    #[test]
    fn a_bad_path_is_named_with_its_line() {
        let error = parse(b"ok\n\n../bad\n", false, "files.list").find_map(Result::err).unwrap();
        assert_eq!(error.to_string(), "files.list, line 3: `../bad` leads out of the working directory");
        assert_eq!(error.class(), Class::Refused);
        let error = parse(b"a\0b\0", false, "files.list").find_map(Result::err).unwrap();
        assert!(error.next_step().unwrap().contains("--null"));
    }

    #[test]
    fn names_are_bytes() {
        let list = b"new\nline\0-dash\0\xff\xfe\0";
        let names: Vec<_> = parse(list, true, "l").map(|listed| listed.unwrap().path.into_owned()).collect();
        assert_eq!(names, [&b"new\nline"[..], b"-dash", b"\xff\xfe"]);
    }
}
