//! Reading ahead: a thread that reads or decodes while the caller works on what came before.

use std::io::{self, BufRead, Read};
use std::thread;

use crossbeam_channel::{Receiver, Sender};

/// Size of one buffer.
const BUFFER: usize = 512 << 10;
/// Buffers in flight: one being filled, one being used, two between.
const BUFFERS: usize = 4;

/// A reader served by a thread of its own, through four reused buffers of 512 KiB.
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
    pub fn new(mut source: Box<dyn Read + Send>) -> Self {
        let (full_sender, full) = crossbeam_channel::bounded(BUFFERS);
        let (empty, empty_receiver) = crossbeam_channel::bounded::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // The channel has room for all of them.
            let _ = empty.try_send(Vec::new());
        }
        thread::spawn(move || {
            for mut buffer in empty_receiver {
                let result = fill(&mut source, &mut buffer);
                let last = !matches!(&result, Ok(n) if *n > 0);
                if full_sender.send(result.map(|_| buffer)).is_err() || last {
                    return;
                }
            }
        });
        ReadAhead { full, empty, current: Vec::new(), used: 0, ended: false }
    }
}

/// Fills a buffer as far as the source goes. An error after some bytes comes with the next call.
fn fill(source: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.resize(BUFFER, 0);
    let mut have = 0;
    while have < BUFFER {
        match source.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(have);
    Ok(have)
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
