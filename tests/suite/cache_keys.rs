//! Keys: what they are made of, what changes them and what does not, and manifests that give none.

mod ambiguity;
mod changes;
mod graph;
mod ignoring;
mod traps;
pub(crate) mod trouble;
mod vectors;
