//! What can go wrong with a remote, in the classes that decide what happens next and what is reported.

use std::fmt;
use std::io;

use crate::error::{Class, Error, Why, from_io};

/// A class of failures. That an entry is absent is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Name not resolved, connection refused, timeout, TLS, reset; busy or broken after retries.
    Unreachable,
    /// Access refused, no credentials, no such bucket, another region.
    Denied,
    /// What is there is not what it must be: another document, too long, not readable as a record.
    Refused,
    /// A record speaks of a payload that is not there.
    Dangling,
    /// A payload is shorter, longer or another one than its record says.
    Damaged,
    /// Nothing that the remote did: interrupted, wrong usage, a file of this machine. The error's class says what.
    Local,
}

impl Trouble {
    /// The name that reports and counters use.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Unreachable => "unreachable",
            Trouble::Denied => "denied",
            Trouble::Refused => "refused",
            Trouble::Dangling => "dangling",
            Trouble::Damaged => "damaged",
            Trouble::Local => "failed",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a remote did not help.
#[derive(Debug)]
pub struct Failure {
    /// The class of it.
    pub trouble: Trouble,
    /// What the user is told; of class [`Class::Unavailable`], unless the trouble is [`Trouble::Local`].
    pub error: Error,
}

impl Failure {
    /// What an error of a transport means.
    pub(super) fn of(error: Error) -> Self {
        let why = match (error.class(), error.why()) {
            (Class::Interrupted { .. }, _) => return Failure { trouble: Trouble::Local, error },
            (_, Some(why)) => why,
            (Class::NotThere, None) => Why::Gone,
            (Class::Changed | Class::Damaged, None) => Why::Damaged,
            (Class::Refused, None) => Why::Strange,
            (Class::Unavailable, None) => Why::Busy,
            _ => return Failure { trouble: Trouble::Local, error },
        };
        let trouble = match why {
            Why::Silent | Why::Busy => Trouble::Unreachable,
            Why::Nameless | Why::Denied => Trouble::Denied,
            Why::Strange => Trouble::Refused,
            Why::Gone => Trouble::Dangling,
            Why::Damaged => Trouble::Damaged,
        };
        Failure { trouble, error: error.with_class(Class::Unavailable).because(why) }
    }

    /// What it means that reading a payload failed: the reader's own errors come out as they went in.
    pub fn of_read(error: io::Error) -> Self {
        Self::of(from_io("reading a payload failed", error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_class_and_keeps_it_on_its_way_through_a_reader() {
        for (error, trouble) in [
            (Error::new(Class::Unavailable, "x").because(Why::Silent), Trouble::Unreachable),
            (Error::new(Class::Unavailable, "x").because(Why::Busy), Trouble::Unreachable),
            (Error::new(Class::Unavailable, "x").because(Why::Denied), Trouble::Denied),
            (Error::new(Class::Unavailable, "x").because(Why::Strange), Trouble::Refused),
            (Error::refused("x"), Trouble::Refused),
            (Error::new(Class::NotThere, "x"), Trouble::Dangling),
            (Error::new(Class::Changed, "x"), Trouble::Damaged),
            (Error::damaged("x"), Trouble::Damaged),
        ] {
            let failure = Failure::of(error);
            assert_eq!((failure.trouble, failure.error.class()), (trouble, Class::Unavailable));
            assert_eq!(Failure::of_read(failure.error.into()).trouble, trouble);
        }
        for (error, class) in [
            (Error::usage("x"), Class::Usage),
            (Error::new(Class::Interrupted { signal: 2 }, "x"), Class::Interrupted { signal: 2 }),
        ] {
            let failure = Failure::of(error);
            assert_eq!((failure.trouble, failure.error.class()), (Trouble::Local, class));
        }
    }
}
