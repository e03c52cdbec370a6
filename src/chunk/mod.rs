//! Archive bytes to chunks and back, as casync and desync do it: where a stream is cut, what names a piece, the list of
//! pieces, and a piece's stored form. Pure: bytes in, bytes out.
//!
//! ```text
//! stream -> cut (content decides where) -> id (digest of the bytes) -> index (ordered ids and ends), one packed piece each
//! ```

pub mod cut;
mod id;
mod index;
mod packed;
mod roll;
mod table;

pub use cut::Sizes;
pub use id::{ChunkId, Digest};
pub use index::{Index, Item, MOST_INDEX_BYTES, SHA512_256, check_flags};
pub use packed::{Form, MOST_STORED, Packer, Unpacker, Wrong, stored_is};
