//! The integration tests, as one binary: a module per behaviour, one shared harness.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs, unreachable_pub)]

mod broken_chunks;
mod catars;
mod chunk_commands;
mod chunk_stores;
mod chunks;
mod damaged;
mod desk;
mod fuzz;
mod harness;
mod hostile;
mod layers;
mod look_alikes;
mod plugin;
mod readme;
mod remote;
mod roundtrip;
mod selecting;
mod targets;
mod tars;
mod transport;
mod try_pipeline;
