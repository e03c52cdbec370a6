//! gzip (RFC 1952) in members of 1 MiB, on flate2 with zlib-rs.

use std::io::{self, BufRead, BufReader, Read};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::Encoder;
use crate::error::{Error, Result};

/// Content of one member. Smaller ones cost ratio, larger ones gain almost nothing.
const MEMBER: usize = 1 << 20;

/// Magic, deflate, no flags, no time, no hint, Unix: no machine-dependent byte.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

pub(super) struct GzipEncoder {
    deflate: Compress,
}

impl GzipEncoder {
    pub(super) fn new(level: u32) -> Self {
        GzipEncoder { deflate: Compress::new(Compression::new(level), false) }
    }
}

/// Header and trailer of a member.
const AROUND: usize = HEADER.len() + 8;

impl Encoder for GzipEncoder {
    /// A stored deflate block costs five bytes for every 16 KiB at the least.
    fn bound(&self, len: usize) -> usize {
        len.div_ceil(MEMBER).max(1) * (AROUND + 64) + len + len / 1024
    }

    fn block(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let mut at = 0;
        for member in input.chunks(MEMBER) {
            output[at..at + HEADER.len()].copy_from_slice(&HEADER);
            at += HEADER.len();
            self.deflate.reset();
            let status = self
                .deflate
                .compress(member, &mut output[at..], FlushCompress::Finish)
                .map_err(|e| Error::failed("deflate failed").caused_by(e))?;
            if status != Status::StreamEnd {
                return Err(Error::failed("deflate made more than it may"));
            }
            at += usize::try_from(self.deflate.total_out()).unwrap_or(usize::MAX);
            let mut crc = Crc::new();
            crc.update(member);
            output[at..at + 4].copy_from_slice(&crc.sum().to_le_bytes());
            output[at + 4..at + 8].copy_from_slice(&crc.amount().to_le_bytes());
            at += 8;
        }
        Ok(at)
    }
}

/// Members in sequence; zeros after the last are padding, anything else is an error.
pub(super) struct GzipDecoder<R: Read> {
    member: Option<flate2::bufread::GzDecoder<BufReader<R>>>,
}

impl<R: Read> GzipDecoder<R> {
    pub(super) fn new(input: R) -> Self {
        GzipDecoder { member: Some(flate2::bufread::GzDecoder::new(BufReader::with_capacity(256 << 10, input))) }
    }
}

impl<R: Read> Read for GzipDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            let Some(ended) = self.member.take() else { break };
            let mut input = ended.into_inner();
            if skip_zeros(&mut input)? {
                continue;
            }
            self.member = Some(flate2::bufread::GzDecoder::new(input));
        }
        Ok(0)
    }
}

/// Skips zero bytes; true at the end of the input.
fn skip_zeros(input: &mut impl BufRead) -> io::Result<bool> {
    let mut skipped = false;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(true);
        }
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        let more = zeros == buffer.len();
        input.consume(zeros);
        skipped |= zeros > 0;
        if !more {
            let what = "more data follows the padding after the last member";
            return if skipped { Err(io::Error::new(io::ErrorKind::InvalidData, what)) } else { Ok(false) };
        }
    }
}
