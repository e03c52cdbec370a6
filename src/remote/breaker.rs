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

/// What an operation does. A remote may read well and write badly: one says nothing of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Read,
    Write,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing is asked any more while this is open.
    all: Side,
    /// Nothing is stored any more while this is.
    writes: Side,
}

#[derive(Debug, Default)]
struct Side {
    in_a_row: u32,
    /// Why nothing is asked any more.
    open: Option<Why>,
    /// When to look next, and how long that wait is.
    next_look: Option<(Instant, Duration)>,
}

impl Side {
    fn give_up(&mut self, why: Why, probe: Option<Duration>) {
        if self.open.is_none() {
            self.open = Some(why);
            self.next_look = probe.map(|wait| (Instant::now() + wait, wait));
        }
    }

    fn is_to_look(&mut self, now: Instant) -> bool {
        match (self.open, &mut self.next_look) {
            (Some(_), Some((due, wait))) if now >= *due => {
                *wait *= 2;
                *due = now + *wait;
                true
            }
            _ => false,
        }
    }
}

impl Breaker {
    pub(super) fn new(patience: u32, probe: Option<Duration>) -> Self {
        Breaker { patience, probe, state: Mutex::default() }
    }

    /// Why nothing is asked any more, if so.
    pub(super) fn open(&self) -> Option<Why> {
        self.state().all.open
    }

    /// Why nothing is stored any more, if so. One caller now and then is let through.
    pub(super) fn unwritable(&self, now: Instant) -> Option<Why> {
        let mut state = self.state();
        let lets_through = state.writes.is_to_look(now);
        state.writes.open.filter(|_| !lets_through)
    }

    /// Whether this caller, and no other, is to look whether the remote is back.
    pub(super) fn is_to_look(&self, now: Instant) -> bool {
        self.state().all.is_to_look(now)
    }

    /// The remote is back. That says nothing of what it stores.
    pub(super) fn close(&self) {
        self.state().all = Side::default();
    }

    /// Takes note of what became of one operation, with all its tries.
    pub(super) fn note(&self, ask: Ask, failed: Option<&Failure>) {
        let mut state = self.state();
        let state = &mut *state;
        let side = match ask {
            Ask::Read => &mut state.all,
            Ask::Write => &mut state.writes,
        };
        match failed.map(|failure| failure.error.why()) {
            // Storing needs a line and a service that reading does not: who is slow to take a payload may answer a question at
            // once. Nobody tries it again, since that is the longest wait that there is.
            Some(Some(why @ Why::Silent)) if ask == Ask::Write => side.give_up(why, None),
            // It would take as long the next time, whatever is asked.
            Some(Some(why @ (Why::Silent | Why::Nameless))) => state.all.give_up(why, self.probe),
            Some(Some(why @ Why::Busy)) => {
                side.in_a_row += 1;
                if side.in_a_row >= self.patience {
                    side.give_up(why, self.probe);
                }
            }
            // A failure of this machine says nothing about the other one.
            Some(None) => {}
            // It answered, if only with a refusal.
            Some(Some(_)) => side.in_a_row = 0,
            None if ask == Ask::Write => *side = Side::default(),
            None => side.in_a_row = 0,
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
            breaker.note(Ask::Read, Some(&failure(Why::Busy)));
        }
        breaker.note(Ask::Read, Some(&failure(Why::Denied)));
        for _ in 0..2 {
            breaker.note(Ask::Read, Some(&failure(Why::Busy)));
            breaker.note(Ask::Read, Some(&Failure::of(Error::usage("x"))));
        }
        assert!(breaker.open().is_none());
        breaker.note(Ask::Read, Some(&failure(Why::Busy)));
        assert!(breaker.open().is_some());
        breaker.note(Ask::Read, None);
        assert!(breaker.open().is_some());

        for why in [Why::Silent, Why::Nameless] {
            let breaker = Breaker::new(3, None);
            breaker.note(Ask::Read, Some(&failure(why)));
            assert_eq!(breaker.open(), Some(why));
        }
    }

    #[test]
    fn what_is_read_well_says_nothing_of_what_is_stored() {
        let wait = Duration::from_secs(30);
        let breaker = Breaker::new(2, Some(wait));
        let started = Instant::now();
        breaker.note(Ask::Write, Some(&failure(Why::Busy)));
        breaker.note(Ask::Write, None);
        for _ in 0..2 {
            assert!(breaker.unwritable(started).is_none());
            breaker.note(Ask::Write, Some(&failure(Why::Busy)));
            breaker.note(Ask::Read, None);
        }
        assert!(breaker.open().is_none());
        let after = |seconds| started + Duration::from_secs(seconds);
        assert_eq!(breaker.unwritable(after(29)), Some(Why::Busy));
        // One is let through, and what becomes of it decides.
        assert!(breaker.unwritable(after(31)).is_none() && breaker.unwritable(after(31)).is_some());
        breaker.note(Ask::Write, None);
        assert!(breaker.unwritable(after(31)).is_none());
        // A wait as long as that is made once.
        breaker.note(Ask::Write, Some(&failure(Why::Silent)));
        breaker.note(Ask::Read, None);
        assert_eq!((breaker.open(), breaker.unwritable(after(10_000))), (None, Some(Why::Silent)));
        breaker.note(Ask::Read, Some(&failure(Why::Silent)));
        assert_eq!(breaker.open(), Some(Why::Silent));
    }

    #[test]
    fn one_caller_looks_whether_it_is_back_and_the_waits_double() {
        let wait = Duration::from_secs(30);
        let breaker = Breaker::new(3, Some(wait));
        let started = Instant::now();
        breaker.note(Ask::Read, Some(&failure(Why::Silent)));
        let after = |seconds| started + Duration::from_secs(seconds);
        assert!(!breaker.is_to_look(after(29)));
        assert!(breaker.is_to_look(after(31)) && !breaker.is_to_look(after(31)));
        assert!(!breaker.is_to_look(after(90)) && breaker.is_to_look(after(91)));
        assert!(!breaker.is_to_look(after(210)) && breaker.is_to_look(after(211)));
        breaker.close();
        assert!(breaker.open().is_none() && !breaker.is_to_look(after(10_000)));
        let never = Breaker::new(3, None);
        never.note(Ask::Read, Some(&failure(Why::Silent)));
        assert!(!never.is_to_look(after(10_000)));
    }
}
