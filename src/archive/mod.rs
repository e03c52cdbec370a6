//! File set to archive bytes and back, for every format.
//!
//! ```text
//! FileSet -> Layout (what is where in the tar stream) -> blocks, filled and compressed in parallel -> ordered bytes
//! bytes -> decoder -> tar members -> Tree (the only code that writes into a user's folder), many files at a time
//! ```

pub mod codec;
pub mod pack;
mod safe_path;
pub mod tar;
pub mod tree;
pub mod unpack;
mod writers;
