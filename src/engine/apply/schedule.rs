//! Who comes when: each after all that it needs, several at once, and nothing after what it needs failed.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::cancel::Cancel;

/// What each needs, by its number; every one comes after those in the list.
pub(super) struct Graph {
    needs: Vec<Vec<usize>>,
    needed_by: Vec<Vec<usize>>,
}

impl Graph {
    pub(super) fn new(needs: Vec<Vec<usize>>) -> Self {
        let mut needed_by = vec![Vec::new(); needs.len()];
        for (number, needs) in needs.iter().enumerate() {
            needs.iter().for_each(|needed| needed_by[*needed].push(number));
        }
        Graph { needs, needed_by }
    }

    /// Runs `work` for each, `jobs` at once, and tells for each what came of it: the result of `work`, what `skip` makes of the
    /// one that failed, or nothing when it was not begun because of `cancel`. Blocks.
    pub(super) fn run<T: Send>(
        &self,
        jobs: usize,
        cancel: &Cancel,
        work: &(dyn Fn(usize) -> (bool, T) + Sync),
        skip: &(dyn Fn(usize, usize) -> T + Sync),
    ) -> Vec<Option<T>> {
        let count = self.needs.len();
        let waits: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let ready = (0..count).filter(|number| waits[*number] == 0).collect();
        let state = State { waits, ready, running: 0, done: (0..count).map(|_| None).collect() };
        let queue = Queue { state: Mutex::new(state), more: Condvar::new() };
        thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, count.max(1)) {
                scope.spawn(|| self.take_turns(&queue, cancel, work, skip));
            }
        });
        queue.state.into_inner().unwrap_or_else(PoisonError::into_inner).done
    }

    fn take_turns<T>(
        &self,
        queue: &Queue<T>,
        cancel: &Cancel,
        work: &(dyn Fn(usize) -> (bool, T) + Sync),
        skip: &(dyn Fn(usize, usize) -> T + Sync),
    ) {
        while let Some(number) = queue.next(cancel) {
            let (good, result) = work(number);
            let mut state = queue.state();
            state.running -= 1;
            state.done[number] = Some(result);
            if good {
                for dependent in &self.needed_by[number] {
                    state.waits[*dependent] -= 1;
                    if state.waits[*dependent] == 0 && state.done[*dependent].is_none() {
                        state.ready.insert(*dependent);
                    }
                }
            } else {
                let mut open = vec![number];
                while let Some(failed) = open.pop() {
                    for dependent in &self.needed_by[failed] {
                        if state.done[*dependent].is_none() {
                            state.done[*dependent] = Some(skip(*dependent, number));
                            open.push(*dependent);
                        }
                    }
                }
            }
            drop(state);
            queue.more.notify_all();
        }
    }
}

struct Queue<T> {
    state: Mutex<State<T>>,
    more: Condvar,
}

struct State<T> {
    /// How many of those that it needs are not done.
    waits: Vec<usize>,
    ready: BTreeSet<usize>,
    running: usize,
    done: Vec<Option<T>>,
}

impl<T> Queue<T> {
    /// The first that is ready; `None` when nothing will be any more.
    fn next(&self, cancel: &Cancel) -> Option<usize> {
        let mut state = self.state();
        loop {
            if cancel.signal().is_some() {
                return None;
            }
            if let Some(number) = state.ready.pop_first() {
                state.running += 1;
                return Some(number);
            }
            if state.running == 0 {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// 3 needs 1 and 2, which need 0; 4 needs nothing.
    fn diamond() -> Graph {
        Graph::new(vec![vec![], vec![0], vec![0], vec![1, 2], vec![]])
    }

    #[test]
    fn each_comes_after_what_it_needs() {
        for jobs in [1, 2, 8] {
            let order = Mutex::new(Vec::new());
            let work = |number| {
                order.lock().unwrap().push(number);
                (true, number)
            };
            let done = diamond().run(jobs, &Cancel::new(), &work, &|_, _| unreachable!());
            assert_eq!(done, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
            let order = order.into_inner().unwrap();
            let at = |number| order.iter().position(|one| *one == number).unwrap();
            assert!(at(0) < at(1) && at(0) < at(2) && at(1) < at(3) && at(2) < at(3), "{order:?}");
        }
    }

    #[test]
    fn independent_ones_run_at_once() {
        let both = Barrier::new(2);
        let graph = Graph::new(vec![vec![], vec![]]);
        // Hangs unless two are under way at the same time.
        let done = graph.run(2, &Cancel::new(), &|_| (true, both.wait().is_leader()), &|_, _| false);
        assert_eq!(done.into_iter().flatten().filter(|leader| *leader).count(), 1);
    }

    #[test]
    fn what_needs_a_failed_one_is_skipped_and_the_others_go_on() {
        let done = diamond().run(2, &Cancel::new(), &|number| (number != 1, 100), &|_, failed| failed);
        assert_eq!(done, [Some(100), Some(100), Some(100), Some(1), Some(100)]);
    }

    #[test]
    fn nothing_begins_once_it_is_to_stop() {
        let cancel = Cancel::new();
        let work = |number| {
            cancel.stop(2);
            (true, number)
        };
        assert_eq!(diamond().run(1, &cancel, &work, &|_, _| 9), [Some(0), None, None, None, None]);
    }
}
