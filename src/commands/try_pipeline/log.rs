//! What is said while steps run, on standard error, and the summary at the end, on standard output.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::pipeline::{CommandStep, Mistake};
use crate::error::Error;
use crate::text::{Shown, Took};

/// Where to say things.
#[derive(Debug)]
pub(super) struct Log {
    /// Whether standard output is for the JSON summary alone.
    pub(super) json: bool,
    /// Whether to say more.
    pub(super) verbose: bool,
    /// Whether to say only what went wrong.
    pub(super) quiet: bool,
}

/// How a step came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Status 0.
    Ok,
    /// Another status, and the part of the job that gave it.
    Failed(i32, String),
    /// The same, forgiven by `soft_fail`.
    SoftFailed(i32, String),
    /// Left out by the pipeline, and why.
    Skipped(String),
    /// Not reached, and why.
    NotRun(String),
    /// Stopped by a signal.
    Interrupted,
}

/// A line of the summary.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// The step.
    pub(super) step: &'a CommandStep,
    /// How it came out.
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) took: Duration,
}

impl Outcome {
    /// One word for programs.
    fn word(&self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed(..) => "failed",
            Outcome::SoftFailed(..) => "soft-failed",
            Outcome::Skipped(_) => "skipped",
            Outcome::NotRun(_) => "not-run",
            Outcome::Interrupted => "interrupted",
        }
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        match self {
            Outcome::Ok => "ok".into(),
            Outcome::Failed(status, what) => format!("failed {status} ({what})"),
            Outcome::SoftFailed(status, what) => format!("soft-failed {status} ({what})"),
            Outcome::Skipped(why) => format!("skipped ({})", Shown(why.as_bytes())),
            Outcome::NotRun(why) => format!("not run ({why})"),
            Outcome::Interrupted => "interrupted".into(),
        }
    }

    fn exit(&self) -> Option<i32> {
        match self {
            Outcome::Ok => Some(0),
            Outcome::Failed(status, _) | Outcome::SoftFailed(status, _) => Some(*status),
            _ => None,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Outcome::Failed(_, text)
            | Outcome::SoftFailed(_, text)
            | Outcome::Skipped(text)
            | Outcome::NotRun(text) => Some(text),
            Outcome::Ok | Outcome::Interrupted => None,
        }
    }
}

impl Log {
    /// Says a line, unless quiet was asked for.
    pub(super) fn line(&self, text: &str) {
        if !self.quiet {
            self.always(text);
        }
    }

    /// Says a line whatever was asked for. A closed standard error is no reason to stop.
    pub(super) fn always(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says a line that only the curious want.
    pub(super) fn detail(&self, text: &str) {
        if self.verbose {
            self.line(text);
        }
    }

    /// Prints the summary: a table, or one JSON object.
    pub(super) fn summary(&self, build: &str, rows: &[Row<'_>], status: i32, kept: Option<&str>) {
        let text = if self.json { as_json(build, rows, status, kept).to_string() } else { as_table(rows) };
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}

impl Log {
    /// Prints what ended the command before there was a summary, where a program waits for one.
    pub(super) fn no_summary(&self, error: &Error, mistakes: &[Mistake]) {
        if self.json {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{}", failure_as_json(error, mistakes));
            let _ = out.flush();
        }
    }
}

/// The summary's object, with no steps but with what is wrong.
fn failure_as_json(error: &Error, mistakes: &[Mistake]) -> Value {
    let mistakes: Vec<Value> = mistakes
        .iter()
        .map(|mistake| {
            json!({
                "line": mistake.place.line,
                "column": mistake.place.column,
                "message": mistake.message,
                "hint": mistake.hint,
            })
        })
        .collect();
    json!({
        "build": null,
        "exit_status": error.class().exit_status(),
        "kept": null,
        "steps": [],
        "error": crate::report::describe(error),
        "mistakes": mistakes,
    })
}

fn title(step: &CommandStep) -> String {
    const WIDEST: usize = 48;
    let title = Shown(step.title().as_bytes()).to_string();
    let title = match &step.group {
        Some(group) => format!("{} / {title}", Shown(group.as_bytes())),
        None => title,
    };
    match title.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}…", &title[..end]),
        None => title,
    }
}

fn as_table(rows: &[Row<'_>]) -> String {
    let titles: Vec<String> = rows.iter().map(|row| title(row.step)).collect();
    let width = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0).max("step".len());
    let mut lines = vec![String::new(), format!("{:<width$}  {:>9}  status", "step", "time")];
    for (row, title) in rows.iter().zip(&titles) {
        let took = match row.outcome {
            Outcome::Skipped(_) | Outcome::NotRun(_) => "-".to_string(),
            _ => Took(row.took).to_string(),
        };
        lines.push(format!("{title:<width$}  {took:>9}  {}", row.outcome.words()));
    }
    lines.push(String::new());
    lines.push(closing(rows));
    lines.join("\n")
}

fn closing(rows: &[Row<'_>]) -> String {
    let count = |wanted: fn(&Outcome) -> bool| rows.iter().filter(|row| wanted(&row.outcome)).count();
    let total = rows.len();
    let ok = count(|outcome| matches!(outcome, Outcome::Ok));
    let parts: Vec<String> = [
        (count(|outcome| matches!(outcome, Outcome::Failed(..))), "failed"),
        (count(|outcome| matches!(outcome, Outcome::Interrupted)), "interrupted"),
        (count(|outcome| matches!(outcome, Outcome::SoftFailed(..))), "soft-failed"),
        (count(|outcome| matches!(outcome, Outcome::Skipped(_))), "skipped"),
        (count(|outcome| matches!(outcome, Outcome::NotRun(_))), "not run"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    let steps = if total == 1 { "step" } else { "steps" };
    match parts.as_slice() {
        [] if total == 1 => "The step passed.".into(),
        [] => format!("All {total} steps passed."),
        _ => format!("{ok} of {total} {steps} passed, {}.", parts.join(", ")),
    }
}

fn as_json(build: &str, rows: &[Row<'_>], status: i32, kept: Option<&str>) -> Value {
    let steps: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "label": row.step.label,
                "key": row.step.key,
                "group": row.step.group,
                "command": row.step.command,
                "line": row.step.place.line,
                "status": row.outcome.word(),
                "exit_status": row.outcome.exit(),
                "reason": row.outcome.reason(),
                "seconds": (row.took.as_secs_f64() * 1000.0).round() / 1000.0,
                "notes": row.step.notes,
            })
        })
        .collect();
    json!({ "build": build, "exit_status": status, "kept": kept, "steps": steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up_and_ends_in_a_sentence() {
        let named = |label: &str, group: Option<&str>| CommandStep {
            label: Some(label.into()),
            group: group.map(str::to_string),
            ..CommandStep::default()
        };
        let steps = [named("pack", None), named("a\nb", Some("tests")), named("last", None)];
        let took = Duration::from_millis(1500);
        let rows = [
            Row { step: &steps[0], outcome: Outcome::Ok, took },
            Row { step: &steps[1], outcome: Outcome::Failed(7, "pre-command hook".into()), took },
            Row { step: &steps[2], outcome: Outcome::NotRun("a step before it failed".into()), took: Duration::ZERO },
        ];
        assert_eq!(
            as_table(&rows),
            "\nstep                 time  status\n\
             pack                1.5 s  ok\n\
             tests / a\\x0ab      1.5 s  failed 7 (pre-command hook)\n\
             last                    -  not run (a step before it failed)\n\n\
             1 of 3 steps passed, 1 failed, 1 not run."
        );
        assert_eq!(closing(&rows[..1]), "The step passed.");
    }
}
