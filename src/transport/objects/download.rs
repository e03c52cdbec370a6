//! Ranges of one object, fetched side by side and delivered in order to sync reads.
//!
//! Every request is pinned to the ETag that was listed, so that an object replaced meanwhile is an error and never a
//! mixture. A range that breaks off is taken up where it stopped. Memory: ranges in flight × range size.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{Limits, Shared};
use crate::error::{Class, Error, Result};

/// A reader over an object.
pub(super) struct RangedReader {
    object: Arc<Object>,
    /// Ranges asked for and not yet delivered, in order.
    queue: VecDeque<JoinHandle<Result<Vec<u8>>>>,
    /// Where the next range to ask for begins.
    next: u64,
    /// The range being delivered, and how much of it was.
    current: Vec<u8>,
    delivered: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was asked for yet: an empty object needs one request too, to prove that it is still there.
    Fresh,
    Reading,
    Failed,
}

/// The object as it was when it was chosen.
struct Object {
    shared: Arc<Shared>,
    key: Path,
    size: u64,
    etag: Option<String>,
    /// For messages, such as `reading an artifact`.
    doing: &'static str,
    /// Bytes that came, of all ranges.
    arrived: AtomicU64,
}

impl RangedReader {
    pub(super) fn new(shared: Arc<Shared>, meta: &ObjectMeta, doing: &'static str) -> Self {
        let (key, size, etag) = (meta.location.clone(), meta.size, meta.e_tag.clone());
        let object = Object { shared, key, size, etag, doing, arrived: AtomicU64::new(0) };
        RangedReader {
            object: Arc::new(object),
            queue: VecDeque::new(),
            next: 0,
            current: Vec::new(),
            delivered: 0,
            state: State::Fresh,
        }
    }

    /// Keeps the allowed number of ranges in flight.
    fn ask(&mut self) {
        let limits = &self.object.shared.limits;
        while self.queue.len() < limits.ranges_in_flight.max(1)
            && (self.next < self.object.size || self.state == State::Fresh)
        {
            let end = self.object.size.min(self.next + limits.range_bytes);
            let range = self.next..end;
            let object = Arc::clone(&self.object);
            self.queue.push_back(self.object.shared.runtime.handle().spawn(async move { object.fetch(range).await }));
            self.next = end;
            self.state = State::Reading;
        }
    }

    fn next_range(&mut self) -> Result<bool> {
        self.ask();
        let Some(range) = self.queue.front_mut() else { return Ok(false) };
        let object = &self.object;
        let fetched = object.shared.wait(async {
            match select(range, std::pin::pin!(object.crawls())).await {
                Either::Left((fetched, _)) => Ok(fetched),
                Either::Right((error, _)) => Err(error),
            }
        })??;
        self.queue.pop_front();
        self.current = fetched.map_err(|error| Error::failed("a transfer ended unexpectedly").caused_by(error))??;
        self.delivered = 0;
        self.ask();
        Ok(true)
    }
}

impl Read for RangedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.state == State::Failed {
            return Err(Error::failed("the download has failed before").into());
        }
        while self.delivered == self.current.len() && !out.is_empty() {
            match self.next_range() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error.into());
                }
            }
        }
        let rest = &self.current[self.delivered..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.delivered += count;
        Ok(count)
    }
}

impl Drop for RangedReader {
    fn drop(&mut self) {
        for range in &self.queue {
            range.abort();
        }
    }
}

/// Why an attempt at a range or a whole object ended early.
pub(super) enum Broken {
    /// Another attempt cannot help.
    ForGood(Error),
    /// The connection broke or fell silent: worth taking up where it stopped.
    Meanwhile(Error),
}

impl Object {
    /// Comes back once too little arrives, which is no progress although it is not nothing. It is asked for only while
    /// somebody waits for bytes: a reader that takes its time makes no slow download.
    async fn crawls(&self) -> Error {
        let Limits { crawl_bytes, crawl_time, .. } = self.shared.limits;
        if crawl_bytes == 0 {
            return std::future::pending().await;
        }
        loop {
            let before = self.arrived.load(Ordering::Relaxed);
            tokio::time::sleep(crawl_time).await;
            let came = self.arrived.load(Ordering::Relaxed) - before;
            if came < crawl_bytes {
                return self.shared.place.too_slow(self.doing, came, crawl_time);
            }
        }
    }

    /// Fetches one range completely or fails.
    async fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let limits = &self.shared.limits;
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut got = Vec::with_capacity(length);
        let mut progress = Instant::now();
        let mut futile = 0;
        loop {
            let before = got.len();
            let error = match self.attempt(&range, &mut got, &mut progress).await {
                Ok(()) if got.len() == length => return Ok(got),
                Ok(()) => self.shared.place.cut_short(self.doing, range.start + got.len() as u64, self.size),
                Err(Broken::ForGood(error)) => return Err(error),
                Err(Broken::Meanwhile(error)) => error,
            };
            futile = if got.len() > before { 1 } else { futile + 1 };
            if futile > limits.resumes || progress.elapsed() >= limits.no_progress {
                return Err(error);
            }
            tracing::debug!(key = %self.key, at = range.start + got.len() as u64, "taking up a broken transfer");
            tokio::time::sleep(pause(limits.backoff, futile)).await;
        }
    }

    /// One request for what is missing of a range, read to its end.
    async fn attempt(&self, range: &Range<u64>, got: &mut Vec<u8>, progress: &mut Instant) -> Result<(), Broken> {
        let place = &self.shared.place;
        let limit = self.shared.limits.no_progress;
        let missing = range.start + got.len() as u64..range.end;
        let options = GetOptions {
            if_match: self.etag.clone(),
            // The whole of a small object is asked for without a range; an empty one has none that could be asked for.
            range: (missing != (0..self.size)).then(|| GetRange::Bounded(missing.clone())),
            ..GetOptions::default()
        };
        let rest = limit.saturating_sub(progress.elapsed());
        let answer = timeout(rest, self.shared.store.get_opts(&self.key, options)).await;
        let answer = answer
            .map_err(|_| Broken::ForGood(place.silent(self.doing, limit)))?
            .map_err(|error| Broken::ForGood(place.explain(self.doing, &error)))?;
        let etag = &answer.meta.e_tag;
        let other = answer.meta.size != self.size || (self.etag.is_some() && etag.is_some() && *etag != self.etag);
        if other {
            return Err(Broken::ForGood(replaced(&self.key)));
        }
        let mut body = answer.into_stream();
        loop {
            let take_up = self.shared.limits.take_up_silent;
            match timeout(if take_up { limit / 2 } else { limit }, body.next()).await {
                Err(_) if take_up => return Err(Broken::Meanwhile(place.silent(self.doing, limit))),
                Err(_) => return Err(Broken::ForGood(place.silent(self.doing, limit))),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => {
                    return Err(Broken::Meanwhile(place.explain(self.doing, &error)));
                }
                Ok(Some(Ok(bytes))) => {
                    if (got.len() + bytes.len()) as u64 > range.end - range.start {
                        return Err(Broken::ForGood(Error::damaged(format_args!(
                            "{place} answered with more bytes than were asked for"
                        ))));
                    }
                    if !bytes.is_empty() {
                        *progress = Instant::now();
                        self.arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    got.extend_from_slice(&bytes);
                }
            }
        }
    }
}

/// The error for an object that is not the one that was chosen any more.
pub(super) fn replaced(key: &Path) -> Error {
    Error::new(Class::Changed, format_args!("`{key}` was replaced while it was downloaded"))
        .hint("download it again; uploads of one artifact by one job must not overlap with downloads of it")
}

/// A growing pause with jitter.
pub(super) fn pause(first: Duration, attempt: u32) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let jitter = 0.5 + (RandomState::new().hash_one(attempt) % 1024) as f64 / 1024.0;
    (first * 2u32.saturating_pow(attempt.saturating_sub(1).min(5))).mul_f64(jitter)
}
