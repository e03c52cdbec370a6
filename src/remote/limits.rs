//! How long a remote is waited for. A cache that answers late is worse than none.

use std::time::Duration;

use crate::transport;

/// How long a look may take whether a remote is back.
pub const LONGEST_LOOK: Duration = Duration::from_secs(3);

/// Times and sizes. The defaults suit real networks; tests shorten them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a whole lookup, in all scopes and with all tries.
    pub record: Duration,
    /// How many operations in a row may fail, although something answers, before nothing is asked any more.
    pub patience: u32,
    /// Whether a long run looks if a remote that was given up is back: so long after, then twice as long, and so on. With one
    /// try, and at most [`LONGEST_LOOK`].
    pub probe: Option<Duration>,
    /// The same for single requests and transfers.
    pub transfers: transport::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        let transfers = transport::Limits {
            connect: Duration::from_secs(3),
            first_byte: Some(Duration::from_secs(10)),
            no_progress: Duration::from_secs(15),
            // Whoever falls silent in the middle does so again.
            take_up_silent: false,
            // 32 KiB a second, over a minute.
            crawl_bytes: 60 * (32 << 10),
            crawl_time: Duration::from_secs(60),
            slowest: 16 << 10,
            retries: 3,
            retry_time: Duration::from_secs(60),
            backoff: Duration::from_millis(200),
            retry_after: Duration::from_secs(5),
            // The client itself takes up what breaks off, as often as it makes requests again.
            resumes: 0,
            ..transport::Limits::default()
        };
        Limits { record: Duration::from_secs(10), patience: 3, probe: None, transfers }
    }
}
