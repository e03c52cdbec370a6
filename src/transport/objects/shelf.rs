//! A bucket as a [`Shelf`]: objects of any size by key, and records that are made once.
//!
//! S3 makes an object only if none is there by `If-None-Match: *`, GCS by generation 0. A store that knows neither, or says
//! nothing and replaces the object, is looked at first: what is left is the moment between.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload};

use super::download::{Broken, RangedReader};
use super::errors::{Place, Unmade};
use super::upload::ObjectUpload;
use super::{Keyed, Limits};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Class, IoContext, Result, from_io};
use crate::location::Bucket;
use crate::text::Shown;
use crate::transport::Upload;
use crate::transport::shelf::{Made, Opened, Shelf, too_long};

/// How much of a file is handed on at a time.
const BLOCK: usize = 1 << 20;

/// A shelf over the objects of a bucket.
pub struct BucketShelf {
    objects: Keyed,
}

impl BucketShelf {
    /// A shelf in an S3 bucket, with credentials and endpoint from the environment. Opens no connection.
    pub fn s3(bucket: &Bucket, env: &Env, limits: Limits, cancel: Cancel) -> Result<Self> {
        Ok(BucketShelf { objects: Keyed::s3(bucket, None, env, limits, cancel)? })
    }

    /// A shelf in a Google Cloud Storage bucket. Opens no connection.
    pub fn gs(bucket: &Bucket, env: &Env, limits: Limits, cancel: Cancel) -> Result<Self> {
        Ok(BucketShelf { objects: Keyed::gs(bucket, env, limits, cancel)? })
    }

    /// A shelf over any store.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: &str, limits: Limits, cancel: Cancel) -> Result<Self> {
        Ok(BucketShelf { objects: Keyed::over(store, prefix, limits, cancel)? })
    }

    /// Ends a question with all its tries after so long.
    async fn by_then<T>(&self, doing: &str, limit: Duration, question: impl Future<Output = T>) -> Result<T> {
        let place = &self.objects.shared.place;
        tokio::time::timeout(limit, question).await.map_err(|_| place.late(doing, limit))
    }

    /// Makes an object, with the service's own condition or without.
    fn make(&self, doing: &str, name: &str, bytes: Vec<u8>, mode: PutMode) -> Result<object_store::Result<()>> {
        let (shared, key) = (&self.objects.shared, self.objects.key(name)?);
        let limit = shared.sending(bytes.len());
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = shared.store.put_opts(&key, PutPayload::from(bytes), options);
        Ok(shared.wait(shared.within(doing, limit, put))??.map(drop))
    }
}

impl Shelf for BucketShelf {
    fn place(&self) -> String {
        self.objects.place()
    }

    fn get(&self, doing: &str, name: &str, most: u64, limit: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let (shared, key) = (&self.objects.shared, self.objects.key(name)?);
        let bytes = usize::try_from(most).unwrap_or(usize::MAX);
        // The client itself takes up bodies that break off; more tries on top would multiply.
        let read = async {
            let fetched = self.objects.fetch(doing, &key, bytes).await;
            fetched.map_err(|broken| match broken {
                Broken::ForGood(error) | Broken::Meanwhile(error) => error,
            })
        };
        let read = match limit {
            Some(limit) => shared.wait(self.by_then(doing, limit, read)).and_then(|read| read?),
            None => shared.wait(read).and_then(|read| read),
        };
        let read = read.map_err(|error| match error.class() {
            // It came to more than was allowed, and the rest was not read.
            Class::Damaged => too_long(doing, &self.place(), most),
            _ => error,
        });
        self.objects.found(doing, read?)
    }

    fn size(&self, doing: &str, name: &str) -> Result<Option<u64>> {
        Ok(self.objects.meta(doing, name)?.map(|meta| meta.size))
    }

    fn open(&self, doing: &'static str, name: &str) -> Result<Option<Opened>> {
        let Some(meta) = self.objects.meta(doing, name)? else { return Ok(None) };
        let reader = RangedReader::new(Arc::clone(&self.objects.shared), &meta, doing);
        Ok(Some(Opened { reader: Box::new(reader), size: meta.size }))
    }

    fn put(&self, doing: &str, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.objects.put(doing, name, "application/octet-stream", bytes)
    }

    fn put_file(&self, doing: &'static str, name: &str, source: &Path) -> Result<()> {
        let key = self.objects.key(name)?;
        let cannot = || format!("cannot read `{}`", Shown::path(source));
        let mut file = File::open(source).or_fail(cannot)?;
        let upload = ObjectUpload::new(Arc::clone(&self.objects.shared), key, doing).with_shared_key();
        let mut upload = Box::new(upload);
        let mut block = vec![0; BLOCK];
        loop {
            let count = match file.read(&mut block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.or_fail(cannot)?,
            };
            if count == 0 {
                break;
            }
            upload.write_all(&block[..count]).map_err(|error| from_io(doing, error))?;
        }
        upload.finish()?;
        self.objects.there(());
        Ok(())
    }

    fn create(&self, doing: &str, name: &str, bytes: Vec<u8>) -> Result<Made> {
        if self.objects.meta(doing, name)?.is_some() {
            return Ok(Made::Taken);
        }
        let failed = match self.make(doing, name, bytes.clone(), PutMode::Create)? {
            Ok(()) => return Ok(self.objects.there(Made::Created)),
            Err(error) => error,
        };
        match Place::unmade(&failed) {
            Unmade::Taken => Ok(Made::Taken),
            Unmade::Contended | Unmade::Unknown => {
                tracing::debug!(error = %self.objects.shared.place.cause(&failed), name, "not known to be stored");
                Ok(Made::Unsure)
            }
            Unmade::Unconditional => {
                let made = self.make(doing, name, bytes, PutMode::Overwrite)?;
                made.map_err(|error| self.objects.shared.place.explain_in_bucket(doing, &error))?;
                Ok(Made::Created)
            }
            Unmade::Failed => Err(self.objects.shared.place.explain_in_bucket(doing, &failed)),
        }
    }

    fn first(&self, doing: &str, folder: &str, most: usize, limit: Duration) -> Result<Vec<String>> {
        let (shared, below) = (&self.objects.shared, self.objects.key(folder)?);
        // Services list in the order of keys, a page at a time: no more pages are asked for than are needed.
        let listed = shared.store.list(Some(&below)).take(most).try_collect::<Vec<_>>();
        let listed = shared.wait(self.by_then(doing, limit, listed))??;
        let listed = listed.map_err(|error| shared.place.explain_in_bucket(doing, &error))?;
        let inside =
            |meta: &ObjectMeta| Some(meta.location.as_ref().strip_prefix(below.as_ref())?.get(1..)?.to_owned());
        Ok(self.objects.there(listed.iter().filter_map(inside).collect()))
    }

    fn second(&self, doing: &str, folder: &str, most: usize, limit: Duration) -> Result<Vec<String>> {
        // A listing goes all the way down.
        self.first(doing, folder, most, limit)
    }

    fn remove(&self, doing: &str, names: &[String]) -> Result<()> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.objects.remove(doing, &names).map(drop)
    }
}
