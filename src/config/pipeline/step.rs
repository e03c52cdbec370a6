//! The steps of a pipeline: what a command step runs, and what it asks for that is not honoured here.

use super::plugins::{self, Listing};
use super::{Step, matrix};
use crate::config::yaml::{Content, Key, Mistake, Node, Place};

/// A step that runs a command.
#[derive(Debug, Clone, Default)]
pub struct CommandStep {
    /// Where it is written.
    pub place: Place,
    /// `label` or `name`.
    pub label: Option<String>,
    /// `key`, `id` or `identifier`.
    pub key: Option<String>,
    /// The label of the group it is in.
    pub group: Option<String>,
    /// Its commands, joined by newlines; may be empty.
    pub command: String,
    /// Its plugins, in order.
    pub plugins: Vec<Listing>,
    /// Its own `env`, in order.
    pub env: Vec<(String, String)>,
    /// Why it is to be skipped, if it is.
    pub skip: Option<String>,
    /// Which failures are forgiven.
    pub soft_fail: SoftFail,
    /// Whether it is one of several parallel jobs on a real agent.
    pub parallel: bool,
    /// What it asks for that is not done here, a sentence each.
    pub notes: Vec<String>,
}

impl CommandStep {
    /// What to call it: label, key or the first line of the command.
    pub fn title(&self) -> &str {
        let first_line = self.command.lines().find(|line| !line.trim().is_empty());
        self.label.as_deref().or(self.key.as_deref()).or(first_line).unwrap_or("step without a command").trim()
    }
}

/// Which exit statuses of a step are forgiven.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SoftFail {
    /// None.
    #[default]
    Never,
    /// Every one.
    Always,
    /// These.
    On(Vec<i32>),
}

impl SoftFail {
    /// Whether this status is forgiven.
    pub fn forgives(&self, status: i32) -> bool {
        match self {
            SoftFail::Never => false,
            SoftFail::Always => true,
            SoftFail::On(statuses) => statuses.contains(&status),
        }
    }
}

/// Keys of a command step that are honoured, or that change nothing when steps run one after another on one machine.
const HONOURED: [&str; 20] = [
    "command",
    "commands",
    "script",
    "type",
    "label",
    "name",
    "key",
    "id",
    "identifier",
    "plugins",
    "env",
    "skip",
    "soft_fail",
    "depends_on",
    "priority",
    "concurrency",
    "concurrency_group",
    "concurrency_method",
    "cancel_on_build_failing",
    "notify",
];

/// Keys with a sentence of their own.
const EXPLAINED: [(&str, &str); 5] = [
    ("if", "`if` is not evaluated: the step runs"),
    ("if_changed", "`if_changed` is not evaluated: the step runs"),
    ("branches", "`branches` is not evaluated: the step runs"),
    ("artifact_paths", "`artifact_paths` is not honoured: nothing is uploaded by the agent here"),
    ("matrix", "a matrix step runs once, with the first value of each dimension"),
];

/// Collects steps, warnings and mistakes.
#[derive(Default)]
pub(super) struct Reader {
    steps: Vec<Step>,
    warnings: Vec<Mistake>,
    mistakes: Vec<Mistake>,
    keys: Vec<String>,
    pending_notes: Vec<String>,
}

impl Reader {
    pub(super) fn mistake(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    pub(super) fn finish(mut self) -> (Vec<Step>, Vec<Mistake>, Vec<Mistake>) {
        self.mistakes.sort_by_key(|mistake| mistake.place);
        (self.steps, self.warnings, self.mistakes)
    }

    pub(super) fn steps(&mut self, steps: &[Node], group: Option<&str>) {
        for step in steps {
            match &step.content {
                Content::Text(word) => self.word(step, word),
                Content::Map(_) => self.mapping(step, group),
                _ => self.mistake(Mistake::new(step.place, "a step is a mapping or one of `wait`, `block`, `input`")),
            }
        }
    }

    fn word(&mut self, step: &Node, word: &str) {
        match word {
            "wait" | "waiter" => self.steps.push(Step::Wait { continue_on_failure: false }),
            "block" | "manual" => self.steps.push(Step::PassedOver { kind: "block", label: None }),
            "input" => self.steps.push(Step::PassedOver { kind: "input", label: None }),
            _ => self.mistake(
                Mistake::new(step.place, format_args!("`{word}` is not a step"))
                    .hint("a command is written `- command: …`"),
            ),
        }
    }

    /// The kind of a step is decided by `type`, else by the first of these keys that is there.
    fn mapping(&mut self, step: &Node, group: Option<&str>) {
        let kinds = [
            "command", "commands", "script", "plugins", "wait", "waiter", "block", "input", "manual", "trigger",
            "group",
        ];
        let named = step.field("type").and_then(Node::scalar);
        let kind = named.as_deref().or_else(|| kinds.into_iter().find(|kind| step.field(kind).is_some()));
        let label = |name: &str| step.field("label").or(step.field(name)).and_then(Node::scalar);
        match kind {
            Some("command" | "commands" | "script" | "plugins") => {
                let command = self.command(step, group);
                self.steps.push(Step::Command(Box::new(command)));
            }
            Some("wait" | "waiter") => {
                let continue_on_failure =
                    step.field("continue_on_failure").is_some_and(|value| value.content == Content::Bool(true));
                self.steps.push(Step::Wait { continue_on_failure });
            }
            Some("block" | "manual") => self.steps.push(Step::PassedOver { kind: "block", label: label("block") }),
            Some("input") => self.steps.push(Step::PassedOver { kind: "input", label: label("input") }),
            Some("trigger") => self.steps.push(Step::PassedOver { kind: "trigger", label: label("trigger") }),
            Some("group") => self.group(step),
            _ => self.mistake(
                Mistake::new(step.place, "cannot tell what kind of step this is")
                    .hint("give it `command`, `plugins`, `wait`, `block`, `input`, `trigger` or `group`"),
            ),
        }
    }

    fn group(&mut self, group: &Node) {
        let label = group.field("label").or(group.field("group")).and_then(Node::scalar).unwrap_or_default();
        for (key, sentence) in EXPLAINED {
            if group.field(key).is_some() {
                self.pending_notes.push(format!("group `{label}`: {sentence}"));
            }
        }
        match group.field("steps").map(|steps| &steps.content) {
            Some(Content::List(steps)) => self.steps(steps, Some(&label)),
            _ => self.mistake(Mistake::new(group.place, "a group needs `steps`, a list")),
        }
    }

    fn command(&mut self, written: &Node, group: Option<&str>) -> CommandStep {
        let replaced = match written.field("matrix") {
            Some(setup) => {
                let mut step = written.clone();
                if let Err(mistake) = matrix::use_first(&mut step, setup) {
                    self.mistake(mistake);
                }
                Some(step)
            }
            None => None,
        };
        let node = replaced.as_ref().unwrap_or(written);
        let text = |names: &[&str]| {
            names.iter().find_map(|name| node.field(name)).and_then(Node::scalar).filter(|text| !text.is_empty())
        };
        let mut step = CommandStep {
            place: node.place,
            label: text(&["label", "name"]),
            key: text(&["key", "id", "identifier"]),
            group: group.map(str::to_string),
            notes: std::mem::take(&mut self.pending_notes),
            ..CommandStep::default()
        };
        if let Some(commands) = ["command", "commands", "script"].iter().find_map(|name| node.field(name)) {
            match lines(commands) {
                Ok(lines) => step.command = lines.join("\n"),
                Err(mistake) => self.mistake(mistake),
            }
        }
        if let Some(env) = node.field("env") {
            match env_entries(env) {
                Ok(entries) => step.env = entries.into_iter().map(|(key, value)| (key.text.clone(), value)).collect(),
                Err(mistake) => self.mistake(mistake),
            }
        }
        step.skip = match node.field("skip").map(|skip| &skip.content) {
            Some(Content::Bool(true)) => Some("`skip: true`".into()),
            Some(Content::Text(reason)) if !reason.is_empty() && reason != "false" => Some(reason.clone()),
            _ => None,
        };
        match node.field("soft_fail").map_or(Ok(SoftFail::Never), soft_fail) {
            Ok(rule) => step.soft_fail = rule,
            Err(mistake) => self.mistake(mistake),
        }
        step.parallel = node.field("parallelism").is_some();
        if let Some(list) = node.field("plugins") {
            let (listings, mut warnings, mut mistakes) = plugins::read(list);
            step.plugins = listings;
            self.warnings.append(&mut warnings);
            self.mistakes.append(&mut mistakes);
        }
        self.note(node, &mut step);
        self.keys.extend(step.key.clone());
        step
    }

    /// Says what the step asks for that is not done here.
    fn note(&self, node: &Node, step: &mut CommandStep) {
        for (key, sentence) in EXPLAINED {
            if node.field(key).is_some() {
                step.notes.push(sentence.to_string());
            }
        }
        if let Some(count) = node.field("parallelism").and_then(Node::scalar) {
            step.notes.push(format!("`parallelism: {count}`: the step runs once, as the only job"));
        }
        let later: Vec<String> = node.field("depends_on").map(dependencies).unwrap_or_default();
        for key in later.into_iter().filter(|key| !self.keys.contains(key)) {
            step.notes
                .push(format!("`depends_on: {key}`: no step above has this key; steps run in the order of the file"));
        }
        for listing in step.plugins.iter().filter(|listing| !listing.ours) {
            step.notes.push(format!("plugin `{}` is not run here, only monofo is", listing.location));
        }
        let others: Vec<String> = node
            .entries()
            .iter()
            .map(|(key, _)| key.text.as_str())
            .filter(|key| !HONOURED.contains(key) && *key != "parallelism")
            .filter(|key| EXPLAINED.iter().all(|(explained, _)| explained != key))
            .map(|key| format!("`{key}`"))
            .collect();
        if !others.is_empty() {
            step.notes.push(format!("not honoured here: {}", others.join(", ")));
        }
    }
}

/// A command, or a list of them.
fn lines(node: &Node) -> Result<Vec<String>, Mistake> {
    match &node.content {
        Content::Null => Ok(Vec::new()),
        Content::List(items) => items
            .iter()
            .map(|item| item.scalar().ok_or_else(|| Mistake::new(item.place, "a command must be text")))
            .collect(),
        _ => Ok(vec![
            node.scalar().ok_or_else(|| Mistake::new(node.place, "`command` must be text or a list of texts"))?,
        ]),
    }
}

/// The entries of an `env` mapping; null is the empty text.
pub(super) fn env_entries(node: &Node) -> Result<Vec<(&Key, String)>, Mistake> {
    if !matches!(node.content, Content::Map(_) | Content::Null) {
        return Err(Mistake::new(node.place, "`env` must be a mapping of names to values"));
    }
    node.entries()
        .iter()
        .map(|(key, value)| match &value.content {
            Content::Null => Ok((key, String::new())),
            Content::Map(_) | Content::List(_) => {
                Err(Mistake::new(value.place, format_args!("the value of `{}` must be text", key.text)))
            }
            _ => Ok((key, value.scalar().unwrap_or_default())),
        })
        .collect()
}

fn soft_fail(node: &Node) -> Result<SoftFail, Mistake> {
    let wrong = |node: &Node| Mistake::new(node.place, "`soft_fail` must be true, false or a list of `exit_status: N`");
    match &node.content {
        Content::Null | Content::Bool(false) => Ok(SoftFail::Never),
        Content::Bool(true) => Ok(SoftFail::Always),
        Content::List(items) => {
            let mut statuses = Vec::new();
            for item in items {
                let status = item.field("exit_status").and_then(Node::scalar).ok_or_else(|| wrong(item))?;
                if status == "*" {
                    return Ok(SoftFail::Always);
                }
                statuses.push(status.parse().map_err(|_| wrong(item))?);
            }
            Ok(SoftFail::On(statuses))
        }
        _ => Err(wrong(node)),
    }
}

/// The keys that a step waits for.
fn dependencies(node: &Node) -> Vec<String> {
    match &node.content {
        Content::List(items) => items.iter().flat_map(dependencies).collect(),
        Content::Map(_) => node.field("step").and_then(Node::scalar).into_iter().collect(),
        _ => node.scalar().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn step(text: &str) -> CommandStep {
        let pipeline = super::super::read(&format!("steps:\n- {text}\n"), &BTreeMap::new()).unwrap();
        pipeline.commands().next().unwrap().clone()
    }

    #[test]
    fn commands_are_joined_by_newlines() {
        for (text, command) in [
            ("command: make", "make"),
            ("command: [one, two]", "one\ntwo"),
            ("commands: [one]", "one"),
            ("commands:\n  - one\n  - |\n    two\n    three", "one\ntwo\nthree\n"),
            ("command: 5", "5"),
            ("plugins: [a#v1]", ""),
        ] {
            assert_eq!(step(text).command, command, "{text}");
        }
    }

    #[test]
    fn the_title_is_label_key_or_first_line() {
        assert_eq!(step("{label: L, key: k, command: c}").title(), "L");
        assert_eq!(step("{key: k, command: c}").title(), "k");
        assert_eq!(step("command: \"\\n  c d\\ne\"").title(), "c d");
    }

    #[test]
    fn soft_fail_forgives_what_it_lists() {
        for (text, forgiven) in [
            ("soft_fail: true", &[1, 2][..]),
            ("soft_fail: false", &[]),
            ("soft_fail: [{exit_status: 2}]", &[2]),
            ("soft_fail: [{exit_status: 7}, {exit_status: \"*\"}]", &[1, 2]),
        ] {
            let rule = step(&format!("command: x\n  {text}")).soft_fail;
            let got: Vec<i32> = [1, 2].into_iter().filter(|status| rule.forgives(*status)).collect();
            assert_eq!(got, forgiven, "{text}");
        }
    }

    #[test]
    fn everything_that_is_not_honoured_is_noted() {
        for (text, part) in [
            ("if: build.branch == 'x'", "`if` is not evaluated"),
            ("branches: main", "`branches` is not evaluated"),
            ("artifact_paths: a/*", "`artifact_paths` is not honoured"),
            ("parallelism: 4", "`parallelism: 4`: the step runs once"),
            ("matrix: [a, b]", "runs once"),
            ("plugins: [docker#v5]", "plugin `docker#v5` is not run"),
            ("agents: {queue: x}\n  timeout_in_minutes: 3", "not honoured here: `agents`, `timeout_in_minutes`"),
            ("depends_on: later", "no step above has this key"),
        ] {
            let notes = step(&format!("command: x\n  {text}")).notes;
            assert!(notes.len() == 1 && notes[0].contains(part), "{text}: {notes:?}");
        }
        assert!(step("{command: x, label: l, key: k, env: {A: 1}, soft_fail: true}").notes.is_empty());
    }

    #[test]
    fn a_skip_has_a_reason() {
        assert_eq!(step("{command: x, skip: true}").skip.as_deref(), Some("`skip: true`"));
        assert_eq!(step("{command: x, skip: later}").skip.as_deref(), Some("later"));
        assert_eq!(step("{command: x, skip: false}").skip, None);
    }
}
