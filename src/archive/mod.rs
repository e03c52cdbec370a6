//! File set to archive bytes and back, for every format.
//!
//! ```text
//! FileSet -> Layout (what is where in the stream of a tar or catar) -> blocks, filled and compressed in parallel -> bytes
//! bytes -> decoder -> members -> Tree (the only code that writes into a user's folder), many files at a time
//! ```

pub mod catar;
pub mod codec;
pub mod member;
pub mod pack;
pub mod restore;
mod safe_path;
pub mod source;
pub mod tar;
pub mod tree;
pub mod unpack;
mod writers;
