//! Path bytes as text that fits into one line, and back.
//!
//! `%`, control bytes (00 to 1F, 7F) and every byte that is no part of well-formed UTF-8 become `%` and two upper-case
//! hexadecimal digits; all else is copied. Nothing is normalised, so the mapping can be undone.

use crate::error::{Error, Result};

/// Appends the text of a path.
pub fn escape_into(path: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: u8| byte.is_ascii() && byte != b'%' && !byte.is_ascii_control();
    // The usual name needs no second look.
    if path.iter().all(|byte| plain(*byte)) {
        out.extend_from_slice(path);
        return;
    }
    for chunk in path.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            if byte == b'%' || byte.is_ascii_control() { push(byte, out) } else { out.push(byte) }
        }
        chunk.invalid().iter().for_each(|byte| push(*byte, out));
    }
}

fn push(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("%{byte:02X}").as_bytes());
}

/// The text of a path.
pub fn escape(path: &[u8]) -> String {
    let mut out = Vec::with_capacity(path.len());
    escape_into(path, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The path of a text. Text that [`escape`] does not write is an error of class `Damaged`.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            path.push(*first);
            continue;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'A'..=b'F' => Some(byte - b'A' + 10),
            _ => None,
        };
        match rest {
            [high, low, tail @ ..] if digit(*high).is_some() && digit(*low).is_some() => {
                path.push(digit(*high).unwrap_or(0) << 4 | digit(*low).unwrap_or(0));
                rest = tail;
            }
            _ => return Err(Error::damaged("a path in a listing has a `%` without two digits behind it")),
        }
    }
    // One text for each path: anything else is none of ours.
    let mut again = Vec::with_capacity(text.len());
    escape_into(&path, &mut again);
    if again == text { Ok(path) } else { Err(Error::damaged("a path in a listing is not written as it must be")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_escaped_as_the_specification_says() {
        for (path, text) in [
            (&b"100%"[..], "100%25"),
            (b"bad\xff", "bad%FF"),
            (b"caf\xc3\xa9", "café"),
            (b"new\nline", "new%0Aline"),
            (b"a b\x7f", "a b%7F"),
            (b"\xed\xa0\x80", "%ED%A0%80"),
            (b"cut\xc3", "cut%C3"),
        ] {
            assert_eq!(escape(path), text);
            assert_eq!(unescape(text.as_bytes()).unwrap(), path);
        }
        for text in ["%", "%4", "%41", "%ff", "a%0ab", "\n"] {
            assert!(unescape(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_path_comes_back(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = escape(&path);
            prop_assert!(!text.bytes().any(|byte| byte < 0x20 || byte == 0x7f));
            prop_assert_eq!(unescape(text.as_bytes()).unwrap(), path);
        }
    }
}
