//! Requests with bodies, and how far each has gone: bodies are handed on in pieces, and each of them counts when it goes.
//!
//! The client of `object_store` takes bodies as they are and tells nobody of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::iter;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};
use reqwest::{Body, Client, Request};

use super::Limits;
use super::watch::{GivenUp, LONGEST_ANSWER};

/// How much goes out at a time. The client has some of them ready, and what they are together must go out on a slow line well
/// within the time of a silence.
const PIECE: usize = 8 << 10;

/// How far a request is.
#[derive(Debug)]
pub(super) struct Sent {
    started: Instant,
    /// When something went out last, in milliseconds since then.
    last: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    pub(super) fn nothing() -> Arc<Self> {
        Arc::new(Sent { started: Instant::now(), last: AtomicU64::new(0), bytes: AtomicU64::new(0) })
    }

    fn add(&self, bytes: usize) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Comes back once nothing moves any more, or too little: time for an answer is counted from the last byte that went out,
    /// and what went out may still be on its way.
    pub(super) async fn stops(&self, limits: &Limits, size: u64) -> GivenUp {
        let whole = if size == 0 { Duration::MAX } else { limits.answer(size) };
        loop {
            let took = self.started.elapsed();
            let quiet = took.saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
            let sent = self.bytes.load(Ordering::Relaxed);
            let silence = if size == 0 { limits.answer(0) } else { limits.silence(sent) };
            if quiet >= silence {
                return GivenUp::silent(silence, limits);
            }
            // Once all of it is out, only an answer is waited for.
            let rest = if sent < size { whole.saturating_sub(took) } else { silence };
            if rest.is_zero() {
                return GivenUp::slow(sent, took, limits);
            }
            tokio::time::sleep((silence - quiet).min(rest)).await;
        }
    }
}

/// Makes a request whose body counts as it goes. Of the answer no more is read than says what is wrong.
pub(super) async fn send(
    client: &Client,
    request: HttpRequest,
    sent: Arc<Sent>,
    silence: Duration,
) -> Result<HttpResponse, HttpError> {
    let (parts, body) = request.into_parts();
    let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
    let pieces = HttpResponseBody::new(body).bytes_stream().flat_map(|block| {
        let mut pieces = Vec::new();
        match block {
            Ok(mut block) => {
                while !block.is_empty() {
                    pieces.push(Ok(block.split_to(block.len().min(PIECE))));
                }
            }
            Err(error) => pieces.push(Err(error)),
        }
        iter(pieces)
    });
    let counted = pieces.inspect(move |piece| piece.iter().for_each(|piece| sent.add(piece.len())));
    let mut request = Request::new(parts.method, url);
    *request.headers_mut() = parts.headers;
    *request.body_mut() = Some(Body::wrap_stream(counted));
    let mut answer = client.execute(request).await.map_err(broken)?;
    let mut text = Vec::new();
    while !answer.status().is_success()
        && text.len() <= LONGEST_ANSWER
        && let Ok(Ok(Some(block))) = tokio::time::timeout(silence, answer.chunk()).await
    {
        text.extend_from_slice(&block);
    }
    let mut read = HttpResponse::new(text.into());
    *read.status_mut() = answer.status();
    *read.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(read)
}

/// What `object_store` makes of a failure decides whether it makes the request again.
fn broken(error: reqwest::Error) -> HttpError {
    let kind = match () {
        () if error.is_connect() => HttpErrorKind::Connect,
        () if error.is_timeout() => HttpErrorKind::Timeout,
        () => HttpErrorKind::Interrupted,
    };
    HttpError::new(kind, error.without_url())
}
