//! The content of an archive, read and decompressed ahead of its reader and shared with the threads that write files.

use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::decode::{Check, Decode, Step};
use crate::cancel::Cancel;
use crate::context::Context;

/// Buffers of one content, in all hands together: being filled, waiting, and shared with writers. LZ4 fills up to 4 MiB of
/// each, so those that are read side by side have fewer.
const MOST_BUFFERS: usize = 12;
const FEWEST_BUFFERS: usize = 5;
const BUFFERS_OF_ALL: usize = 20;

/// Most threads that decompress. Beyond these, creating files is what takes the time.
const MOST_THREADS: usize = 4;

/// How long to wait for content before looking whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A reader of what a decoder makes on threads of its own.
///
/// Bytes can be taken out as [`Piece`]s without being copied. A buffer is used again once every piece of it is dropped,
/// so that whoever keeps pieces of many buffers while asking for more waits for ever: keep pieces of at most
/// [`Content::MAY_KEEP`]. When it is dropped early, the threads end after the read they are in; nobody waits for them.
pub struct Content {
    full: Receiver<io::Result<Vec<u8>>>,
    spent: Sender<Vec<u8>>,
    current: Arc<Buffer>,
    used: usize,
    ended: bool,
    cancel: Cancel,
}

/// Decoded bytes; dropped, they go back to the decoder to be overwritten.
struct Buffer {
    bytes: Vec<u8>,
    spent: Option<Sender<Vec<u8>>>,
}

impl Buffer {
    fn own(bytes: Vec<u8>) -> Arc<Buffer> {
        Arc::new(Buffer { bytes, spent: None })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(spent) = &self.spent {
            // The threads may be gone already, having read everything.
            let _ = spent.try_send(std::mem::take(&mut self.bytes));
        }
    }
}

/// Bytes of the content that lie together.
#[derive(Clone)]
pub struct Piece {
    buffer: Arc<Buffer>,
    start: usize,
    end: usize,
}

impl Piece {
    /// Whether both are of one buffer, so that keeping the second costs nothing more.
    pub fn shares_buffer(&self, other: &Piece) -> bool {
        Arc::ptr_eq(&self.buffer, &other.buffer)
    }
}

impl From<Vec<u8>> for Piece {
    /// A piece that holds no buffer of the content.
    fn from(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Piece { buffer: Buffer::own(bytes), start: 0, end }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }
}

impl Content {
    /// Of how many buffers a reader may keep pieces while it asks for more: all but the one it reads from and one to
    /// decode into.
    pub const MAY_KEEP: usize = FEWEST_BUFFERS - 2;

    /// Starts reading.
    pub(crate) fn new(decoder: Box<dyn Decode>, context: &Context) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let most = cores.min(MOST_THREADS).div_ceil(context.at_once);
        let threads = if decoder.in_parallel() { most } else { 1 };
        let buffers = (BUFFERS_OF_ALL / context.at_once).clamp(FEWEST_BUFFERS, MOST_BUFFERS);
        // One more than there are buffers: an error may follow the last one.
        let (full_sender, full) = crossbeam_channel::bounded(buffers + 1);
        let (spent, spent_receiver) = crossbeam_channel::bounded::<Vec<u8>>(buffers);
        for _ in 0..buffers {
            // The channel has room for all of them.
            let _ = spent.try_send(Vec::new());
        }
        let team = Arc::new(Team {
            source: Mutex::new(Some((0, decoder))),
            turn: Mutex::new(Turn::Of(0)),
            next: Condvar::new(),
        });
        for _ in 0..threads {
            let (team, spent, full) = (Arc::clone(&team), spent_receiver.clone(), full_sender.clone());
            thread::spawn(move || team.work(&spent, &full));
        }
        Content { full, spent, current: Buffer::own(Vec::new()), used: 0, ended: false, cancel: context.cancel.clone() }
    }

    /// The next bytes, at most so many and at least one; `None` at the end.
    pub fn piece(&mut self, most: usize) -> io::Result<Option<Piece>> {
        let len = self.fill_buf()?.len().min(most);
        if len == 0 {
            return Ok(None);
        }
        let piece = Piece { buffer: Arc::clone(&self.current), start: self.used, end: self.used + len };
        self.used += len;
        Ok(Some(piece))
    }
}

impl BufRead for Content {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.current.bytes.len() && !self.ended {
            self.used = 0;
            // Dropped before waiting for the next, which may have to be decoded into it.
            self.current = Buffer::own(Vec::new());
            let next = loop {
                self.cancel.check()?;
                match self.full.recv_timeout(LOOK) {
                    Err(RecvTimeoutError::Timeout) => {}
                    other => break other,
                }
            };
            match next {
                // The end.
                Ok(Ok(bytes)) if bytes.is_empty() => self.ended = true,
                Ok(Ok(bytes)) => self.current = Arc::new(Buffer { bytes, spent: Some(self.spent.clone()) }),
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => {
                    self.ended = true;
                    return Err(io::Error::other("the reading threads stopped"));
                }
            }
        }
        Ok(&self.current.bytes[self.used..])
    }

    fn consume(&mut self, amount: usize) {
        self.used = (self.used + amount).min(self.current.bytes.len());
    }
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// What the decoding threads share: each takes the next step from the source, does its part alone, and hands over the
/// result when it is its turn.
struct Team {
    /// The number of the next step, and where it comes from until that has ended.
    source: Mutex<Option<(u64, Box<dyn Decode>)>>,
    turn: Mutex<Turn>,
    next: Condvar,
}

enum Turn {
    /// Of the thread with this step.
    Of(u64),
    /// Nothing more is wanted.
    Over,
}

impl Team {
    fn work(&self, spent: &Receiver<Vec<u8>>, full: &Sender<io::Result<Vec<u8>>>) {
        // A thread that panics must not leave the others waiting for its turn.
        let _over = OverIfPanicking(self);
        let mut packed = Vec::new();
        let mut kept = None;
        // A buffer before a step: whoever holds the lowest step can always go on.
        while let Some(mut buffer) = kept.take().or_else(|| spent.recv().ok()) {
            let Some((number, step)) = self.step(&mut buffer, &mut packed) else { return };
            let last = matches!(step, Ok(Step::End) | Err(_));
            let result = match step {
                Ok(Step::Content(check)) => Ok(check),
                Ok(Step::Packed(unpack, check)) => {
                    unpack(&packed, &mut buffer).map(|()| check).inspect_err(|_| buffer.clear())
                }
                Ok(Step::End) => {
                    buffer.clear();
                    Ok(None)
                }
                Err(error) => Err(error),
            };
            match self.hand_over(number, last, buffer, result, full) {
                Some(unused) => kept = unused,
                None => return,
            }
        }
    }

    /// The next step and its number; `None` when there are no more.
    fn step(&self, buffer: &mut Vec<u8>, packed: &mut Vec<u8>) -> Option<(u64, io::Result<Step>)> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, decoder) = source.as_mut()?;
        let number = *next;
        *next += 1;
        let step = decoder.next(buffer, packed);
        if matches!(step, Ok(Step::End) | Err(_)) {
            *source = None;
        }
        Some((number, step))
    }

    /// Waits for the turn of this step, does what must be done in order, and sends the result. Returns the buffer if it
    /// was not needed; `None` when nothing more is wanted.
    #[expect(clippy::option_option, reason = "whether to go on, and with what")]
    fn hand_over(
        &self,
        number: u64,
        last: bool,
        mut buffer: Vec<u8>,
        result: io::Result<Option<Check>>,
        full: &Sender<io::Result<Vec<u8>>>,
    ) -> Option<Option<Vec<u8>>> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *turn {
                Turn::Over => return None,
                Turn::Of(due) if due == number => break,
                Turn::Of(_) => turn = self.next.wait(turn).unwrap_or_else(PoisonError::into_inner),
            }
        }
        let result = result.and_then(|check| match check {
            Some(check) => check(&buffer).inspect_err(|_| buffer.clear()),
            None => Ok(()),
        });
        let over = last || result.is_err();
        // What was read before an error is worth reading: the error then says where it happened. There is room for
        // every buffer and one thing more, so that nothing here waits.
        let unused = buffer.is_empty().then(|| std::mem::take(&mut buffer));
        let mut wanted = unused.is_some() || full.send(Ok(buffer)).is_ok();
        wanted &= match result {
            Err(error) => full.send(Err(error)).is_ok(),
            Ok(()) if last => full.send(Ok(Vec::new())).is_ok(),
            Ok(()) => true,
        };
        let over = over || !wanted;
        *turn = if over { Turn::Over } else { Turn::Of(number + 1) };
        self.next.notify_all();
        if over { None } else { Some(unused) }
    }
}

struct OverIfPanicking<'a>(&'a Team);

impl Drop for OverIfPanicking<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.source.lock().unwrap_or_else(PoisonError::into_inner) = None;
            *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) = Turn::Over;
            self.0.next.notify_all();
        }
    }
}
