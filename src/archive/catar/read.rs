//! Reading a catar: by casync, by desync, or ours.
//!
//! Lengths are bounded before anything is allocated, every name is one component, and the stream must end with the root's
//! GOODBYE. What desync writes in place of a FIFO, a name with nothing behind it, is left out and counted.

use std::io::{BufRead, ErrorKind, Read};

use super::{
    DEVICE, ENTRY, ENTRY_LEN, FILENAME, GOODBYE, GOODBYE_ITEM_LEN, GOODBYE_TAIL, HEADER_LEN, METADATA, PAYLOAD,
    QUOTA_PROJID, SYMLINK,
};
use crate::archive::codec::{Content, Piece};
use crate::archive::member::{Member, MemberKind, Members};
use crate::chunk::check_flags;
use crate::error::{Error, Result, from_io};
use crate::text::{Count, Shown};

/// Longest body of metadata: a value of 64 KiB with its name.
const MOST_METADATA: u64 = (64 << 10) + 512;
/// Longest text of a link, with its NUL.
const MOST_LINK: u64 = 4096;
/// Longest name, with its NUL.
const MOST_NAME: u64 = 256;
/// Deepest folder that is read; a path has no more parts.
const DEEPEST: usize = 2048;

/// Reads members one after another.
pub struct CatarReader {
    input: Content,
    /// Bytes taken from the input.
    offset: u64,
    /// An element's length and type that were read ahead.
    ahead: Option<(u64, u64)>,
    /// Bytes of the current member's content not read yet.
    content_left: u64,
    /// Path of the folder at hand; while a member is at hand, with its name.
    path: Vec<u8>,
    /// For each open folder, the length of its path and where its ENTRY starts.
    open: Vec<(usize, u64)>,
    flags: Option<u64>,
    /// Names without anything behind them.
    orphans: u64,
}

struct Node {
    mode: u64,
    uid: u64,
    gid: u64,
    mtime: i64,
    mtime_nanos: u32,
    offset: u64,
}

impl CatarReader {
    /// A reader at the start of a stream.
    pub fn new(input: Content) -> Self {
        CatarReader {
            input,
            offset: 0,
            ahead: None,
            content_left: 0,
            path: Vec::new(),
            open: Vec::new(),
            flags: None,
            orphans: 0,
        }
    }

    /// The next element's length and type.
    fn header(&mut self) -> Result<(u64, u64)> {
        if let Some(header) = self.ahead.take() {
            return Ok(header);
        }
        let [len, kind] = self.words()?;
        if len < HEADER_LEN {
            return Err(self.bad("an element shorter than its header"));
        }
        Ok((len, kind))
    }

    fn peek(&mut self) -> Result<u64> {
        let header = self.header()?;
        self.ahead = Some(header);
        Ok(header.1)
    }

    fn words<const N: usize>(&mut self) -> Result<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            let mut bytes = [0; 8];
            self.read_exact(&mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        self.input.read_exact(buf).map_err(|error| self.failed(error))?;
        self.offset += buf.len() as u64;
        Ok(())
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let have = self.input.fill_buf().map_err(|error| failed(error, self.offset))?.len();
            if have == 0 {
                return Err(self.truncated());
            }
            let n = usize::try_from(len).unwrap_or(usize::MAX).min(have);
            self.input.consume(n);
            self.offset += n as u64;
            len -= n as u64;
        }
        Ok(())
    }

    /// Bytes that end with their only NUL, which is not returned.
    fn string(&mut self, len: u64, most: u64, what: &str) -> Result<Vec<u8>> {
        let len = len - HEADER_LEN;
        if !(2..=most).contains(&len) {
            return Err(self.bad(&format!("{what} of {len} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read_exact(&mut bytes)?;
        if bytes.pop() != Some(0) || bytes.contains(&0) {
            return Err(self.bad(&format!("{what} that does not end with its only NUL")));
        }
        Ok(bytes)
    }

    /// An ENTRY and the metadata after it.
    fn node(&mut self) -> Result<Node> {
        match self.header()? {
            (ENTRY_LEN, ENTRY) => {}
            _ => return Err(self.bad("something else where an entry should be")),
        }
        let offset = self.offset - HEADER_LEN;
        let [flags, mode, _attributes, uid, gid, mtime] = self.words()?;
        check_flags(flags).map_err(|why| self.bad(why))?;
        if *self.flags.get_or_insert(flags) != flags {
            return Err(self.bad("an entry with other flags than the first"));
        }
        if mtime == u64::MAX {
            return Err(self.bad("an impossible time"));
        }
        loop {
            let kind = self.peek()?;
            if !METADATA.contains(&kind) && kind != QUOTA_PROJID {
                break;
            }
            let (len, _) = self.header()?;
            if len - HEADER_LEN > MOST_METADATA {
                return Err(self.bad("metadata of more than 64 KiB"));
            }
            self.skip(len - HEADER_LEN)?;
        }
        let nanos = mtime.cast_signed();
        let mtime = nanos.div_euclid(1_000_000_000);
        let mtime_nanos = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
        Ok(Node { mode, uid, gid, mtime, mtime_nanos, offset })
    }

    fn root(&mut self) -> Result<Member> {
        let node = self.node()?;
        if node.mode & 0o170_000 != 0o040_000 {
            return Err(self.bad("a file where the folder of all others should be"));
        }
        self.open.push((0, node.offset));
        Ok(self.member(&node, MemberKind::Dir, 0, b".".to_vec()))
    }

    fn named(&mut self, len: u64) -> Result<Option<Member>> {
        let name = self.string(len, MOST_NAME, "a name")?;
        if self.peek()? != ENTRY {
            self.orphans += 1;
            return Ok(None);
        }
        if name.contains(&b'/') || name == b"." || name == b".." {
            let why = format_args!("entry `{}` of the archive is no plain name", Shown(&name)).to_string();
            return Err(Error::refused(why));
        }
        let (folder_len, _) = self.open.last().copied().unwrap_or_default();
        self.path.truncate(folder_len);
        if folder_len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        let node = self.node()?;
        let mut size = 0;
        let kind = match node.mode & 0o170_000 {
            0o100_000 => {
                let (len, PAYLOAD) = self.header()? else { return Err(self.bad("a file without content")) };
                size = len - HEADER_LEN;
                MemberKind::File
            }
            0o120_000 => {
                let (len, SYMLINK) = self.header()? else { return Err(self.bad("a link without a text")) };
                MemberKind::Symlink(self.string(len, MOST_LINK, "the text of a link")?)
            }
            0o040_000 => {
                if self.open.len() > DEEPEST {
                    return Err(Error::refused(format_args!(
                        "the archive has folders more than {DEEPEST} levels deep"
                    )));
                }
                self.open.push((self.path.len(), node.offset));
                MemberKind::Dir
            }
            0o010_000 => MemberKind::Special("a FIFO"),
            0o140_000 => MemberKind::Special("a socket"),
            kind @ (0o020_000 | 0o060_000) => {
                let (32, DEVICE) = self.header()? else { return Err(self.bad("a device without numbers")) };
                let [_major, _minor] = self.words()?;
                MemberKind::Special(if kind == 0o020_000 { "a character device" } else { "a block device" })
            }
            _ => return Err(self.bad("an entry of an unknown kind")),
        };
        self.content_left = size;
        Ok(Some(self.member(&node, kind, size, self.path.clone())))
    }

    fn member(&self, node: &Node, kind: MemberKind, size: u64, path: Vec<u8>) -> Member {
        Member {
            path,
            kind,
            mode: u32::try_from(node.mode & 0o7777).unwrap_or(0),
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            mtime_nanos: node.mtime_nanos,
            size,
            stored: size,
            extents: None,
            offset: node.offset,
        }
    }

    /// The end of a folder. Its items are not looked at: reading everything needs none, and casync takes any.
    fn goodbye(&mut self, len: u64) -> Result<()> {
        let start = self.offset - HEADER_LEN;
        let items = len - HEADER_LEN;
        if items < GOODBYE_ITEM_LEN as u64 || !items.is_multiple_of(GOODBYE_ITEM_LEN as u64) {
            return Err(self.bad("the end of a folder with an impossible length"));
        }
        self.skip(items - GOODBYE_ITEM_LEN as u64)?;
        let Some((_, node)) = self.open.pop() else { return Err(self.bad("the end of a folder without its start")) };
        let tail: [u64; 3] = self.words()?;
        if tail != [start - node, len, GOODBYE_TAIL] {
            return Err(self.bad("the end of a folder that does not fit its start"));
        }
        Ok(())
    }

    fn bad(&self, why: &str) -> Error {
        let at = self.offset;
        let after = Shown(&self.path).to_string();
        let after = if after.is_empty() { String::new() } else { format!(", at or after `{after}`") };
        Error::damaged(format_args!("the catar is damaged: {why} (at byte {at}{after})"))
    }

    fn truncated(&self) -> Error {
        self.bad("it ends too early: it is truncated")
    }

    fn failed(&self, error: std::io::Error) -> Error {
        if error.kind() == ErrorKind::UnexpectedEof { self.truncated() } else { failed(error, self.offset) }
    }
}

fn failed(error: std::io::Error, offset: u64) -> Error {
    from_io(format_args!("cannot read the archive (at byte {offset})"), error)
}

impl Members for CatarReader {
    fn next_member(&mut self) -> Result<Option<Member>> {
        if self.flags.is_none() {
            return self.root().map(Some);
        }
        let left = std::mem::take(&mut self.content_left);
        self.skip(left)?;
        loop {
            if self.open.is_empty() {
                let more = self.input.fill_buf().map_err(|error| failed(error, self.offset))?;
                return if more.is_empty() { Ok(None) } else { Err(self.bad("something follows its end")) };
            }
            match self.header()? {
                (len, FILENAME) => {
                    if let Some(member) = self.named(len)? {
                        return Ok(Some(member));
                    }
                }
                (len, GOODBYE) => self.goodbye(len)?,
                _ => return Err(self.bad("something else where a name should be")),
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

    fn warnings(&mut self) -> Vec<String> {
        match self.orphans {
            0 => Vec::new(),
            orphans => vec![format!(
                "the archive has {} without anything behind: FIFOs or sockets that its writer left out",
                Count(orphans, "name")
            )],
        }
    }
}
