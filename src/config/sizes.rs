//! Sizes and durations as users write them.

use std::time::Duration;

use crate::error::{Error, Result};

/// Reads a size in bytes: `KiB MiB GiB TiB` and `K M G T` are binary, `kB MB GB TB` decimal, a bare number is bytes.
pub fn parse_size(flag: &str, text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 13] = [
        ("", 1),
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("G", 1 << 30),
        ("T", 1 << 40),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let (number, unit) = split(text);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)).ok_or_else(|| {
        Error::usage(format_args!("{flag} `{}` is no size", text.escape_debug()))
            .hint("write a whole number and a unit: 20GiB, 500MB, 0")
    })
}

/// Reads a duration: a whole number of `s m h d w`; a bare one counts `bare` seconds each.
pub fn parse_age(flag: &str, text: &str, bare: u64) -> Result<Duration> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => Some(bare),
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        "w" => Some(7 * 86_400),
        _ => None,
    };
    number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)).map(Duration::from_secs).ok_or_else(
        || {
            Error::usage(format_args!("{flag} `{}` is no duration", text.escape_debug()))
                .hint("write a whole number and a unit: 90s, 30m, 24h, 7d, 4w")
        },
    )
}

fn split(text: &str) -> (Option<u64>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (text[..digits].parse().ok(), text[digits..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_documented() {
        for (text, bytes) in
            [("0", 0), ("10", 10), ("2K", 2048), ("20GiB", 20 << 30), ("5 MB", 5_000_000), ("1TB", 1_000_000_000_000)]
        {
            assert_eq!(parse_size("--max-size", text).unwrap(), bytes, "{text}");
        }
        for text in ["", "-1", "1.5G", "GiB", "1kb", "99999999999999999999", "20000000T", "1e3"] {
            assert!(parse_size("--max-size", text).is_err(), "{text}");
        }
        for (text, seconds) in [("0", 0), ("90s", 90), ("2m", 120), ("24h", 86_400), ("3", 259_200), ("1w", 604_800)] {
            assert_eq!(parse_age("--max-age", text, 86_400).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "d", "-1d", "1y", "1.5h", "99999999999999999999w", "9999999999999999999w"] {
            assert!(parse_age("--max-age", text, 1).is_err(), "{text}");
        }
    }
}
