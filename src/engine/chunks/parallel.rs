//! Many calls to a store at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::store::Failure;
use crate::context::Context;
use crate::error::Result;

/// Does work number 0 to `jobs` with this many threads, and stops at the first that fails.
pub(super) fn in_parallel(
    threads: usize,
    jobs: usize,
    context: &Context,
    work: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Failure::default();
    let run = || {
        while !failure.is_set() {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                return;
            }
            if let Err(error) = context.cancel.check().and_then(|()| work(job)) {
                failure.set(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.max(1)) {
            scope.spawn(run);
        }
    });
    failure.check()
}
