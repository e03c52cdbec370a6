//! gzip (RFC 1952): written in members of 1 MiB by libdeflate, read as a stream by flate2 with zlib-rs.

use std::io::{self, BufRead, BufReader, Read};

use libdeflater::{CompressionLvl, Compressor, Crc};

use super::Encoder;
use crate::error::{Error, Result};

/// Content of one member. Smaller ones cost ratio, larger ones gain almost nothing.
const MEMBER: usize = 1 << 20;

/// Magic, deflate, no flags, no time, no hint, Unix: no machine-dependent byte.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

pub(super) struct GzipEncoder {
    deflate: Compressor,
}

impl GzipEncoder {
    /// An encoder of level 1 to 9.
    pub(super) fn new(level: u32) -> Result<Self> {
        let level = CompressionLvl::new(i32::try_from(level).unwrap_or(0))
            .map_err(|_| Error::usage(format_args!("level {level} is not one of gzip's")))?;
        Ok(GzipEncoder { deflate: Compressor::new(level) })
    }
}

/// Most bytes that deflate makes of a member: what cannot be compressed is stored, in blocks with 5 bytes around each.
fn most_deflated(len: usize) -> usize {
    len + len / 1000 + 64
}

/// Header and trailer of a member.
const AROUND: usize = HEADER.len() + 8;

impl Encoder for GzipEncoder {
    fn bound(&self, len: usize) -> usize {
        len.div_ceil(MEMBER) * (AROUND + most_deflated(MEMBER))
    }

    fn block(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let mut at = 0;
        for member in input.chunks(MEMBER) {
            output[at..at + HEADER.len()].copy_from_slice(&HEADER);
            at += HEADER.len();
            let room = &mut output[at..at + most_deflated(member.len())];
            at += self
                .deflate
                .deflate_compress(member, room)
                .map_err(|_| Error::failed("deflate made more than it may"))?;
            let mut crc = Crc::new();
            crc.update(member);
            let len = u32::try_from(member.len()).map_err(|_| Error::failed("a gzip member is too long"))?;
            output[at..at + 4].copy_from_slice(&crc.sum().to_le_bytes());
            output[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Which thread made which block before, and how large its buffer had become, must not show.
    #[test]
    fn a_block_does_not_depend_on_what_was_before() {
        let noise = |mut seed: u32, len: usize| -> Vec<u8> {
            std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 28) as u8
            })
            .take(len)
            .collect()
        };
        let large = (4 << 20) - 1;
        let text: Vec<u8> = (0..2 * MEMBER).map(|at| ((at * at) >> 9) as u8).collect();
        let incompressible: Vec<u8> = noise(5, MEMBER).chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        for level in [1, 6, 9] {
            let block = |encoder: &mut GzipEncoder, input: &[u8], room: usize| {
                let mut out = vec![0; encoder.bound(input.len()) + room];
                let len = encoder.block(input, &mut out).unwrap();
                out.truncate(len);
                out
            };
            let mut used = GzipEncoder::new(level).unwrap();
            for input in [&text[..], &noise(1, 100), &noise(large as u32, large), &incompressible] {
                let fresh = block(&mut GzipEncoder::new(level).unwrap(), input, 0);
                for room in [0, 100_000, 1 << 20, 8 << 20] {
                    let again = block(&mut used, input, room);
                    assert!(again == fresh, "level {level}, {} bytes, room for {room}", input.len());
                }
            }
        }
    }
}
