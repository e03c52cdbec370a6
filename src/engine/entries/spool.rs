//! A payload that is written to a file while it is read from there: it unpacks as it arrives, and neither waits for the other
//! but for bytes that have not come.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How much has come, and whether that is all.
#[derive(Debug, Default)]
struct Arrived {
    bytes: u64,
    /// Nothing comes any more; whether all did.
    ended: Option<bool>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

impl Shared {
    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut self.arrived());
        self.changed.notify_all();
    }
}

/// The end that is written. Dropped before [`Spool::finish`], it leaves the reader with an error.
#[derive(Debug)]
pub(super) struct Spool {
    shared: Arc<Shared>,
    written: u64,
}

/// The end that is read.
#[derive(Debug)]
pub(super) struct Spooled {
    shared: Arc<Shared>,
    at: u64,
}

/// Both ends of an empty file that is open for reading and writing.
pub(super) fn spool(file: File) -> (Spool, Spooled) {
    let shared = Arc::new(Shared { file, arrived: Mutex::default(), changed: Condvar::new() });
    (Spool { shared: Arc::clone(&shared), written: 0 }, Spooled { shared, at: 0 })
}

impl Spool {
    /// Appends, and lets the reader have it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.shared.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        self.shared.change(|arrived| arrived.bytes = self.written);
        Ok(())
    }

    /// All is there: the reader comes to an end.
    pub(super) fn finish(&self) {
        self.shared.change(|arrived| arrived.ended = Some(true));
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.shared.file
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.change(|arrived| {
            arrived.ended.get_or_insert(false);
        });
    }
}

impl Read for Spooled {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut arrived = self.shared.arrived();
        while arrived.bytes <= self.at {
            match arrived.ended {
                Some(true) => return Ok(0),
                Some(false) => return Err(io::Error::other("the payload did not come whole")),
                None => arrived = self.shared.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner),
            }
        }
        let there = usize::try_from(arrived.bytes - self.at).unwrap_or(usize::MAX).min(out.len());
        drop(arrived);
        let n = self.shared.file.read_at(&mut out[..there], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_written_is_read_while_it_comes() {
        let (mut spool, mut spooled) = spool(tempfile::tempfile().unwrap());
        let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut read = Vec::new();
                spooled.read_to_end(&mut read).map(|_| read)
            });
            for piece in text.chunks(7_001) {
                spool.write(piece).unwrap();
            }
            spool.finish();
            assert_eq!(read.join().unwrap().unwrap(), text);
        });
    }

    #[test]
    fn what_is_cut_short_is_no_end() {
        let (mut spool, mut spooled) = spool(tempfile::tempfile().unwrap());
        spool.write(b"half").unwrap();
        drop(spool);
        let mut read = Vec::new();
        assert!(spooled.read_to_end(&mut read).is_err());
        assert_eq!(read, b"half");
    }
}
