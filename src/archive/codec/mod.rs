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
mod gzip;
mod lz4;
mod zst;

use std::io::{self, Read};

pub use content::{Content, Piece};

use crate::artifact::Format;
use crate::error::{Class, Error, Result, from_io};

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
            Format::TarLz4 | Format::Tar | Format::Plain => {
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
            Codec::Gzip(_) | Codec::Lz4 | Codec::Zstd(_) => 4 << 20,
        }
    }

    /// Most threads to compress with: at high levels each takes much memory.
    pub fn max_threads(self) -> usize {
        match self {
            Codec::Zstd(16..) => 2,
            Codec::Zstd(10..) => 4,
            _ => 16,
        }
    }

    /// An encoder for one thread; `None` when blocks stay as they are.
    pub fn encoder(self) -> Result<Option<Box<dyn Encoder>>> {
        Ok(match self {
            Codec::None => None,
            Codec::Gzip(level) => Some(Box::new(gzip::GzipEncoder::new(level)?)),
            Codec::Lz4 => Some(Box::new(lz4::Lz4Encoder::new())),
            Codec::Zstd(level) => Some(Box::new(zst::ZstdEncoder::new(level)?)),
        })
    }

    /// What comes before the first block, and the state that makes what comes after the last.
    pub fn framing(self) -> Framing {
        match self {
            Codec::Lz4 => Framing { prologue: lz4::frame_header(), content: Some(lz4::ContentHash::new()) },
            _ => Framing { prologue: Vec::new(), content: None },
        }
    }
}

/// What stands around the blocks. Only an LZ4 frame has something there.
pub struct Framing {
    /// Bytes before the first block.
    pub prologue: Vec<u8>,
    content: Option<lz4::ContentHash>,
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
        self.content.map(lz4::ContentHash::frame_end).unwrap_or_default()
    }
}

/// Reads or decompresses on one thread.
pub trait Decode: Send {
    /// Replaces what is in `out` with the next run of content, of at least [`RUN`] bytes unless it is the last; empty at
    /// the end. On an error `out` holds what was read before it.
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<()>;
}

/// Undoes whatever compression the bytes show, told by their first bytes and not by a name.
///
/// Reads several members or frames in sequence, and skippable frames. The end of the result has been checked: a cut or
/// changed stream ends in an error of class [`Class::Damaged`], inside the [`io::Error`].
pub fn decode(mut input: Box<dyn Read + Send>) -> Result<Content> {
    let mut head = [0u8; 4];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(from_io("cannot read the archive", e)),
        }
    }
    let head = &head[..have];
    let input: Box<dyn Read + Send> = Box::new(io::Cursor::new(head.to_vec()).chain(input));
    let magic = <[u8; 4]>::try_from(head).map(u32::from_le_bytes).ok();
    let decoder: Box<dyn Decode> = match magic {
        _ if head.starts_with(&[0x1f, 0x8b]) => {
            Box::new(Checked { inner: Streamed(gzip::GzipDecoder::new(input)), what: "gzip" })
        }
        Some(magic) if lz4::is_magic(magic) => Box::new(Checked { inner: lz4::Lz4Decoder::new(input), what: "LZ4" }),
        Some(magic) if zst::is_magic(magic) => {
            Box::new(Checked { inner: Streamed(zst::decoder(input)?), what: "zstd" })
        }
        // Skippable frames may open an LZ4 or a zstd stream; the frame after them decides.
        Some(magic) if is_skippable(magic) => return skippable_then(input),
        _ => Box::new(Streamed(input)),
    };
    Ok(Content::new(decoder))
}

fn is_skippable(magic: u32) -> bool {
    magic & 0xffff_fff0 == 0x184d_2a50
}

fn skippable_then(mut input: Box<dyn Read + Send>) -> Result<Content> {
    let mut head = [0u8; 8];
    let cut = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::damaged("truncated inside a skippable frame"),
        _ => from_io("cannot read the archive", e),
    };
    input.read_exact(&mut head).map_err(cut)?;
    let len = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
    let skipped = io::copy(&mut input.by_ref().take(len), &mut io::sink()).map_err(cut)?;
    if skipped < len {
        return Err(Error::damaged("truncated inside a skippable frame"));
    }
    decode(input)
}

/// Least length of a run of content, and the length of those of a decoder that is a reader.
pub const RUN: usize = 512 << 10;

/// A reader, of uncompressed content or of a decoder's.
struct Streamed<R>(R);

impl<R: Read + Send> Decode for Streamed<R> {
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        out.resize(RUN, 0);
        let mut have = 0;
        let result = loop {
            if have == RUN {
                break Ok(());
            }
            match self.0.read(&mut out[have..]) {
                Ok(0) => break Ok(()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        out.truncate(have);
        result
    }
}

/// Gives a decoder's own complaints the class "damaged", and leaves errors of the source below it alone.
struct Checked<D> {
    inner: D,
    what: &'static str,
}

impl<D: Decode> Decode for Checked<D> {
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.inner.next(out).map_err(|error| {
            let ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
            if ours || error.raw_os_error().is_some() {
                return error;
            }
            let what = self.what;
            match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::damaged(format_args!("the {what} data is truncated")).into(),
                _ => {
                    let why = error.to_string();
                    Error::new(Class::Damaged, format_args!("the {what} data is damaged")).caused_by(why).into()
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        decode(Box::new(io::Cursor::new(data))).map_err(io::Error::from)?.read_to_end(&mut out)?;
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
