//! What travels with every piece of work: a way to stop it, and a count of how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cancel::Cancel;

/// Stops and counts a piece of work. Clones share both.
#[derive(Debug, Clone)]
pub struct Context {
    /// Asks the engine to stop.
    pub cancel: Cancel,
    /// Where the engine counts what it has done so far.
    pub progress: Progress,
    /// How many pieces of work like this one share the machine: each then takes less memory and fewer threads.
    pub at_once: usize,
}

impl Default for Context {
    fn default() -> Self {
        Context { cancel: Cancel::default(), progress: Progress::default(), at_once: 1 }
    }
}

/// How far the work is, for whoever draws it. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Adds to the bytes of files done.
    pub fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many bytes there will be in all; 0 is unknown.
    pub fn expect(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes done, and bytes in all (0 when unknown).
    pub fn read(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }
}
