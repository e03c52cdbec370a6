//! Transports: one contract for all of them, and what each does when its place misbehaves.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so, and one that fails lists what it found")]

mod agent;
mod answers;
pub(crate) mod contract;
pub(crate) mod faults;
pub(crate) mod http;
pub(crate) mod subjects;
