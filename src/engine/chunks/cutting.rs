//! Segments of a stream, filled and scanned side by side in any order, to chunks in order.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::store::Failure;
use crate::chunk::cut::{self, Chooser, Rule, Scan, WINDOW};

/// How long to wait for a buffer before looking whether work has failed.
const LOOK: Duration = Duration::from_millis(100);

/// The least length of segments.
const SEGMENT: u64 = 2 << 20;

/// A part of the stream in memory. Its buffer goes back to the pool when nobody needs it any more.
pub(super) struct Segment {
    buffer: Vec<u8>,
    len: usize,
    /// Position of the first byte in the buffer, which is a window ahead of the segment.
    first: u64,
    start: u64,
    back: Sender<Vec<u8>>,
}

impl Segment {
    pub(super) fn as_cut(&self) -> cut::Segment<'_> {
        cut::Segment { bytes: &self.buffer[..self.len], first: self.first, start: self.start }
    }

    fn end(&self) -> u64 {
        self.first + self.len as u64
    }

    /// Bytes of the stream from one position to another, both of which lie here.
    fn bytes(&self, start: u64, end: u64) -> &[u8] {
        let at = |position: u64| usize::try_from(position - self.first).unwrap_or(usize::MAX);
        &self.buffer[at(start)..at(end)]
    }

    /// The segment itself, without the window ahead.
    pub(super) fn own_bytes(&self) -> (u64, &[u8]) {
        (self.start, self.bytes(self.start, self.end()))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // Nobody needs it back when the stream has been read.
        let _ = self.back.try_send(std::mem::take(&mut self.buffer));
    }
}

/// Buffers for segments.
pub(super) struct Pool {
    free: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
    segment: u64,
    len: u64,
}

impl Pool {
    /// For a stream of this length. A chunk lies in at most two segments, so those and one for each thread suffice.
    pub(super) fn new(buffers: usize, rule: &Rule, len: u64) -> Self {
        let (back, free) = crossbeam_channel::bounded(buffers);
        for _ in 0..buffers {
            let _ = back.try_send(Vec::new());
        }
        Pool { free, back, segment: SEGMENT.max(2 * rule.sizes().max), len }
    }

    /// How many segments the stream has.
    pub(super) fn segments(&self) -> u64 {
        self.len.div_ceil(self.segment)
    }

    /// Waits for a buffer. Whoever has one may take a segment: it will be able to fill it. `None` when work has failed.
    pub(super) fn buffer(&self, failure: &Failure) -> Option<Vec<u8>> {
        loop {
            match self.free.recv_timeout(LOOK) {
                Ok(buffer) => return Some(buffer),
                Err(_) if failure.is_set() => return None,
                Err(_) => {}
            }
        }
    }

    /// Takes a buffer back that was not needed. Without this, others would wait for it for ever.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let _ = self.back.try_send(buffer);
    }

    /// Fills the segment of this number.
    pub(super) fn fill<E>(
        &self,
        number: u64,
        mut buffer: Vec<u8>,
        fill: impl FnOnce(std::ops::Range<u64>, &mut [u8]) -> Result<(), E>,
    ) -> Result<Segment, E> {
        let start = number * self.segment;
        let end = (start + self.segment).min(self.len);
        let first = start.saturating_sub(WINDOW as u64);
        let len = usize::try_from(end - first).unwrap_or(usize::MAX);
        // Only ever grows: clearing it costs as much as filling it.
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let mut segment = Segment { buffer, len, first, start, back: self.back.clone() };
        fill(first..end, &mut segment.buffer[..len])?;
        Ok(segment)
    }
}

/// A chunk whose bytes lie in one or two segments.
pub(super) struct Chunk {
    /// Which of the archive's chunks it is.
    pub(super) number: usize,
    /// Position where it ends.
    pub(super) end: u64,
    start: u64,
    segments: [Option<Arc<Segment>>; 2],
}

impl Chunk {
    /// Its bytes; copied together when they do not lie together.
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        let mut parts = self.segments.iter().flatten().map(|segment| {
            let (start, end) = (self.start.max(segment.start), self.end.min(segment.end()));
            segment.bytes(start.min(end), end)
        });
        let one = parts.next().unwrap_or_default();
        parts.next().map_or(Cow::Borrowed(one), |two| Cow::Owned([one, two].concat()))
    }
}

/// Puts segments in order and chooses the cuts.
pub(super) struct Cutting {
    chooser: Chooser,
    /// Segments that came before their turn.
    waiting: BTreeMap<u64, (Arc<Segment>, Scan)>,
    due: u64,
    /// Those that hold bytes of the chunk at hand.
    held: VecDeque<Arc<Segment>>,
    count: usize,
    len: u64,
}

impl Cutting {
    pub(super) fn new(rule: Rule, len: u64) -> Self {
        Cutting { chooser: Chooser::new(rule), waiting: BTreeMap::new(), due: 0, held: VecDeque::new(), count: 0, len }
    }

    /// How many chunks there are so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes a segment, and returns the chunks that are complete now.
    pub(super) fn arrived(&mut self, number: u64, segment: Segment, scan: Scan) -> Vec<Chunk> {
        self.waiting.insert(number, (Arc::new(segment), scan));
        let mut chunks = Vec::new();
        while let Some((segment, scan)) = self.waiting.remove(&self.due) {
            self.due += 1;
            let mut start = self.chooser.start();
            self.held.push_back(Arc::clone(&segment));
            let mut ends = Vec::new();
            self.chooser.feed(&segment.as_cut(), &scan, |end| ends.push(end));
            let last = segment.end() == self.len;
            if last && ends.last().copied().unwrap_or(start) < self.len {
                ends.push(self.len);
            }
            for end in ends {
                self.held.retain(|segment| segment.end() > start);
                let mut of = self.held.iter().filter(|segment| segment.start < end).cloned();
                chunks.push(Chunk { number: self.count, start, end, segments: [of.next(), of.next()] });
                self.count += 1;
                start = end;
            }
            self.held.retain(|segment| !last && segment.end() > start);
        }
        chunks
    }
}
