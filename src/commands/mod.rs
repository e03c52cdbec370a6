//! One module per verb: build the request, run the engine, report.

mod apply;
mod archive;
mod artifact;
mod block;
mod cache;
mod cache_block;
mod entries_gc;
mod gc;
mod grace;
pub mod hook;
mod index;
mod input;
mod lock;
mod store;
mod table;
mod traces;
pub mod try_pipeline;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use clap::CommandFactory;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cancel::Cancel;
use crate::cli::{Cli, Command, HookPhase};
use crate::env::Env;
use crate::error::{Class, Error, IoContext, Result};
use crate::report::{Mode, Report, Verbosity};

/// Runs what the command line asks for. Everything is reported, errors included; the result is the exit status.
pub fn run(cli: Cli, env: &Env, cancel: &Cancel) -> u8 {
    let verbosity = match (cli.output.quiet, cli.output.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, true) => Verbosity::Verbose,
        (false, false) => Verbosity::Normal,
    };
    let mode = Mode::detect(env, verbosity, cli.output.json);
    show_traces(mode.verbosity);
    let report = Report::new(mode);
    if !matches!(cli.command, Command::Try(_)) {
        // A trial prints documents of its own.
        *current() = Some(report.clone());
    }
    let commands = Commands { env, cancel, report: &report };
    match cli.command {
        Command::Upload(upload) => commands.upload(upload),
        Command::Download(download) => commands.download(download),
        Command::Deflate(deflate) => commands.deflate(&deflate),
        Command::Inflate(inflate) => commands.inflate(&inflate),
        Command::Index(index) => commands.index(&index),
        Command::Cache(cache) => commands.cache(&cache),
        Command::Store(store) => commands.store(&store),
        Command::Gc(gc) => commands.gc(&gc),
        Command::Apply(apply) => commands.apply(&apply),
        Command::Lock(lock) => commands.lock(&lock),
        Command::Hook { phase } => {
            let phase = match phase {
                HookPhase::PreCommand => hook::Phase::PreCommand,
                HookPhase::PostCommand => hook::Phase::PostCommand,
                HookPhase::PreExit => hook::Phase::PreExit,
            };
            hook::run(phase, env, cancel, &report)
        }
        Command::Try(asked) => {
            let request = try_pipeline::TryRequest {
                pipeline: asked.pipeline,
                directory: ".".into(),
                keep: asked.keep,
                json: cli.output.json,
                verbose: cli.output.verbose,
                quiet: cli.output.quiet,
            };
            let ended = try_pipeline::run(&request, env, cancel);
            ended.unwrap_or_else(|error| commands.status(Err(error)))
        }
        Command::Completions { shell } => commands.status(completions(shell)),
    }
}

/// The report of the command that runs, for who has to end it.
fn current() -> MutexGuard<'static, Option<Report>> {
    static CURRENT: Mutex<Option<Report>> = Mutex::new(None);
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the summary of a command that is about to be ended where it is, if one is wanted. Waits no longer than a second for
/// whoever reads it.
pub fn end_early(signal: i32, why: &str, status: i32) {
    let Some(report) = current().take() else { return };
    let error = Error::new(Class::Interrupted { signal }, format_args!("interrupted: {why}"));
    let (done, printed) = crossbeam_channel::bounded::<()>(0);
    thread::spawn(move || {
        report.end_early(&error, u8::try_from(status).unwrap_or(1));
        drop(done);
    });
    let _ = printed.recv_timeout(Duration::from_secs(1));
}

/// Prints the summary of a command line that could not be read.
pub fn usage_as_json(message: &str, of_entries: bool) {
    let mode = Mode { style: crate::report::Style::Plain, verbosity: Verbosity::Quiet, json: true };
    // The parser prints its own words for people.
    let report = Report::with_streams(mode, Box::new(std::io::stdout()), Box::new(std::io::sink()));
    if of_entries {
        report.schema("meta.usage/1");
    }
    report.error(&crate::error::Error::usage(message).hint("run it with --help to see what it takes"));
    report.finish(crate::error::Class::Usage.exit_status());
}

/// Sends what the transports note to stderr: warnings always, details with `-v`. Libraries below ours stay silent.
fn show_traces(verbosity: Verbosity) {
    let level = if verbosity == Verbosity::Verbose { Level::DEBUG } else { Level::WARN };
    let ours = Targets::new().with_target("monofo", level);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).event_format(traces::Lines);
    // Only tests run two commands in one process, and the first one's choice serves them all.
    let _ = tracing_subscriber::registry().with(ours).with(lines).try_init();
}

/// The status to end with when a signal stopped the command before it could clean up: 128 and the signal's number,
/// except after a command that failed, whose own status is to stay.
pub fn status_when_stopped(command: &Command, env: &Env, signal: i32) -> i32 {
    let after_command = matches!(command, Command::Hook { phase: HookPhase::PostCommand });
    if after_command && hook::command_failed(env) { 0 } else { 128 + signal }
}

/// What every command has at hand.
struct Commands<'a> {
    env: &'a Env,
    cancel: &'a Cancel,
    report: &'a Report,
}

impl Commands<'_> {
    /// The exit status of a result, its error reported.
    fn status(&self, result: Result<()>) -> u8 {
        match result {
            Ok(()) => 0,
            Err(error) => {
                self.report.error(&error);
                error.class().exit_status()
            }
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "monofo", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script).or_fail(|| "cannot print the completion script")
}
