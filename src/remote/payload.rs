//! A payload on its way here: every failure gets its class, and the length is that of the record.

use std::io::{self, Read};
use std::sync::Arc;

use super::breaker::{Ask, Breaker};
use super::failure::Failure;
use crate::error::{Class, Error, Why};

const REMOVE: &str = "remove the entry there; the next build stores it again";

/// Reads a payload to the length that its record says. Its errors are those of [`Failure::of_read`].
pub(super) struct Payload {
    reader: Box<dyn Read + Send>,
    /// The remote, for messages.
    place: String,
    size: u64,
    read: u64,
    breaker: Arc<Breaker>,
}

impl Payload {
    pub(super) fn new(reader: Box<dyn Read + Send>, place: String, size: u64, breaker: Arc<Breaker>) -> Self {
        Payload { reader, place, size, read: 0, breaker }
    }

    fn fail(&self, error: Error) -> io::Error {
        let error = match error.class() {
            // It is another one than was looked at; what that means for artifacts does not help here.
            Class::Changed => error.with_hint(REMOVE),
            _ => error,
        };
        let failure = Failure::of(error);
        self.breaker.note(Ask::Read, Some(&failure));
        failure.error.into()
    }
}

impl Read for Payload {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = match self.reader.read(out) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let error = error.downcast::<Error>().unwrap_or_else(|error| {
                    Error::new(Class::Unavailable, format_args!("reading a payload in {} failed", self.place))
                        .caused_by(error)
                        .because(Why::Busy)
                });
                return Err(self.fail(error));
            }
        };
        self.read += count as u64;
        if self.read > self.size || (count == 0 && !out.is_empty() && self.read < self.size) {
            return Err(self.fail(other_length(&self.place, self.size, None)));
        }
        Ok(count)
    }
}

/// The error for a payload whose length is not that of its record.
pub(super) fn other_length(place: &str, expected: u64, found: Option<u64>) -> Error {
    let found = found.map_or("another number".to_owned(), |found| found.to_string());
    Error::damaged(format_args!("a payload in {place} is damaged: it has {found} of {expected} bytes"))
        .hint(REMOVE)
        .because(Why::Damaged)
}
