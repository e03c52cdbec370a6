//! Whole objects of a bucket by their keys, many at once: what chunk stores need.
//!
//! Existence has three answers. An answer that may mean a missing bucket as well as a missing object is settled once, by a
//! listing; after that the bucket is known to be there.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::stream::{BoxStream, iter, select_all};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutOptions, PutPayload,
};

use super::connect::{self, Endpoint};
use super::download::Broken;
use super::errors::{Absence, Place};
use super::{Background, Limits, Shared, whole};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::location::Bucket;
use crate::text::Shown;

/// Objects of a listing that are handed on at a time.
const LISTED_AT_ONCE: usize = 1000;

/// What is known of an object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key, below the prefix.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// How long ago it was written, by this machine's clock.
    pub age: Duration,
}

/// The objects of a bucket below a prefix. Every method blocks, may be called by many threads at once, and takes the words
/// for what it is `doing`, such as `reading a chunk`.
pub struct Keyed {
    pub(super) shared: Arc<Shared>,
    prefix: String,
    /// Whether the bucket is known to be there.
    seen: AtomicBool,
    /// Held by the one who finds out.
    looking: Mutex<()>,
}

impl Keyed {
    /// The objects of an S3 bucket, at an endpoint of its own or at that of the environment. Opens no connection.
    pub fn s3(bucket: &Bucket, own: Option<&Endpoint>, env: &Env, limits: Limits, cancel: Cancel) -> Result<Self> {
        let (store, place) = connect::s3(bucket, own, env, &limits)?;
        Self::build(store, place, &bucket.prefix, limits, cancel)
    }

    /// The objects of a Google Cloud Storage bucket. Opens no connection.
    pub fn gs(bucket: &Bucket, env: &Env, limits: Limits, cancel: Cancel) -> Result<Self> {
        let (store, place) = connect::gs(bucket, env, &limits)?;
        Self::build(store, place, &bucket.prefix, limits, cancel)
    }

    /// The objects of any store.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: &str, limits: Limits, cancel: Cancel) -> Result<Self> {
        let place = Place::of_store(&store);
        Self::build(store, place, prefix, limits, cancel)
    }

    fn build(store: Arc<dyn ObjectStore>, place: Place, prefix: &str, limits: Limits, cancel: Cancel) -> Result<Self> {
        let runtime = Background::new()?;
        Ok(Keyed {
            shared: Arc::new(Shared { store, runtime, limits, cancel, place }),
            prefix: prefix.trim_matches('/').to_owned(),
            seen: AtomicBool::new(false),
            looking: Mutex::new(()),
        })
    }

    /// The bucket and prefix, for messages.
    pub fn place(&self) -> String {
        self.shared.place.to_string()
    }

    /// The whole of an object; `None` when it is not there.
    pub fn get(&self, doing: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let key = self.key(name)?;
        let read = async || self.fetch(doing, &key, whole::LONGEST).await;
        let got = self.shared.wait(self.shared.again(self.shared.limits.resumes as usize, read))??;
        self.found(doing, got)
    }

    /// Tells an object that is not there from a bucket that is not.
    pub(super) fn found<T>(&self, doing: &str, got: Result<T, Absence>) -> Result<Option<T>> {
        match got {
            Ok(value) => Ok(Some(self.there(value))),
            Err(absence) => self.not_there(doing, absence),
        }
    }

    /// Reads an object of at most so many bytes.
    pub(super) async fn fetch(&self, doing: &str, key: &Path, most: usize) -> Result<Result<Vec<u8>, Absence>, Broken> {
        let Shared { store, limits, place, .. } = &*self.shared;
        let asked = store.get_opts(key, GetOptions::default());
        let answer = match self.shared.within(doing, limits.no_progress, asked).await.map_err(Broken::ForGood)? {
            Ok(answer) => answer,
            Err(error) => match Place::absence(&error) {
                Absence::None => return Err(Broken::ForGood(place.explain_in_bucket(doing, &error))),
                absence => return Ok(Err(absence)),
            },
        };
        let length = Some(answer.meta.size);
        let read = whole::read(answer.into_stream(), length, most, limits.no_progress / 2).await;
        read.map(Ok)
            .map_err(|cut| self.shared.broken(doing, length, cut, |error| place.explain_in_bucket(doing, &error)))
    }

    /// What is known of an object; `None` when it is not there.
    pub fn head(&self, doing: &str, name: &str) -> Result<Option<Object>> {
        Ok(self.meta(doing, name)?.map(|meta| object(name.to_owned(), &meta)))
    }

    pub(super) fn meta(&self, doing: &str, name: &str) -> Result<Option<ObjectMeta>> {
        let (shared, key) = (&self.shared, self.key(name)?);
        let got = match shared.wait(shared.within(doing, shared.limits.no_progress, shared.store.head(&key)))?? {
            Ok(meta) => Ok(meta),
            Err(error) => match Place::absence(&error) {
                Absence::None => return Err(shared.place.explain_in_bucket(doing, &error)),
                absence => Err(absence),
            },
        };
        self.found(doing, got)
    }

    /// Stores an object of this content type, also in place of one that is there.
    pub fn put(&self, doing: &str, name: &str, content_type: &'static str, bytes: Vec<u8>) -> Result<()> {
        let (shared, key) = (&self.shared, self.key(name)?);
        let limit = shared.sending(bytes.len());
        let attributes = Attributes::from_iter([(Attribute::ContentType, content_type)]);
        let options = PutOptions { attributes, ..PutOptions::default() };
        let put = shared.store.put_opts(&key, PutPayload::from(bytes), options);
        let put = shared.wait(shared.within(doing, limit, put))??;
        put.map_err(|error| shared.place.explain_in_bucket(doing, &error))?;
        self.there(());
        Ok(())
    }

    /// Calls back with the objects whose names lie between the bounds of one of these ranges, which are listed side by side.
    pub fn list(
        &self,
        doing: &str,
        ranges: &[Range<String>],
        each: &mut dyn FnMut(Object) -> Result<()>,
    ) -> Result<()> {
        let ranges: Vec<_> = ranges.iter().map(|range| self.stream(range)).collect::<Result<_>>()?;
        let mut batches = select_all(ranges).ready_chunks(LISTED_AT_ONCE);
        while let Some(batch) = self.next(doing, batches.next())? {
            for object in batch {
                each(self.listed(doing, object)?)?;
            }
        }
        self.there(());
        Ok(())
    }

    /// The first so many of the objects in a range: no more than one request for up to 1000.
    pub fn first(&self, doing: &str, range: &Range<String>, most: usize) -> Result<Vec<Object>> {
        let mut stream = self.stream(range)?.take(most);
        let mut objects = Vec::new();
        while let Some(object) = self.next(doing, stream.next())? {
            objects.push(self.listed(doing, object)?);
        }
        Ok(self.there(objects))
    }

    /// Removes objects, many with one request where the service can. Returns how many were there, as far as it tells; that
    /// one is gone already is no error. The first error is returned after everything was tried.
    pub fn remove(&self, doing: &str, names: &[&str]) -> Result<u64> {
        let shared = &self.shared;
        let keys: Vec<_> = names.iter().map(|name| self.key(name)).collect::<Result<_>>()?;
        let mut removed = shared.store.delete_stream(iter(keys).map(Ok).boxed());
        let (mut gone, mut failed) = (0, None);
        while let Some(one) = self.next(doing, removed.next())? {
            match one {
                Ok(_) => gone += 1,
                Err(error) => match Place::absence(&error) {
                    Absence::None => drop(failed.get_or_insert_with(|| shared.place.explain_removal(doing, &error))),
                    absence => drop(self.not_there::<()>(doing, absence)?),
                },
            }
        }
        failed.map_or(Ok(gone), Err)
    }

    /// Objects between two names, by name. What the service lists beyond is left out, and ends it.
    fn stream(&self, range: &Range<String>) -> Result<BoxStream<'static, object_store::Result<ObjectMeta>>> {
        let (from, until) = (self.key(&range.start)?, self.key(&range.end)?);
        let prefix = if self.prefix.is_empty() { None } else { Some(path(&self.prefix)?) };
        let all = self.shared.store.list_with_offset(prefix.as_ref(), &from);
        let inside = all
            .try_take_while(move |object| std::future::ready(Ok(object.location < until)))
            .try_filter(move |object| std::future::ready(object.location > from));
        Ok(inside.boxed())
    }

    fn listed(&self, doing: &str, object: object_store::Result<ObjectMeta>) -> Result<Object> {
        let meta = object.map_err(|error| self.shared.place.explain_in_bucket(doing, &error))?;
        let key = meta.location.as_ref();
        let name = key.strip_prefix(&self.prefix).unwrap_or(key).trim_start_matches('/').to_owned();
        Ok(self::object(name, &meta))
    }

    /// The next of a stream, in bounded time.
    fn next<T>(&self, doing: &str, next: impl Future<Output = Option<T>>) -> Result<Option<T>> {
        let shared = &self.shared;
        shared.wait(shared.within(doing, shared.limits.no_progress, next))?
    }

    /// Notes that the bucket has answered.
    pub(super) fn there<T>(&self, value: T) -> T {
        self.seen.store(true, Ordering::Relaxed);
        value
    }

    /// Makes sure that it is the object that is missing, and not the bucket.
    fn not_there<T>(&self, doing: &str, absence: Absence) -> Result<Option<T>> {
        if absence == Absence::Object {
            return Ok(self.there(None));
        }
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.seen.load(Ordering::Relaxed) {
            self.first(doing, &(String::from("0")..String::from("1")), 1)?;
        }
        Ok(None)
    }

    pub(super) fn key(&self, name: &str) -> Result<Path> {
        if self.prefix.is_empty() { path(name) } else { path(&format!("{}/{name}", self.prefix)) }
    }
}

fn path(key: &str) -> Result<Path> {
    let wrong = |error| {
        Error::usage(format_args!("`{}` is not a possible key of an object", Shown(key.as_bytes()))).caused_by(error)
    };
    Path::parse(key).map_err(wrong)
}

fn object(name: String, meta: &ObjectMeta) -> Object {
    let age = SystemTime::from(meta.last_modified).elapsed().unwrap_or_default();
    Object { name, len: meta.size, age }
}
