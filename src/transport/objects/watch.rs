//! Single requests, below the retries of `object_store`: a limit on silence, and answers that say no as typed errors.
//!
//! The client's own time limits count from the beginning of a request to its end: either too short for a slow line or too
//! long to notice a dead one. Here the time counts from the last byte that went out, with some
//! more for what may still be in buffers, and all of a request gets time by its size. One that runs out is retried on another
//! connection like any other timeout, or not at all: the limits say which. An answer that says no is read here, since
//! `object_store` keeps its status to itself and its text, which may hold tokens, in its messages. An answer that says yes to a question for a document is looked at too:
//! `object_store` takes a login page for a listing of nothing, and services report failures behind a status of 200.
//! Requests for a cloud machine's own credentials are special: on every other machine
//! nobody answers them, and saying so must not take a minute.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientOptions, HeaderValue};
use reqwest::Client;

use super::Limits;
use super::client::client;
use super::document::{Root, element, root};
use super::sent::{Sent, send};
use crate::text::Took;

/// Time for one answer of the metadata service, which is one hop away if it is there at all.
const METADATA_LIMIT: Duration = Duration::from_secs(3);

/// How much of an answer that says no is read.
pub(super) const LONGEST_ANSWER: usize = 64 << 10;

/// Makes clients whose requests are watched.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    limits: Limits,
    emulator: bool,
}

impl Watch {
    pub(super) fn new(limits: &Limits) -> Self {
        Watch { limits: limits.clone(), emulator: false }
    }

    /// Speaks to a storage emulator, which takes plain uploads only in the form of signed ones.
    pub(super) fn for_emulator(self) -> Self {
        Watch { emulator: true, ..self }
    }
}

impl HttpConnector for Watch {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = client(options)?;
        let inner = HttpClient::new(client.clone());
        let Watch { limits, emulator } = self.clone();
        Ok(HttpClient::new(Watched { client, inner, limits, emulator }))
    }
}

#[derive(Debug)]
struct Watched {
    client: Client,
    /// The same, as `object_store` uses it.
    inner: HttpClient,
    limits: Limits,
    emulator: bool,
}

impl Watched {
    async fn perform(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if is_metadata(&request) {
            return self.ask_metadata(request).await;
        }
        let size = request.body().content_length() as u64;
        let document = asks_for_document(&request);
        let host = request.uri().authority().map_or("", |authority| authority.as_str()).to_owned();
        let sent = Sent::nothing();
        let counting = Arc::clone(&sent);
        let asked = async {
            // Texts, which are short, are sent in one piece.
            match request.body().as_bytes() {
                Some(_) => self.inner.execute(request).await,
                None => send(&self.client, request, counting, self.limits.no_progress).await,
            }
        };
        let answer = match select(pin!(asked), pin!(sent.stops(&self.limits, size))).await {
            Either::Left((answer, _)) => Ok(answer),
            Either::Right((given_up, _)) => Err(given_up),
        };
        match answer {
            Ok(Ok(answer)) if !answer.status().is_success() && answer.status().as_u16() != 304 => {
                let status = answer.status().as_u16();
                if let Some(pause) = pause_asked(&answer).filter(|pause| *pause <= self.limits.retry_after) {
                    tokio::time::sleep(pause).await;
                }
                Err(Answered::read(
                    host,
                    status,
                    Vec::new(),
                    answer.into_body().bytes_stream(),
                    self.limits.no_progress,
                )
                .await)
            }
            Ok(Ok(answer)) if document => self.read_document(host, answer).await,
            Ok(Err(error)) => Err(broken(error)),
            Ok(answer) => answer,
            Err(given_up) => {
                // What is not made again is told by whoever asked.
                if !given_up.for_good {
                    tracing::warn!("{host} has not answered a request for {}", Took(given_up.limit));
                }
                Err(given_up.into())
            }
        }
    }

    /// The answer, if it is a document of a service for objects. Such answers are read whole by `object_store` in any case;
    /// another one is read no further than its first element.
    async fn read_document(&self, host: String, answer: HttpResponse) -> Result<HttpResponse, HttpError> {
        let (parts, body) = answer.into_parts();
        let mut blocks = body.bytes_stream();
        let mut bytes = Vec::new();
        let mut known = false;
        let silence = self.limits.no_progress;
        let next = async |blocks: &mut _| match tokio::time::timeout(silence, StreamExt::next(blocks)).await {
            Ok(block) => Ok(block),
            Err(_) => Err(HttpError::from(GivenUp::silent(silence, &self.limits))),
        };
        while let Some(block) = next(&mut blocks).await? {
            bytes.extend_from_slice(&block?);
            if known {
                continue;
            }
            match root(&bytes) {
                Root::Unfinished if bytes.len() <= LONGEST_ANSWER => {}
                Root::Result => known = true,
                Root::Error => {
                    let status = parts.status.as_u16();
                    return Err(Answered::read(host, status, bytes, blocks, self.limits.no_progress).await);
                }
                Root::Unfinished | Root::Other => return Err(strange(host)),
            }
        }
        if known { Ok(HttpResponse::from_parts(parts, bytes.into())) } else { Err(strange(host)) }
    }

    /// fake-gcs-server knows the upload of a whole object only with a signature's parameters, which it does not check, and
    /// answers without the ETag header that the service sends. Multipart uploads it does not know at all.
    async fn put_to_emulator(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Ok(signed) = format!("{}?X-Goog-Algorithm=none", request.uri()).parse() {
            *request.uri_mut() = signed;
        }
        let mut answer = self.perform(request).await?;
        answer.headers_mut().entry("etag").or_insert(HeaderValue::from_static("\"unknown\""));
        Ok(answer)
    }

    /// Failures are of a kind that is not retried; a busy service (5xx, 429) still is.
    async fn ask_metadata(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match tokio::time::timeout(METADATA_LIMIT, self.inner.execute(request)).await {
            Ok(Ok(answer)) if answer.status().is_client_error() && answer.status().as_u16() != 429 => {
                Err(HttpError::new(HttpErrorKind::Unknown, NoCredentials))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(HttpError::new(HttpErrorKind::Unknown, NoCredentials)),
        }
    }
}

impl HttpService for Watched {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            if self.emulator && request.method().as_str() == "PUT" && request.uri().query().is_none() {
                return self.put_to_emulator(request).await;
            }
            self.perform(request).await
        })
    }
}

/// How long a busy service wants to be left alone. Only whole seconds are understood; services write no dates there.
fn pause_asked(answer: &HttpResponse) -> Option<Duration> {
    let busy = matches!(answer.status().as_u16(), 429 | 503);
    let seconds = answer.headers().get("retry-after").filter(|_| busy)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The client does not know all the ways in which a connection breaks: one may be closed between its setting up and its first
/// use. What it has no name for is as good a reason for another try as the others.
fn broken(error: HttpError) -> HttpError {
    match error.kind() {
        HttpErrorKind::Unknown => HttpError::new(HttpErrorKind::Interrupted, error),
        _ => error,
    }
}

/// Whether the answer to a request must be a document of a service for objects: a listing, a new upload, one put together, or
/// what became of objects to remove.
fn asks_for_document(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let has = |name| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match request.method().as_str() {
        "GET" => has("list-type"),
        "POST" => has("uploads") || has("uploadId") || has("delete"),
        _ => false,
    }
}

/// Whether a request asks a cloud machine for its own credentials, whatever the service's address.
fn is_metadata(request: &HttpRequest) -> bool {
    let path = request.uri().path();
    request.uri().scheme_str() == Some("http")
        && ["/latest/api/token", "/latest/meta-data/iam/", "/computeMetadata/v1/"].iter().any(|at| path.starts_with(at))
}

/// A request that was waited for long enough.
#[derive(Debug)]
pub(super) struct GivenUp {
    /// How long nothing moved, or how long it took as a whole.
    pub(super) limit: Duration,
    /// How much of the body went out, where that was too little and not nothing.
    pub(super) sent: Option<u64>,
    /// Whether it is made again, on another connection.
    pub(super) for_good: bool,
}

impl GivenUp {
    /// Nothing moved.
    pub(super) fn silent(limit: Duration, limits: &Limits) -> Self {
        GivenUp { limit, sent: None, for_good: !limits.take_up_silent }
    }

    /// Too little moved.
    pub(super) fn slow(sent: u64, limit: Duration, limits: &Limits) -> Self {
        GivenUp { sent: Some(sent), ..Self::silent(limit, limits) }
    }
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no try was answered within its {} s", self.limit.as_secs_f32().ceil())
    }
}

impl std::error::Error for GivenUp {}

impl From<GivenUp> for HttpError {
    fn from(given_up: GivenUp) -> Self {
        // Of this kind is what `object_store` makes again, and of that what it does not.
        let kind = if given_up.for_good { HttpErrorKind::Unknown } else { HttpErrorKind::Timeout };
        HttpError::new(kind, given_up)
    }
}

/// An answer that says no, reduced to what may be repeated.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) host: String,
    pub(super) status: u16,
    /// The store's code for the error, or nothing.
    pub(super) code: String,
    /// The region where the store says that the bucket lies.
    pub(super) region: Option<String>,
}

impl Answered {
    /// Reads on from the bytes that are there already.
    async fn read<B: AsRef<[u8]>>(
        host: String,
        status: u16,
        mut bytes: Vec<u8>,
        mut body: impl Stream<Item = Result<B, HttpError>> + Unpin,
        limit: Duration,
    ) -> HttpError {
        while bytes.len() <= LONGEST_ANSWER
            && let Ok(Some(Ok(block))) = tokio::time::timeout(limit, body.next()).await
        {
            bytes.extend_from_slice(block.as_ref());
        }
        let text = String::from_utf8_lossy(&bytes);
        let answered = Answered {
            host,
            status,
            code: element(&text, "Code").unwrap_or_default().to_owned(),
            region: element(&text, "Region").map(Into::into),
        };
        // The kind decides whether the request is made again: as much as `object_store` would on seeing the status, or one
        // of these codes behind a status that says yes.
        let kind = match (status, answered.code.as_str()) {
            (408 | 429 | 500.., _) | (200..=299, "InternalError" | "SlowDown") => HttpErrorKind::Request,
            _ => HttpErrorKind::Unknown,
        };
        HttpError::new(kind, answered)
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered with status {}", self.host, self.status)?;
        if self.code.is_empty() { Ok(()) } else { write!(f, " ({})", self.code) }
    }
}

impl std::error::Error for Answered {}

/// An answer that is none of a service for objects.
#[derive(Debug)]
pub(super) struct Strange {
    pub(super) host: String,
}

impl fmt::Display for Strange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer of {} was not understood", self.host)
    }
}

impl std::error::Error for Strange {}

fn strange(host: String) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Strange { host })
}

/// Neither the environment nor the machine has credentials.
#[derive(Debug)]
pub(super) struct NoCredentials;

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no credentials are configured, and this machine has none of its own")
    }
}

impl std::error::Error for NoCredentials {}
