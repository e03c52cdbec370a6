//! LZ4 frames (format description 1.6.x): magic, descriptor, blocks, end mark, content checksum.
//!
//! | field | bytes | ours |
//! |---|---|---|
//! | magic | 4 | `04 22 4d 18` |
//! | FLG | 1 | version 01, independent blocks, content checksum: `0x64` |
//! | BD | 1 | blocks of at most 4 MiB: `0x70` |
//! | HC | 1 | second byte of XXH32 over FLG and BD |
//! | block size | 4 | top bit set when the block is stored |
//! | … | | |
//! | end mark | 4 | zero |
//! | content checksum | 4 | XXH32 of the content |
//!
//! Read besides: linked blocks, block checksums, content size, dictionaries refused, skippable and legacy frames.

use std::hash::Hasher as _;
use std::io::{self, Read};

use twox_hash::XxHash32;

use super::{Decode, Encoder, RUN};
use crate::error::{Error, Result};

const MAGIC: u32 = 0x184d_2204;
const LEGACY_MAGIC: u32 = 0x184c_2102;
const LEGACY_BLOCK: usize = 8 << 20;
const STORED: u32 = 1 << 31;
/// How far back a linked block may refer.
const WINDOW: usize = 64 << 10;

pub(super) fn is_magic(magic: u32) -> bool {
    magic == MAGIC || magic == LEGACY_MAGIC
}

/// The header of our one frame.
pub(super) fn frame_header() -> Vec<u8> {
    let descriptor = [0x64, 0x70];
    let mut header = MAGIC.to_le_bytes().to_vec();
    header.extend_from_slice(&descriptor);
    header.push(header_checksum(&descriptor));
    header
}

fn header_checksum(descriptor: &[u8]) -> u8 {
    XxHash32::oneshot(0, descriptor).to_le_bytes()[1]
}

/// The running content checksum.
pub(super) struct ContentHash(XxHash32);

impl ContentHash {
    pub(super) fn new() -> Self {
        ContentHash(XxHash32::with_seed(0))
    }

    pub(super) fn update(&mut self, content: &[u8]) {
        self.0.write(content);
    }

    /// End mark and checksum.
    pub(super) fn frame_end(self) -> Vec<u8> {
        [0u32.to_le_bytes(), self.0.finish_32().to_le_bytes()].concat()
    }
}

pub(super) struct Lz4Encoder;

impl Lz4Encoder {
    pub(super) fn new() -> Self {
        Lz4Encoder
    }
}

impl Encoder for Lz4Encoder {
    fn bound(&self, len: usize) -> usize {
        4 + lz4_flex::block::get_maximum_output_size(len)
    }

    fn block(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let (word, packed) = output.split_at_mut(4);
        let len = lz4_flex::block::compress_into(input, packed)
            .map_err(|e| Error::failed("LZ4 compression failed").caused_by(e))?;
        let stored = len >= input.len();
        if stored {
            packed[..input.len()].copy_from_slice(input);
        }
        let len = len.min(input.len());
        let size = u32::try_from(len).map_err(|_| Error::failed("an LZ4 block is larger than 2 GiB"))?;
        word.copy_from_slice(&(if stored { size | STORED } else { size }).to_le_bytes());
        Ok(4 + len)
    }
}

/// Frames in sequence, a block at a time.
pub(super) struct Lz4Decoder<R> {
    input: R,
    frame: Option<Frame>,
    /// The last bytes decoded of this frame, at most [`WINDOW`], when its blocks are linked.
    history: Vec<u8>,
    packed: Vec<u8>,
    ended: bool,
}

struct Frame {
    legacy: bool,
    independent: bool,
    block_checksum: bool,
    content_hash: Option<XxHash32>,
    content_left: Option<u64>,
    block_max: usize,
}

impl<R: Read> Lz4Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Lz4Decoder { input, frame: None, history: Vec::new(), packed: Vec::new(), ended: false }
    }

    /// Reads a little-endian word; `None` at the end of the input.
    fn word(&mut self) -> io::Result<Option<u32>> {
        let mut bytes = [0u8; 4];
        let mut have = 0;
        while have < 4 {
            match self.input.read(&mut bytes[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(u32::from_le_bytes(bytes)))
    }

    fn needed_word(&mut self) -> io::Result<u32> {
        self.word()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Opens the frame that this magic begins; `None` for a skipped one.
    fn open(&mut self, magic: u32) -> io::Result<Option<Frame>> {
        if super::is_skippable(magic) {
            let len = u64::from(self.needed_word()?);
            let skipped = io::copy(&mut self.input.by_ref().take(len), &mut io::sink())?;
            return if skipped == len { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        if magic == LEGACY_MAGIC {
            return Ok(Some(Frame {
                legacy: true,
                independent: true,
                block_checksum: false,
                content_hash: None,
                content_left: None,
                block_max: LEGACY_BLOCK,
            }));
        }
        if magic != MAGIC {
            return Err(bad("what follows the frame is no LZ4 frame"));
        }
        let mut descriptor = vec![0u8; 2];
        self.input.read_exact(&mut descriptor)?;
        let (flags, sizes) = (descriptor[0], descriptor[1]);
        if flags >> 6 != 1 || flags & 2 != 0 || sizes & 0x8f != 0 {
            return Err(bad("unknown frame version or flags"));
        }
        let block_max = match sizes >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Err(bad("unknown block size")),
        };
        let mut content_left = None;
        if flags & 8 != 0 {
            let mut size = [0u8; 8];
            self.input.read_exact(&mut size)?;
            descriptor.extend_from_slice(&size);
            content_left = Some(u64::from_le_bytes(size));
        }
        if flags & 1 != 0 {
            return Err(bad("the frame needs a dictionary"));
        }
        let mut checksum = [0u8; 1];
        self.input.read_exact(&mut checksum)?;
        if checksum[0] != header_checksum(&descriptor) {
            return Err(bad("wrong frame header checksum"));
        }
        Ok(Some(Frame {
            legacy: false,
            independent: flags & 0x20 != 0,
            block_checksum: flags & 0x10 != 0,
            content_hash: (flags & 4 != 0).then(|| XxHash32::with_seed(0)),
            content_left,
            block_max,
        }))
    }

    /// Decodes the next block to this place in `out`, which grows as is needed. Returns its length, or `None` at the end
    /// of all frames.
    fn next_block(&mut self, out: &mut Vec<u8>, at: usize) -> io::Result<Option<usize>> {
        loop {
            let Some(mut frame) = self.frame.take() else {
                let Some(magic) = self.word()? else { return Ok(None) };
                self.frame = self.open(magic)?;
                self.history.clear();
                continue;
            };
            let word = match self.word()? {
                Some(word) => word,
                // A legacy frame has no end mark: it ends with the input.
                None if frame.legacy => return Ok(None),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            if frame.legacy && (is_magic(word) || super::is_skippable(word)) {
                self.frame = self.open(word)?;
                continue;
            }
            if word == 0 && !frame.legacy {
                self.close(frame)?;
                continue;
            }
            let len = self.decode_block(&mut frame, word, out, at)?;
            self.frame = Some(frame);
            return Ok(Some(len));
        }
    }

    fn close(&mut self, frame: Frame) -> io::Result<()> {
        if let Some(hash) = frame.content_hash
            && self.needed_word()? != hash.finish_32()
        {
            return Err(bad("wrong content checksum"));
        }
        if frame.content_left.is_some_and(|left| left != 0) {
            return Err(bad("the content is shorter than the frame says"));
        }
        Ok(())
    }

    fn decode_block(&mut self, frame: &mut Frame, word: u32, out: &mut Vec<u8>, at: usize) -> io::Result<usize> {
        let stored = !frame.legacy && word & STORED != 0;
        let len = (if frame.legacy { word } else { word & !STORED }) as usize;
        let most = if frame.legacy { lz4_flex::block::get_maximum_output_size(LEGACY_BLOCK) } else { frame.block_max };
        if len > most {
            return Err(bad("a block is larger than the frame allows"));
        }
        self.packed.resize(len, 0);
        self.input.read_exact(&mut self.packed)?;
        if frame.block_checksum && self.needed_word()? != XxHash32::oneshot(0, &self.packed) {
            return Err(bad("wrong block checksum"));
        }
        if out.len() < at + frame.block_max {
            out.resize(at + frame.block_max, 0);
        }
        let out = &mut out[at..at + frame.block_max];
        let unpacked = if stored {
            out[..len].copy_from_slice(&self.packed);
            len
        } else if self.history.is_empty() {
            lz4_flex::block::decompress_into(&self.packed, out).map_err(|e| bad(&e.to_string()))?
        } else {
            lz4_flex::block::decompress_into_with_dict(&self.packed, out, &self.history)
                .map_err(|e| bad(&e.to_string()))?
        };
        let content = &out[..unpacked];
        if !frame.independent {
            let kept = WINDOW.saturating_sub(unpacked).min(self.history.len());
            self.history.drain(..self.history.len() - kept);
            self.history.extend_from_slice(&content[unpacked.saturating_sub(WINDOW)..]);
        }
        if let Some(hash) = &mut frame.content_hash {
            hash.write(content);
        }
        if let Some(left) = &mut frame.content_left {
            *left = left
                .checked_sub(content.len() as u64)
                .ok_or_else(|| bad("the content is longer than the frame says"))?;
        }
        Ok(unpacked)
    }
}

impl<R: Read + Send> Decode for Lz4Decoder<R> {
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut have = 0;
        let mut result = Ok(());
        // Small blocks are gathered, and `out` keeps its length meanwhile: bytes once made need not be zeroed again.
        while have < RUN && !self.ended {
            match self.next_block(out, have) {
                Ok(Some(len)) => have += len,
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    result = Err(error);
                }
            }
        }
        out.truncate(have);
        result
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
