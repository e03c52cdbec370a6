//! Chunks of a distant store, asked for ahead of their turn, many at a time.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::chunk::ChunkId;
use crate::chunk_store::{ChunkStore, Stored};
use crate::error::{Error, Result};

/// How many chunks are under way or wait for their turn, and how many bytes they may have: no chunk is stored as more than
/// it holds, and a little.
const AHEAD: usize = 256;
const AHEAD_BYTES: u64 = 64 << 20;

/// How many chunks of at most `largest` bytes can be held at a time.
pub(super) fn most_held(largest: u64) -> usize {
    usize::try_from(AHEAD_BYTES / largest.max(1)).unwrap_or(AHEAD).clamp(2, AHEAD)
}

/// How long to wait for a chunk before looking whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Fetches the chunks of a plan, in about its order.
pub(super) struct Prefetch(Arc<Shared>);

struct Shared {
    store: Arc<dyn ChunkStore>,
    plan: Vec<(usize, ChunkId)>,
    cancel: Cancel,
    state: Mutex<State>,
    changed: Condvar,
    ahead: usize,
}

#[derive(Default)]
struct State {
    /// The next of the plan that nobody fetches yet.
    next: usize,
    /// How many of the plan have been taken out.
    taken: usize,
    here: HashMap<usize, Option<Stored>>,
    /// The first failure, which all that wait are told.
    failed: Option<Error>,
    stopped: bool,
}

impl Prefetch {
    /// Starts fetching these chunks, which are told apart by their numbers, with this many threads; no more than
    /// `ahead` are under way or wait to be taken.
    pub(super) fn start(
        store: Arc<dyn ChunkStore>,
        plan: Vec<(usize, ChunkId)>,
        threads: usize,
        ahead: usize,
        cancel: &Cancel,
    ) -> Self {
        let threads = threads.min(plan.len()).min(ahead);
        let shared = Arc::new(Shared {
            store,
            plan,
            cancel: cancel.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
            ahead,
        });
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.fetch());
        }
        Prefetch(shared)
    }

    /// Waits for a chunk of the plan. Each can be taken once.
    pub(super) fn take(&self, number: usize) -> Result<Option<Stored>> {
        let shared = &self.0;
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(fetched) = state.here.remove(&number) {
                state.taken += 1;
                shared.changed.notify_all();
                return Ok(fetched);
            }
            shared.cancel.check()?;
            if let Some(failed) = &state.failed {
                let copy = Error::new(failed.class(), failed.chain());
                return Err(failed.next_step().map(str::to_owned).into_iter().fold(copy, Error::hint));
            }
            state = shared.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn fetch(&self) {
        while let Some((number, id)) = self.next() {
            let fetched = self.store.get(&id);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // What failed once would most likely fail for every other chunk, too, each after many tries.
            match fetched {
                Ok(fetched) => {
                    state.here.insert(number, fetched);
                }
                Err(error) => {
                    state.stopped = true;
                    state.failed.get_or_insert(error);
                }
            }
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<(usize, ChunkId)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopped || self.cancel.signal().is_some() {
                return None;
            }
            if state.next < self.plan.len() && state.next < state.taken + self.ahead {
                state.next += 1;
                return Some(self.plan[state.next - 1]);
            }
            if state.next == self.plan.len() {
                return None;
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
