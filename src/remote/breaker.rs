//! When to stop asking a remote: once for all rather than once for each of a thousand components. A long run may ask whether it
//! is back, now and then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::error::Why;

/// Counts what becomes of requests. Once open it stays so until somebody closes it: an answer that comes late changes nothing.
#[derive(Debug)]
pub(super) struct Breaker {
    /// How many operations in a row may fail although something answered.
    patience: u32,
    /// How long to wait before the first look whether it is back; it doubles each time.
    probe: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    /// Why nothing is asked any more.
    open: Option<Why>,
    /// When to look next, and how long that wait is.
    next_look: Option<(Instant, Duration)>,
}

impl Breaker {
    pub(super) fn new(patience: u32, probe: Option<Duration>) -> Self {
        Breaker { patience, probe, state: Mutex::default() }
    }

    /// Why nothing is asked any more, if so.
    pub(super) fn open(&self) -> Option<Why> {
        self.state().open
    }

    /// Whether this caller, and no other, is to look whether the remote is back.
    pub(super) fn is_to_look(&self, now: Instant) -> bool {
        let mut state = self.state();
        match (state.open, &mut state.next_look) {
            (Some(_), Some((due, wait))) if now >= *due => {
                *wait *= 2;
                *due = now + *wait;
                true
            }
            _ => false,
        }
    }

    /// The remote is back.
    pub(super) fn close(&self) {
        *self.state() = State::default();
    }

    /// Takes note of what became of one operation, with all its tries.
    pub(super) fn note(&self, failed: Option<&Failure>) {
        let mut state = self.state();
        match failed.map(|failure| failure.error.why()) {
            // It would take as long the next time.
            Some(Some(why @ (Why::Silent | Why::Nameless))) => self.give_up(&mut state, why),
            Some(Some(why @ Why::Busy)) => {
                state.in_a_row += 1;
                if state.in_a_row >= self.patience {
                    self.give_up(&mut state, why);
                }
            }
            // A failure of this machine says nothing about the other one.
            Some(None) => {}
            // It answered, if only with a refusal.
            Some(Some(_)) | None => state.in_a_row = 0,
        }
    }

    fn give_up(&self, state: &mut State, why: Why) {
        if state.open.is_none() {
            state.open = Some(why);
            state.next_look = self.probe.map(|wait| (Instant::now() + wait, wait));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let breaker = Breaker::new(3, None);
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
            let breaker = Breaker::new(3, None);
            breaker.note(Some(&failure(why)));
            assert_eq!(breaker.open(), Some(why));
        }
    }

    #[test]
    fn one_caller_looks_whether_it_is_back_and_the_waits_double() {
        let wait = Duration::from_secs(30);
        let breaker = Breaker::new(3, Some(wait));
        let started = Instant::now();
        breaker.note(Some(&failure(Why::Silent)));
        let after = |seconds| started + Duration::from_secs(seconds);
        assert!(!breaker.is_to_look(after(29)));
        assert!(breaker.is_to_look(after(31)) && !breaker.is_to_look(after(31)));
        assert!(!breaker.is_to_look(after(90)) && breaker.is_to_look(after(91)));
        assert!(!breaker.is_to_look(after(210)) && breaker.is_to_look(after(211)));
        breaker.close();
        assert!(breaker.open().is_none() && !breaker.is_to_look(after(10_000)));
        let never = Breaker::new(3, None);
        never.note(Some(&failure(Why::Silent)));
        assert!(!never.is_to_look(after(10_000)));
    }
}
