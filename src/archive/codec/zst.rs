//! Zstandard (RFC 8878), a frame for each block, on libzstd.

use std::io::Read;

use zstd::zstd_safe::CParameter;

use super::Encoder;
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

/// Frames in sequence. Frames that ask for a window over 128 MiB (`zstd --long=28` and more) are refused.
pub(super) fn decoder(input: Box<dyn Read + Send>) -> Result<impl Read + Send> {
    zstd::stream::read::Decoder::new(input).map_err(|e| Error::failed("cannot set up zstd").caused_by(e))
}
