//! Mistakes in a configuration: each with its place, what was found and what was expected; all told at once.

use std::fmt::Write;

use serde_json::Value;

use crate::error::{Class, Error, Result};
use crate::text::Shown;

/// Where a value stands in the configuration, written `upload["a.tar"].globs[1]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At(String);

impl At {
    /// The whole configuration.
    pub fn top() -> Self {
        At::default()
    }

    /// A variable of the environment, which stands in no map.
    pub fn variable(name: &str) -> Self {
        At(name.to_owned())
    }

    /// The value of a key here.
    pub fn key(&self, key: &str) -> Self {
        let plain = key.starts_with(|c: char| c.is_ascii_alphabetic())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        At(match (plain, self.0.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.0),
            (false, _) => format!("{}[\"{}\"]", self.0, Shown(key.as_bytes())),
        })
    }

    /// An element of the list here, counted from 0.
    pub fn index(&self, index: usize) -> Self {
        At(format!("{}[{index}]", self.0))
    }

    /// The path as text; empty for the whole configuration.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub at: At,
    /// What was found and what was expected.
    pub problem: String,
    /// What was probably meant.
    pub hint: Option<String>,
    /// [`Class::Usage`], or [`Class::Refused`] for a path that leads out of the working directory.
    pub class: Class,
}

impl Mistake {
    fn sentence(&self) -> String {
        match self.at.as_str() {
            "" => self.problem.clone(),
            at => format!("`{at}`: {}", self.problem),
        }
    }
}

/// The mistakes found so far. Readers add to it and go on, so that one run shows them all.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Something that is wrong in its own words.
    pub fn add(&mut self, at: &At, problem: impl Into<String>) {
        self.push(at, problem.into(), None, Class::Usage);
    }

    /// A value of another kind than the one expected.
    pub fn unexpected(&mut self, at: &At, found: &Value, expected: &str) {
        self.add(at, format!("found {}, expected {expected}", describe(found)));
    }

    /// A path that leads out of the working directory.
    pub fn refused(&mut self, at: &At, path: &str, why: &str) {
        let problem = format!(
            "found `{}`, which {why}, expected a relative path below the working directory",
            Shown(path.as_bytes())
        );
        self.push(at, problem, None, Class::Refused);
    }

    /// An error of a reader further down, at this place.
    pub fn error(&mut self, at: &At, error: &Error) {
        self.push(at, error.chain(), error.next_step().map(str::to_owned), error.class());
    }

    /// A key nobody knows here; names the nearest known one.
    pub fn unknown_key(&mut self, at: &At, key: &str, known: &[&str]) {
        let nearest = known
            .iter()
            .map(|name| (strsim::damerau_levenshtein(&key.to_lowercase(), &name.to_lowercase()), *name))
            .min()
            .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
        let hint = nearest.map(|(_, name)| format!("did you mean `{name}`?"));
        let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        self.push(&at.key(key), format!("unknown key, expected one of {known}"), hint, Class::Usage);
    }

    fn push(&mut self, at: &At, problem: String, hint: Option<String>, class: Class) {
        self.0.push(Mistake { at: at.clone(), problem, hint, class });
    }

    /// All mistakes, in the order found.
    pub fn all(&self) -> &[Mistake] {
        &self.0
    }

    /// One error that tells every mistake, a line each, or nothing when there was none.
    ///
    /// The class is [`Class::Refused`] only when every mistake is of that class.
    pub fn into_result(self) -> Result<()> {
        let class = match self.0.iter().all(|mistake| mistake.class == Class::Refused) {
            true => Class::Refused,
            false => Class::Usage,
        };
        match self.0.as_slice() {
            [] => Ok(()),
            [only] => {
                let error = Error::new(class, format_args!("plugin configuration: {}", only.sentence()));
                Err(match &only.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                })
            }
            many => {
                let mut text = format!("plugin configuration has {} mistakes:", many.len());
                for mistake in many {
                    let hint = mistake.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                    let _ = write!(text, "\n{}{hint}", mistake.sentence());
                }
                Err(Error::new(class, text))
            }
        }
    }
}

/// A value in a few words, for the `found` part of a message.
pub fn describe(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) if text.chars().count() > LONGEST => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("the text `{}…`", Shown(start.as_bytes()))
        }
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(text) => format!("the text `{}`", Shown(text.as_bytes())),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(map) if map.is_empty() => "an empty map".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_json_paths() {
        let at = At::top().key("upload").key("a.tar").key("globs").index(1);
        assert_eq!(at.as_str(), r#"upload["a.tar"].globs[1]"#);
        assert_eq!(At::top().key("a\nb").as_str(), r#"["a\x0ab"]"#);
    }

    #[test]
    fn a_misspelt_key_names_the_nearest_one_and_a_strange_one_does_not() {
        let mut mistakes = Mistakes::default();
        mistakes.unknown_key(&At::top(), "softfail", &["when", "soft-fail", "globs"]);
        mistakes.unknown_key(&At::top(), "zzzzzzz", &["when", "soft-fail", "globs"]);
        assert_eq!(mistakes.all()[0].hint.as_deref(), Some("did you mean `soft-fail`?"));
        assert_eq!(mistakes.all()[1].hint, None);
    }

    #[test]
    fn every_mistake_is_told_and_the_class_is_usage_unless_all_are_refusals() {
        let mut mistakes = Mistakes::default();
        mistakes.refused(&At::top().key("a"), "/etc", "is absolute");
        mistakes.unexpected(&At::top().key("b"), &Value::Null, "a list");
        let error = mistakes.into_result().unwrap_err();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.chain().contains("2 mistakes") && error.chain().contains("`a`") && error.chain().contains("`b`"));

        let mut mistakes = Mistakes::default();
        mistakes.refused(&At::top().key("a"), "/etc", "is absolute");
        assert_eq!(mistakes.into_result().unwrap_err().class(), Class::Refused);
        assert!(Mistakes::default().into_result().is_ok());
    }
}
