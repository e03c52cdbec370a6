//! Extended headers: what they say of the member that follows, or of all that follow.

use super::sparse;

/// What extended headers override.
#[derive(Debug, Default, Clone)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) sparse: sparse::PaxSparse,
}

impl Pax {
    /// Takes in the records of an extended header; what is wrong with them otherwise.
    pub(super) fn apply(&mut self, records: &[u8]) -> Result<(), &'static str> {
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, after) = next_record(rest).ok_or("a malformed extended header")?;
            rest = after;
            let text = std::str::from_utf8(value).unwrap_or("");
            // As POSIX has it: an empty value means that whatever was set before counts no more, and the header does.
            let given = !value.is_empty();
            let bytes = || given.then(|| value.to_vec());
            let number = || match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) if !given => Ok(None),
                Err(_) => Err("an extended header with a bad number"),
            };
            match key {
                b"path" => self.path = bytes(),
                b"linkpath" => self.link = bytes(),
                b"size" => self.size = number()?,
                b"uid" => self.uid = number()?,
                b"gid" => self.gid = number()?,
                b"mtime" if given => {
                    self.mtime = Some(parse_time(text).ok_or("an extended header with a bad time")?);
                }
                b"mtime" => self.mtime = None,
                key if key.starts_with(b"GNU.sparse.") => self.sparse.record(key, value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// `<length> <key>=<value>\n` at the start of `records`: key, value, and what follows.
fn next_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let record = records.get(space + 1..len)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[len..]))
}

/// Seconds since 1970 with an optional fraction: `-1.5`, `1500000000.123456789`.
fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Shown;

    #[test]
    fn times_have_sign_and_fraction() {
        for (text, time) in [
            ("0", Some((0, 0))),
            ("1500000000.5", Some((1_500_000_000, 500_000_000))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("", None),
            ("x", None),
            ("1.x", None),
        ] {
            assert_eq!(parse_time(text), time, "{text}");
        }
    }

    #[test]
    fn records_hold_newlines_and_equal_signs() {
        let records = b"13 path=a\nb=\n9 uid=10\n";
        let (key, value, rest) = next_record(records).unwrap();
        assert_eq!((key, value), (&b"path"[..], &b"a\nb="[..]));
        assert_eq!(next_record(rest).unwrap().0, b"uid");
        for bad in [&b"5 a=b"[..], b"99 a=b\n", b"x a=b\n", b"6 path\n", b"0 a=b\n", b"1 a=b\n"] {
            assert!(next_record(bad).is_none(), "{}", Shown(bad));
        }
    }
}
