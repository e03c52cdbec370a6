//! The `monofo` binary.

use std::process::ExitCode;

use monofo::cancel::Cancel;
use monofo::commands::hook::{self, Phase};
use monofo::commands::try_pipeline::{self, TryRequest};
use monofo::config::env::Env;
use monofo::report::{Mode, Report, Verbosity};

#[allow(clippy::disallowed_methods, clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let (env, cancel) = (Env::of_process(), Cancel::new());
    let stop = cancel.clone();
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([2, 15]) {
        std::thread::spawn(move || signals.forever().for_each(|signal| stop.stop(signal)));
    }
    let phase = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "hook", "pre-command"] => Phase::PreCommand,
        [_, "hook", "post-command"] => Phase::PostCommand,
        [_, "hook", "pre-exit"] => Phase::PreExit,
        [_, "try", rest @ ..] => return try_pipeline(rest, &env, &cancel),
        _ => return ExitCode::from(2),
    };
    let report = Report::new(Mode::detect(&env, Verbosity::Normal, false));
    ExitCode::from(hook::run(phase, &env, &cancel, &report))
}

#[allow(clippy::print_stderr)]
fn try_pipeline(arguments: &[&str], env: &Env, cancel: &Cancel) -> ExitCode {
    let has = |flag: &str| arguments.contains(&flag);
    let Some(pipeline) = arguments.iter().find(|argument| !argument.starts_with('-')) else { return ExitCode::from(2) };
    let request = TryRequest {
        pipeline: pipeline.into(),
        directory: ".".into(),
        keep: has("--keep"),
        json: has("--json"),
        verbose: has("-v"),
    };
    match try_pipeline::run(&request, env, cancel) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {}", error.chain());
            if let Some(hint) = error.next_step() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.class().exit_status())
        }
    }
}
