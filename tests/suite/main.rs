//! The integration tests, as one binary: a module per behaviour, one shared harness.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs, unreachable_pub)]

mod layers;
mod plugin;
mod readme;
mod transport;
mod try_pipeline;
