//! Compression: blocks of the tar stream to bytes that stock tools read, and any such bytes back.
//!
//! | format | one block becomes | read by |
//! |---|---|---|
//! | `.tar` | itself | `tar` |
//! | `.tar.gz` | gzip members of 1 MiB | every `gzip -d` (RFC 1952 §2.2: members follow each other) |
//! | `.tar.lz4` | one independent block of the single frame | `lz4 -d` |
//! | `.tar.zst` | one zstd frame with checksum | `zstd -d` (RFC 8878 §3: frames follow each other) |
//!
//! Blocks are independent, so they are compressed in parallel and the bytes do not depend on the number of threads.

mod content;
mod decode;
mod gzip;
mod lz4;
mod zst;

pub use content::{Content, Piece};
pub use decode::decode;
pub(crate) use decode::{Decode, Step};

use crate::artifact::Format;
use crate::error::{Error, Result};

/// Compresses blocks on one thread.
pub trait Encoder: Send {
    /// Most bytes that a block of `len` bytes can become.
    fn bound(&self, len: usize) -> usize;

    /// Compresses a block into `output`, which holds at least [`Encoder::bound`] bytes. Returns the length.
    fn block(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize>;
}

/// A compression with its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// No compression.
    None,
    /// gzip at this level, 1 to 9.
    Gzip(u32),
    /// LZ4, fast level.
    Lz4,
    /// The same without a checksum of the content, for what is checked by a digest of its own.
    BareLz4,
    /// Zstandard at this level, 1 to 19.
    Zstd(i32),
}

impl Codec {
    /// The codec of an archive format, with the user's level or the default (gzip 6, zstd 3).
    pub fn new(format: Format, level: Option<i32>) -> Result<Codec> {
        let level_of = |what: &str, range: std::ops::RangeInclusive<i32>, default: i32| match level {
            Some(level) if !range.contains(&level) => {
                let (low, high) = (range.start(), range.end());
                Err(Error::usage(format_args!("level {level} is not one of {what}'s: it has {low} to {high}")))
            }
            level => Ok(level.unwrap_or(default)),
        };
        let codec = match format {
            Format::TarGz => Codec::Gzip(level_of("gzip", 1..=9, 6)?.unsigned_abs()),
            Format::TarZst => Codec::Zstd(level_of("zstd", 1..=19, zst::DEFAULT_LEVEL)?),
            Format::TarLz4 | Format::Tar | Format::Catar | Format::CatarCaibx | Format::Plain => {
                if level.is_some() {
                    return Err(Error::usage("only .tar.gz and .tar.zst have compression levels")
                        .hint("leave out --level, or use a .tar.zst name"));
                }
                if format == Format::TarLz4 { Codec::Lz4 } else { Codec::None }
            }
        };
        Ok(codec)
    }

    /// How many bytes of the stream make a block.
    pub fn block_size(self) -> usize {
        match self {
            Codec::None => 1 << 20,
            Codec::Gzip(_) | Codec::Lz4 | Codec::BareLz4 | Codec::Zstd(_) => 4 << 20,
        }
    }

    /// Most threads to compress with: at high levels each takes much memory.
    pub fn max_threads(self) -> usize {
        match self {
            Codec::Zstd(10..) => 2,
            Codec::Zstd(4..) => 8,
            _ => 16,
        }
    }

    /// An encoder for one thread; `None` when blocks stay as they are.
    pub fn encoder(self) -> Result<Option<Box<dyn Encoder>>> {
        Ok(match self {
            Codec::None => None,
            Codec::Gzip(level) => Some(Box::new(gzip::GzipEncoder::new(level)?)),
            Codec::Lz4 | Codec::BareLz4 => Some(Box::new(lz4::Lz4Encoder::new())),
            Codec::Zstd(level) => Some(Box::new(zst::ZstdEncoder::new(level)?)),
        })
    }

    /// What comes before the first block, and the state that makes what comes after the last.
    pub fn framing(self) -> Framing {
        match self {
            Codec::Lz4 => {
                Framing { prologue: lz4::frame_header(true), content: Some(lz4::ContentHash::new()), end: Vec::new() }
            }
            Codec::BareLz4 => Framing { prologue: lz4::frame_header(false), content: None, end: lz4::end_mark() },
            _ => Framing { prologue: Vec::new(), content: None, end: Vec::new() },
        }
    }
}

/// What stands around the blocks. Only an LZ4 frame has something there.
pub struct Framing {
    /// Bytes before the first block.
    pub prologue: Vec<u8>,
    content: Option<lz4::ContentHash>,
    end: Vec<u8>,
}

impl Framing {
    /// Sees each block's content, in order.
    pub fn see(&mut self, input: &[u8]) {
        if let Some(content) = &mut self.content {
            content.update(input);
        }
    }

    /// Bytes after the last block.
    pub fn epilogue(self) -> Vec<u8> {
        self.content.map_or(self.end, lz4::ContentHash::frame_end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::*;
    use crate::context::Context;
    use crate::error::{Class, from_io};

    const FORMATS: [Format; 4] = [Format::Tar, Format::TarGz, Format::TarLz4, Format::TarZst];

    fn encode(format: Format, data: &[u8]) -> Vec<u8> {
        let codec = Codec::new(format, None).unwrap();
        let mut framing = codec.framing();
        let mut out = framing.prologue.clone();
        let mut encoder = codec.encoder().unwrap();
        for block in data.chunks(codec.block_size()) {
            match &mut encoder {
                Some(encoder) => {
                    let mut packed = vec![0; encoder.bound(block.len())];
                    let len = encoder.block(block, &mut packed).unwrap();
                    out.extend_from_slice(&packed[..len]);
                }
                None => out.extend_from_slice(block),
            }
            framing.see(block);
        }
        out.extend(framing.epilogue());
        out
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| ((i * i) >> 7) as u8 ^ (i >> 13) as u8).collect()
    }

    fn decoded(data: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decode(Box::new(io::Cursor::new(data)), &Context::default()).map_err(io::Error::from)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_format_gives_back_what_it_took() {
        for format in FORMATS {
            for len in [1, 511, 1 << 20, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9_000_001] {
                let data = sample(len);
                assert!(decoded(encode(format, &data)).unwrap() == data, "{format:?} {len}");
            }
        }
    }

    #[test]
    fn a_cut_or_changed_stream_is_damaged_and_never_short() {
        let data = sample(5_000_000);
        for format in [Format::TarGz, Format::TarLz4, Format::TarZst] {
            let whole = encode(format, &data);
            for keep in [7, 100, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
                let error = from_io("", decoded(whole[..keep].to_vec()).unwrap_err());
                assert_eq!(error.class(), Class::Damaged, "{format:?} cut at {keep}: {}", error.chain());
            }
            for at in [whole.len() / 3, whole.len() / 2, whole.len() - 2] {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                match decoded(flipped) {
                    Ok(out) => assert!(out == data, "{format:?}: a flipped bit at {at} changed data unnoticed"),
                    Err(error) => assert_eq!(from_io("", error).class(), Class::Damaged),
                }
            }
        }
    }

    #[test]
    fn streams_in_sequence_and_skippable_frames_are_read_through() {
        let (a, b) = (sample(70_000), sample(300));
        let skip = [0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        for format in [Format::TarGz, Format::TarLz4, Format::TarZst] {
            let both = [encode(format, &a), encode(format, &b)].concat();
            assert!(decoded(both).unwrap() == [a.clone(), b.clone()].concat(), "{format:?}");
        }
        for format in [Format::TarLz4, Format::TarZst] {
            let parts = [skip.to_vec(), encode(format, &a), skip.to_vec(), encode(format, &b), skip.to_vec()].concat();
            assert!(decoded(parts).unwrap() == [a.clone(), b.clone()].concat(), "{format:?}");
        }
        let padded = [encode(Format::TarGz, &a), vec![0; 512]].concat();
        assert!(decoded(padded).unwrap() == a, "zeros after gzip are padding");
        let garbage = [encode(Format::TarGz, &a), b"garbage".to_vec()].concat();
        assert_eq!(from_io("", decoded(garbage).unwrap_err()).class(), Class::Damaged);
    }

    /// An LZ4 frame of blocks of these lengths, stored when there is nothing to gain, in a frame of 64 KiB blocks.
    fn lz4_frame(data: &[u8], block: usize) -> Vec<u8> {
        use std::hash::Hasher as _;
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0];
        frame[6] = twox_hash::XxHash32::oneshot(0, &frame[4..6]).to_le_bytes()[1];
        for part in data.chunks(block) {
            frame.extend((part.len() as u32 | 1 << 31).to_le_bytes());
            frame.extend(part);
        }
        let mut hash = twox_hash::XxHash32::with_seed(0);
        hash.write(data);
        frame.extend(0u32.to_le_bytes());
        frame.extend(hash.finish_32().to_le_bytes());
        frame
    }

    /// The same of compressed blocks in a frame of 4 MiB blocks, each of a length of its own.
    fn dense_lz4_frame(data: &[u8]) -> Vec<u8> {
        let mut frame = lz4::frame_header(true);
        let mut content = lz4::ContentHash::new();
        content.update(data);
        let mut rest = data;
        for len in (20..).step_by(997) {
            let (part, after) = rest.split_at(rest.len().min(len));
            let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(part.len())];
            let len = lz4_flex::block::compress_into(part, &mut packed).unwrap();
            frame.extend((len as u32).to_le_bytes());
            frame.extend(&packed[..len]);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        frame.extend(content.frame_end());
        frame
    }

    #[test]
    fn units_of_any_size_come_out_in_order() {
        let data = sample(1_500_000);
        let zeros = vec![0; 300_000];
        let skip = [0x5a, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        let unsized_frames = |len: usize| -> Vec<u8> {
            data.chunks(len).flat_map(|part| zstd::stream::encode_all(part, 1).unwrap()).collect()
        };
        let sized_frames = |len: usize| -> Vec<u8> {
            data.chunks(len).flat_map(|part| [&skip[..], &zstd::bulk::compress(part, 1).unwrap()].concat()).collect()
        };
        let streams = [
            ("one-byte LZ4 blocks", lz4_frame(&data[..3000], 1), 3000),
            ("small LZ4 blocks", lz4_frame(&data, 10_000), data.len()),
            ("LZ4 blocks as dense as can be", dense_lz4_frame(&zeros), zeros.len()),
            ("LZ4 frames", data.chunks(7000).flat_map(|part| lz4_frame(part, 100)).collect(), data.len()),
            ("an empty LZ4 frame between", [lz4_frame(b"", 1), lz4_frame(&data, 65_536)].concat(), data.len()),
            ("zstd frames without sizes", unsized_frames(9000), data.len()),
            ("one zstd frame", unsized_frames(usize::MAX), data.len()),
            ("small zstd frames", sized_frames(300), data.len()),
            ("zstd frames of both kinds", [sized_frames(90_000), unsized_frames(400_000)].concat(), 2 * data.len()),
            ("many skippable frames", [skip.repeat(200_000), sized_frames(1_000_000)].concat(), data.len()),
        ];
        let twice = [data.clone(), data.clone()].concat();
        for (what, stream, len) in streams {
            let twice = if what.contains("dense") { &zeros } else { &twice };
            assert!(decoded(stream.clone()).unwrap() == twice[..len], "{what}");
            for keep in [stream.len() - 1, stream.len() * 2 / 3, stream.len() / 2] {
                let mut out = Vec::new();
                let result = decode(Box::new(io::Cursor::new(stream[..keep].to_vec())), &Context::default())
                    .and_then(|mut content| content.read_to_end(&mut out).map_err(|e| from_io("", e)));
                assert!(twice.starts_with(&out), "{what} cut at {keep}: what came before is not right");
                // A cut between frames looks like the end.
                if let Err(error) = result {
                    assert_eq!(error.class(), Class::Damaged, "{what} cut at {keep}: {}", error.chain());
                }
            }
        }
    }

    #[test]
    fn whoever_drops_the_content_early_waits_for_nobody() {
        for format in FORMATS {
            let mut content =
                decode(Box::new(io::Cursor::new(encode(format, &sample(30 << 20)))), &Context::default()).unwrap();
            let piece = content.piece(10).unwrap().unwrap();
            drop(content);
            assert_eq!(piece[..], sample(10)[..]);
        }
    }

    #[test]
    fn levels_are_checked() {
        assert_eq!(Codec::new(Format::TarZst, Some(19)).unwrap(), Codec::Zstd(19));
        for (format, level) in
            [(Format::TarGz, 0), (Format::TarGz, 10), (Format::TarZst, 20), (Format::TarLz4, 1), (Format::Tar, 1)]
        {
            assert_eq!(Codec::new(format, Some(level)).unwrap_err().class(), Class::Usage, "{format:?} {level}");
        }
    }
}
