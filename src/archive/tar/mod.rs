//! The tar container: POSIX ustar and pax, and what GNU tar adds to them.
//!
//! The `tar` crate supplies the header block: its fields, numbers and checksums. Streams are our own, because members
//! are laid out before they are read (so that blocks can be made in parallel), and because a reader must say where a
//! damaged archive broke and never mistake a cut for the end.

pub mod layout;
mod pax;
pub mod read;
mod sparse;

pub use sparse::Extent;

/// Size of a tar block: headers take one, content is padded to it.
pub const BLOCK: u64 = 512;

/// Rounds up to whole tar blocks; `None` on overflow.
pub(crate) fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}
