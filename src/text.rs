//! How names, sizes and durations are written for people.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// A name made of arbitrary bytes, printed so that it can neither break a line nor drive a terminal.
///
/// Printable UTF-8 stays as it is; control characters, bidirectional marks and invalid bytes become `\xNN` or `\u{N}`.
pub struct Shown<'a>(pub &'a [u8]);

impl<'a> Shown<'a> {
    /// Shows a path.
    pub fn path(path: &'a Path) -> Self {
        Shown(path.as_os_str().as_bytes())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\u{0}'..='\u{7f}' if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                        write!(f, "\\u{{{:x}}}", u32::from(c))?;
                    }
                    c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// A number of bytes, in decimal units: `999 B`, `1.2 kB`, `635 MB`.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1000.0;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        let places = usize::from(value < 99.95);
        write!(f, "{value:.places$} {}", UNITS[unit])
    }
}

/// A duration as a log reader wants it: `0.04 s`, `3.2 s`, `2 min 5 s`.
pub struct Took(pub Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 1.0 {
            write!(f, "{seconds:.2} s")
        } else if seconds < 99.95 {
            write!(f, "{seconds:.1} s")
        } else {
            let whole = seconds.round() as u64;
            write!(f, "{} min {} s", whole / 60, whole % 60)
        }
    }
}

/// A number with its thousands apart: `7`, `89,339`.
pub struct Number(pub u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// `1 file`, `2 files`, `89,339 files`.
pub struct Count(pub u64, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Number(self.0).fmt(f)?;
        let many = self.0 != 1;
        match self.1.strip_suffix('y') {
            Some(stem) if many => write!(f, " {stem}ies"),
            _ if many && self.1.ends_with('x') => write!(f, " {}es", self.1),
            _ => write!(f, " {}{}", self.1, if many { "s" } else { "" }),
        }
    }
}

/// Writes a digest as lower-case hexadecimal digits.
pub(crate) fn write_hex(digest: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // In one piece: digit by digit, lists of many entries spent a tenth of their time here.
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    f.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

/// Reads a digest of exactly 64 lower-case hexadecimal digits.
pub(crate) fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_raw_control_bytes() {
        for (name, shown) in [
            (&b"plain name"[..], "plain name"),
            (b"a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
            (b"caf\xc3\xa9", "café"),
            (b"bad\xff", "bad\\xff"),
            ("\u{202e}txt".as_bytes(), "\\u{202e}txt"),
            (b"back\\slash", "back\\\\slash"),
        ] {
            assert_eq!(Shown(name).to_string(), shown);
        }
    }

    #[test]
    fn sizes_round_into_the_next_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "1.0 MB"),
            (634_700_320, "635 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn counts_carry_thousands_and_plural() {
        assert_eq!(Count(1, "file").to_string(), "1 file");
        assert_eq!(Count(89_339, "file").to_string(), "89,339 files");
        assert_eq!(Count(2, "index").to_string(), "2 indexes");
        assert_eq!(Count(2, "entry").to_string(), "2 entries");
        assert_eq!(Count(1_000_000, "file").to_string(), "1,000,000 files");
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(Took(Duration::from_millis(42)).to_string(), "0.04 s");
        assert_eq!(Took(Duration::from_millis(3210)).to_string(), "3.2 s");
        assert_eq!(Took(Duration::from_secs(125)).to_string(), "2 min 5 s");
    }
}
