//! `monofo hook`: what the plugin does before and after a step's command.
//!
//! | phase | does |
//! |---|---|
//! | `pre-command` | downloads the `download` block |
//! | `post-command` | uploads the part of the `upload` block that `when` asks for after such a command |
//! | `pre-exit` | removes what a killed process of this job left behind; never fails |
//!
//! All artifacts of a block move at once, at most [`AT_ONCE`] at a time; one that fails stops no other. The exit status
//! is that of the first failure in listed order, with three exceptions:
//!
//! - After a command that failed, every failure of ours is a warning and the status 0: the command's own status is what
//!   the job ends with, and rules for automatic retries look at it.
//! - `soft-fail` turns a failure into a warning, unless the configuration is wrong or a signal asked to stop.
//! - A signal that stopped the work decides the status, 130 or 143.
//!
//! A hook exports nothing: it is a process of its own, and its caller ignores all but its status.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::commands::grace::Grace;
use crate::config::env::Env;
use crate::config::listing;
use crate::config::plugin::{PluginConfig, PluginDownload, PluginUpload};
use crate::engine::{self, Context, DownloadRequest, Outcome, Progress, UploadRequest};
use crate::error::{Class, Error, Result};
use crate::report::{Report, Severity, Verb};
use crate::transport::Transport;

/// How many artifacts of a block move at the same time.
pub const AT_ONCE: usize = 8;

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

/// Moves artifacts. The engine over a transport does; tests bring their own.
pub trait Mover: Sync {
    /// Where artifacts go and come from, for messages.
    fn place(&self) -> String;
    /// Uploads one artifact.
    fn upload(&self, request: &UploadRequest, context: &Context) -> Result<Outcome>;
    /// Downloads one artifact.
    fn download(&self, request: &DownloadRequest, context: &Context) -> Result<Outcome>;
}

impl Mover for Box<dyn Transport> {
    fn place(&self) -> String {
        self.as_ref().place()
    }
    fn upload(&self, request: &UploadRequest, context: &Context) -> Result<Outcome> {
        engine::upload(request, self.as_ref(), context)
    }
    fn download(&self, request: &DownloadRequest, context: &Context) -> Result<Outcome> {
        engine::download(request, self.as_ref(), context)
    }
}

/// Runs one phase of the plugin's hooks for real: the engine, over the transport that the environment names.
///
/// Everything is reported, errors included; the result is the exit status of the process.
pub fn run(phase: Phase, env: &Env, cancel: &Cancel, report: &Report) -> u8 {
    let open = || Ok(Box::new(open_transport(env)?) as Box<dyn Mover>);
    Hook { env, cancel, report, open: &open }.run(phase)
}

fn open_transport(_env: &Env) -> Result<Box<dyn Transport>> {
    Err(Error::new(Class::Unavailable, "no transport yet"))
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

/// One artifact to move.
enum Task<'a> {
    Upload(&'a PluginUpload),
    Download(&'a PluginDownload),
}

impl Task<'_> {
    fn name(&self) -> &ArtifactName {
        match self {
            Task::Upload(upload) => &upload.request.name,
            Task::Download(download) => &download.request.name,
        }
    }

    fn soft_fail(&self) -> bool {
        match self {
            Task::Upload(upload) => upload.soft_fail,
            Task::Download(download) => download.soft_fail,
        }
    }

    fn skip(&self) -> bool {
        match self {
            Task::Upload(upload) => upload.skip,
            Task::Download(download) => download.skip,
        }
    }

    fn run(&self, mover: &dyn Mover, context: &Context) -> Result<Outcome> {
        context.cancel.check()?;
        match self {
            Task::Upload(upload) => mover.upload(&upload.request, context),
            Task::Download(download) => mover.download(&download.request, context),
        }
    }
}

impl Hook<'_> {
    /// Runs one phase, reports everything, and returns the exit status of the process.
    pub fn run(&self, phase: Phase) -> u8 {
        if phase == Phase::PreExit {
            self.clean_up();
            return 0;
        }
        let command_failed = phase == Phase::PostCommand && self.command_failed();
        let status = match self.block(phase, command_failed) {
            Ok(status) => status,
            Err(error) => self.tell(&error, false, command_failed),
        };
        self.report.finish(status);
        status
    }

    /// Absent means that the agent has no opinion; post-command hooks are not run when there was no command.
    fn command_failed(&self) -> bool {
        self.env.text("BUILDKITE_COMMAND_EXIT_STATUS").is_some_and(|status| status != "0")
    }

    fn block(&self, phase: Phase, command_failed: bool) -> Result<u8> {
        let listing = listing::find(self.env)?;
        match (&listing.warning, phase) {
            (Some(warning), Phase::PreCommand) => self.report.warning(warning),
            (Some(warning), _) => self.report.detail(warning),
            (None, _) => {}
        }
        let config = PluginConfig::read(&listing.configuration, self.env)?;
        let (verb, tasks) = match phase {
            Phase::PreCommand => (Verb::Download, config.downloads.iter().map(Task::Download).collect::<Vec<_>>()),
            _ => (Verb::Upload, config.uploads.iter().filter_map(|upload| self.due(upload, command_failed)).collect()),
        };
        let (skipped, tasks): (Vec<_>, Vec<_>) = tasks.into_iter().partition(Task::skip);
        if !tasks.is_empty() {
            self.report.begin_block(verb, tasks.len());
        }
        for task in skipped {
            let name = task.name();
            self.report.skipped(name.as_str(), &format!("MONOFO_ARTIFACT_{}_SKIP is set", name.variable()));
        }
        if tasks.is_empty() {
            return Ok(0);
        }
        let all_soft = tasks.iter().all(Task::soft_fail);
        match (self.open)() {
            Ok(mover) => Ok(self.move_all(&tasks, mover.as_ref(), command_failed)),
            Err(error) => Ok(self.tell(&error, all_soft, command_failed)),
        }
    }

    fn due<'u>(&self, upload: &'u PluginUpload, command_failed: bool) -> Option<Task<'u>> {
        if upload.when.applies(command_failed) {
            return Some(Task::Upload(upload));
        }
        let how = if command_failed { "failed" } else { "succeeded" };
        self.report.detail(format_args!("{}: not uploaded, the command {how}", upload.request.name));
        None
    }

    /// Reports an error that concerns the whole block, and returns the exit status it leads to.
    fn tell(&self, error: &Error, soft_fail: bool, command_failed: bool) -> u8 {
        match severity(error, soft_fail, command_failed) {
            Severity::Error => {
                self.report.error(error);
                error.class().exit_status()
            }
            Severity::Warning => {
                self.report.softened(error);
                0
            }
        }
    }

    fn move_all(&self, tasks: &[Task<'_>], mover: &dyn Mover, command_failed: bool) -> u8 {
        self.report.detail(format_args!("artifacts are kept in {}", mover.place()));
        let progress: Vec<Progress> = tasks.iter().map(|_| Progress::default()).collect();
        let statuses = Mutex::new(vec![0_u8; tasks.len()]);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::SeqCst);
                let Some(task) = tasks.get(i) else { break };
                let context = Context { cancel: self.cancel.clone(), progress: progress[i].clone() };
                let status = self.move_one(task, mover, &context, command_failed);
                if let Ok(mut statuses) = statuses.lock() {
                    statuses[i] = status;
                }
            }
        };
        let _watch = self.report.watch(progress.clone());
        let _grace = self.env.switch("BUILDKITE_JOB_CANCELLED").then(|| Grace::of(self.env, self.cancel));
        thread::scope(|scope| {
            for _ in 0..tasks.len().min(AT_ONCE) {
                scope.spawn(&work);
            }
        });
        let statuses = statuses.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let interrupted = [130, 143].into_iter().find(|status| statuses.contains(status));
        interrupted.or_else(|| statuses.into_iter().find(|status| *status != 0)).unwrap_or(0)
    }

    /// Moves and reports one artifact; returns the exit status it asks for.
    fn move_one(&self, task: &Task<'_>, mover: &dyn Mover, context: &Context, command_failed: bool) -> u8 {
        // A bug that shows with one artifact must not hide what became of the others.
        let result = catch_unwind(AssertUnwindSafe(|| task.run(mover, context)))
            .unwrap_or_else(|_| Err(Error::failed("internal error, please report it with the lines above")));
        match result {
            Ok(outcome) => {
                self.report.outcome(task.name().as_str(), &outcome);
                0
            }
            Err(error) => {
                let severity = severity(&error, task.soft_fail(), command_failed);
                self.report.failure(task.name().as_str(), &error, severity);
                if severity == Severity::Error { error.class().exit_status() } else { 0 }
            }
        }
    }

    fn clean_up(&self) {
        let Some(folder) = self.env.job_scratch() else { return };
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => self.report.detail(format_args!("removed {}", folder.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.report.warning(format_args!("cannot remove {}: {error}", folder.display())),
        }
    }
}

/// How much a failure counts; see the module's rules.
fn severity(error: &Error, soft_fail: bool, command_failed: bool) -> Severity {
    match error.class() {
        _ if command_failed => Severity::Warning,
        Class::Usage | Class::Interrupted { .. } => Severity::Error,
        _ if soft_fail => Severity::Warning,
        _ => Severity::Error,
    }
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
