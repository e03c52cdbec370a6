//! The integration tests, as one binary: a module per behaviour, one shared harness.
#![allow(clippy::unwrap_used, missing_docs)]

mod plugin;
mod transport;
mod try_pipeline;
