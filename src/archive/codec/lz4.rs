//! LZ4 frames (format description 1.6.x): magic, descriptor, blocks, end mark, content checksum.
//!
//! | field | bytes | ours |
//! |---|---|---|
//! | magic | 4 | `04 22 4d 18` |
//! | FLG | 1 | version 01, independent blocks, content checksum: `0x64`; without one `0x60` |
//! | BD | 1 | blocks of at most 4 MiB: `0x70` |
//! | HC | 1 | second byte of XXH32 over FLG and BD |
//! | block size | 4 | top bit set when the block is stored |
//! | … | | |
//! | end mark | 4 | zero |
//! | content checksum | 4 | XXH32 of the content |
//!
//! Read besides: linked blocks, block checksums, content size, dictionaries refused, skippable and legacy frames.

use std::hash::Hasher as _;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};

use twox_hash::XxHash32;

use super::Encoder;
use super::decode::{Check, Decode, RUN, Step, is_skippable, read_word, skip_frame};
use crate::error::{Error, Result};

const MAGIC: u32 = 0x184d_2204;
const LEGACY_MAGIC: u32 = 0x184c_2102;
const LEGACY_BLOCK: usize = 8 << 20;
const STORED: u32 = 1 << 31;
/// A byte of a block stands for at most so many bytes of content.
const MOST_RATIO: usize = 255;
/// How far back a linked block may refer.
const WINDOW: usize = 64 << 10;

pub(super) fn is_magic(magic: u32) -> bool {
    magic == MAGIC || magic == LEGACY_MAGIC
}

/// The header of our one frame, with or without a checksum of the content at its end.
pub(super) fn frame_header(checksum: bool) -> Vec<u8> {
    let descriptor = [if checksum { 0x64 } else { 0x60 }, 0x70];
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

/// The end mark of a frame without a checksum.
pub(super) fn end_mark() -> Vec<u8> {
    vec![0; 4]
}

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

/// Frames in sequence. Independent blocks are unpacked side by side; linked ones need what came before.
pub(super) struct Lz4Decoder<R> {
    input: R,
    frame: Option<Arc<Frame>>,
    /// A magic that was read where a legacy frame might have gone on.
    magic: Option<u32>,
    /// What comes after the blocks given last: the end of their frame, or what was wrong behind them.
    then: Option<io::Result<Step>>,
    /// The last bytes decoded of this frame, at most [`WINDOW`], when its blocks are linked.
    history: Vec<u8>,
}

struct Frame {
    legacy: bool,
    independent: bool,
    block_checksum: bool,
    block_max: usize,
    content: Mutex<ContentCheck>,
}

/// What a frame says about its content as a whole.
struct ContentCheck {
    hash: Option<XxHash32>,
    left: Option<u64>,
}

/// A block as it stands in the packed bytes.
struct Block {
    len: usize,
    stored: bool,
    checksum: Option<u32>,
}

/// What comes next in a frame.
enum Next {
    Block(Block),
    End(Step),
}

impl Frame {
    /// Sees content, in order.
    fn see(&self, content: &[u8]) -> io::Result<()> {
        let mut check = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = &mut check.hash {
            hash.write(content);
        }
        if let Some(left) = &mut check.left {
            *left = left
                .checked_sub(content.len() as u64)
                .ok_or_else(|| bad("the content is longer than the frame says"))?;
        }
        Ok(())
    }

    /// The step at the end: compares what was seen with the frame's checksum and length.
    fn end(self: Arc<Self>, checksum: Option<u32>) -> Step {
        Step::Content(Some(Box::new(move |_| {
            let check = self.content.lock().unwrap_or_else(PoisonError::into_inner);
            if checksum.is_some() && check.hash.as_ref().map(XxHash32::finish_32) != checksum {
                return Err(bad("wrong content checksum"));
            }
            if check.left.is_some_and(|left| left != 0) {
                return Err(bad("the content is shorter than the frame says"));
            }
            Ok(())
        })))
    }

    /// Unpacks blocks that follow each other. `history` are the bytes before the first, when they may refer to them.
    fn unpack(
        &self,
        blocks: &[Block],
        packed: &[u8],
        out: &mut Vec<u8>,
        mut history: Option<&mut Vec<u8>>,
    ) -> io::Result<()> {
        let mut rest = packed;
        let mut at = 0;
        for block in blocks {
            let (packed, after) = rest.split_at(block.len);
            rest = after;
            if block.checksum.is_some_and(|checksum| checksum != XxHash32::oneshot(0, packed)) {
                return Err(bad("wrong block checksum"));
            }
            // Zeroing more than a block can become would cost more than unpacking it.
            let most = if block.stored { packed.len() } else { self.block_max.min(MOST_RATIO * packed.len() + 64) };
            if out.len() < at + most {
                out.resize(at + most, 0);
            }
            let room = &mut out[at..at + most];
            let before = history.as_deref().map_or(&[][..], Vec::as_slice);
            let len = if block.stored {
                room[..packed.len()].copy_from_slice(packed);
                packed.len()
            } else if before.is_empty() {
                lz4_flex::block::decompress_into(packed, room).map_err(|e| bad(&e.to_string()))?
            } else {
                lz4_flex::block::decompress_into_with_dict(packed, room, before).map_err(|e| bad(&e.to_string()))?
            };
            if let Some(history) = history.as_deref_mut() {
                let kept = WINDOW.saturating_sub(len).min(history.len());
                history.drain(..history.len() - kept);
                history.extend_from_slice(&room[len.saturating_sub(WINDOW)..len]);
            }
            at += len;
        }
        out.truncate(at);
        Ok(())
    }
}

impl<R: Read> Lz4Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Lz4Decoder { input, frame: None, magic: None, then: None, history: Vec::new() }
    }

    fn needed_word(&mut self) -> io::Result<u32> {
        read_word(&mut self.input)?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// Opens the next frame, skipping what is to be skipped; `None` at the end of the input.
    fn open(&mut self) -> io::Result<Option<Arc<Frame>>> {
        loop {
            let magic = match self.magic.take() {
                Some(magic) => magic,
                None => match read_word(&mut self.input)? {
                    Some(magic) => magic,
                    None => return Ok(None),
                },
            };
            if is_skippable(magic) {
                skip_frame(&mut self.input)?;
                continue;
            }
            self.history.clear();
            return match magic {
                MAGIC => self.header().map(|frame| Some(Arc::new(frame))),
                LEGACY_MAGIC => Ok(Some(Arc::new(Frame {
                    legacy: true,
                    independent: true,
                    block_checksum: false,
                    block_max: LEGACY_BLOCK,
                    content: Mutex::new(ContentCheck { hash: None, left: None }),
                }))),
                _ => Err(bad("what follows the frame is no LZ4 frame")),
            };
        }
    }

    fn header(&mut self) -> io::Result<Frame> {
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
        let mut left = None;
        if flags & 8 != 0 {
            let mut size = [0u8; 8];
            self.input.read_exact(&mut size)?;
            descriptor.extend_from_slice(&size);
            left = Some(u64::from_le_bytes(size));
        }
        if flags & 1 != 0 {
            return Err(bad("the frame needs a dictionary"));
        }
        let mut checksum = [0u8; 1];
        self.input.read_exact(&mut checksum)?;
        if checksum[0] != header_checksum(&descriptor) {
            return Err(bad("wrong frame header checksum"));
        }
        let hash = (flags & 4 != 0).then(|| XxHash32::with_seed(0));
        Ok(Frame {
            legacy: false,
            independent: flags & 0x20 != 0,
            block_checksum: flags & 0x10 != 0,
            block_max,
            content: Mutex::new(ContentCheck { hash, left }),
        })
    }

    /// Appends the next block to the packed bytes, or reads what ends the frame: the step for it.
    fn block(&mut self, frame: &Arc<Frame>, packed: &mut Vec<u8>) -> io::Result<Next> {
        let word = match read_word(&mut self.input)? {
            Some(word) => word,
            // A legacy frame has no end mark: it ends with the input, or where another frame begins.
            None if frame.legacy => return Ok(Next::End(Arc::clone(frame).end(None))),
            None => return Err(ErrorKind::UnexpectedEof.into()),
        };
        if frame.legacy && (is_magic(word) || is_skippable(word)) {
            self.magic = Some(word);
            return Ok(Next::End(Arc::clone(frame).end(None)));
        }
        if word == 0 && !frame.legacy {
            let has_checksum = frame.content.lock().unwrap_or_else(PoisonError::into_inner).hash.is_some();
            let checksum = if has_checksum { Some(self.needed_word()?) } else { None };
            return Ok(Next::End(Arc::clone(frame).end(checksum)));
        }
        let stored = !frame.legacy && word & STORED != 0;
        let len = (if frame.legacy { word } else { word & !STORED }) as usize;
        let most = if frame.legacy { lz4_flex::block::get_maximum_output_size(LEGACY_BLOCK) } else { frame.block_max };
        if len > most {
            return Err(bad("a block is larger than the frame allows"));
        }
        packed.reserve(len);
        if (&mut self.input).take(len as u64).read_to_end(packed)? < len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let checksum = if frame.block_checksum { Some(self.needed_word()?) } else { None };
        Ok(Next::Block(Block { len, stored, checksum }))
    }

    /// The next step: blocks of one frame that make up about a run of content, or one that is larger; or its end.
    fn step(&mut self, out: &mut Vec<u8>, packed: &mut Vec<u8>) -> io::Result<Step> {
        if let Some(then) = self.then.take() {
            out.clear();
            return then;
        }
        if self.frame.is_none() {
            self.frame = self.open()?;
        }
        let Some(frame) = self.frame.clone() else { return Ok(Step::End) };
        packed.clear();
        let mut blocks = Vec::new();
        while blocks.is_empty() || (blocks.len() + 1) * frame.block_max <= RUN {
            match self.block(&frame, packed) {
                Ok(Next::Block(block)) => blocks.push(block),
                Ok(Next::End(end)) => {
                    self.frame = None;
                    self.then = Some(Ok(end));
                    break;
                }
                Err(error) => {
                    self.then = Some(Err(error));
                    break;
                }
            }
        }
        if blocks.is_empty() {
            out.clear();
            return self.then.take().unwrap_or(Ok(Step::End));
        }
        let seen = Arc::clone(&frame);
        let see: Check = Box::new(move |content| seen.see(content));
        if frame.independent {
            let unpack = move |packed: &[u8], out: &mut Vec<u8>| frame.unpack(&blocks, packed, out, None);
            return Ok(Step::Packed(Box::new(unpack), Some(see)));
        }
        frame.unpack(&blocks, packed, out, Some(&mut self.history))?;
        Ok(Step::Content(Some(see)))
    }
}

impl<R: Read + Send> Decode for Lz4Decoder<R> {
    fn in_parallel(&self) -> bool {
        true
    }

    fn next(&mut self, out: &mut Vec<u8>, packed: &mut Vec<u8>) -> io::Result<Step> {
        self.step(out, packed).inspect_err(|_| out.clear())
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
