//! The members of an archive, whatever its format.

use super::codec::Piece;
use super::tar::Extent;
use crate::error::Result;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
    /// Another name of the member with this path.
    HardLink(Vec<u8>),
    /// A device, FIFO or something else that is never unpacked.
    Special(&'static str),
}

/// One member of an archive.
#[derive(Debug, Clone)]
pub struct Member {
    /// Path as stored.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits as stored, set-id bits included.
    pub mode: u32,
    /// Owner as stored.
    pub uid: u64,
    /// Group as stored.
    pub gid: u64,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Modification time, nanoseconds part.
    pub mtime_nanos: u32,
    /// Size of the file once unpacked.
    pub size: u64,
    /// Bytes of content stored in the archive, to be taken with [`Members::take`].
    pub stored: u64,
    /// Where the stored bytes belong when the file is sparse.
    pub extents: Option<Vec<Extent>>,
    /// Where in the stream its header starts.
    pub offset: u64,
}

/// Reads the members of an archive one after another.
pub trait Members {
    /// Goes to the next member, skipping what is left of the current one. `None` at the proper end of the archive, after
    /// the rest of the input has been checked to be nothing that matters.
    fn next_member(&mut self) -> Result<Option<Member>>;

    /// Takes the next of the current member's content: at most so many bytes, and at least one while there are any.
    fn take(&mut self, most: usize) -> Result<Piece>;

    /// What the user should know once everything was read, one sentence each.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}
