//! monofo moves files between the steps of a Buildkite build, tens of thousands at a time, as one artifact.
//!
//! A map of the crate, lowest layer first; imports go from a later row to an earlier one, never back:
//!
//! | layer | modules | what they do |
//! |---|---|---|
//! | ground | [`error`], [`mod@env`], [`text`], [`cancel`], [`context`], [`group`], [`pipe`], [`artifact`], [`location`], `lanes` | classes of failure, the environment, words for people, stopping and counting, processes, names, places, digests of several messages at once |
//! | formats | [`collect`], [`chunk`], [`archive`], [`hash`], [`key`] | patterns and lists to a file set; a stream to chunks; file set to archive bytes and back; digests and listings; cache keys |
//! | transport | [`transport`] | bytes under a name: agent, folder, S3, GCS |
//! | stores | [`chunk_store`], [`entry`], [`remote`] | chunks under their ids: folder, S3, GCS, HTTP; in order, with a cache. Entries of cache and store, here and shared |
//! | engine | [`engine`] | one upload, one download; a look into indexes and chunk stores, and cleaning up |
//! | configuration | [`config`] | environment and plugin configuration to requests |
//! | edge | [`cli`], [`commands`], [`report`] | command line, hooks, what people see |

pub mod archive;
pub mod artifact;
pub mod cancel;
pub mod chunk;
pub mod chunk_store;
pub mod cli;
pub mod collect;
pub mod commands;
pub mod config;
pub mod context;
pub mod engine;
pub mod entry;
pub mod env;
pub mod error;
pub mod group;
pub mod hash;
pub mod key;
mod lanes;
pub mod location;
pub mod pipe;
pub mod remote;
pub mod report;
pub mod text;
pub mod transport;
