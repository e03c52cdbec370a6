//! The `monofo` binary.

use monofo::cancel::Cancel;
use monofo::commands::try_pipeline::{TryRequest, run};
use monofo::config::env::Env;
use std::process::ExitCode;

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let Some(pipeline) = args.iter().skip(2).find(|arg| !arg.starts_with('-')) else { return ExitCode::from(2) };
    let request = TryRequest {
        pipeline: pipeline.into(),
        directory: ".".into(),
        keep: has("--keep"),
        json: has("--json"),
        verbose: has("-v"),
    };
    let cancel = Cancel::new();
    let flag = cancel.clone();
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([2, 15]) {
        std::thread::spawn(move || signals.forever().for_each(|signal| flag.stop(signal)));
    }
    match run(&request, &Env::of_process(), &cancel) {
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
