//! Artifacts into cache and store and back: one way to pack, one to restore, whatever they are filed under.
//!
//! | part | what it does |
//! |---|---|
//! | [`bundle`] | several paths in one entry, for the `cache:` block |
//! | [`cache`] | an artifact under its key, and back |
//! | `copying` | a copy of a file, with its holes |
//! | [`explain`] | why there is no entry |
//! | [`fetch`] | entries from a remote |
//! | [`gc`] | what goes, and why the rest stays |
//! | `leftovers` | what crashes left, and lost texts, go |
//! | [`inodes`] | what files take on disk, each once |
//! | [`lookup`] | an entry of a key, wherever it is: here, then in the remote |
//! | [`kin`] | entries of the `cache:` block to fall back to |
//! | `known` | what was hashed for a key, as far as it is still known |
//! | `mounts` | what is mounted in a folder |
//! | [`pack`] | an artifact to a payload and its listing, each byte read once |
//! | `repositories` | what somebody works on is not replaced |
//! | [`restore`] | an entry to a target: made beside it, checked, swapped in |
//! | [`share`] | entries to a remote, and its records |
//! | `sharing` | which files a store has already |
//! | `spool` | a payload that unpacks as it arrives |
//! | `stored` | files of a store: read-only, durable, digested |
//! | `texts` | which texts belong to which entries |
//! | [`target`] | what may be replaced, and how |

pub mod bundle;
pub mod cache;
mod copying;
pub mod explain;
pub mod fetch;
pub mod gc;
pub mod inodes;
pub mod kin;
mod known;
mod leftovers;
pub mod lookup;
mod merge;
mod mounts;
pub mod pack;
pub mod repositories;
pub mod restore;
pub mod share;
mod sharing;
mod spool;
pub mod store;
mod stored;
pub mod survey;
pub mod target;
mod texts;
pub mod tree;
pub mod verify;
