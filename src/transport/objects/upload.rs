//! Sync writes into a multipart upload: parts are cut as bytes arrive and travel side by side, without a temporary file.
//!
//! What fits into one part is stored by one plain request when the upload finishes. Nothing is visible before: an object
//! appears only when its parts are put together, and an abandoned upload is aborted so that its parts cost nothing.

use std::io::{self, Write};
use std::sync::Arc;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectMeta, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::errors::{Absence, Place};
use super::{Limits, Shared};
use crate::error::{Error, Result};
use crate::transport::Upload;

/// Parts of one size, before the size doubles.
const PARTS_PER_SIZE: usize = 1000;

/// How much longer than one silent request putting the parts together may take: large objects need minutes.
const COMPLETE_FACTOR: u32 = 10;

/// An upload of one object.
pub(super) struct ObjectUpload {
    shared: Arc<Shared>,
    key: Path,
    /// For messages, such as `storing an artifact`.
    doing: &'static str,
    buffer: Vec<u8>,
    parts: usize,
    written: u64,
    multipart: Option<Box<dyn MultipartUpload>>,
    under_way: JoinSet<Result<()>>,
    /// Whether others store objects under this key, too.
    key_is_shared: bool,
    failed: bool,
}

impl ObjectUpload {
    pub(super) fn new(shared: Arc<Shared>, key: Path, doing: &'static str) -> Self {
        ObjectUpload {
            shared,
            key,
            doing,
            buffer: Vec::new(),
            parts: 0,
            written: 0,
            multipart: None,
            under_way: JoinSet::new(),
            key_is_shared: false,
            failed: false,
        }
    }

    /// Others store objects under this key, too: what lies there is not taken for ours by its size alone.
    pub(super) fn with_shared_key(mut self) -> Self {
        self.key_is_shared = true;
        self
    }

    /// Sends the buffer off as a part, after waiting until fewer than the allowed number are under way.
    fn send_part(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        if self.multipart.is_none() {
            let doing = "starting an upload";
            let create =
                shared.wait(shared.within(doing, shared.sending(0), shared.store.put_multipart(&self.key)))??;
            self.multipart = Some(create.map_err(|error| shared.place.explain_in_bucket(doing, &error))?);
        }
        let size = part_size(&shared.limits, self.parts);
        self.drain_to(in_flight(&shared.limits, size) - 1)?;
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        if let Some(multipart) = &mut self.multipart {
            let (sent, doing, limit) = (multipart.put_part(payload), "sending a part", shared.sending(size));
            let handle = shared.runtime.handle().clone();
            let sending = async move {
                shared.within(doing, limit, sent).await?.map_err(|error| shared.place.explain(doing, &error))
            };
            self.under_way.spawn_on(sending, &handle);
        }
        self.parts += 1;
        Ok(())
    }

    /// Waits until at most this many parts are under way; the first failure ends the upload.
    fn drain_to(&mut self, most: usize) -> Result<()> {
        while self.under_way.len() > most {
            let joined = self.shared.wait(self.under_way.join_next())?;
            match joined {
                Some(Ok(Ok(()))) | None => {}
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => return Err(Error::failed("a transfer ended unexpectedly").caused_by(error)),
            }
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        if self.multipart.is_none() {
            let (shared, doing) = (&self.shared, self.doing);
            let limit = shared.sending(self.buffer.len());
            let payload = PutPayload::from(std::mem::take(&mut self.buffer));
            let put = shared.wait(shared.within(doing, limit, shared.store.put(&self.key, payload)))??;
            put.map_err(|error| shared.place.explain_in_bucket(doing, &error))?;
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        self.drain_to(0)?;
        let before = if self.key_is_shared { self.look() } else { Some(None) };
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        let limit = self.shared.limits.no_progress * COMPLETE_FACTOR;
        let completed = self.shared.wait(async { tokio::time::timeout(limit, multipart.complete()).await })?;
        match completed {
            Err(_) => return Err(self.shared.place.silent("putting the parts together", limit)),
            Ok(Ok(_)) => {}
            // Who fell silent would be silent again.
            Ok(Err(error)) if Place::given_up(&error).is_none() && self.landed(before.as_ref()) => {
                tracing::debug!(error = %self.shared.place.cause(&error), "the answer was lost, the object is there");
            }
            Ok(Err(error)) => return Err(self.shared.place.explain("putting the parts together", &error)),
        }
        self.multipart = None;
        Ok(())
    }

    /// Whether the object is there although completing it failed: a retry after a lost answer finds its upload gone. One of
    /// exactly this size is taken for ours, unless it was there `before`.
    fn landed(&self, before: Option<&Option<ObjectMeta>>) -> bool {
        let (Some(before), Some(Some(now))) = (before, self.look()) else { return false };
        let is_other = |before: &ObjectMeta| (&before.e_tag, before.last_modified) != (&now.e_tag, now.last_modified);
        now.size == self.written && before.as_ref().is_none_or(is_other)
    }

    /// What lies under the key, if that can be told.
    fn look(&self) -> Option<Option<ObjectMeta>> {
        let (shared, limit) = (&self.shared, self.shared.limits.no_progress);
        let head = shared.wait(shared.within(self.doing, limit, shared.store.head(&self.key))).ok()?.ok()?;
        match head {
            Ok(meta) => Some(Some(meta)),
            Err(error) if Place::absence(&error) != Absence::None => Some(None),
            Err(_) => None,
        }
    }
}

impl Write for ObjectUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Err(Error::failed("the upload has failed before").into());
        }
        self.shared.cancel.check()?;
        let size = part_size(&self.shared.limits, self.parts);
        // A full buffer waits for one more byte: what fits into one part needs no multipart upload.
        if self.buffer.len() >= size && !bytes.is_empty() {
            self.send_part().inspect_err(|_| self.failed = true)?;
        }
        let size = part_size(&self.shared.limits, self.parts);
        let taken = bytes.len().min(size - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.written += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for ObjectUpload {
    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.failed {
            return Err(Error::failed("the upload has failed before"));
        }
        self.publish()
    }
}

/// Takes back what was sent, within a bounded time.
impl Drop for ObjectUpload {
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        let under_way = &mut self.under_way;
        let Limits { abort, abort_cancelled, .. } = self.shared.limits;
        let limit = if self.shared.cancel.signal().is_some() { abort.min(abort_cancelled) } else { abort };
        let aborted = self.shared.runtime.handle().block_on(async {
            // A part that is still under way when its upload is aborted can be stored after that, and nobody would remove
            // it: those that can end soon do, the others are cut off.
            let _ = tokio::time::timeout(limit / 2, async { while under_way.join_next().await.is_some() {} }).await;
            under_way.shutdown().await;
            tokio::time::timeout(limit / 2, multipart.abort()).await
        });
        if !matches!(aborted, Ok(Ok(()))) {
            tracing::warn!(
                "parts of the abandoned upload may be left in {}; a lifecycle rule that removes incomplete multipart \
                 uploads clears them",
                self.shared.place
            );
        }
    }
}

/// Size of the part with this index: doubling after every thousandth.
fn part_size(limits: &Limits, part: usize) -> usize {
    limits.part_bytes << (part / PARTS_PER_SIZE).min(16)
}

/// How many parts of this size may be under way.
fn in_flight(limits: &Limits, size: usize) -> usize {
    (limits.bytes_in_flight / size).clamp(1, limits.parts_in_flight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_the_largest_object_and_memory_stays_bounded() {
        let limits = Limits::default();
        let capacity: u64 = (0..10_000).map(|part| part_size(&limits, part) as u64).sum();
        assert!(capacity > 5 << 40, "{capacity}");
        let held_after = |gib: u64| {
            let mut sent = 0;
            let part = (0..10_000).find(|part| {
                sent += part_size(&limits, *part) as u64;
                sent >= gib << 30
            });
            let size = part_size(&limits, part.unwrap());
            size * (in_flight(&limits, size) + 1)
        };
        assert_eq!(held_after(1), 5 * (8 << 20));
        assert!(held_after(100) <= 192 << 20);
    }
}
