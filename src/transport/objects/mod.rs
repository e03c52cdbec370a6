//! Artifacts and other objects in a bucket: `s3://` and `gs://` through the `object_store` crate; files of a web server.
//!
//! | part | what it does |
//! |---|---|
//! | `connect` | environment to a client: credentials, endpoint, retries |
//! | `client` | the HTTP client, which follows no redirects |
//! | `profile` | the AWS command line's credentials and config files |
//! | `sent` | how far the body of a request has come |
//! | `watch` | gives up on a request that makes no progress; takes no other document for the one that was asked for |
//! | `document` | what an answer in XML is: its outermost element, its code |
//! | `upload` | sync writes into parts that travel side by side |
//! | `download` | ranges that travel side by side into sync reads |
//! | `keyed` | whole small objects by key, many at once |
//! | `shelf` | objects of any size by key, made once and not replaced |
//! | `web` | whole small files of a web server, many at once |
//! | `whole` | what these two share: bodies read to their end, requests made again |
//! | `errors` | absent, refused and unreachable told apart, in words |
//!
//! Async code stays below this module: a transport owns a small runtime, and its users block.

mod client;
mod connect;
mod document;
mod download;
mod errors;
mod keyed;
mod profile;
mod sent;
mod shelf;
mod upload;
mod watch;
mod web;
mod whole;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::{Handle, Runtime};

pub use self::connect::Endpoint;
use self::errors::Place;
pub use self::keyed::{Keyed, Object};
pub use self::shelf::BucketShelf;
pub use self::web::Web;
use super::layout::{self, Seen};
use super::{Download, Origin, Pick, Transport, Upload};
use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Class, Error, Result};
use crate::location::Bucket;

/// How often a blocked operation looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// How much of what was sent may still be on its way, as far as that is waited for: buffers of a machine or a proxy.
const MOST_BUFFERED: u64 = 1 << 20;

/// Sizes, counts and times of transfers. The defaults suit real networks; tests shorten them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Size of the first parts of an upload. Each thousandth part doubles it, so that the 10,000 parts that S3 and GCS
    /// allow suffice for 8 TiB.
    pub part_bytes: usize,
    /// Parts under way at once, fewer when they have grown: together they stay below [`Limits::bytes_in_flight`].
    pub parts_in_flight: usize,
    /// Bytes of parts under way at once, once parts have grown.
    pub bytes_in_flight: usize,
    /// Size of the ranges of a download.
    pub range_bytes: u64,
    /// Ranges fetched or held at once; with their size this bounds a download's memory.
    pub ranges_in_flight: usize,
    /// Time to connect.
    pub connect: Duration,
    /// Time without a single byte after which a transfer is given up. A download that is silent for half of it is abandoned
    /// and made again on another connection.
    pub no_progress: Duration,
    /// Time until the answer to a request without a body must begin; half of `no_progress` when none is given.
    pub first_byte: Option<Duration>,
    /// Whether a range that falls silent for half of `no_progress` is taken up on another connection, and any other request
    /// that falls silent made again. Otherwise a silence ends it.
    pub take_up_silent: bool,
    /// A download that is waited for and brings fewer bytes than this within `crawl_time` is given up.
    pub crawl_bytes: u64,
    /// The time for `crawl_bytes`.
    pub crawl_time: Duration,
    /// Bytes a second that a request body may take as a whole, on top of `no_progress`. Silence ends it sooner, for which the
    /// last 1 MiB that went out counts as what may still be on its way, as slowly as this.
    pub slowest: u64,
    /// Retries of a request that failed for a passing reason.
    pub retries: usize,
    /// No retry begins later than this after the first attempt.
    pub retry_time: Duration,
    /// The first pause before a retry; later ones grow, with jitter, up to fifty times this.
    pub backoff: Duration,
    /// The longest pause that is made because a busy service asks for it; longer ones are not made at all.
    pub retry_after: Duration,
    /// How often in a row a range is taken up again without a single new byte.
    pub resumes: u32,
    /// Time that an abandoned upload may take to clean up after itself.
    pub abort: Duration,
    /// The same after a cancellation, when the process has little time left.
    pub abort_cancelled: Duration,
}

impl Limits {
    /// The most time until the answer to a request with so many bytes must begin.
    fn answer(&self, bytes: u64) -> Duration {
        match bytes {
            0 => self.first_byte.unwrap_or(self.no_progress / 2),
            bytes => self.no_progress + self.slowly(bytes),
        }
    }

    /// The most time without anything of a request after so many bytes of it: this machine, or a proxy, may have taken them
    /// at once, and pass them on slowly.
    fn silence(&self, sent: u64) -> Duration {
        self.no_progress + self.slowly(sent.min(MOST_BUFFERED))
    }

    fn slowly(&self, bytes: u64) -> Duration {
        Duration::from_secs(bytes / self.slowest.max(1))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            part_bytes: 8 << 20,
            parts_in_flight: 4,
            bytes_in_flight: 128 << 20,
            range_bytes: 8 << 20,
            ranges_in_flight: 6,
            connect: Duration::from_secs(5),
            no_progress: Duration::from_secs(60),
            first_byte: None,
            take_up_silent: true,
            crawl_bytes: 0,
            crawl_time: Duration::from_secs(60),
            slowest: 64 << 10,
            retries: 5,
            // Long enough for one more try of a part that got stuck; quick failures use up their retries in seconds.
            retry_time: Duration::from_secs(240),
            backoff: Duration::from_millis(100),
            retry_after: Duration::ZERO,
            resumes: 4,
            abort: Duration::from_secs(5),
            // Well below the 5 s after which a signal ends the process, and within what a cancelled job reserves.
            abort_cancelled: Duration::from_millis(1500),
        }
    }
}

/// The transport over a bucket.
pub struct Objects {
    shared: Arc<Shared>,
    prefix: String,
    origin: Origin,
}

/// What uploads and downloads need of their transport; they may outlive it.
struct Shared<S = Arc<dyn ObjectStore>> {
    store: S,
    runtime: Background,
    limits: Limits,
    cancel: Cancel,
    place: Place,
}

impl Objects {
    /// A transport over an S3 bucket, with credentials and endpoint from the environment. Opens no connection.
    pub fn s3(bucket: &Bucket, env: &Env, limits: Limits, origin: Origin, cancel: Cancel) -> Result<Self> {
        let (store, place) = connect::s3(bucket, None, env, &limits)?;
        Self::build(store, place, &bucket.prefix, limits, origin, cancel)
    }

    /// A transport over a Google Cloud Storage bucket, with credentials from the environment. Opens no connection.
    pub fn gs(bucket: &Bucket, env: &Env, limits: Limits, origin: Origin, cancel: Cancel) -> Result<Self> {
        let (store, place) = connect::gs(bucket, env, &limits)?;
        Self::build(store, place, &bucket.prefix, limits, origin, cancel)
    }

    /// A transport over any store.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        limits: Limits,
        origin: Origin,
        cancel: Cancel,
    ) -> Result<Self> {
        let place = Place::of_store(&store);
        Self::build(store, place, prefix, limits, origin, cancel)
    }

    fn build(
        store: Arc<dyn ObjectStore>,
        place: Place,
        prefix: &str,
        limits: Limits,
        origin: Origin,
        cancel: Cancel,
    ) -> Result<Self> {
        let runtime = Background::new()?;
        let shared = Arc::new(Shared { store, runtime, limits, cancel, place });
        Ok(Objects { shared, prefix: prefix.trim_matches('/').to_owned(), origin })
    }

    /// The key below which everything of a build lies.
    fn build_path(&self, build: &str) -> Result<Path> {
        let build = layout::part(build);
        path(&if self.prefix.is_empty() { build } else { format!("{}/{build}", self.prefix) })
    }

    fn home(&self, build: &str, name: &ArtifactName) -> Result<Path> {
        path(&format!("{}/{name}", self.build_path(build)?))
    }

    /// One level of keys below a path.
    fn list(&self, below: &Path) -> Result<object_store::ListResult> {
        let shared = &self.shared;
        let listing = shared.store.list_with_delimiter(Some(below));
        let listed = shared.wait(shared.within("listing artifacts", shared.limits.no_progress, listing))??;
        listed.map_err(|error| shared.place.explain_in_bucket("listing artifacts", &error))
    }

    /// An object with an ETag to pin requests to: some servers leave it out of listings, or write it without its quotes.
    fn tagged(&self, object: &ObjectMeta) -> Result<ObjectMeta> {
        if object.e_tag.as_ref().is_some_and(|tag| tag.ends_with('"')) {
            return Ok(object.clone());
        }
        let shared = &self.shared;
        let head =
            shared.within("looking at an artifact", shared.limits.no_progress, shared.store.head(&object.location));
        shared.wait(head)??.map_err(|error| shared.place.explain("looking at an artifact", &error))
    }

    /// What else the build has, for the hint about a missing artifact; a failure here only makes the hint shorter.
    fn look_around(&self, pick: &Pick, leaves: Vec<String>) -> Seen {
        let mut seen = Seen { leaves, ..Seen::default() };
        if seen.leaves.is_empty()
            && let Ok(listed) = self.build_path(&pick.build).and_then(|path| self.list(&path))
        {
            seen.names =
                listed.common_prefixes.iter().filter_map(|prefix| Some(prefix.filename()?.to_owned())).collect();
        }
        seen
    }
}

impl Transport for Objects {
    fn place(&self) -> String {
        self.shared.place.to_string()
    }

    fn upload(&self, name: &ArtifactName) -> Result<Box<dyn Upload>> {
        self.shared.cancel.check()?;
        let key = path(&format!("{}/{}", self.home(&self.origin.build, name)?, layout::leaf(&self.origin)?))?;
        Ok(Box::new(upload::ObjectUpload::new(Arc::clone(&self.shared), key, "storing an artifact")))
    }

    fn download(&self, name: &ArtifactName, pick: &Pick) -> Result<Download> {
        let listed = self.list(&self.home(&pick.build, name)?)?;
        let leaf = |object: &ObjectMeta| object.location.filename().unwrap_or_default().to_owned();
        let fitting = listed.objects.iter().filter(|object| layout::fits(&leaf(object), pick));
        let Some(newest) = fitting.max_by_key(|object| (object.last_modified, layout::age(&leaf(object)))) else {
            let seen = self.look_around(pick, listed.objects.iter().map(leaf).collect());
            return Err(layout::not_there(name, pick, &self.place(), &seen));
        };
        let newest = &self.tagged(newest)?;
        let reader = download::RangedReader::new(Arc::clone(&self.shared), newest, "reading an artifact");
        Ok(Download { reader: Box::new(reader), size: Some(newest.size), from: layout::describe(&leaf(newest)) })
    }
}

impl<S> Shared<S> {
    /// Ends an operation with all its tries after so long.
    async fn within<T>(&self, doing: &str, limit: Duration, future: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(limit, future).await.map_err(|_| self.place.silent(doing, limit))
    }

    /// Time for sending so many bytes: one try that runs out, and another one.
    fn sending(&self, bytes: usize) -> Duration {
        2 * self.limits.answer(bytes as u64)
    }

    /// Blocks on a future. A cancellation ends the wait and drops the future.
    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        self.cancel.check()?;
        let stopped = async {
            while self.cancel.signal().is_none() {
                tokio::time::sleep(CANCEL_POLL).await;
            }
        };
        let finished = self.runtime.handle().block_on(async {
            match select(std::pin::pin!(future), std::pin::pin!(stopped)).await {
                Either::Left((value, _)) => Some(value),
                Either::Right(_) => None,
            }
        });
        finished.map_or_else(|| Err(self.cancel.check().err().unwrap_or_else(interrupted)), Ok)
    }
}

/// Stands in for a cancellation that nobody can see any more; a set flag stays set, so this is not met.
fn interrupted() -> Error {
    Error::new(Class::Interrupted { signal: 2 }, "interrupted")
}

/// Keys are taken as they are: the store's own escaping would make them differ from what the layout promises.
fn path(key: &str) -> Result<Path> {
    Path::parse(key).map_err(|error| Error::usage("the artifact's place is not a possible object key").caused_by(error))
}

/// A runtime that never holds up its owner's end, not even for a name lookup that hangs.
struct Background(Option<Runtime>);

impl Background {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("monofo-transfer")
            .enable_all()
            .build()
            .map_err(|error| Error::failed("cannot start threads for transfers").caused_by(error))?;
        Ok(Background(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("the runtime is taken only while dropping").handle()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
