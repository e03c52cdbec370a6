//! The content of an archive, read or decompressed ahead of its reader and shared with the threads that write files.

use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};

use super::Decode;

/// Buffers there are at most, in all hands together: being filled, waiting, and shared with writers.
const BUFFERS: usize = 12;

/// A reader of what a decoder makes on a thread of its own.
///
/// Bytes can be taken out as [`Piece`]s without being copied. A buffer is used again once every piece of it is dropped,
/// so that whoever keeps pieces of many buffers while asking for more waits for ever: keep pieces of at most half of
/// [`Content::BUFFERS`]. When it is dropped early, the thread ends after the read it is in; nobody waits for it.
pub struct Content {
    full: Receiver<io::Result<Vec<u8>>>,
    spent: Sender<Vec<u8>>,
    current: Arc<Buffer>,
    used: usize,
    ended: bool,
}

/// Decoded bytes; dropped, they go back to the decoder to be overwritten.
struct Buffer {
    bytes: Vec<u8>,
    spent: Option<Sender<Vec<u8>>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(spent) = &self.spent {
            // The thread may be gone already, having read everything.
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

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }
}

impl Content {
    /// Most buffers in all hands together.
    pub const BUFFERS: usize = BUFFERS;

    /// Starts reading.
    pub fn new(mut decoder: Box<dyn Decode>) -> Self {
        // One more than there are buffers: an error may follow the last one.
        let (full_sender, full) = crossbeam_channel::bounded(BUFFERS + 1);
        let (spent, spent_receiver) = crossbeam_channel::bounded::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // The channel has room for all of them.
            let _ = spent.try_send(Vec::new());
        }
        thread::spawn(move || {
            for mut buffer in spent_receiver {
                let error = decoder.next(&mut buffer).err();
                let last = error.is_some() || buffer.is_empty();
                // What was read before an error is worth reading: the error then says where it happened.
                let read = error.is_none() || !buffer.is_empty();
                if read && full_sender.send(Ok(buffer)).is_err() {
                    return;
                }
                if let Some(error) = error {
                    let _ = full_sender.send(Err(error));
                }
                if last {
                    return;
                }
            }
        });
        let current = Arc::new(Buffer { bytes: Vec::new(), spent: None });
        Content { full, spent, current, used: 0, ended: false }
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
            self.current = Arc::new(Buffer { bytes: Vec::new(), spent: None });
            match self.full.recv() {
                Ok(Ok(bytes)) => {
                    self.ended = bytes.is_empty();
                    self.current = Arc::new(Buffer { bytes, spent: Some(self.spent.clone()) });
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => {
                    self.ended = true;
                    return Err(io::Error::other("the reading thread stopped"));
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
