//! The integration tests, as one binary: a module per behaviour, one shared harness.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs, unreachable_pub)]

// Its macro is for the modules below.
#[macro_use]
mod laws;

mod apply;
mod broken_chunks;
mod cache_block;
mod cache_damage;
mod cache_entries;
mod cache_keys;
mod cache_remote;
mod catars;
mod chunk_commands;
mod chunk_stores;
mod chunks;
mod damaged;
mod desk;
mod entries;
mod entry_output;
mod fuzz;
mod gc_entries;
mod harness;
mod hostile;
mod layers;
mod lock_command;
mod look_alikes;
mod plugin;
mod readme;
mod remote;
mod roundtrip;
mod selecting;
mod store_entries;
mod targets;
mod tars;
mod transport;
mod try_pipeline;
