//! When to stop asking a remote: once for all rather than once for each of a thousand components.

use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use crate::error::Why;

/// Counts what becomes of requests. Once open it stays so: an answer that comes late changes nothing.
#[derive(Debug)]
pub(super) struct Breaker {
    /// How many operations in a row may fail although something answered.
    patience: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    /// Why nothing is asked any more.
    open: Option<Why>,
}

impl Breaker {
    pub(super) fn new(patience: u32) -> Self {
        Breaker { patience, state: Mutex::default() }
    }

    /// Why nothing is asked any more, if so.
    pub(super) fn open(&self) -> Option<Why> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open
    }

    /// Takes note of what became of one operation, with all its tries.
    pub(super) fn note(&self, failed: Option<&Failure>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.map(|failure| failure.error.why()) {
            // It would take as long the next time.
            Some(Some(why @ (Why::Silent | Why::Nameless))) => drop(state.open.get_or_insert(why)),
            Some(Some(why @ Why::Busy)) => {
                state.in_a_row += 1;
                if state.in_a_row >= self.patience {
                    state.open.get_or_insert(why);
                }
            }
            // A failure of this machine says nothing about the other one.
            Some(None) => {}
            // It answered, if only with a refusal.
            Some(Some(_)) | None => state.in_a_row = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Error};

    fn failure(why: Why) -> Failure {
        Failure::of(Error::new(Class::Unavailable, "x").because(why))
    }

    #[test]
    fn silence_opens_at_once_and_trouble_after_some_times_in_a_row() {
        let breaker = Breaker::new(3);
        for _ in 0..2 {
            breaker.note(Some(&failure(Why::Busy)));
        }
        breaker.note(Some(&failure(Why::Denied)));
        for _ in 0..2 {
            breaker.note(Some(&failure(Why::Busy)));
            breaker.note(Some(&Failure::of(Error::usage("x"))));
        }
        assert!(breaker.open().is_none());
        breaker.note(Some(&failure(Why::Busy)));
        assert!(breaker.open().is_some());
        breaker.note(None);
        assert!(breaker.open().is_some());

        for why in [Why::Silent, Why::Nameless] {
            let breaker = Breaker::new(3);
            breaker.note(Some(&failure(why)));
            assert_eq!(breaker.open(), Some(why));
        }
    }
}
