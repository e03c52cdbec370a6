//! Zstandard (RFC 8878), a frame for each block, on libzstd.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use zstd::stream::raw::{self, Operation};
use zstd::zstd_safe::CParameter;

use super::Encoder;
use super::decode::{Decode, Step, fill, is_skippable, read_word, skip_frame};
use crate::error::{Error, Result};

pub(super) fn is_magic(magic: u32) -> bool {
    magic == 0xfd2f_b528
}

/// The level when none is asked for.
pub(super) const DEFAULT_LEVEL: i32 = 3;

/// Level 3 for blocks of 4 MiB: tables that stay in a core's nearest cache make it a sixth faster, and a window as large
/// as the block makes up for what they miss. What comes out is as large as what `zstd -3` makes of the whole stream.
const DEFAULT_TABLES: [CParameter; 3] = [CParameter::WindowLog(22), CParameter::HashLog(15), CParameter::ChainLog(15)];

pub(super) struct ZstdEncoder(zstd::bulk::Compressor<'static>);

impl ZstdEncoder {
    pub(super) fn new(level: i32) -> Result<Self> {
        let build = || -> std::io::Result<_> {
            let mut context = zstd::bulk::Compressor::new(level)?;
            context.set_parameter(CParameter::ChecksumFlag(true))?;
            if level == DEFAULT_LEVEL {
                for parameter in DEFAULT_TABLES {
                    context.set_parameter(parameter)?;
                }
            }
            Ok(context)
        };
        build().map(ZstdEncoder).map_err(|e| Error::failed("cannot set up zstd").caused_by(e))
    }
}

impl Encoder for ZstdEncoder {
    fn bound(&self, len: usize) -> usize {
        zstd::zstd_safe::compress_bound(len)
    }

    fn block(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        self.0.compress_to_buffer(input, output).map_err(|e| Error::failed("zstd compression failed").caused_by(e))
    }
}

/// Frames that say that they hold no more than this are unpacked whole, side by side; ours do. Larger ones, and those that
/// do not say, are unpacked as they are read.
const WHOLE: u64 = 8 << 20;

/// Frames in sequence. Frames that ask for a window over 128 MiB (`zstd --long=28` and more) are refused.
pub(super) struct ZstdDecoder<R> {
    input: BufReader<R>,
    context: raw::Decoder<'static>,
    /// Bytes of a frame under way that were read to look at it: they come before the input.
    looked_at: Cursor<Vec<u8>>,
    in_frame: bool,
}

impl<R: Read> ZstdDecoder<R> {
    pub(super) fn new(input: R) -> Result<Self> {
        let context = raw::Decoder::new().map_err(|e| Error::failed("cannot set up zstd").caused_by(e))?;
        Ok(ZstdDecoder {
            input: BufReader::with_capacity(256 << 10, input),
            context,
            looked_at: Cursor::default(),
            in_frame: false,
        })
    }

    /// Reads the start of the next frame, or all of it when it is small: true when it is whole, `None` at the end.
    fn open(&mut self, packed: &mut Vec<u8>) -> io::Result<Option<bool>> {
        let magic = loop {
            let Some(magic) = read_word(&mut self.input)? else { return Ok(None) };
            if !is_skippable(magic) {
                break magic;
            }
            skip_frame(&mut self.input)?;
        };
        if !is_magic(magic) {
            return Err(io::Error::new(ErrorKind::InvalidData, "what follows the frame is no zstd frame"));
        }
        packed.clear();
        packed.extend_from_slice(&magic.to_le_bytes());
        let flags = self.more(packed, 1)?[0];
        let single_segment = flags >> 5 & 1;
        let dictionary = [0, 1, 2, 4][usize::from(flags & 3)];
        let content_size = [usize::from(single_segment), 2, 4, 8][usize::from(flags >> 6)];
        self.more(packed, usize::from(single_segment == 0) + dictionary)?;
        let mut size = [0u8; 8];
        size[..content_size].copy_from_slice(self.more(packed, content_size)?);
        // A field of two bytes counts from 256.
        let size = u64::from_le_bytes(size) + if content_size == 2 { 256 } else { 0 };
        if content_size == 0 || size > WHOLE || dictionary > 0 {
            return Ok(Some(false));
        }
        // More than incompressible content takes, so that empty blocks without end are not gathered.
        let most = packed.len() + zstd::zstd_safe::compress_bound(usize::try_from(size).unwrap_or(0));
        loop {
            let header = self.more(packed, 3)?;
            let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
            let (last, kind, len) = (header & 1, header >> 1 & 3, (header >> 3) as usize);
            // A run of one byte is stored as that byte.
            self.more(packed, if kind == 1 { 1 } else { len })?;
            if last == 1 {
                self.more(packed, if flags >> 2 & 1 == 1 { 4 } else { 0 })?;
                return Ok(Some(true));
            }
            if packed.len() > most {
                return Ok(Some(false));
            }
        }
    }

    /// Appends so many bytes of the input; returns them.
    fn more<'a>(&mut self, packed: &'a mut Vec<u8>, len: usize) -> io::Result<&'a [u8]> {
        let at = packed.len();
        if (&mut self.input).take(len as u64).read_to_end(packed)? < len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(&packed[at..])
    }

    /// Reads content of the frame under way; nothing at its end.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.in_frame {
            let looked_at = self.looked_at.fill_buf()?;
            let from_input = looked_at.is_empty();
            let bytes = if from_input { self.input.fill_buf()? } else { looked_at };
            let at_end = bytes.is_empty();
            let status = self.context.run_on_buffers(bytes, room)?;
            if from_input {
                self.input.consume(status.bytes_read);
            } else {
                self.looked_at.consume(status.bytes_read);
            }
            if status.remaining == 0 {
                self.in_frame = false;
            } else if at_end && status.bytes_written == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
        }
        Ok(0)
    }
}

impl<R: Read + Send> Decode for ZstdDecoder<R> {
    fn in_parallel(&self) -> bool {
        true
    }

    fn next(&mut self, out: &mut Vec<u8>, packed: &mut Vec<u8>) -> io::Result<Step> {
        loop {
            if self.in_frame {
                fill(out, |room| self.read(room))?;
                if out.is_empty() {
                    continue;
                }
                return Ok(Step::Content(None));
            }
            match self.open(packed).inspect_err(|_| out.clear())? {
                None => return Ok(Step::End),
                Some(true) => return Ok(Step::Packed(Box::new(unpack), None)),
                Some(false) => {
                    self.context.reinit().inspect_err(|_| out.clear())?;
                    self.looked_at = Cursor::new(std::mem::take(packed));
                    self.in_frame = true;
                }
            }
        }
    }
}

/// Unpacks one whole frame that says how long its content is.
fn unpack(packed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let unreadable = || io::Error::new(ErrorKind::InvalidData, "a frame that does not say its size");
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().ok_or_else(unreadable)?;
    out.clear();
    out.reserve(usize::try_from(size).map_err(|_| unreadable())?);
    zstd::bulk::Decompressor::new()?.decompress_to_buffer(packed, out)?;
    Ok(())
}
