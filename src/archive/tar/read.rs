//! Reading tar streams: ustar, pax, V7, and GNU's long names and sparse files.
//!
//! A stream must end with a zero block; one that just stops is truncated. Sizes and lengths are bounded before anything
//! is allocated. Names are bytes and are not judged here: [`crate::archive::tree`] does that.

use std::io::{BufRead, ErrorKind, Read};

use super::pax::Pax;
use super::sparse::{self, Extent};
use super::{BLOCK, padded};
use crate::archive::codec::{Content, Piece};
use crate::archive::member::{Member, MemberKind, Members};
use crate::error::{Error, Result, from_io};
use crate::text::Shown;

/// Longest extended header or long name that is read.
const MOST_EXTENDED: u64 = 1 << 20;

/// Reads members one after another.
pub struct TarReader {
    input: Content,
    /// Bytes taken from the input.
    offset: u64,
    /// Bytes of the current member's content not read yet.
    content_left: u64,
    padding: u64,
    /// Name of the current member, for errors.
    current: Vec<u8>,
    global: Pax,
}

impl Members for TarReader {
    fn next_member(&mut self) -> Result<Option<Member>> {
        self.skip(self.content_left + self.padding)?;
        self.content_left = 0;
        self.padding = 0;
        let mut pax = self.global.clone();
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        let mut announced = false;
        loop {
            let offset = self.offset;
            let Some(header) = self.header()? else {
                if announced {
                    return Err(self.bad(offset, "the archive ends after an extended header"));
                }
                self.check_padding()?;
                return Ok(None);
            };
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() {
                let records = self.extended(&header, offset)?;
                if kind.is_pax_local_extensions() {
                    announced = true;
                    pax.apply(&records).map_err(|why| self.bad(offset, why))?;
                } else {
                    let mut global = std::mem::take(&mut self.global);
                    global.apply(&records).map_err(|why| self.bad(offset, why))?;
                    if global.path.is_some()
                        || global.link.is_some()
                        || global.size.is_some()
                        || global.sparse.is_sparse()
                    {
                        return Err(
                            self.bad(offset, "a global extended header gives every member the same name or size")
                        );
                    }
                    self.global = global.clone();
                    pax = global;
                }
            } else if kind.is_gnu_longname() {
                announced = true;
                long_name = Some(until_nul(self.extended(&header, offset)?));
            } else if kind.is_gnu_longlink() {
                announced = true;
                long_link = Some(until_nul(self.extended(&header, offset)?));
            } else if kind.as_byte() == b'V' {
                // A volume label.
                let size = self.field(&header.as_old().size, header.entry_size(), "size", offset)?;
                self.skip(padded(size).ok_or_else(|| self.bad(offset, "impossible size"))?)?;
            } else {
                return self.member(&header, offset, pax, long_name, long_link).map(Some);
            }
        }
    }

    fn take(&mut self, most: usize) -> Result<Piece> {
        let most = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(most);
        match self.input.piece(most) {
            Ok(Some(piece)) => {
                self.offset += piece.len() as u64;
                self.content_left -= piece.len() as u64;
                Ok(piece)
            }
            Ok(None) => Err(self.truncated()),
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl TarReader {
    /// A reader at the start of a stream.
    pub fn new(input: Content) -> Self {
        TarReader { input, offset: 0, content_left: 0, padding: 0, current: Vec::new(), global: Pax::default() }
    }

    /// Bytes of the stream read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads exactly this much of the current member's content.
    fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        debug_assert!(buf.len() as u64 <= self.content_left);
        self.input.read_exact(buf).map_err(|e| self.failed(e))?;
        self.offset += buf.len() as u64;
        self.content_left -= buf.len() as u64;
        Ok(())
    }

    fn member(
        &mut self,
        header: &tar::Header,
        offset: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member> {
        let path =
            pax.sparse.name.clone().or(pax.path).or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            let stored = || header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
            pax.link.clone().or(long_link.clone()).unwrap_or_else(stored)
        };
        let byte = header.entry_type().as_byte();
        let kind = match byte {
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => MemberKind::Dir,
            b'0' | b'\0' | b'7' | b'S' => MemberKind::File,
            b'1' => MemberKind::HardLink(link()),
            b'2' => MemberKind::Symlink(link()),
            b'3' => MemberKind::Special("a character device"),
            b'4' => MemberKind::Special("a block device"),
            b'5' | b'D' => MemberKind::Dir,
            b'6' => MemberKind::Special("a FIFO"),
            b'M' => {
                return Err(self.bad(offset, "a continued member of a multi-volume archive, which is not supported"));
            }
            other => return Err(self.bad(offset, &format!("unknown member type {:?}", char::from(other)))),
        };
        // Only files (and GNU's folder lists) have content in the stream, whatever size their header gives.
        let has_content = kind == MemberKind::File || byte == b'D';
        let mut stored = 0;
        if has_content {
            stored = match pax.size {
                Some(size) => size,
                None => self.field(&header.as_old().size, header.entry_size(), "size", offset)?,
            };
        }
        self.content_left = stored;
        let padded = padded(stored).ok_or_else(|| self.bad(offset, "impossible size"))?;
        self.padding = padded - stored;
        let mut size = if kind == MemberKind::File { stored } else { 0 };
        let mut extents = None;
        if kind == MemberKind::File {
            let map = if byte == b'S' {
                let (real, mut map, mut extended) =
                    sparse::from_gnu_header(header).map_err(|why| self.bad(offset, why))?;
                while extended {
                    let block = self.block()?.ok_or_else(|| self.truncated())?;
                    extended = sparse::from_gnu_extension(&block, &mut map).map_err(|why| self.bad(offset, why))?;
                }
                Some((real, map))
            } else if pax.sparse.is_sparse() {
                let mut map = pax.sparse;
                if map.map_is_in_content() {
                    let text = self.sparse_map_in_content(offset)?;
                    map.extents = text;
                    stored = self.content_left;
                }
                let real = map.real_size.ok_or_else(|| self.bad(offset, "a sparse file without a size"))?;
                Some((real, map.extents))
            } else {
                None
            };
            if let Some((real, map)) = map {
                sparse::check(&map, real, stored).map_err(|why| self.bad(offset, why))?;
                size = real;
                extents = Some(map);
            }
        }
        let (mtime, mtime_nanos) = match pax.mtime {
            Some(mtime) => mtime,
            None => (self.field(&header.as_old().mtime, header.mtime(), "time", offset)?.cast_signed(), 0),
        };
        self.current.clone_from(&path);
        Ok(Member {
            path,
            kind,
            mode: u32::try_from(
                self.field(&header.as_old().mode, header.mode().map(u64::from), "mode", offset)? & 0o7777,
            )
            .unwrap_or(0),
            uid: pax.uid.or(header.uid().ok()).unwrap_or(0),
            gid: pax.gid.or(header.gid().ok()).unwrap_or(0),
            mtime,
            mtime_nanos,
            size,
            stored,
            extents,
            offset,
        })
    }

    /// GNU sparse format 1.0: decimal numbers, one a line, in front of the content.
    fn sparse_map_in_content(&mut self, offset: u64) -> Result<Vec<Extent>> {
        let mut parser = sparse::MapParser::default();
        loop {
            if self.content_left < BLOCK {
                return Err(self.bad(offset, "the map of a sparse file is cut"));
            }
            let mut block = [0u8; BLOCK as usize];
            self.read_exact(&mut block)?;
            if let Some(map) = parser.feed(&block).map_err(|why| self.bad(offset, why))? {
                return Ok(map);
            }
        }
    }

    fn extended(&mut self, header: &tar::Header, offset: u64) -> Result<Vec<u8>> {
        let size = self.field(&header.as_old().size, header.entry_size(), "size", offset)?;
        if size > MOST_EXTENDED {
            return Err(self.bad(offset, "an extended header larger than 1 MiB"));
        }
        let mut records = vec![0; usize::try_from(size).unwrap_or(0)];
        self.input.read_exact(&mut records).map_err(|e| self.failed(e))?;
        self.offset += size;
        self.skip(size.next_multiple_of(BLOCK) - size)?;
        Ok(records)
    }

    /// The next header; `None` at the end-of-archive mark.
    fn header(&mut self) -> Result<Option<tar::Header>> {
        let offset = self.offset;
        let Some(block) = self.block()? else {
            let why = if offset == 0 { "is empty" } else { "ends without an end-of-archive mark: it is truncated" };
            return Err(Error::damaged(format_args!("the tar stream {why} (at byte {offset}{})", self.after())));
        };
        if block.iter().all(|byte| *byte == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|byte| *byte != 0) => {
                    Err(self.bad(offset, "a zero block in the middle of the archive"))
                }
                _ => Ok(None),
            };
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        if !checksum_fits(&block, header.cksum().ok()) {
            if offset == 0 {
                return Err(not_a_tar());
            }
            return Err(self.bad(offset, "a header with a wrong checksum"));
        }
        Ok(Some(header))
    }

    /// The next block; `None` when the input ends right before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK as usize]>> {
        let mut block = [0u8; BLOCK as usize];
        let mut have = 0;
        while have < block.len() {
            match self.input.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) if self.offset < BLOCK => return Err(not_a_tar()),
                Ok(0) => return Err(self.truncated()),
                Ok(n) => {
                    have += n;
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(Some(block))
    }

    fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let available = match self.input.fill_buf() {
                Ok(buffer) => buffer.len() as u64,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.failed(e)),
            };
            if available == 0 {
                return Err(self.truncated());
            }
            let n = available.min(count);
            self.input.consume(usize::try_from(n).unwrap_or(usize::MAX));
            self.offset += n;
            count -= n;
        }
        Ok(())
    }

    /// Reads to the end of the input, so that its checksums are checked, and allows nothing but zeros.
    fn check_padding(&mut self) -> Result<()> {
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.failed(e)),
            };
            let n = buffer.len();
            if n == 0 {
                return Ok(());
            }
            if buffer.iter().any(|byte| *byte != 0) {
                let offset = self.offset;
                return Err(self.bad(offset, "more data after the end of the archive"));
            }
            self.input.consume(n);
            self.offset += n as u64;
        }
    }

    /// A header field's number; a blank field is zero, as some writers leave what they do not use.
    fn field(&self, field: &[u8], parsed: std::io::Result<u64>, what: &str, offset: u64) -> Result<u64> {
        if field.iter().all(|byte| matches!(byte, b' ' | 0)) {
            return Ok(0);
        }
        self.number(parsed, what, offset)
    }

    fn number(&self, parsed: std::io::Result<u64>, what: &str, offset: u64) -> Result<u64> {
        parsed.map_err(|_| self.bad(offset, &format!("a header with an unreadable {what}")))
    }

    fn after(&self) -> String {
        if self.current.is_empty() { String::new() } else { format!(", after `{}`", Shown(&self.current)) }
    }

    fn bad(&self, offset: u64, why: &str) -> Error {
        Error::damaged(format_args!("the tar stream is damaged at byte {offset}{}: {why}", self.after()))
    }

    fn truncated(&self) -> Error {
        let offset = self.offset;
        let inside = if self.content_left > 0 { ", inside" } else { ", after" };
        let name = if self.current.is_empty() { String::new() } else { format!("{inside} `{}`", Shown(&self.current)) };
        Error::damaged(format_args!("the tar stream is truncated at byte {offset}{name}"))
    }

    /// A failed read: the end of the input where more was announced, or what the layer below says.
    fn failed(&self, error: std::io::Error) -> Error {
        if error.kind() == ErrorKind::UnexpectedEof {
            return self.truncated();
        }
        let error = from_io("cannot read the archive", error);
        error.context(format_args!("at byte {} of the tar stream{}", self.offset, self.after()))
    }
}

/// Fails with [`Class::Damaged`](crate::error::Class::Damaged) unless these bytes begin as a tar stream does: with a
/// header, or with the zeros that end one.
pub(crate) fn check_is_tar(start: &[u8]) -> Result<()> {
    let block = start.first_chunk::<{ BLOCK as usize }>().ok_or_else(not_a_tar)?;
    let stored = tar::Header::from_byte_slice(block).cksum().ok();
    let fits = checksum_fits(block, stored) || block.iter().all(|byte| *byte == 0);
    if fits { Ok(()) } else { Err(not_a_tar()) }
}

/// What is said of anything that does not begin with a tar header.
fn not_a_tar() -> Error {
    Error::damaged("this is not a tar archive: there is no header at byte 0")
        .hint("archives are .tar, .tar.gz, .tar.lz4 and .tar.zst; anything else is not unpacked")
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

/// The sum of all bytes with the checksum field read as spaces; some old writers summed signed bytes.
fn checksum_fits(block: &[u8; BLOCK as usize], stored: Option<u32>) -> bool {
    let field = &block[148..156];
    let spaces = 8 * u32::from(b' ');
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    if stored == Some(sum(block) - sum(field) + spaces) {
        return true;
    }
    let signed = |bytes: &[u8]| bytes.iter().map(|byte| i64::from(byte.cast_signed())).sum::<i64>();
    stored.map(i64::from) == Some(signed(block) - signed(field) + i64::from(spaces))
}
