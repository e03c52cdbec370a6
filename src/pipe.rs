//! Standard input and other pipes that can be given up: one that never says anything must not keep an interrupted command
//! waiting.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::cancel::Cancel;

/// How often a stop is looked for while nothing comes.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads on a thread of its own, and stops with the interruption's error once one was asked for.
pub struct Pipe {
    runs: Receiver<io::Result<Vec<u8>>>,
    run: Vec<u8>,
    used: usize,
    ended: bool,
    cancel: Cancel,
}

impl Pipe {
    /// Starts reading standard input. The thread ends with the input, or with the process.
    pub fn stdin(cancel: &Cancel) -> Self {
        Self::over(|| Ok(io::stdin()), cancel)
    }

    /// Opens and reads a pipe that has a name: already opening it waits for somebody who writes.
    pub fn open(path: &Path, cancel: &Cancel) -> Self {
        let path = path.to_owned();
        Self::over(move || File::open(path), cancel)
    }

    fn over<R: Read>(open: impl FnOnce() -> io::Result<R> + Send + 'static, cancel: &Cancel) -> Self {
        let (sender, runs) = crossbeam_channel::bounded(4);
        thread::spawn(move || {
            let mut input = match open() {
                Ok(input) => input,
                Err(error) => {
                    // Nobody waits for it any more when this fails.
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            loop {
                let mut run = vec![0; 256 << 10];
                let result = match input.read(&mut run) {
                    Ok(n) => {
                        run.truncate(n);
                        Ok(run)
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => Err(e),
                };
                let last = result.as_ref().map_or(true, Vec::is_empty);
                if sender.send(result).is_err() || last {
                    return;
                }
            }
        });
        Pipe { runs, run: Vec::new(), used: 0, ended: false, cancel: cancel.clone() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.used == self.run.len() && !self.ended {
            self.cancel.check().map_err(io::Error::from)?;
            match self.runs.recv_timeout(PATIENCE) {
                Ok(run) => {
                    self.run = run?;
                    self.used = 0;
                    self.ended = self.run.is_empty();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
            }
        }
        let n = buf.len().min(self.run.len() - self.used);
        buf[..n].copy_from_slice(&self.run[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}
