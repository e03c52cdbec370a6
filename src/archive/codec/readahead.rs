//! Decoding ahead: a thread that decompresses while the caller works on what came before.

use std::io::{self, BufRead, Read};
use std::thread;

use crossbeam_channel::{Receiver, Sender};

use super::Decode;

/// Buffers in flight: one being filled, one being used, two between.
const BUFFERS: usize = 4;

/// A reader of what a decoder makes on a thread of its own, through four reused buffers (of up to 4 MiB, for LZ4).
///
/// When it is dropped early, the thread ends after the read it is in; nobody waits for it.
pub struct ReadAhead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
    ended: bool,
}

impl ReadAhead {
    /// Starts reading.
    pub fn new(mut decoder: Box<dyn Decode>) -> Self {
        // One more than there are buffers: an error may follow the last one.
        let (full_sender, full) = crossbeam_channel::bounded(BUFFERS + 1);
        let (empty, empty_receiver) = crossbeam_channel::bounded::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // The channel has room for all of them.
            let _ = empty.try_send(Vec::new());
        }
        thread::spawn(move || {
            for mut buffer in empty_receiver {
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
        ReadAhead { full, empty, current: Vec::new(), used: 0, ended: false }
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.current.len() && !self.ended {
            let spent = std::mem::take(&mut self.current);
            self.used = 0;
            if spent.capacity() > 0 {
                // The thread may be gone already, having read everything.
                let _ = self.empty.try_send(spent);
            }
            match self.full.recv() {
                Ok(Ok(buffer)) => {
                    self.ended = buffer.is_empty();
                    self.current = buffer;
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
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, amount: usize) {
        self.used = (self.used + amount).min(self.current.len());
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
