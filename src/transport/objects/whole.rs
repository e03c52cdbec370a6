//! Small things that are read in one piece: bodies to their end, and another try when one breaks off.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};

use super::Shared;
use super::download::{Broken, pause};
use crate::error::{Error, Result};

/// More than any chunk has: what is longer is none, and must not fill the memory.
pub(super) const LONGEST: usize = 256 << 20;

/// Why a body was not read to its end.
pub(super) enum Cut<E> {
    /// Nothing came for so long.
    Silent(Duration),
    /// It ended early, after so many bytes.
    Short(u64),
    /// It does not end.
    Long,
    /// The connection failed.
    Failed(E),
}

/// Reads a body of this length, if that is known, and no more than so many bytes.
pub(super) async fn read<B: AsRef<[u8]>, E>(
    mut body: impl Stream<Item = Result<B, E>> + Unpin,
    length: Option<u64>,
    most: usize,
    limit: Duration,
) -> Result<Vec<u8>, Cut<E>> {
    let expected = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if expected.is_some_and(|length| length > most) {
        return Err(Cut::Long);
    }
    let mut bytes = Vec::with_capacity(expected.unwrap_or(0));
    loop {
        match timeout(limit, body.next()).await {
            Err(_) => return Err(Cut::Silent(limit)),
            Ok(None) if expected.is_some_and(|length| bytes.len() < length) => {
                return Err(Cut::Short(bytes.len() as u64));
            }
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(error))) => return Err(Cut::Failed(error)),
            Ok(Some(Ok(block))) if block.as_ref().len() > expected.unwrap_or(most) - bytes.len() => {
                return Err(Cut::Long);
            }
            Ok(Some(Ok(block))) => bytes.extend_from_slice(block.as_ref()),
        }
    }
}

impl<S> Shared<S> {
    /// Tries again what broke in the middle, so many times, and while a transfer without any progress would be waited for.
    pub(super) async fn again<T>(&self, most: usize, attempt: impl AsyncFn() -> Result<T, Broken>) -> Result<T> {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(Broken::ForGood(error)) => return Err(error),
                Err(Broken::Meanwhile(error)) => error,
            };
            tries += 1;
            if tries as usize > most || started.elapsed() >= self.limits.no_progress {
                return Err(error);
            }
            tracing::debug!(error = %error, tries, "trying again");
            tokio::time::sleep(pause(self.limits.backoff, tries)).await;
        }
    }

    /// What a body that was not read to its end means; `explain` for failures of the connection.
    pub(super) fn broken<E>(
        &self,
        doing: &str,
        length: Option<u64>,
        cut: Cut<E>,
        explain: impl FnOnce(E) -> Error,
    ) -> Broken {
        match cut {
            Cut::Silent(limit) => Broken::Meanwhile(self.place.silent(doing, limit)),
            Cut::Short(at) => Broken::Meanwhile(self.place.cut_short(doing, at, length.unwrap_or(at))),
            Cut::Long => Broken::ForGood(Error::damaged(format_args!(
                "{doing} in {} failed: the answer is longer than it can be",
                self.place
            ))),
            Cut::Failed(error) => Broken::Meanwhile(explain(error)),
        }
    }
}
