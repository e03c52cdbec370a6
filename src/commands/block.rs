//! Moving several artifacts at once, and telling what became of each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::artifact::ArtifactName;
use crate::cancel::Cancel;
use crate::config::chunks::chunks;
use crate::engine::{self, Chunks, Context, DownloadRequest, Outcome, Progress, UploadRequest};
use crate::env::Env;
use crate::error::{Class, Error, Result};
use crate::report::{Report, Severity, Verb};
use crate::transport::{self, Transport};

/// How many artifacts of a block move at the same time.
pub(super) const AT_ONCE: usize = 8;

/// Moves artifacts. The engine over a transport does; tests bring their own.
pub trait Mover: Sync {
    /// Where artifacts go and come from, for messages.
    fn place(&self) -> String;
    /// Uploads one artifact.
    fn upload(&self, request: &UploadRequest, context: &Context) -> Result<Outcome>;
    /// Downloads one artifact.
    fn download(&self, request: &DownloadRequest, context: &Context) -> Result<Outcome>;
}

/// The engine, over a transport and, for artifacts of chunks, a chunk store.
struct Engine {
    transport: Arc<dyn Transport>,
    chunks: Chunks,
}

impl Mover for Engine {
    fn place(&self) -> String {
        self.transport.place()
    }
    fn upload(&self, request: &UploadRequest, context: &Context) -> Result<Outcome> {
        engine::upload(request, &*self.transport, &self.chunks, context)
    }
    fn download(&self, request: &DownloadRequest, context: &Context) -> Result<Outcome> {
        engine::download(request, &*self.transport, &self.chunks, context)
    }
}

/// The engine, over the transport and the chunk store that the environment names.
pub(super) fn open_mover(env: &Env, cancel: &Cancel) -> Result<Box<dyn Mover>> {
    let transport = transport::open(&transport::location(env)?, env, cancel)?;
    Ok(Box::new(Engine { transport, chunks: chunks(env, cancel) }))
}

/// One artifact to move.
pub(super) struct Task {
    pub(super) work: Work,
    /// Whether trouble is only a warning.
    pub(super) soft_fail: bool,
    /// Whether it is left out, as `MONOFO_ARTIFACT_<NAME>_SKIP` says.
    pub(super) skip: bool,
}

/// What to do with it.
pub(super) enum Work {
    Upload(UploadRequest),
    Download(DownloadRequest),
}

impl Task {
    pub(super) fn name(&self) -> &ArtifactName {
        match &self.work {
            Work::Upload(request) => &request.name,
            Work::Download(request) => &request.name,
        }
    }

    fn run(&self, mover: &dyn Mover, context: &Context) -> Result<Outcome> {
        context.cancel.check()?;
        match &self.work {
            Work::Upload(request) => mover.upload(request, context),
            Work::Download(request) => mover.download(request, context),
        }
    }
}

/// Moves a block of artifacts.
pub(super) struct Block<'a> {
    pub(super) cancel: &'a Cancel,
    pub(super) report: &'a Report,
    /// Whether every failure is a warning, because the command failed before.
    pub(super) forgiving: bool,
}

impl Block<'_> {
    /// Says which artifacts are left out, then moves the others over what `open` opens. Returns the exit status.
    pub(super) fn run(&self, verb: Verb, tasks: Vec<Task>, open: impl FnOnce() -> Result<Box<dyn Mover>>) -> u8 {
        let (skipped, tasks): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.skip);
        if !tasks.is_empty() {
            self.report.begin_block(verb, tasks.len());
        }
        for task in skipped {
            let name = task.name();
            self.report.skipped(name.as_str(), &format!("MONOFO_ARTIFACT_{}_SKIP is set", name.variable()));
        }
        if tasks.is_empty() {
            return 0;
        }
        match open() {
            Ok(mover) => self.move_all(&tasks, mover.as_ref()),
            Err(error) => self.tell(&error, tasks.iter().all(|task| task.soft_fail)),
        }
    }

    /// Reports an error that concerns the whole block, and returns the exit status it leads to.
    pub(super) fn tell(&self, error: &Error, soft_fail: bool) -> u8 {
        match self.severity(error, soft_fail) {
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

    /// Moves all artifacts, at most [`AT_ONCE`] at a time; one that fails stops no other. Returns the exit status: that of
    /// the first failure in the order given, or of a signal.
    fn move_all(&self, tasks: &[Task], mover: &dyn Mover) -> u8 {
        self.report.detail(format_args!("artifacts are kept in {}", mover.place()));
        let progress: Vec<Progress> = tasks.iter().map(|_| Progress::default()).collect();
        let statuses = Mutex::new(vec![0_u8; tasks.len()]);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::SeqCst);
                let Some(task) = tasks.get(i) else { break };
                let at_once = tasks.len().min(AT_ONCE);
                let context = Context { cancel: self.cancel.clone(), progress: progress[i].clone(), at_once };
                let status = self.move_one(task, mover, &context);
                if let Ok(mut statuses) = statuses.lock() {
                    statuses[i] = status;
                }
            }
        };
        let _watch = self.report.watch(progress.clone());
        thread::scope(|scope| {
            for _ in 0..tasks.len().min(AT_ONCE) {
                scope.spawn(work);
            }
        });
        let statuses = statuses.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let interrupted = statuses.iter().copied().find(|status| *status > 128);
        interrupted.or_else(|| statuses.into_iter().find(|status| *status != 0)).unwrap_or(0)
    }

    /// Moves and reports one artifact; returns the exit status it asks for.
    fn move_one(&self, task: &Task, mover: &dyn Mover, context: &Context) -> u8 {
        // A bug that shows with one artifact must not hide what became of the others.
        let result = catch_unwind(AssertUnwindSafe(|| task.run(mover, context)))
            .unwrap_or_else(|_| Err(Error::failed("internal error, please report it with the lines above")));
        match result {
            Ok(outcome) => {
                self.report.outcome(task.name().as_str(), &outcome);
                0
            }
            Err(error) => {
                let severity = self.severity(&error, task.soft_fail);
                self.report.failure(task.name().as_str(), &error, severity);
                if severity == Severity::Error { error.class().exit_status() } else { 0 }
            }
        }
    }

    /// How much a failure counts; wrong usage and signals are never softened, unless the command failed first.
    fn severity(&self, error: &Error, soft_fail: bool) -> Severity {
        match error.class() {
            _ if self.forgiving => Severity::Warning,
            Class::Usage | Class::Interrupted { .. } => Severity::Error,
            _ if soft_fail => Severity::Warning,
            _ => Severity::Error,
        }
    }
}
