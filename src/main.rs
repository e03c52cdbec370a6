//! The `monofo` binary.

use std::process::ExitCode;

use monofo::cancel::Cancel;
use monofo::commands::hook::{self, Phase};
use monofo::config::env::Env;
use monofo::report::{Mode, Report, Verbosity};

#[allow(clippy::disallowed_methods, clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let phase = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "hook", "pre-command"] => Phase::PreCommand,
        [_, "hook", "post-command"] => Phase::PostCommand,
        [_, "hook", "pre-exit"] => Phase::PreExit,
        _ => return ExitCode::from(2),
    };
    let (env, cancel) = (Env::of_process(), Cancel::new());
    let stop = cancel.clone();
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([2, 15]) {
        std::thread::spawn(move || signals.forever().for_each(|signal| stop.stop(signal)));
    }
    let report = Report::new(Mode::detect(&env, Verbosity::Normal, false));
    ExitCode::from(hook::run(phase, &env, &cancel, &report))
}
