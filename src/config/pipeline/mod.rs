//! A Buildkite pipeline file: its steps, and everything that is wrong with them, told with line and column.
//!
//! Text → [`yaml`] nodes → variables replaced ([`interpolate`]) → [`Pipeline`]. Only what running the steps here needs is
//! read; what a step asks for that cannot be honoured ends up in its notes, so that nothing is dropped without a word.

pub mod interpolate;
mod matrix;
pub mod plugin_env;
mod plugins;
mod step;

pub use crate::config::yaml::{Mistake, Place};
pub use plugins::Listing;
pub use step::{CommandStep, SoftFail};

use std::collections::BTreeMap;

use crate::config::yaml::{self, Content, Node};

/// A pipeline file, read.
#[derive(Debug, Clone, Default)]
pub struct Pipeline {
    /// The pipeline's own `env`, in order.
    pub env: Vec<(String, String)>,
    /// All steps in the order of the file, the contents of groups in their place.
    pub steps: Vec<Step>,
    /// What deserves a look but stops nothing, in the order of the file.
    pub warnings: Vec<Mistake>,
}

/// A step, as far as running it here goes.
#[derive(Debug, Clone)]
pub enum Step {
    /// A command step.
    Command(Box<CommandStep>),
    /// A `wait`: nothing to wait for when steps run one after another.
    Wait {
        /// Whether the steps after it run although one before it failed.
        continue_on_failure: bool,
    },
    /// A `block`, `input` or `trigger` step: passed over.
    PassedOver {
        /// Its kind, as written.
        kind: &'static str,
        /// What it calls itself.
        label: Option<String>,
    },
}

impl Pipeline {
    /// The command steps, in order.
    pub fn commands(&self) -> impl Iterator<Item = &CommandStep> {
        self.steps.iter().filter_map(|step| match step {
            Step::Command(command) => Some(&**command),
            Step::Wait { .. } | Step::PassedOver { .. } => None,
        })
    }
}

/// Reads a pipeline file. `outside` holds the variables that `pipeline upload` would see; the pipeline's own `env` is added
/// to them in order and wins. The error is every mistake found, in the order of the file.
pub fn read(text: &str, outside: &BTreeMap<String, String>) -> Result<Pipeline, Vec<Mistake>> {
    let mut root = yaml::read(text).map_err(|mistake| vec![mistake])?;
    let env = replace_variables(&mut root, outside).map_err(|mistake| vec![mistake])?;
    let mut reader = step::Reader::default();
    match &root.content {
        Content::List(steps) => reader.steps(steps, None),
        Content::Map(_) => match root.field("steps").map(|steps| (&steps.content, steps.place)) {
            Some((Content::List(steps), _)) => reader.steps(steps, None),
            Some((Content::Null, place)) => reader.mistake(Mistake::new(place, "`steps` is empty")),
            Some((_, place)) => reader.mistake(Mistake::new(place, "`steps` must be a list")),
            None => reader.mistake(
                Mistake::new(root.place, "there is no `steps` key").hint("a pipeline is `steps:` and a list below it"),
            ),
        },
        Content::Null => reader.mistake(Mistake::new(root.place, "the file is empty")),
        _ => reader.mistake(Mistake::new(root.place, "a pipeline is a mapping with `steps`, or a list of steps")),
    }
    let (steps, warnings, mut mistakes) = reader.finish();
    if mistakes.is_empty() && !steps.iter().any(|step| matches!(step, Step::Command(_))) {
        mistakes.push(Mistake::new(root.place, "there is no command step to run"));
    }
    if mistakes.is_empty() { Ok(Pipeline { env, steps, warnings }) } else { Err(mistakes) }
}

/// Replaces variables in the pipeline's `env` first, each entry seeing those above it, then everywhere else.
fn replace_variables(root: &mut Node, outside: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, Mistake> {
    let mut known = outside.clone();
    let mut env = Vec::new();
    let Content::Map(entries) = &mut root.content else {
        root.rewrite(&mut |text| interpolate::interpolate(text, &|name| known.get(name).cloned()))?;
        return Ok(env);
    };
    if let Some((_, block)) = entries.iter().find(|(key, _)| key.text == "env") {
        for (name, value) in step::env_entries(block)? {
            let replace = |text: &str| interpolate::interpolate(text, &|name| known.get(name).cloned());
            let at = |message| Mistake::new(name.place, message);
            let (name, value) = (replace(&name.text).map_err(at)?, replace(&value).map_err(at)?);
            known.insert(name.clone(), value.clone());
            env.push((name, value));
        }
    }
    for (_, value) in entries.iter_mut().filter(|(key, _)| key.text != "env") {
        value.rewrite(&mut |text| interpolate::interpolate(text, &|name| known.get(name).cloned()))?;
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(text: &str) -> Pipeline {
        read(text, &BTreeMap::new()).unwrap()
    }

    fn mistakes(text: &str) -> Vec<(u64, String)> {
        read(text, &BTreeMap::new()).unwrap_err().into_iter().map(|m| (m.place.line, m.message)).collect()
    }

    #[test]
    fn a_bare_list_and_a_mapping_are_both_pipelines() {
        for text in [
            "- command: make\n",
            "steps:\n  - command: make\n",
            "steps:\n- commands: [make]\n",
            "- script: make\n  type: script\n  command: make",
        ] {
            let pipeline = pipeline(text);
            assert_eq!(pipeline.commands().map(|step| step.command.as_str()).collect::<Vec<_>>(), ["make"], "{text}");
        }
    }

    #[test]
    fn groups_are_flattened_and_other_steps_kept_in_their_place() {
        let pipeline = pipeline(
            "steps:\n- wait\n- block: ':rocket: go'\n- group: checks\n  steps:\n  - {command: one}\n  - wait: ~\n    continue_on_failure: true\n- trigger: other\n- {command: two, name: Two, id: second}\n- input: name\n- waiter\n",
        );
        let shape: Vec<String> = pipeline
            .steps
            .iter()
            .map(|step| match step {
                Step::Command(command) => format!("{}@{:?}", command.command, command.group),
                Step::Wait { continue_on_failure } => format!("wait {continue_on_failure}"),
                Step::PassedOver { kind, label } => format!("{kind} {label:?}"),
            })
            .collect();
        assert_eq!(
            shape,
            [
                "wait false",
                "block Some(\":rocket: go\")",
                "one@Some(\"checks\")",
                "wait true",
                "trigger Some(\"other\")",
                "two@None",
                "input Some(\"name\")",
                "wait false",
            ]
        );
        let last = pipeline.commands().last().unwrap();
        assert_eq!((last.label.as_deref(), last.key.as_deref()), (Some("Two"), Some("second")));
    }

    #[test]
    fn pipeline_env_is_replaced_first_and_wins_over_the_outside() {
        let outside = BTreeMap::from([("USER".to_string(), "me".to_string()), ("A".to_string(), "outer".to_string())]);
        let text = "env:\n  A: inner\n  B: $A-$USER\nsteps:\n- command: echo $B $$B $NONE\n  env: {C: \"${B}\"}\n";
        let pipeline = read(text, &outside).unwrap();
        assert_eq!(pipeline.env[1], ("B".to_string(), "inner-me".to_string()));
        let step = pipeline.commands().next().unwrap();
        assert_eq!(step.command, "echo inner-me $B ");
        assert_eq!(step.env, [("C".to_string(), "inner-me".to_string())]);
    }

    #[test]
    fn what_is_no_pipeline_is_told_with_its_line() {
        for (text, expected) in [
            ("", (1, "the file is empty")),
            ("hello", (1, "a pipeline is a mapping with `steps`, or a list of steps")),
            ("env: {}\n", (1, "there is no `steps` key")),
            ("steps:\n", (1, "`steps` is empty")),
            ("\nsteps: {}\n", (2, "`steps` must be a list")),
            ("steps: []\n", (1, "there is no command step to run")),
            ("steps:\n- wait\n", (1, "there is no command step to run")),
            ("steps:\n- command: a\n- 7\n", (3, "a step is a mapping or one of `wait`, `block`, `input`")),
            ("steps:\n- command: ${X?set X}\n", (2, "$X: set X")),
            ("steps:\n- label: what\n", (2, "cannot tell what kind of step this is")),
        ] {
            assert_eq!(mistakes(text), [(expected.0, expected.1.to_string())], "{text:?}");
        }
    }

    #[test]
    fn all_mistakes_are_told_together() {
        let text = "steps:\n- command: {a: b}\n- wait\n- command: x\n  env: [A]\n  soft_fail: maybe\n";
        let lines: Vec<u64> = mistakes(text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [2, 5, 6]);
    }
}
