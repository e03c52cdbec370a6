//! The only reader of the process environment: variables into typed facts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// A copy of the environment, taken once at the start, so that tests can hand in their own.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<String, OsString>);

impl Env {
    /// The environment of this process. Names that are not UTF-8 are left out: none of ours are.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        Env(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// An environment made of these variables.
    pub fn of<N: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Env(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The same environment with one variable set to another value, or not set.
    pub fn with(&self, name: &str, value: Option<OsString>) -> Self {
        let mut variables = self.0.clone();
        match value {
            Some(value) => variables.insert(name.to_owned(), value),
            None => variables.remove(name),
        };
        Env(variables)
    }

    /// The value of a variable, if set, not empty and UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().filter(|value| !value.is_empty())
    }

    /// The same, where a value that is no text is an error of class `Usage`: what it is to decide must not be left to chance.
    pub fn strict(&self, name: &str) -> Result<Option<&str>> {
        match self.0.get(name) {
            Some(value) if value.to_str().is_none() => {
                Err(Error::usage(format_args!("{name} is not valid UTF-8")).hint("set it to plain text, or unset it"))
            }
            _ => Ok(self.text(name)),
        }
    }

    /// The value as a path, if set and not empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The value of a variable as it is, also an empty one.
    pub fn raw(&self, name: &str) -> Option<OsString> {
        self.0.get(name).cloned()
    }

    /// Whether a switch is on: set, and not `0`, `false` or empty.
    pub fn switch(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// All variables whose value is text, for libraries that read settings by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str()?)))
    }

    /// Whether this process runs inside a Buildkite job.
    pub fn in_job(&self) -> bool {
        self.text("BUILDKITE_JOB_ID").is_some()
    }
}
