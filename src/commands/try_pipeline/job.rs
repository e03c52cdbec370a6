//! One command step as one job: hooks, command, hooks, with the agent's rules about what runs after a failure.
//!
//! | what failed | command | post-command | pre-exit | the job's status |
//! |---|---|---|---|---|
//! | nothing | runs | runs | runs | 0 |
//! | a pre-command hook | no | no | runs | the hook's |
//! | the command | runs | runs | runs | the command's |
//! | a post-command hook | runs | runs up to it | runs | the hook's |
//! | the command took its folder away | runs | no | runs | the command's, or 1 |
//!
//! The plugin's hooks run once for each time the step lists it, with that listing's configuration; the first failing one
//! ends its phase. A job that is interrupted goes straight to its pre-exit hooks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::child::{self, Ended, Output};
use super::hooks::{Hook, Plugin, Shell};
use super::log::Log;
use crate::cancel::Cancel;
use crate::config::pipeline::{CommandStep, plugin_env};
use crate::error::Result;
use crate::text::Shown;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    /// Its exit status.
    pub(super) status: i32,
    /// What gave it that status, if not 0.
    pub(super) failed: Option<Phase>,
}

/// A part of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// A hook of the plugin.
    Hook(Hook),
    /// The step's command.
    Command,
    /// The command, in that it took away the folder that the hooks after it run in.
    Gone(PathBuf),
}

impl Phase {
    /// Its name in reports.
    pub(super) fn name(&self) -> String {
        match self {
            Phase::Hook(hook) => format!("{} hook", hook.name()),
            Phase::Command => "command".into(),
            Phase::Gone(folder) => format!("the folder `{}` is gone", Shown::path(folder)),
        }
    }
}

/// A job about to run.
pub(super) struct Job<'a> {
    /// The step.
    pub(super) step: &'a CommandStep,
    /// Its variables.
    pub(super) variables: BTreeMap<String, String>,
    /// Its checkout.
    pub(super) folder: PathBuf,
    /// The plugin's hooks.
    pub(super) plugin: &'a Plugin,
    /// The shell for commands.
    pub(super) bash: &'a Path,
    /// Where to say what happens.
    pub(super) log: &'a Log,
    /// Set when the job has to stop.
    pub(super) cancel: &'a Cancel,
}

impl Job<'_> {
    /// Runs the job. A failing step is no error, only being unable to run one is.
    pub(super) fn run(mut self) -> Result<Finished> {
        let mut finished = self.until_exit()?;
        if self.cancel.signal().is_some() {
            self.variables.insert("BUILDKITE_JOB_CANCELLED".into(), "true".into());
        }
        if self.lost_folder() && fs::create_dir_all(&self.folder).is_err() {
            self.log.line("the pre-exit hooks are left out: there is no folder to run them in");
            return Ok(finished);
        }
        // The last hooks clean up, so they run to their end even after an interrupt.
        let exit = self.hooks(Hook::PreExit, &Cancel::new())?;
        if exit != 0 && finished.failed.is_none() {
            finished = Finished { status: exit, failed: Some(Phase::Hook(Hook::PreExit)) };
        }
        Ok(finished)
    }

    fn until_exit(&mut self) -> Result<Finished> {
        let cancel = self.cancel.clone();
        let status = self.hooks(Hook::PreCommand, &cancel)?;
        if status != 0 {
            return Ok(Finished { status, failed: Some(Phase::Hook(Hook::PreCommand)) });
        }
        let status = self.command()?;
        if cancel.signal().is_some() {
            return Ok(Finished { status, failed: Some(Phase::Command) });
        }
        if self.lost_folder() {
            let gone = Phase::Gone(self.folder.clone());
            return Ok(match status {
                0 => Finished { status: 1, failed: Some(gone) },
                status => Finished { status, failed: Some(Phase::Command) },
            });
        }
        let of_command = status.to_string();
        self.variables.insert("BUILDKITE_COMMAND_EXIT_STATUS".into(), of_command.clone());
        let of_hook = self.hooks(Hook::PostCommand, &cancel)?;
        if of_hook != 0 {
            return Ok(Finished { status: of_hook, failed: Some(Phase::Hook(Hook::PostCommand)) });
        }
        // A hook may export another status and so change the job's.
        let status = match self.variables.get("BUILDKITE_COMMAND_EXIT_STATUS") {
            Some(exported) if *exported != of_command => exported.parse().unwrap_or(status),
            _ => status,
        };
        Ok(Finished { status, failed: (status != 0).then_some(Phase::Command) })
    }

    /// Whether there are hooks to run but no folder to run them in.
    fn lost_folder(&self) -> bool {
        self.step.plugins.iter().any(|listing| listing.ours) && !self.folder.is_dir()
    }

    fn command(&mut self) -> Result<i32> {
        self.log.line("~~~ Running command");
        if self.step.command.trim().is_empty() {
            self.log.line("the step has no command");
            return Ok(1);
        }
        for line in self.step.command.lines() {
            self.log.line(&format!("$ {line}"));
        }
        let arguments = ["-e", "-c", &self.step.command].map(OsStr::new);
        let ended = child::run(self.bash, &arguments, &self.folder, &self.variables, self.log.output(), self.cancel)?;
        Ok(status(ended))
    }

    /// Runs a hook for every listing of the plugin, up to the first that fails; its status.
    fn hooks(&mut self, hook: Hook, cancel: &Cancel) -> Result<i32> {
        for listing in self.step.plugins.iter().filter(|listing| listing.ours) {
            self.log.line(&format!("~~~ Running plugin monofo {} hook", hook.name()));
            let variables = plugin_env::variables(&listing.location, &listing.config);
            let shell = Shell { variables: &mut self.variables, folder: &mut self.folder };
            let status = status(self.plugin.run(hook, &variables, shell, self.log.output(), cancel)?);
            self.variables.insert("BUILDKITE_LAST_HOOK_EXIT_STATUS".into(), status.to_string());
            if status != 0 {
                return Ok(status);
            }
        }
        Ok(0)
    }
}

/// The agent's status for what it stopped itself is -1.
fn status(ended: Ended) -> i32 {
    match ended {
        Ended::Status(status) => status,
        Ended::Stopped => -1,
    }
}

impl Log {
    fn output(&self) -> Output {
        if self.json { Output::ToStderr } else { Output::Through }
    }
}
