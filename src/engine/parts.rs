//! Parts of a list at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many parts each thread gets, so that none waits long for another.
const EACH: usize = 8;

/// Works on parts of a list with several threads; what came of them, in order.
pub(super) fn in_parts<T: Sync, R: Send>(all: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let parts: Vec<&[T]> = all.chunks(all.len().div_ceil(threads * EACH).max(1)).collect();
    if parts.len() < 2 {
        return parts.into_iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        while let Some((at, part)) = parts.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((at, work(part)));
        }
        done
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(parts.len())).map(|_| scope.spawn(run)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Vec<_>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(join).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_worked_on_once_and_comes_in_order() {
        for count in [0, 1, 2, 7, 1000] {
            let all: Vec<usize> = (0..count).collect();
            assert_eq!(in_parts(&all, <[usize]>::to_vec).concat(), all);
        }
    }
}
