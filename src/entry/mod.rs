//! Entries of cache and store on this machine: what lies where, how it appears whole and goes whole.
//!
//! ```text
//! .meta-cache/                             .meta-store/
//!   FORMAT ("meta-cache 1")                  FORMAT ("meta-store 1")
//!   ab/<key>.metadata.json                   ab/<address>.metadata.json      the commit mark, 0444
//!   ab/<key>/payload-<sha256>.tar.lz4        ab/<address>/…                  the artifact
//!   facts/ab/<sha256>.zst                    facts/ab/<sha256>.zst           texts that were hashed, losable
//!   tmp/<random>/                            tmp/<random>/                   staging, locked by whoever works there
//!   quarantine/<hash>-<random>/              quarantine/…                    damaged entries, kept for 7 days
//!   counters/usage, stat-cache               counters/usage, stat-cache, profiles/, roots/pins/
//! ```
//! An entry is there when its metadata is, is understood, names what it is filed under, and its content lies beside it.
//! Data comes before metadata when one is published, metadata goes before data when one is removed, each by a rename. Locks
//! are the kernel's (`flock`) and die with their process: the entry's folder is held by whoever changes it, the metadata
//! by whoever reads it. A lock counts only if the name still leads to what was locked.
//!
//! | part | what it does |
//! |---|---|
//! | [`Home`] | the folder of a cache or store: names, creation, listing |
//! | [`Record`] | an entry's metadata, never believed before it was recomputed |
//! | [`Staging`] | where things are made before they appear |
//! | [`publish`], [`open`], [`remove`] | one entry appears, is read, goes |
//! | [`facts`] | texts under their digests, for explanations |
//! | [`pins`], [`profiles`] | what keeps entries of a store |
//! | [`usage`] | hits and misses, counted |

mod devices;
pub mod facts;
mod home;
mod lock;
mod open;
pub mod pins;
pub(crate) mod plain;
pub mod profiles;
mod publish;
mod record;
mod remove;
mod staging;
mod stat_cache;
pub mod usage;

pub use self::home::{Home, HomeKind, Names};
pub use self::lock::{LOCK_WAIT, hold_folder, is_locked};
pub use self::open::{Opened, Peeked, open, peek};
pub use self::publish::{Existing, Published, publish};
pub use self::record::{Encoding, Output, Payload, Record, RootKind, SCHEMA_CACHE, SCHEMA_STORE, now_text};
pub(crate) use self::record::{is_newer, is_of_this_version, seconds, time_text};
pub use self::remove::{Readers, Removal, quarantine, remove, remove_orphan, remove_strays};
pub use self::staging::{Staging, sync_dir, sync_file, sync_filesystem};
pub(crate) use self::staging::{is_random_name, random_name, remove_tree};
pub use self::stat_cache::StatCache;
