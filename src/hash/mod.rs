//! What names content in cache and store: SHA-256 of texts that anyone can make again with ordinary tools.
//!
//! | part | what it does |
//! |---|---|
//! | [`struct@Hash`] | a SHA-256 digest: parsed, printed, shortened |
//! | [`canonical`] | JSON to the one text of RFC 8785 that is hashed |
//! | [`escape`] | path bytes to text without spaces lost or lines broken, and back |
//! | [`listing`] | the nodes of a tree, a line each; its digest is the tree's |
//!
//! The formats are written down in `docs/semantics.md`.

pub mod canonical;
pub mod escape;
pub mod listing;

use std::fmt;

use sha2::{Digest as _, Sha256};

pub use self::listing::{Line, LineKind, Listing, ListingKind};
use crate::error::{Error, Result};
use crate::lanes::sha256::sha256;
use crate::text::{parse_hex, write_hex};

/// A SHA-256 digest: 32 bytes, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

/// Digits that tables show. What they show can be typed back as a prefix.
const SHORT: usize = 12;

/// Fewest digits of a prefix that is taken for a hash.
pub const SHORTEST_PREFIX: usize = 6;

impl Hash {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }

    /// The digests of several contents, in their order: faster than one after the other.
    pub fn of_each(contents: &[&[u8]]) -> Vec<Hash> {
        sha256(contents).into_iter().map(Hash).collect()
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Hash> {
        parse_hex(hex).map(Hash)
    }

    /// Reads a whole hash as a user gives it. Anything else is an error of class `Usage` that names `what`.
    pub fn read(what: &str, text: &str) -> Result<Hash> {
        Hash::parse(text).ok_or_else(|| {
            Error::usage(format_args!("{what} `{}` is not a hash", text.escape_debug()))
                .hint("give all 64 hexadecimal digits")
        })
    }

    /// The first digits, for tables.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT);
        text
    }

    /// The first two digits: the folder that entries of this name lie in.
    pub fn shard(&self) -> String {
        let mut text = self.to_string();
        text.truncate(2);
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digests bytes as they come.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written_and_in_no_other_way() {
        let hash = Hash::of(b"");
        let text = hash.to_string();
        assert_eq!(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Hash::parse(&text), Some(hash));
        assert_eq!((hash.short().as_str(), hash.shard().as_str()), ("e3b0c44298fc", "e3"));
        for wrong in ["", "e3", &text[1..], &text.to_uppercase(), &format!("{text}0"), &format!("../{}", &text[3..])] {
            assert_eq!(Hash::parse(wrong), None, "{wrong}");
        }
    }
}
