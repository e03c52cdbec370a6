//! The integration tests, as one binary: a module per behaviour, one shared harness.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod fuzz;
mod harness;
mod hostile;
mod look_alikes;
mod roundtrip;
mod selecting;
mod tars;
