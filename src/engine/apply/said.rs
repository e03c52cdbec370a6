//! What a build says, handed on while it says it.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// Pieces that wait to be handed on, each of [`PIECE`] bytes at most. A build that says more waits.
const PIECES: usize = 16;

const PIECE: usize = 64 << 10;

/// How long nothing may come once the build is over.
const QUIET: Duration = Duration::from_millis(300);

/// How long anything more is taken then. What a build left running, in a session of its own, may go on for ever; what was in the
/// pipe when the build ended is taken whole, however slow its reader is.
const LONGEST: Duration = Duration::from_secs(2);

/// Said of a build that is not over: all belongs to it.
const ALL: u64 = u64::MAX;

/// What comes out of a pipe, until all of its writers are gone, or the build is.
pub(super) struct Said {
    pieces: Receiver<Vec<u8>>,
    belongs: Arc<AtomicU64>,
    handed_on: u64,
    since: Option<Instant>,
    longest: Duration,
    piece: io::Cursor<Vec<u8>>,
}

/// Tells that a build is over.
pub(super) struct Over {
    reader: Arc<Taken>,
    belongs: Arc<AtomicU64>,
}

/// The pipe's end, and how many bytes were taken from it.
struct Taken(PipeReader, Mutex<u64>);

/// A pipe for a build, what comes out of it, and what to tell when the build is over.
pub(super) fn pipe() -> io::Result<(PipeWriter, Said, Over)> {
    let (reader, writer) = io::pipe()?;
    let (sender, pieces) = sync_channel(PIECES);
    let (reader, belongs) = (Arc::new(Taken(reader, Mutex::new(0))), Arc::new(AtomicU64::new(ALL)));
    let over = Over { reader: Arc::clone(&reader), belongs: Arc::clone(&belongs) };
    thread::Builder::new().name("said".to_owned()).spawn(move || forward(&reader, &sender))?;
    let said = Said { pieces, belongs, handed_on: 0, since: None, longest: LONGEST, piece: io::Cursor::default() };
    Ok((writer, said, over))
}

impl Over {
    /// What was said until now belongs to the build: what was taken from the pipe, and what is in it.
    pub(super) fn tell(&self) {
        let taken = self.reader.1.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nothing tells how much is in it, what comes in time is taken.
        let inside = rustix::io::ioctl_fionread(&self.reader.0).unwrap_or(0);
        self.belongs.store(*taken + inside, Ordering::SeqCst);
    }
}

impl Taken {
    /// Waits for something to be there before anybody is kept from counting it.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None)?;
        let mut taken = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let read = (&self.0).read(buffer)?;
        *taken += read as u64;
        Ok(read)
    }
}

fn forward(reader: &Taken, sender: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Where nobody takes it any more it is read all the same: who is left running must not fail for that.
            Ok(read) if read > 0 => _ = sender.send(buffer[..read].to_vec()),
            _ => return,
        }
    }
}

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.piece.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let belongs = self.belongs.load(Ordering::SeqCst);
            let is_owed = self.handed_on < belongs;
            let since = (belongs != ALL).then(|| *self.since.get_or_insert_with(Instant::now));
            if !is_owed && since.is_some_and(|since| since.elapsed() > self.longest) {
                return Ok(0);
            }
            match self.pieces.recv_timeout(QUIET) {
                Ok(piece) => {
                    self.handed_on += piece.len() as u64;
                    self.piece = io::Cursor::new(piece);
                }
                Err(RecvTimeoutError::Timeout) if is_owed => {}
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn all_that_was_said_comes_even_if_somebody_keeps_the_pipe_open() {
        let (mut writer, mut said, over) = pipe().unwrap();
        let left = writer.try_clone().unwrap();
        let long = "line\n".repeat(50_000);
        let (text, all) = (long.clone(), thread::spawn(move || io::read_to_string(&mut said).unwrap()));
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        over.tell();
        assert_eq!(all.join().unwrap(), long);
        drop(left);
        let (writer, mut said, _) = pipe().unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(&mut said).unwrap(), "");
    }

    #[test]
    fn a_reader_that_comes_too_late_gets_what_the_build_said_and_no_more_of_what_it_left_running() {
        let (mut writer, mut said, over) = pipe().unwrap();
        let mut left = writer.try_clone().unwrap();
        // As much as fits into the queue and the pipe: nobody reads yet.
        let long = "line\n".repeat(200_000);
        writer.write_all(long.as_bytes()).unwrap();
        over.tell();
        drop(writer);
        said.longest = Duration::ZERO;
        // Somebody goes on for ever, until nobody listens.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let goes_on = thread::spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                left.write_all(b"more\n").unwrap();
            }
        });
        let all = io::read_to_string(&mut said).unwrap();
        assert!(all.starts_with(&long), "only {} of {} bytes came", all.len(), long.len());
        drop((said, stop));
        goes_on.join().unwrap();
    }
}
