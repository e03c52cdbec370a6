//! `monofo try PIPELINE.yml`: runs the command steps of a pipeline file here, with the plugin's real hooks around them.
//!
//! Nothing runs before every block of the plugin in the file is found valid. Each step then gets a fresh copy of the
//! working tree and an environment like that of an agent's job; the working tree itself is only read. Artifacts, caches
//! and chunks of the trial lie in a temporary folder of its own, which goes at the end unless it is asked for.
//!
//! Differences from an agent: steps run one after another in the order of the file and stop at the first failure that is
//! not forgiven (a `wait` with `continue_on_failure` goes on), other plugins are not run, the copy has no `.git`, and an
//! interrupted job skips its post-command hooks. What a pipeline asks for beyond that is said where it matters.

mod checkout;
mod child;
mod emergency;
mod environment;
mod hooks;
mod job;
mod log;
mod scratch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use checkout::WorkingTree;
use hooks::Plugin;
use job::Job;
use log::{Log, Outcome, Row};
use scratch::Scratch;

use crate::cancel::Cancel;
use crate::config::pipeline::{self, CommandStep, Mistake, Pipeline, Step};
use crate::env::Env;
use crate::error::{Error, IoContext, Result};
use crate::text::{Count, Shown, Took};

/// What `monofo try` was asked to do.
#[derive(Debug, Clone, Default)]
pub struct TryRequest {
    /// The pipeline file.
    pub pipeline: PathBuf,
    /// A folder in the working tree that is tried; the checkout around it is copied.
    pub directory: PathBuf,
    /// Keep the temporary folder, checkouts included, and say where it is.
    pub keep: bool,
    /// Print the summary as JSON on standard output; everything else then goes to standard error.
    pub json: bool,
    /// Say more about what is prepared.
    pub verbose: bool,
    /// Say only what went wrong, besides what the steps say themselves and the summary.
    pub quiet: bool,
}

/// Runs the pipeline and returns the exit status for the process: 0, or that of the first step whose failure is not
/// forgiven. Blocks until all is done. Progress goes to standard error, the summary to standard output.
///
/// Errors: [`Class::Usage`] when the file is missing or has mistakes, each of which was printed with its line;
/// [`Class::Interrupted`] when `cancel` was set, after the running job was stopped and its pre-exit hooks were run.
///
/// [`Class::Usage`]: crate::error::Class::Usage
/// [`Class::Interrupted`]: crate::error::Class::Interrupted
pub fn run(request: &TryRequest, env: &Env, cancel: &Cancel) -> Result<u8> {
    let log = Log { json: request.json, verbose: request.verbose, quiet: request.quiet };
    let status = trial(request, env, &log, cancel).map_err(|ended| {
        log.no_summary(&ended.error, &ended.mistakes);
        ended.error
    })?;
    cancel.check()?;
    // A status that does not fit (a stopped job's is -1) is a failure all the same.
    Ok(u8::try_from(status).unwrap_or(1))
}

/// For the second signal, just before the process ends without unwinding and when nothing of it runs any more: removes the
/// temporary folder, unless that is to be kept, or says where it is. Does nothing where no trial runs. Not for signal
/// handlers: it takes a lock and allocates.
pub fn emergency() {
    emergency::end();
}

/// What ended the command before there was a summary.
struct Ended {
    error: Error,
    mistakes: Vec<Mistake>,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended { error, mistakes: Vec::new() }
    }
}

/// Runs the pipeline up to its summary and returns the status.
fn trial(request: &TryRequest, env: &Env, log: &Log, cancel: &Cancel) -> std::result::Result<i32, Ended> {
    let text = read_file(&request.pipeline)?;
    let directory = request.directory.canonicalize().or_fail(|| "finding the current folder")?;
    let tree = WorkingTree::around(&directory);
    let program = std::env::current_exe().or_fail(|| "finding this program's own file")?;
    let scratch = Scratch::new(env, request.keep)?;
    let place = scratch.path().to_path_buf();
    let mut variables = environment::of_build(env, &tree, &place, &program)?;
    if request.verbose {
        variables.insert("MONOFO_VERBOSE".into(), "1".into());
    }

    let file = Shown::path(&request.pipeline).to_string();
    let pipeline = pipeline::read(&text, &variables).map_err(|mistakes| tell(log, &file, mistakes))?;
    for warning in &pipeline.warnings {
        log.always(&sentence(&file, "warning", warning));
    }
    let steps = pipeline.commands().flat_map(|step| &step.env);
    let places: BTreeSet<&str> = pipeline
        .env
        .iter()
        .chain(steps)
        .map(|(name, _)| name.as_str())
        .filter(|name| environment::is_place(name))
        .collect();
    for name in places {
        log.line(&format!("note: {name} of the pipeline is not used: a trial keeps everything in folders of its own"));
    }
    let bash = find_bash(env)?;
    let plugin = Plugin::write(&place, &bash)?;
    log.detail(&format!("working tree `{}`, trial in `{}`", Shown::path(&tree.root), Shown::path(&place)));

    let trial = Trial { request, pipeline: &pipeline, tree, variables, place, bash, plugin, log, cancel };
    let rows = trial.steps()?;
    let status = status(&rows);
    let kept = request.keep.then(|| scratch.path().display().to_string());
    log.summary(trial.build(), &rows, status, kept.as_deref());
    if let Some(kept) = kept {
        log.line(&format!("kept `{kept}`"));
    }
    Ok(status)
}

struct Trial<'a> {
    request: &'a TryRequest,
    pipeline: &'a Pipeline,
    tree: WorkingTree,
    variables: BTreeMap<String, String>,
    place: PathBuf,
    bash: PathBuf,
    plugin: Plugin,
    log: &'a Log,
    cancel: &'a Cancel,
}

impl<'a> Trial<'a> {
    fn build(&self) -> &str {
        self.variables.get("BUILDKITE_BUILD_ID").map_or("", String::as_str)
    }

    /// Goes through the steps in order; a row for each command step.
    fn steps(&self) -> Result<Vec<Row<'a>>> {
        let total = self.pipeline.commands().count();
        let mut rows: Vec<Row<'a>> = Vec::with_capacity(total);
        let mut stopped = false;
        for step in &self.pipeline.steps {
            match step {
                Step::Wait { continue_on_failure } => {
                    stopped &= !continue_on_failure;
                    self.log.line("--- wait: nothing to wait for, steps run one after another");
                }
                Step::PassedOver { kind, label } => {
                    let label = label.as_deref().map(|label| format!(" `{}`", Shown(label.as_bytes())));
                    self.log.line(&format!("--- {kind}{}: passed over, try cannot do it", label.unwrap_or_default()));
                }
                Step::Command(step) => {
                    let begun = Instant::now();
                    let outcome = self.step(step, rows.len() + 1, total, stopped)?;
                    stopped |= matches!(outcome, Outcome::Failed(..));
                    let took = if matches!(outcome, Outcome::NotRun(_)) { Duration::ZERO } else { begun.elapsed() };
                    rows.push(Row { step, outcome, took });
                }
            }
        }
        Ok(rows)
    }

    fn step(&self, step: &CommandStep, number: usize, total: usize, stopped: bool) -> Result<Outcome> {
        if self.cancel.signal().is_some() {
            return Ok(Outcome::NotRun("interrupted".into()));
        }
        if stopped {
            return Ok(Outcome::NotRun("a step before it failed".into()));
        }
        self.log.line(&format!("--- [{number}/{total}] {}", Shown(step.title().as_bytes())));
        for note in &step.notes {
            self.log.line(&format!("note: {}", Shown(note.as_bytes())));
        }
        let reason = step.skip.clone().or_else(|| needs_other_plugin(step));
        let begun = Instant::now();
        let outcome = match reason {
            Some(reason) => Outcome::Skipped(reason),
            None => self.job(step, number)?,
        };
        self.log.line(&format!("=== [{number}/{total}] {} in {}", outcome.words(), Took(begun.elapsed())));
        if matches!(outcome, Outcome::Failed(..)) {
            self.log.line("^^^ +++");
        }
        Ok(outcome)
    }

    fn job(&self, step: &CommandStep, number: usize) -> Result<Outcome> {
        let folder = self.place.join(format!("checkout-{number}"));
        let files = match self.tree.copy(&folder, &self.place, self.cancel) {
            Err(_) if self.cancel.signal().is_some() => return Ok(Outcome::Interrupted),
            copied => copied?,
        };
        self.log.detail(&format!("checkout `{}`: {}", Shown::path(&folder), Count(files, "file")));
        let mut variables = self.variables.clone();
        environment::add_job(&mut variables, &self.pipeline.env, step, &folder)?;
        let (plugin, bash) = (&self.plugin, self.bash.as_path());
        let job = Job { step, variables, folder: folder.clone(), plugin, bash, log: self.log, cancel: self.cancel };
        let finished = job.run()?;
        if !self.request.keep {
            // The whole temporary folder goes at the end; this only spares room until then.
            let _ = scratch::remove(&folder);
        }
        let what = finished.failed.as_ref().map(job::Phase::name).unwrap_or_default();
        Ok(match finished.status {
            _ if self.cancel.signal().is_some() => Outcome::Interrupted,
            0 => Outcome::Ok,
            status if step.soft_fail.forgives(status) => Outcome::SoftFailed(status, what),
            status => Outcome::Failed(status, what),
        })
    }
}

/// A step without a command leaves the work to a plugin, which has to be ours to be run.
fn needs_other_plugin(step: &CommandStep) -> Option<String> {
    let other = step.plugins.iter().find(|listing| !listing.ours)?;
    step.command.trim().is_empty().then(|| format!("no command; plugin `{}` is not run here", other.location))
}

fn status(rows: &[Row<'_>]) -> i32 {
    let failed = rows.iter().find_map(|row| match row.outcome {
        Outcome::Failed(status, _) => Some(status),
        _ => None,
    });
    failed.unwrap_or(0)
}

fn read_file(path: &Path) -> Result<String> {
    let shown = Shown::path(path);
    let bytes = fs::read(path).map_err(|error| {
        Error::usage(format_args!("cannot read the pipeline file `{shown}`"))
            .caused_by(error)
            .hint("give the path of a pipeline file, such as `.buildkite/pipeline.yml`")
    })?;
    String::from_utf8(bytes).map_err(|_| Error::usage(format_args!("`{shown}` is not a pipeline file: not UTF-8 text")))
}

fn find_bash(env: &Env) -> Result<PathBuf> {
    let path = env.text("PATH").unwrap_or_default();
    std::iter::once(PathBuf::from("/bin/bash"))
        .chain(path.split(':').filter(|folder| !folder.is_empty()).map(|folder| Path::new(folder).join("bash")))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            Error::failed("bash is needed to run hooks and commands, and is neither at `/bin/bash` nor on PATH")
                .hint("install bash")
        })
}

/// Prints all mistakes and gives the error that ends the command.
fn tell(log: &Log, file: &str, mistakes: Vec<Mistake>) -> Ended {
    for mistake in &mistakes {
        log.always(&sentence(file, "error", mistake));
    }
    let count = Count(mistakes.len() as u64, "mistake");
    Ended { error: Error::usage(format_args!("`{file}` has {count}; nothing was run")), mistakes }
}

fn sentence(file: &str, kind: &str, mistake: &Mistake) -> String {
    let place = match mistake.place.line {
        0 => file.to_string(),
        line => format!("{file}:{line}:{}", mistake.place.column),
    };
    let hint = mistake.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    format!("{place}: {kind}: {}{hint}", mistake.message)
}
