//! Artifacts into cache and store and back: one way to pack, one to restore, whatever they are filed under.
//!
//! | part | what it does |
//! |---|---|
//! | [`cache`] | an artifact under its key, and back |
//! | [`pack`] | an artifact to a payload and its listing, each byte read once |
//! | [`restore`] | an entry to a target: made beside it, checked, swapped in |
//! | [`target`] | what may be replaced, and how |

pub mod cache;
pub mod pack;
pub mod restore;
pub mod target;
