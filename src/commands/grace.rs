//! The time a cancelled job has left.
//!
//! After a cancel the agent runs post-command hooks only within a grace period and then kills them. Work that would not
//! end in time is stopped a little earlier, so that it can clean up after itself.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::env::Env;

/// What the agent grants when it does not say.
const DEFAULT: Duration = Duration::from_secs(9);
/// Kept for cleaning up.
const RESERVE: Duration = Duration::from_secs(2);
/// Nothing is stopped before this.
const LEAST: Duration = Duration::from_secs(1);

const SIGTERM: i32 = 15;

/// Stops the work when the grace period is nearly over; dropping it calls that off.
#[must_use = "dropping it calls the limit off"]
pub(super) struct Grace(#[expect(dead_code, reason = "dropping the sender ends the thread")] Sender<()>);

impl Grace {
    /// Starts to count now.
    pub(super) fn of(env: &Env, cancel: &Cancel) -> Self {
        Self::after(limit(env), cancel)
    }

    fn after(limit: Duration, cancel: &Cancel) -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        let cancel = cancel.clone();
        thread::spawn(move || {
            if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                cancel.stop(SIGTERM);
            }
        });
        Grace(sender)
    }
}

/// How long the work may take: the agent's grace period less a reserve.
fn limit(env: &Env) -> Duration {
    let seconds = |name: &str| env.text(name)?.trim_end_matches('s').parse().ok().map(Duration::from_secs);
    let grace = seconds("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS").or_else(|| seconds("BUILDKITE_CANCEL_SIGNAL_TIMEOUT"));
    grace.unwrap_or(DEFAULT).saturating_sub(RESERVE).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_leaves_a_reserve_and_never_vanishes() {
        let with = |value: &str| limit(&Env::of([("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS", value)]));
        assert_eq!(limit(&Env::default()), Duration::from_secs(7));
        assert_eq!(with("30"), Duration::from_secs(28));
        assert_eq!(with("1"), Duration::from_secs(1));
        assert_eq!(with("-1"), Duration::from_secs(7));
        assert_eq!(limit(&Env::of([("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "20s")])), Duration::from_secs(18));
    }

    #[test]
    fn it_stops_the_work_unless_it_is_dropped_before() {
        let (stopped, spared) = (Cancel::new(), Cancel::new());
        let grace = Grace::after(Duration::from_millis(5), &stopped);
        drop(Grace::after(Duration::from_millis(50), &spared));
        thread::sleep(Duration::from_millis(150));
        drop(grace);
        assert_eq!(stopped.signal(), Some(SIGTERM));
        assert_eq!(spared.signal(), None);
    }
}
