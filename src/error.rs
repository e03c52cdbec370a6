//! The one error type: a class that decides the exit status, a sentence, an optional hint and a cause; and for a place
//! elsewhere that could not be used, why, where somebody acts on the difference.
//!
//! A message names the thing and what was expected, in lower case and without a final period; it does not repeat its
//! cause, because the edge prints the whole chain. A hint says what to do next. Neither may carry a credential.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What went wrong, as far as anybody acts on it. Each class has one exit status, for commands and hooks alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Anything without a class of its own. Exit 1.
    Failed,
    /// Wrong usage or configuration; trying again changes nothing. Exit 2.
    Usage,
    /// No such artifact, entry or key. Exit 3.
    NotThere,
    /// A workspace's manifest, lock file or another root cannot be used as it is. Exit 4.
    Workspace,
    /// Files changed or vanished while they were read. Exit 5.
    Changed,
    /// Refused for safety: a path, link, target or archive entry. Exit 6.
    Refused,
    /// Damaged or truncated data. Exit 7.
    Damaged,
    /// A remote or transport that is needed could not be used. Exit 8.
    Unavailable,
    /// A lock that somebody else holds was not obtained in time. Exit 9.
    Locked,
    /// Stopped by a signal, SIGINT (exit 130) or SIGTERM (exit 143).
    Interrupted {
        /// Number of the signal.
        signal: i32,
    },
}

impl Class {
    /// The process exit status of this class.
    pub fn exit_status(self) -> u8 {
        match self {
            Class::Failed => 1,
            Class::Usage => 2,
            Class::NotThere => 3,
            Class::Workspace => 4,
            Class::Changed => 5,
            Class::Refused => 6,
            Class::Damaged => 7,
            Class::Unavailable => 8,
            Class::Locked => 9,
            Class::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(130),
        }
    }
}

/// Why a place elsewhere could not be used: what a user does about it differs, and so does whether to ask it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing came from there in time: no such name, a refused connection, silence.
    Silent,
    /// It answered and is in trouble: it is too busy, or connections break.
    Busy,
    /// There is no way to it: nothing to show it who we are, which may have taken its time to find out, or no folder to look in.
    Nameless,
    /// It does not let us: credentials, permissions, no such bucket, another region.
    Denied,
    /// What answers there is something else, or its answer is none of ours.
    Strange,
    /// Something is missing there that something else there speaks of.
    Gone,
    /// What came is not what was announced.
    Damaged,
}

/// An error with everything the user is told about it.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    class: Class,
    why: Option<Why>,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given class.
    pub fn new(class: Class, message: impl fmt::Display) -> Self {
        Error(Box::new(Inner { class, why: None, message: message.to_string(), hint: None, source: None }))
    }

    /// An error of class [`Class::Failed`].
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Class::Failed, message)
    }

    /// An error of class [`Class::Usage`].
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Class::Usage, message)
    }

    /// An error of class [`Class::Refused`].
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::new(Class::Refused, message)
    }

    /// An error of class [`Class::Damaged`].
    pub fn damaged(message: impl fmt::Display) -> Self {
        Self::new(Class::Damaged, message)
    }

    /// Adds what to do next; the innermost hint wins, being the nearest to the cause.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.0.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts a sentence about what was being done in front; class and hint stay.
    #[must_use]
    pub fn context(self, message: impl fmt::Display) -> Self {
        let Inner { class, why, .. } = *self.0;
        let hint = self.0.hint.clone();
        Error(Box::new(Inner { class, why, message: message.to_string(), hint, source: Some(Box::new(self)) }))
    }

    /// Says why the place could not be used.
    #[must_use]
    pub fn because(mut self, why: Why) -> Self {
        self.0.why = Some(why);
        self
    }

    /// Gives it another class, for a caller to whom it means something else than to the one who made it.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.0.class = class;
        self
    }

    /// Gives it another hint, for a caller who knows better what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.0.hint = Some(hint.to_string());
        self
    }

    /// Why a place elsewhere could not be used, if that is what went wrong and somebody said so.
    pub fn why(&self) -> Option<Why> {
        self.0.why
    }

    /// The class, which decides the exit status.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// What the user can do next: the hint that was given, or what helps with most errors of this kind.
    pub fn next_step(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| self.usual_step())
    }

    fn usual_step(&self) -> Option<&'static str> {
        let causes = std::iter::successors(self.source(), |error: &&(dyn StdError + 'static)| (*error).source());
        match causes.filter_map(|error| error.downcast_ref::<io::Error>()).last().map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Some("free some space there, and run it again")
            }
            Some(io::ErrorKind::PermissionDenied) => Some("check who may read and write there, and as whom this runs"),
            Some(io::ErrorKind::ReadOnlyFilesystem) => Some("that file system takes no writes: use another folder"),
            Some(io::ErrorKind::NotFound) => Some("check the path"),
            Some(io::ErrorKind::InvalidFilename) => {
                Some("a path may have 4,096 bytes here, and each of its names 255: use shorter ones, or leave it out")
            }
            _ if self.class() == Class::Damaged => Some(
                "make and upload it again; if that gives the same, its writer made something that is not supported here",
            ),
            _ => None,
        }
    }

    /// The message and all its causes, joined by `: `, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let part = error.to_string();
            // Some libraries print their cause and return it too; say it once.
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Our errors travel through `Read` and `Write` inside an [`io::Error`] and come out unchanged.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}

/// Turns an I/O error into ours; an [`Error`] that travelled inside it is taken out again with its class and hint.
pub fn from_io(doing: impl fmt::Display, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        // Nothing went wrong but the name: here as in an archive.
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Error::refused(doing).caused_by(error),
        Err(error) => Error::failed(doing).caused_by(error),
    }
}

/// Says what was being done when an I/O operation failed.
pub trait IoContext<T> {
    /// Wraps the I/O error in an [`Error`] with this sentence in front, built only on failure.
    fn or_fail<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn or_fail<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| from_io(doing(), error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_class_and_hint_through_context_and_io() {
        let error = Error::refused("entry `x` leads out").hint("look at the archive").because(Why::Strange);
        let back = from_io("reading", io::Error::from(error.context("unpacking `a.tar`")));
        assert_eq!((back.class(), back.why()), (Class::Refused, Some(Why::Strange)));
        assert_eq!(back.next_step(), Some("look at the archive"));
        assert_eq!(back.chain(), "unpacking `a.tar`: entry `x` leads out");
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_and_said_how_long_it_may_be() {
        let error = std::fs::read("x".repeat(300)).or_fail(|| "cannot read it").unwrap_err();
        assert_eq!(error.class(), Class::Refused);
        assert!(error.next_step().unwrap().contains("255"));
    }

    #[test]
    fn every_class_has_the_documented_exit_status() {
        let statuses = [
            (Class::Failed, 1),
            (Class::Usage, 2),
            (Class::NotThere, 3),
            (Class::Workspace, 4),
            (Class::Changed, 5),
            (Class::Refused, 6),
            (Class::Damaged, 7),
            (Class::Unavailable, 8),
            (Class::Locked, 9),
            (Class::Interrupted { signal: 2 }, 130),
            (Class::Interrupted { signal: 15 }, 143),
        ];
        for (class, status) in statuses {
            assert_eq!(class.exit_status(), status, "{class:?}");
        }
    }
}
