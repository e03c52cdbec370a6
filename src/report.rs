//! What people see: one line per artifact, log groups, warnings, errors, a progress bar, a JSON summary.
//!
//! Commands and hooks share it: [`Report::begin_block`], then [`Report::outcome`], [`Report::skipped`] or
//! [`Report::failure`] for each artifact in any order and from any thread, then [`Report::finish`]. Everything goes to
//! stderr but JSON, which is all that stdout gets.
//!
//! | where | groups | progress bar |
//! |---|---|---|
//! | a Buildkite job | `~~~` for a block, `^^^ +++` once there is trouble in it | no |
//! | a terminal | no | for work over a second |
//! | anywhere else | no | no |
//!
//! Control characters are escaped, so a file name can neither open a log group nor drive a terminal.

mod bar;
mod line;
mod summary;

use std::fmt::Display;
use std::io::{IsTerminal, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

pub use self::bar::Watch;
use self::line::clean;
use self::summary::Summary;
pub use self::summary::describe;
use crate::engine::{Outcome, Progress};
use crate::env::Env;
use crate::error::Error;
use crate::text::Count;

/// Where the output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The log of a Buildkite job.
    Job,
    /// A terminal with a person before it.
    Terminal,
    /// A file or a pipe.
    Plain,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Warnings and errors only.
    Quiet,
    /// One line per artifact as well.
    #[default]
    Normal,
    /// Why things are done the way they are, too.
    Verbose,
}

/// Everything that decides what output looks like.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Where it is read.
    pub style: Style,
    /// How much is said.
    pub verbosity: Verbosity,
    /// Whether a JSON document on stdout is wanted.
    pub json: bool,
}

impl Mode {
    /// The mode for this process. A job's log looks like a terminal to programs, so the environment is asked first.
    /// `MONOFO_VERBOSE` makes a normal verbosity a verbose one.
    pub fn detect(env: &Env, verbosity: Verbosity, json: bool) -> Self {
        let style = match (env.in_job(), std::io::stderr().is_terminal()) {
            (true, _) => Style::Job,
            (false, true) => Style::Terminal,
            (false, false) => Style::Plain,
        };
        let wordy = verbosity == Verbosity::Normal && env.switch("MONOFO_VERBOSE");
        Mode { style, verbosity: if wordy { Verbosity::Verbose } else { verbosity }, json }
    }
}

/// What is being done to the artifacts of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Files to an artifact, sent.
    Upload,
    /// An artifact fetched and unpacked.
    Download,
    /// A tar file to an archive, here.
    Deflate,
    /// An archive unpacked here.
    Inflate,
    /// An index looked at.
    IndexInfo,
    /// The chunks of an index checked.
    IndexVerify,
    /// A chunk store cleaned up.
    GcChunks,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Upload => "upload",
            Verb::Download => "download",
            Verb::Deflate => "deflate",
            Verb::Inflate => "inflate",
            Verb::IndexInfo => "index info",
            Verb::IndexVerify => "index verify",
            Verb::GcChunks => "gc chunks",
        }
    }

    /// Whether the artifact is what comes out, rather than what goes in.
    fn makes_artifact(self) -> bool {
        matches!(self, Verb::Upload | Verb::Deflate)
    }
}

/// How much a failure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It decides the exit status.
    Error,
    /// It was softened and decides nothing.
    Warning,
}

/// The one printer. Clones write to the same streams.
#[derive(Clone)]
pub struct Report {
    mode: Mode,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    bar: Mutex<Option<indicatif::ProgressBar>>,
}

struct State {
    stderr: Box<dyn Write + Send>,
    stdout: Box<dyn Write + Send>,
    verb: Option<Verb>,
    opened: bool,
    summary: Summary,
    /// Whether the summary was printed, or is now.
    ended: bool,
}

impl State {
    fn print_document(&mut self, document: &Value) -> std::io::Result<()> {
        self.stdout.write_all(format!("{document:#}\n").as_bytes())?;
        self.stdout.flush()
    }
}

impl Report {
    /// Writes to this process's stdout and stderr.
    pub fn new(mode: Mode) -> Self {
        Self::with_streams(mode, Box::new(std::io::stdout()), Box::new(std::io::stderr()))
    }

    /// Writes elsewhere; for tests.
    pub fn with_streams(mode: Mode, stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        let (verb, summary) = (None, Summary::default());
        let state = State { stderr, stdout, verb, opened: false, summary, ended: false };
        Report { mode, shared: Arc::new(Shared { state: Mutex::new(state), bar: Mutex::default() }) }
    }

    /// The mode it was made with.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Says what the command is about, for the summary; a block says it as well.
    pub fn begin(&self, verb: Verb) {
        self.state().verb = Some(verb);
    }

    /// Gives the summary a schema of its own: `{ "schema", "ok", "error", "warnings", … }`, for commands that move no
    /// artifacts. `error` then has the exit status as its `code`.
    pub fn schema(&self, schema: &'static str) {
        self.state().summary.schema(schema);
    }

    /// What was asked for, on stdout, unless a JSON document is wanted there.
    pub fn answer(&self, text: impl Display) -> crate::error::Result<()> {
        if self.mode.json {
            return Ok(());
        }
        let mut state = self.state();
        // In one piece: standard output writes every line by itself otherwise.
        let text = format!("{text}\n");
        match state.stdout.write_all(text.as_bytes()).and_then(|()| state.stdout.flush()) {
            // Whoever reads only the first lines has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| Error::failed("cannot print the answer").caused_by(error)),
        }
    }

    /// Begins a block of `count` artifacts: the heading of a log group in a job, nothing elsewhere.
    pub fn begin_block(&self, verb: Verb, count: usize) {
        let mut state = self.state();
        state.verb = Some(verb);
        state.opened = false;
        drop(state);
        if self.mode.style == Style::Job && self.mode.verbosity > Verbosity::Quiet {
            let doing = format!("{}ing", verb.name().trim_end_matches('e'));
            self.print(&format!("~~~ monofo: {doing} {}", Count(count as u64, "artifact")));
        }
    }

    /// Begins other work: the heading of a log group in a job, nothing elsewhere.
    pub fn group(&self, doing: impl Display) {
        self.state().opened = false;
        if self.mode.style == Style::Job && self.mode.verbosity > Verbosity::Quiet {
            self.print(&format!("~~~ monofo: {}", clean(&doing.to_string())));
        }
    }

    /// An artifact that was moved, or that turned out to be empty (`moved` is false).
    pub fn outcome(&self, name: &str, outcome: &Outcome) {
        let verb = self.state().verb.unwrap_or(Verb::Upload);
        self.state().summary.outcome(name, outcome);
        for warning in &outcome.warnings {
            self.warning_line(&format!("{}: {}", clean(name), clean(warning)), !outcome.moved);
        }
        match (outcome.moved, &outcome.from) {
            // Whoever asked for no warning still sees why nothing came of the artifact.
            (false, _) if outcome.warnings.is_empty() => self.note(format_args!("{name}: nothing to {}", verb.name())),
            (false, _) => {}
            (true, None) => self.note(line::outcome(verb, name, outcome)),
            (true, Some(from)) => {
                self.note(line::outcome(verb, name, outcome));
                self.detail(format_args!("{name}: came from {from}"));
            }
        }
    }

    /// An artifact that was left alone, and why.
    pub fn skipped(&self, name: &str, why: &str) {
        self.state().summary.skipped(name, why);
        self.note(format_args!("{name}: skipped, {why}"));
    }

    /// An artifact that could not be moved.
    pub fn failure(&self, name: &str, error: &Error, severity: Severity) {
        self.state().summary.failure(name, error, severity);
        let text = format!("{}: {}", clean(name), clean(&error.chain()));
        match severity {
            Severity::Error => self.trouble("error", &text, error.next_step()),
            Severity::Warning => self.trouble("warning", &text, error.next_step()),
        }
    }

    /// Something the user should know.
    pub fn warning(&self, text: impl Display) {
        let text = text.to_string();
        self.state().summary.warning(&text);
        self.warning_line(&clean(&text), true);
    }

    /// Adds to the summary what only this command has to tell.
    pub fn section(&self, key: &'static str, content: Value) {
        self.state().summary.section(key, content);
    }

    /// An error that belongs to no artifact, with all its causes, and what to do next.
    pub fn error(&self, error: &Error) {
        self.state().summary.error(error);
        self.trouble("error", &clean(&error.chain()), error.next_step());
    }

    /// Tells that what was looked for is not there: an answer like any other, with the exit status of its error.
    pub fn absent(&self, error: &Error) {
        self.state().summary.error(error);
        self.note(error.chain());
        if let Some(hint) = error.next_step() {
            self.note(format_args!("hint: {hint}"));
        }
    }

    /// An error that was softened into a warning and belongs to no artifact.
    pub fn softened(&self, error: &Error) {
        self.state().summary.warning(&error.chain());
        self.trouble("warning", &clean(&error.chain()), error.next_step());
    }

    /// A line for everybody but those who asked for quiet.
    pub fn note(&self, text: impl Display) {
        if self.mode.verbosity > Verbosity::Quiet {
            self.print(&clean(&text.to_string()));
        }
    }

    /// A line for those who asked for more.
    pub fn detail(&self, text: impl Display) {
        if self.mode.verbosity == Verbosity::Verbose {
            self.print(&clean(&text.to_string()));
        }
    }

    /// One JSON document on stdout, whether or not `--json` was given. Whoever reads it has to get it.
    pub fn json(&self, document: &Value) -> std::io::Result<()> {
        self.state().print_document(document)
    }

    /// Ends a command that moves artifacts: prints its summary when `--json` was given. Returns the status to exit with,
    /// which is 1 where all went well but the summary.
    ///
    /// ```json
    /// { "command": "upload", "status": 0, "warnings": [], "error": null,
    ///   "artifacts": [ { "name": "a.tar", "result": "done", "files": 2, "content_bytes": 10, "artifact_bytes": 3072,
    ///                    "seconds": 0.01, "from": null, "warnings": [], "error": null } ] }
    /// ```
    /// `result` is `done`, `empty`, `skipped`, `failed` or `warned` (failed, softened); `error` is null or has
    /// `class`, `message` and `hint`. An artifact made of chunks also has `chunks`, with `total`, `moved`, `moved_bytes`,
    /// `from_seed` and `from_cache`. Artifacts stand in the order in which they ended. What only one command tells has a
    /// key of its own behind these, see [`Report::section`].
    pub fn finish(&self, status: u8) -> u8 {
        if !self.mode.json {
            return status;
        }
        let printed = {
            // Held until it is printed: who ends the process early waits for that.
            let mut state = self.state();
            if std::mem::replace(&mut state.ended, true) {
                return status;
            }
            let document = state.summary.document(state.verb.map(Verb::name), status);
            state.print_document(&document)
        };
        match printed {
            Ok(()) => status,
            // Whoever reads only the beginning has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => status,
            Err(error) => {
                self.error(&Error::failed("cannot print the summary").caused_by(error));
                status.max(1)
            }
        }
    }

    /// Prints the summary, when `--json` was given, of a command that is ended before it ends by itself, from another thread.
    /// Waits for whoever prints now: what a build says while it runs ends with the build, and a summary that is being printed is
    /// printed whole. Nothing when there was one already.
    pub fn end_early(&self, error: &Error, status: u8) {
        let mut state = self.state();
        if !self.mode.json || std::mem::replace(&mut state.ended, true) {
            return;
        }
        state.summary.error(error);
        let document = state.summary.document(state.verb.map(Verb::name), status);
        // A closed stream leaves nobody to tell.
        let _ = state.print_document(&document);
    }

    /// Draws a progress bar for this work while the result lives; only on a terminal and from the second second on.
    pub fn watch(&self, work: Vec<Progress>) -> Watch {
        match (self.mode.style, self.mode.verbosity) {
            (Style::Terminal, Verbosity::Normal | Verbosity::Verbose) => Watch::start(Arc::clone(&self.shared), work),
            _ => Watch::none(),
        }
    }

    /// Draws a line that says how far the work is while the result lives; only on a terminal and from the second second on.
    pub fn watch_line(&self, words: impl Fn() -> String + Send + 'static) -> Watch {
        match (self.mode.style, self.mode.verbosity) {
            (Style::Terminal, Verbosity::Normal | Verbosity::Verbose) => Watch::line(Arc::clone(&self.shared), words),
            _ => Watch::none(),
        }
    }

    /// A line that heads those after it; in a job a log group, open or closed.
    pub fn heading(&self, open: bool, text: impl Display) {
        if open || self.mode.verbosity > Verbosity::Quiet {
            self.print(&self.headed(open, text));
        }
    }

    /// What another program said, under a heading, in one piece and as it is, but that it opens no log group. Those who asked for quiet see it only when it is
    /// to be open.
    pub fn passage(&self, open: bool, heading: impl Display, said: &mut dyn Read) {
        if !open && self.mode.verbosity == Verbosity::Quiet {
            return;
        }
        let (heading, style) = (self.headed(open, heading), self.mode.style);
        self.write(&mut |stderr| {
            writeln!(stderr, "{heading}")?;
            line::passage(said, stderr, style == Style::Job)
        });
    }

    /// The same without a heading, of what is being said now. Nobody else prints anything from its first byte to its end.
    pub fn follow(&self, said: &mut dyn Read) {
        let (mut first, style) = ([0], self.mode.style);
        // Who says nothing has nothing shown; what cannot be read any more is over.
        if said.read(&mut first).is_ok_and(|read| read > 0) {
            self.write(&mut |stderr| line::passage(&mut first.chain(&mut *said), stderr, style == Style::Job));
        }
    }

    fn headed(&self, open: bool, text: impl Display) -> String {
        let text = clean(&text.to_string());
        match (self.mode.style, open) {
            (Style::Job, true) => format!("+++ {text}"),
            (Style::Job, false) => format!("--- {text}"),
            _ => text,
        }
    }

    fn warning_line(&self, text: &str, loud: bool) {
        match loud {
            true => self.trouble("warning", text, None),
            false => self.print(&format!("warning: {text}")),
        }
    }

    /// Opens the log group that trouble happened in, once per block, and tells it.
    fn trouble(&self, kind: &str, text: &str, hint: Option<&str>) {
        let mut lines = Vec::new();
        if self.mode.style == Style::Job && !std::mem::replace(&mut self.state().opened, true) {
            lines.push("^^^ +++".to_owned());
        }
        lines.push(format!("{kind}: {text}"));
        lines.extend(hint.map(|hint| format!("hint: {}", clean(hint))));
        self.print(&lines.join("\n"));
    }

    fn print(&self, text: &str) {
        self.write(&mut |stderr| writeln!(stderr, "{text}"));
    }

    fn write(&self, writing: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>) {
        let mut write = || {
            let mut state = self.state();
            // Whoever closed our stderr does not want to hear about it.
            let _ = writing(&mut state.stderr);
            let _ = state.stderr.flush();
        };
        match &*lock(&self.shared.bar) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

/// A printer stays usable after a panic elsewhere: what it guards is whole after every line.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "report/tests.rs"]
mod tests;
