//! Reads the keys of one JSON map and notices what is left over.

use serde_json::{Map, Value};

use crate::config::mistakes::{At, Mistakes};

/// A map being read: every key is taken once, and [`Fields::finish`] tells the ones nobody took.
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: At,
    taken: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Begins to read a map; anything else is a mistake.
    pub fn of(value: &'a Value, at: &At, expected: &str, mistakes: &mut Mistakes) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Fields { map, at: at.clone(), taken: Vec::new() }),
            other => {
                mistakes.unexpected(at, other, expected);
                None
            }
        }
    }

    /// The value of a key that may be spelled in several ways, unless it is absent or null. Two spellings at once are a
    /// mistake.
    pub fn take(&mut self, spellings: &[&'static str], mistakes: &mut Mistakes) -> Option<(At, &'a Value)> {
        self.taken.extend(spellings);
        let mut found = spellings.iter().filter(|key| self.has(key));
        let first = found.next()?;
        if let Some(second) = found.next() {
            mistakes.add(&self.at.key(second), format!("says the same as `{first}`, expected only one of them"));
        }
        Some((self.at.key(first), &self.map[*first]))
    }

    /// Whether a key is there with a value other than null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// The value of a key that is true or false.
    pub fn boolean(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<bool> {
        self.take(&[key], mistakes).and_then(|(at, value)| boolean(value, &at, mistakes))
    }

    /// The value of a key that is one of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let (at, value) = self.take(&[key], mistakes)?;
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            mistakes.unexpected(&at, value, &format!("one of {}", words.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// Tells the keys that nobody took.
    pub fn finish(self, known: &[&str], mistakes: &mut Mistakes) {
        for key in self.map.keys().filter(|key| !self.taken.contains(&key.as_str())) {
            mistakes.unknown_key(&self.at, key, known);
        }
    }
}

/// A value that must be true or false.
pub fn boolean(value: &Value, at: &At, mistakes: &mut Mistakes) -> Option<bool> {
    if !value.is_boolean() {
        mistakes.unexpected(at, value, "`true` or `false`");
    }
    value.as_bool()
}

/// A value that must be a text, not empty and without control characters.
pub fn text(value: &Value, at: &At, mistakes: &mut Mistakes) -> Option<String> {
    let found = value.as_str().filter(|text| !text.is_empty() && !text.contains(char::is_control));
    if found.is_none() {
        mistakes.unexpected(at, value, "a text");
    }
    found.map(str::to_owned)
}
