//! What names a chunk: the digest of its bytes, before compression.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512_256};

use crate::lanes;
use crate::text::{parse_hex, write_hex};

/// The digest that names chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digest {
    /// SHA-512/256 of FIPS 180-4: what casync and desync use unless told otherwise.
    #[default]
    Sha512_256,
    /// SHA-256.
    Sha256,
}

/// A chunk's name: 32 bytes, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

impl Digest {
    /// The name of a chunk with these bytes.
    pub fn id(self, bytes: &[u8]) -> ChunkId {
        ChunkId(match self {
            Digest::Sha512_256 => Sha512_256::digest(bytes).into(),
            Digest::Sha256 => Sha256::digest(bytes).into(),
        })
    }

    /// The names of several chunks; faster than one after the other.
    pub fn ids(self, chunks: &[&[u8]]) -> Vec<ChunkId> {
        match self {
            Digest::Sha512_256 => lanes::sha512::sha512_256(chunks).into_iter().map(ChunkId).collect(),
            Digest::Sha256 => lanes::sha256::sha256(chunks).into_iter().map(ChunkId).collect(),
        }
    }

    /// The other digest.
    pub fn other(self) -> Digest {
        match self {
            Digest::Sha512_256 => Digest::Sha256,
            Digest::Sha256 => Digest::Sha512_256,
        }
    }

    /// Reads the name of a digest as desync's `--digest` takes it.
    pub fn parse(name: &str) -> Option<Digest> {
        match name {
            "sha512-256" => Some(Digest::Sha512_256),
            "sha256" => Some(Digest::Sha256),
            _ => None,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Digest::Sha512_256 => "sha512-256",
            Digest::Sha256 => "sha256",
        })
    }
}

impl ChunkId {
    /// Reads 64 lower-case hexadecimal digits.
    pub fn parse(hex: &str) -> Option<ChunkId> {
        parse_hex(hex).map(ChunkId)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_casync() {
        let hello = b"hello world\n";
        assert_eq!(
            Digest::Sha512_256.id(hello).to_string(),
            "bf73ee1fb7e8bf8fcdd5da06dd547052cd0f929a88f4aead68b218d3bde91134"
        );
        assert_eq!(
            Digest::Sha256.id(hello).to_string(),
            "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"
        );
        assert_eq!(
            Digest::Sha512_256.id(&vec![0; 262_144]).to_string(),
            "1c8109946feed9f9e9fe4b5144d90f05a50fb3275e848cb72f4b9546d8c533f2"
        );
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let id = Digest::Sha256.id(b"x");
        assert_eq!(ChunkId::parse(&id.to_string()), Some(id));
        for wrong in ["", "ab", &id.to_string()[1..], &id.to_string().to_uppercase(), &format!("{id}0")] {
            assert_eq!(ChunkId::parse(wrong), None, "{wrong}");
        }
    }
}
