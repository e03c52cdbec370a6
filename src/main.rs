//! The `monofo` binary: parse, catch signals, run, exit.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use monofo::cancel::Cancel;
use monofo::cli::Cli;
use monofo::commands;
use monofo::env::Env;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let env = Env::of_process();
    let cancel = Cancel::new();
    stop_on_signal(&cancel, cli.command.grace());
    ExitCode::from(commands::run(cli, &env, &cancel))
}

/// The first signal asks everybody to stop; a second one, or the end of the grace period, ends the process where it is. What is not
/// published by then never shows, and leftovers are swept by the next run.
#[allow(clippy::exit, reason = "the one place that ends the process without unwinding")]
fn stop_on_signal(cancel: &Cancel, grace: Duration) {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    let cancel = cancel.clone();
    thread::spawn(move || {
        let mut signals = signals.forever();
        let Some(first) = signals.next() else { return };
        // A closed terminal or connection is a request to end like any other.
        let first = if first == SIGHUP { SIGTERM } else { first };
        cancel.stop(first);
        thread::spawn(move || {
            thread::sleep(grace);
            std::process::exit(128 + first);
        });
        if let Some(second) = signals.next() {
            std::process::exit(128 + second);
        }
    });
}
