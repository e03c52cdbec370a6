//! The `monofo` binary: parse, catch signals, run, exit.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use monofo::cancel::Cancel;
use monofo::cli::Cli;
use monofo::commands;
use monofo::env::Env;
use monofo::error::Class;
use monofo::group;
use monofo::text::Shown;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn main() -> ExitCode {
    if let Some((program, error)) = group::become_alone(std::env::args_os()) {
        return not_started(&program, &error);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => return usage(&wrong),
    };
    allow_open_files();
    let env = Env::of_process();
    let cancel = Cancel::new();
    let grace = cli.command.grace();
    let statuses = [SIGINT, SIGTERM].map(|signal| (signal, commands::status_when_stopped(&cli.command, &env, signal)));
    stop_on_signal(&cancel, grace, statuses);
    ExitCode::from(commands::run(cli, &env, &cancel))
}

/// What a shell says, and its status, when there is no such program.
#[allow(clippy::print_stderr, reason = "this process was to be another program, and has no report")]
fn not_started(program: &std::ffi::OsStr, error: &std::io::Error) -> ExitCode {
    eprintln!("error: cannot start `{}`: {error}", Shown(program.as_encoded_bytes()));
    ExitCode::from(127)
}

/// Prints what is wrong with the command line, or the help that was asked for. Returns the status to exit with. Whoever
/// asked for JSON gets a document all the same.
#[allow(clippy::print_stderr, reason = "before there is a report")]
fn usage(wrong: &clap::Error) -> ExitCode {
    if !wrong.use_stderr() {
        // A closed stream leaves nobody to tell.
        let _ = wrong.print();
        return ExitCode::SUCCESS;
    }
    let text = wrong.render().to_string();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--json") {
        let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let mut words = arguments.iter().filter(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
        let of_entries = match words.next().and_then(|word| word.to_str()) {
            Some("upload" | "download" | "deflate" | "inflate" | "index" | "hook" | "try" | "completions") => false,
            Some("gc") => words.next().is_none_or(|word| word != "chunks"),
            _ => true,
        };
        commands::usage_as_json(lines.join(" ").trim_start_matches("error: "), of_entries);
    }
    // What was typed comes back in the message, and could drive a terminal or pass for a line of the agent's.
    if text.contains(is_odd) || text.lines().any(opens_group) {
        text.trim_end()
            .lines()
            .for_each(|line| eprintln!("{}{}", if opens_group(line) { "  " } else { "" }, shown(line)));
    } else {
        let _ = wrong.print();
    }
    ExitCode::from(Class::Usage.exit_status())
}

fn is_odd(character: char) -> bool {
    !matches!(character, '\\' | '\n') && shown(character.encode_utf8(&mut [0; 4])).chars().ne([character])
}

fn opens_group(line: &str) -> bool {
    ["---", "+++", "~~~", "^^^"].iter().any(|group| line.starts_with(group))
}

/// Text that can do nothing to a terminal; backslashes stay as they are.
fn shown(text: &str) -> String {
    text.split('\\').map(|part| Shown(part.as_bytes()).to_string()).collect::<Vec<_>>().join("\\")
}

/// Takes as many open files as the system grants: unpacking several artifacts at once holds many folders open.
fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What was granted before is enough for one artifact; where it is not, the error says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The first signal asks everybody to stop; a second one, or the end of the grace period, ends the process where it is.
/// What is not published by then never shows.
fn stop_on_signal(cancel: &Cancel, grace: Duration, statuses: [(i32, i32); 2]) {
    let mut wanted = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let Ok(mut signals) = signal_hook::iterator::Signals::new(wanted) else { return };
    let cancel = cancel.clone();
    let end = move |signal: i32, why: &str| {
        let status = statuses.iter().find(|(known, _)| *known == signal).map_or(128 + signal, |(_, status)| *status);
        end_now(signal, status, why);
    };
    thread::spawn(move || {
        // A closed terminal or connection is a request to end like any other.
        let mut signals = signals.forever().map(|signal| if signal == SIGHUP { SIGTERM } else { signal });
        let Some(first) = signals.next() else { return };
        cancel.stop(first);
        thread::spawn(move || {
            thread::sleep(grace);
            end(first, "cleaning up took too long");
        });
        if let Some(second) = signals.next() {
            end(second, "a second signal came before all was cleaned up");
        }
    });
}

#[allow(clippy::exit, clippy::print_stderr, reason = "the one place that ends the process without unwinding")]
fn end_now(signal: i32, status: i32, why: &str) {
    group::end_all();
    commands::try_pipeline::emergency();
    commands::end_early(signal, why, status);
    eprintln!("error: interrupted: {why}; what was under way was not published");
    std::process::exit(status);
}

/// Whether whoever started us, such as `nohup`, wants a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}
