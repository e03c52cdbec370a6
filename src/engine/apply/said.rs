//! What a build says, handed on while it says it.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces that wait to be handed on, each of [`PIECE`] bytes at most. A build that says more waits.
const PIECES: usize = 16;

const PIECE: usize = 64 << 10;

/// How long nothing may come once the build is over.
const QUIET: Duration = Duration::from_millis(300);

/// How long anything is taken then. What a build left running, in a session of its own, may go on for ever.
const LONGEST: Duration = Duration::from_secs(2);

/// What comes out of a pipe, until all of its writers are gone, or the build is.
pub(super) struct Said {
    pieces: Receiver<Vec<u8>>,
    over: Arc<AtomicBool>,
    since: Option<Instant>,
    piece: io::Cursor<Vec<u8>>,
}

/// A pipe for a build, what comes out of it, and what to set when the build is over.
pub(super) fn pipe() -> io::Result<(PipeWriter, Said, Arc<AtomicBool>)> {
    let (reader, writer) = io::pipe()?;
    let (sender, pieces) = sync_channel(PIECES);
    let over = Arc::new(AtomicBool::new(false));
    thread::Builder::new().name("said".to_owned()).spawn(move || forward(reader, &sender))?;
    let said = Said { pieces, over: Arc::clone(&over), since: None, piece: io::Cursor::default() };
    Ok((writer, said, over))
}

fn forward(mut reader: PipeReader, sender: &SyncSender<Vec<u8>>) {
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
            let is_over = self.over.load(Ordering::SeqCst);
            let since = is_over.then(|| *self.since.get_or_insert_with(Instant::now));
            if since.is_some_and(|since| since.elapsed() > LONGEST) {
                return Ok(0);
            }
            match self.pieces.recv_timeout(QUIET) {
                Ok(piece) => self.piece = io::Cursor::new(piece),
                Err(RecvTimeoutError::Timeout) if !is_over => {}
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
        over.store(true, Ordering::SeqCst);
        assert_eq!(all.join().unwrap(), long);
        drop(left);
        let (writer, mut said, _) = pipe().unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(&mut said).unwrap(), "");
    }
}
