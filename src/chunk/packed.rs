//! A chunk as it is stored: compressed by zstd, in one frame; read back from that, from gzip, or as it is.
//!
//! casync's frames do not say how long their content is and desync's sometimes do, so the length comes from the index.
//! Nothing here is ever larger: a chunk that would become more is wrong.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256, Sha512_256};
use zstd::zstd_safe::CParameter;

use super::ChunkId;
use super::cut::LARGEST;
use crate::error::{Error, Result};

/// How a stored chunk's bytes are to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `<id>.cacnk`.
    Compressed,
    /// `<id>`, without a suffix.
    Plain,
}

/// Why stored bytes do not become a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// They are cut, changed, or become more or less than they should.
    Damaged(&'static str),
    /// They are fine, as far as one can tell, and not supported.
    Unsupported(&'static str),
}

/// No stored chunk has more bytes: the largest one, should compressing have made it larger.
pub const MOST_STORED: u64 = LARGEST + (LARGEST >> 6);

/// The level that casync and desync compress with.
const LEVEL: i32 = 3;

/// Compresses chunks, one after the other; one for each thread.
pub struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    /// A packer.
    pub fn new() -> Result<Self> {
        let build = || {
            let mut context = zstd::bulk::Compressor::new(LEVEL)?;
            // The id is the better checksum.
            context.set_parameter(CParameter::ChecksumFlag(false))?;
            Ok(context)
        };
        build().map(Packer).map_err(|error: std::io::Error| Error::failed("cannot set up zstd").caused_by(error))
    }

    /// The stored form of a chunk, in place of what is in `out`.
    pub fn pack(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
        let packed = self.0.compress_to_buffer(chunk, out);
        packed.map(drop).map_err(|error| Error::failed("zstd compression failed").caused_by(error))
    }
}

/// Makes chunks of stored bytes; one for each thread.
pub struct Unpacker(zstd::bulk::Decompressor<'static>);

impl Unpacker {
    /// An unpacker.
    pub fn new() -> Result<Self> {
        let context = zstd::bulk::Decompressor::new();
        context.map(Unpacker).map_err(|error| Error::failed("cannot set up zstd").caused_by(error))
    }

    /// Fills `chunk`, which is as long as the index says, from stored bytes. Whether it is the right one, its id tells.
    pub fn unpack(&mut self, form: Form, stored: &[u8], chunk: &mut [u8]) -> std::result::Result<(), Wrong> {
        let other_length = Wrong::Damaged("it has another length than the index says");
        match stored {
            _ if form == Form::Plain => {
                if stored.len() != chunk.len() {
                    return Err(other_length);
                }
                chunk.copy_from_slice(stored);
                Ok(())
            }
            [] => Err(Wrong::Damaged("it is empty")),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => match self.0.decompress_to_buffer(stored, chunk) {
                Ok(len) if len == chunk.len() => Ok(()),
                Ok(_) => Err(other_length),
                Err(_) => Err(Wrong::Damaged("it is cut or changed, or becomes more than the index says")),
            },
            [0x1f, 0x8b, ..] => {
                let mut decoder = MultiGzDecoder::new(stored);
                let damaged = |_| Wrong::Damaged("it is cut or changed, or becomes less than the index says");
                decoder.read_exact(chunk).map_err(damaged)?;
                match decoder.read(&mut [0]) {
                    Ok(0) => Ok(()),
                    Ok(_) => Err(other_length),
                    Err(error) => Err(damaged(error)),
                }
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                Err(Wrong::Unsupported("it is compressed with xz, which is not supported: casync can store zstd"))
            }
            _ => Err(Wrong::Damaged("it begins like no known compression")),
        }
    }

    /// What stored bytes become when nobody knows how long that is, at most so long. For finding out who is wrong, the chunk
    /// or the index.
    pub fn unpack_any(&mut self, form: Form, stored: &[u8], most: usize) -> Option<Vec<u8>> {
        let mut chunk = Vec::new();
        match stored {
            _ if form == Form::Plain => chunk.extend_from_slice(stored),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                chunk.resize(most, 0);
                let len = self.0.decompress_to_buffer(stored, chunk.as_mut_slice()).ok()?;
                chunk.truncate(len);
            }
            [0x1f, 0x8b, ..] => {
                MultiGzDecoder::new(stored).take((most as u64).saturating_add(1)).read_to_end(&mut chunk).ok()?;
            }
            _ => return None,
        }
        (chunk.len() <= most).then_some(chunk)
    }
}

/// Whether stored bytes are the chunk of this name, by either digest and however long it is.
pub fn stored_is(form: Form, stored: &[u8], id: &ChunkId) -> bool {
    let mut reader: Box<dyn Read> = match stored {
        _ if form == Form::Plain => Box::new(stored),
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(stored)),
        _ => match zstd::stream::read::Decoder::with_buffer(stored) {
            Ok(decoder) => Box::new(decoder),
            Err(_) => return false,
        },
    };
    let (mut one, mut other) = (Sha512_256::new(), Sha256::new());
    let mut buffer = [0; 16 << 10];
    let mut left = LARGEST;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return *one.finalize() == id.0 || *other.finalize() == id.0,
            Ok(n) if n as u64 <= left => {
                left -= n as u64;
                one.update(&buffer[..n]);
                other.update(&buffer[..n]);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(chunk: &[u8]) -> Vec<u8> {
        let mut out = b"what was there before".to_vec();
        Packer::new().unwrap().pack(chunk, &mut out).unwrap();
        out
    }

    fn unpacked(form: Form, stored: &[u8], len: usize) -> std::result::Result<Vec<u8>, Wrong> {
        let mut chunk = vec![0; len];
        Unpacker::new().unwrap().unpack(form, stored, &mut chunk).map(|()| chunk)
    }

    #[test]
    fn what_peers_store_is_read() {
        let casync = b"\x28\xb5\x2f\xfd\x00\x58\x61\x00\x00hello world\n";
        let desync = b"\x28\xb5\x2f\xfd\x04\x00\x61\x00\x00hello world\n\x8c\x6d\x7d\x20";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"hello world\n").unwrap();
        for stored in [&casync[..], desync, &gzip.finish().unwrap(), &packed(b"hello world\n")] {
            assert_eq!(unpacked(Form::Compressed, stored, 12).unwrap(), b"hello world\n");
            for len in [0, 11, 13] {
                assert!(matches!(unpacked(Form::Compressed, stored, len), Err(Wrong::Damaged(_))), "{len}");
            }
            let any = |most| Unpacker::new().unwrap().unpack_any(Form::Compressed, stored, most);
            assert_eq!(any(100).unwrap(), b"hello world\n");
            assert_eq!(any(11), None);
            for cut in 0..stored.len() {
                assert!(unpacked(Form::Compressed, &stored[..cut], 12).is_err(), "{cut}");
            }
        }
        assert_eq!(unpacked(Form::Plain, b"hello", 5).unwrap(), b"hello");
        assert!(unpacked(Form::Plain, b"hello", 4).is_err());
        let xz = b"\xfd7zXZ\0rest";
        assert!(matches!(unpacked(Form::Compressed, xz, 5), Err(Wrong::Unsupported(_))));
    }

    #[test]
    fn stored_bytes_tell_whether_they_are_a_chunk() {
        use super::super::Digest;
        for digest in [Digest::Sha256, Digest::Sha512_256] {
            let id = digest.id(b"hello world\n");
            let stored = packed(b"hello world\n");
            assert!(stored_is(Form::Compressed, &stored, &id) && stored_is(Form::Plain, b"hello world\n", &id));
            assert!(!stored_is(Form::Compressed, &stored[..stored.len() - 1], &id));
            assert!(!stored_is(Form::Compressed, &packed(b"hello"), &id) && !stored_is(Form::Plain, &stored, &id));
            assert!(!stored_is(Form::Compressed, b"", &id) && !stored_is(Form::Compressed, b"text", &id));
        }
        let bomb = vec![0; usize::try_from(LARGEST).unwrap() + 1];
        assert!(!stored_is(Form::Compressed, &packed(&bomb), &Digest::Sha256.id(&bomb)));
    }

    #[test]
    fn a_bomb_goes_no_further_than_the_index_says() {
        let bomb = packed(&vec![0; 100 << 20]);
        assert!(bomb.len() < 20_000);
        assert!(matches!(unpacked(Form::Compressed, &bomb, 65_536), Err(Wrong::Damaged(_))));
    }

    #[test]
    fn a_chunk_comes_back_as_it_was() {
        for len in [1, 100, 65_536, 262_144] {
            let chunk: Vec<u8> = (0..len).map(|i: u32| (i.wrapping_mul(i) >> 9) as u8).collect();
            assert_eq!(unpacked(Form::Compressed, &packed(&chunk), chunk.len()).unwrap(), chunk);
        }
    }
}
