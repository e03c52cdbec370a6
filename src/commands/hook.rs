//! `monofo hook`: what the plugin does before and after a step's command.
//!
//! | phase | does |
//! |---|---|
//! | `pre-command` | restores the `cache` block, then downloads the `download` block |
//! | `post-command` | uploads the part of the `upload` block that `when` asks for after such a command, then stores the `cache` block |
//! | `pre-exit` | removes what a killed process of this job left behind; never fails |
//!
//! All artifacts of a block move at once, a few at a time; one that fails stops no other. The exit status
//! is that of the first failure in listed order, with three exceptions:
//!
//! - After a command that failed, every failure of ours is a warning and the status 0: the command's own status is what
//!   the job ends with, and rules for automatic retries look at it.
//! - `soft-fail` turns a failure into a warning, unless the configuration is wrong or a signal asked to stop.
//! - A signal that stopped the work decides the status, 130 or 143.
//!
//! A hook is a process of its own and exports nothing itself. What became of the `cache` block goes into a file that the
//! pre-command hook's shell made for it, see `cache_block`.

use super::block::{Block, Mover, Task, Work, open_mover};
use super::cache_block::{CacheBlock, block_text, remove_old_exports, worse};
use super::grace::Grace;
use crate::cancel::Cancel;
use crate::config::listing;
use crate::config::plugin::{PluginConfig, PluginDownload, PluginUpload};
use crate::env::Env;
use crate::error::Result;
use crate::report::{Report, Verb};
use crate::transport;

/// When in a job the hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the command.
    PreCommand,
    /// After the command, whether it failed or not.
    PostCommand,
    /// At the end of the job, always.
    PreExit,
}

/// Runs one phase of the plugin's hooks for real: the engine, over the transport that the environment names.
///
/// Everything is reported, errors included; the result is the exit status of the process.
pub fn run(phase: Phase, env: &Env, cancel: &Cancel, report: &Report) -> u8 {
    let open = || open_mover(env, cancel);
    Hook { env, cancel, report, open: &open }.run(phase)
}

/// Whether the step's command failed. Absent means that the agent has no opinion; post-command hooks are not run when
/// there was no command.
pub(super) fn command_failed(env: &Env) -> bool {
    env.text("BUILDKITE_COMMAND_EXIT_STATUS").is_some_and(|status| status != "0")
}

/// One run of a hook, with everything it needs from outside.
pub struct Hook<'a> {
    /// The environment that the agent gave.
    pub env: &'a Env,
    /// Stops the work; whoever calls sets it when a signal arrives.
    pub cancel: &'a Cancel,
    /// Gets every message, errors included: the caller has nothing left to print.
    pub report: &'a Report,
    /// Opens the transport; called only when there is something to move.
    pub open: &'a (dyn Fn() -> Result<Box<dyn Mover>> + Sync),
}

impl Hook<'_> {
    /// Runs one phase, reports everything, and returns the exit status of the process.
    pub fn run(&self, phase: Phase) -> u8 {
        if phase == Phase::PreExit {
            self.clean_up();
            return self.report.finish(0);
        }
        self.report.begin(if phase == Phase::PreCommand { Verb::Download } else { Verb::Upload });
        let command_failed = phase == Phase::PostCommand && command_failed(self.env);
        let status = match self.block(phase, command_failed) {
            Ok(status) => status,
            Err(error) => self.mover(command_failed).tell(&error, false),
        };
        self.report.finish(status)
    }

    fn block(&self, phase: Phase, command_failed: bool) -> Result<u8> {
        let listing = listing::find(self.env)?;
        match (&listing.warning, phase) {
            (Some(warning), Phase::PreCommand) => self.report.warning(warning),
            (Some(warning), _) => self.report.detail(warning),
            (None, _) => {}
        }
        let config = PluginConfig::read(&listing.configuration, self.env)?;
        let (verb, tasks): (_, Vec<Task>) = match phase {
            Phase::PreCommand => (Verb::Download, config.downloads.into_iter().map(download_task).collect()),
            _ => (
                Verb::Upload,
                config.uploads.into_iter().filter_map(|upload| self.due(upload, command_failed)).collect(),
            ),
        };
        let _grace = self.env.switch("BUILDKITE_JOB_CANCELLED").then(|| Grace::of(self.env, self.cancel));
        // Restored entries replace what is there, and artifacts are added to it.
        let move_artifacts = || self.mover(command_failed).run(verb, tasks, self.open);
        if config.caches.is_empty() {
            return Ok(move_artifacts());
        }
        let block = CacheBlock {
            env: self.env,
            cancel: self.cancel,
            report: self.report,
            block: self.mover(command_failed),
            block_text: block_text(&config.caches),
        };
        if phase == Phase::PreCommand {
            let status = block.restore(&config.caches)?;
            return Ok(worse(status, move_artifacts()));
        }
        let status = move_artifacts();
        let saved = match block.save(&config.caches, command_failed) {
            Ok(saved) => saved,
            Err(error) => self.mover(command_failed).tell(&error, config.caches.iter().all(|entry| entry.soft_fail)),
        };
        Ok(worse(status, saved))
    }

    fn mover(&self, command_failed: bool) -> Block<'_> {
        Block { cancel: self.cancel, report: self.report, forgiving: command_failed }
    }

    fn due(&self, upload: PluginUpload, command_failed: bool) -> Option<Task> {
        let PluginUpload { request, when, soft_fail, skip } = upload;
        if when.applies(command_failed) {
            return Some(Task { work: Work::Upload(request), soft_fail, skip });
        }
        let how = if command_failed { "failed" } else { "succeeded" };
        self.report.detail(format_args!("{}: not uploaded, the command {how}", request.name));
        None
    }

    fn clean_up(&self) {
        if let Err(error) = transport::remove_job_scratch(self.env) {
            self.report.softened(&error);
        }
        remove_old_exports(self.env);
    }
}

fn download_task(download: PluginDownload) -> Task {
    Task { work: Work::Download(download.request), soft_fail: download.soft_fail, skip: download.skip }
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
