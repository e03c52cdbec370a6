//! Chunk stores: one contract for all of them, and what buckets and web servers do when they misbehave.

mod contract;
mod faults;
pub(crate) mod servers;
