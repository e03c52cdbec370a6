//! One child process of a step.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cancel::Cancel;
use crate::error::Result;
use crate::group;
pub(super) use crate::group::Ended;
use crate::text::Shown;

/// Where a child's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// To ours.
    Through,
    /// To our standard error, because ours carries data.
    ToStderr,
}

/// Runs a program in a process group of its own, with exactly this environment and nothing to read, and waits for it.
/// When `cancel` is set everything that it started is stopped with it.
pub(super) fn run(
    program: &Path,
    arguments: &[&OsStr],
    directory: &Path,
    environment: &BTreeMap<String, String>,
    output: Output,
    cancel: &Cancel,
) -> Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env_clear().envs(environment).stdin(Stdio::null());
    if output == Output::ToStderr {
        command.stdout(std::io::stderr());
    }
    group::run(&mut command, cancel).map_err(|error| error.context(format_args!("in `{}`", Shown::path(directory))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_nothing_to_read_and_no_variables_but_those() {
        let environment = BTreeMap::from([("PATH".to_string(), "/usr/bin:/bin".to_string())]);
        let script = "test -z \"$HOME\" && ! read x";
        let arguments = ["-c", script].map(OsStr::new);
        let cancel = Cancel::new();
        let ended = run(Path::new("/bin/sh"), &arguments, Path::new("/"), &environment, Output::ToStderr, &cancel);
        assert_eq!(ended.unwrap(), Ended::Status(0));
    }
}
