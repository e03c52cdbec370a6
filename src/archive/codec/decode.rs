//! Undoing compression: which decoder a stream needs, and what every decoder does.

use std::io::{self, Cursor, ErrorKind, Read};

use super::{Content, gzip, lz4, zst};
use crate::context::Context;
use crate::error::{Class, Error, Result, from_io};

/// Length of a run of content, where the decoder has no units of its own.
pub(super) const RUN: usize = 512 << 10;

/// Makes content of packed bytes, replacing what is in the second buffer, on whichever thread.
pub(crate) type Unpack = Box<dyn FnOnce(&[u8], &mut Vec<u8>) -> io::Result<()> + Send>;

/// Sees the content of a step when that of all steps before has been seen.
pub(crate) type Check = Box<dyn FnOnce(&[u8]) -> io::Result<()> + Send>;

/// What a decoder has to give next.
pub(crate) enum Step {
    /// Content, in `out`.
    Content(Option<Check>),
    /// Bytes in `packed` that become content.
    Packed(Unpack, Option<Check>),
    /// Everything was given.
    End,
}

/// Reads a stream step by step. Steps can be unpacked side by side; their content counts in the order of the steps.
pub(crate) trait Decode: Send {
    /// Whether steps are worth several threads.
    fn in_parallel(&self) -> bool {
        false
    }

    /// The next step, which replaces what is in `out` or in `packed`. On an error `out` holds content that came before
    /// it, if any. Not called again after the end or an error. Blocks.
    fn next(&mut self, out: &mut Vec<u8>, packed: &mut Vec<u8>) -> io::Result<Step>;
}

/// Undoes whatever compression the bytes show, told by their first bytes and not by a name.
///
/// Reads several members or frames in sequence, and skippable frames. The end of the result has been checked: a cut or
/// changed stream ends in an error of class [`Class::Damaged`], inside the [`io::Error`].
pub fn decode(mut input: Box<dyn Read + Send>, context: &Context) -> Result<Content> {
    let mut skipped = false;
    let head = loop {
        let mut head = [0u8; 4];
        let have = read_up_to(&mut input, &mut head).map_err(|e| from_io("cannot read the archive", e))?;
        match word(&head[..have]) {
            // Skippable frames may open an LZ4 or a zstd stream; the frame after them decides.
            Some(magic) if is_skippable(magic) => {
                skipped = true;
                skip_frame(&mut input).map_err(|error| match error.kind() {
                    ErrorKind::UnexpectedEof => Error::damaged("truncated inside a skippable frame"),
                    _ => from_io("cannot read the archive", error),
                })?;
            }
            _ => break head[..have].to_vec(),
        }
    };
    let magic = word(&head);
    if skipped && !magic.is_some_and(|magic| lz4::is_magic(magic) || zst::is_magic(magic)) {
        return Err(Error::damaged("skippable frames with neither an LZ4 nor a zstd frame behind them"));
    }
    let is_gzip = head.starts_with(&[0x1f, 0x8b]);
    let input: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(input));
    let decoder: Box<dyn Decode> = match magic {
        _ if is_gzip => Box::new(Checked { inner: Streamed(gzip::GzipDecoder::new(input)), what: "gzip" }),
        Some(magic) if lz4::is_magic(magic) => Box::new(Checked { inner: lz4::Lz4Decoder::new(input), what: "LZ4" }),
        Some(magic) if zst::is_magic(magic) => Box::new(Checked { inner: zst::ZstdDecoder::new(input)?, what: "zstd" }),
        _ => Box::new(Streamed(input)),
    };
    Ok(Content::new(decoder, context))
}

/// A little-endian word of exactly four bytes.
fn word(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// Reads until the buffer is full or the input ends; returns how much there was.
pub(super) fn read_up_to(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match input.read(&mut buf[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// Reads a little-endian word; `None` at the end of the input.
pub(super) fn read_word(input: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0u8; 4];
    match read_up_to(input, &mut bytes)? {
        0 => Ok(None),
        4 => Ok(Some(u32::from_le_bytes(bytes))),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

pub(super) fn is_skippable(magic: u32) -> bool {
    magic & 0xffff_fff0 == 0x184d_2a50
}

/// Skips the rest of a skippable frame, whose magic has been read.
pub(super) fn skip_frame(input: &mut impl Read) -> io::Result<()> {
    let len = u64::from(read_word(input)?.ok_or(ErrorKind::UnexpectedEof)?);
    let skipped = io::copy(&mut input.take(len), &mut io::sink())?;
    if skipped == len { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// A reader, of uncompressed content or of a decoder's.
struct Streamed<R>(R);

impl<R: Read + Send> Decode for Streamed<R> {
    fn next(&mut self, out: &mut Vec<u8>, _packed: &mut Vec<u8>) -> io::Result<Step> {
        fill(out, |room| self.0.read(room))?;
        Ok(if out.is_empty() { Step::End } else { Step::Content(None) })
    }
}

/// Replaces what is in a buffer by a run of content; on an error by what came before. Its old bytes are overwritten and
/// not cleared, which would take as long as reading them.
pub(super) fn fill(out: &mut Vec<u8>, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    if out.len() < RUN {
        out.resize(RUN, 0);
    }
    let mut have = 0;
    let result = loop {
        if have == RUN {
            break Ok(());
        }
        match read(&mut out[have..]) {
            Ok(0) => break Ok(()),
            Ok(n) => have += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => break Err(e),
        }
    };
    out.truncate(have);
    result
}

/// Gives a decoder's own complaints the class "damaged", and leaves errors of the source below it alone.
struct Checked<D> {
    inner: D,
    what: &'static str,
}

impl<D: Decode> Decode for Checked<D> {
    fn in_parallel(&self) -> bool {
        self.inner.in_parallel()
    }

    fn next(&mut self, out: &mut Vec<u8>, packed: &mut Vec<u8>) -> io::Result<Step> {
        let what = self.what;
        let checked = |check: Option<Check>| {
            check.map(|check| -> Check { Box::new(move |content| check(content).map_err(|e| complaint(what, e))) })
        };
        match self.inner.next(out, packed) {
            Ok(Step::Content(check)) => Ok(Step::Content(checked(check))),
            Ok(Step::Packed(unpack, check)) => {
                let unpack: Unpack = Box::new(move |packed, out| unpack(packed, out).map_err(|e| complaint(what, e)));
                Ok(Step::Packed(unpack, checked(check)))
            }
            Ok(Step::End) => Ok(Step::End),
            Err(error) => Err(complaint(what, error)),
        }
    }
}

fn complaint(what: &str, error: io::Error) -> io::Error {
    let ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    if ours || error.raw_os_error().is_some() {
        return error;
    }
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::damaged(format_args!("the {what} data is truncated")).into(),
        _ => {
            let why = error.to_string();
            Error::new(Class::Damaged, format_args!("the {what} data is damaged")).caused_by(why).into()
        }
    }
}
