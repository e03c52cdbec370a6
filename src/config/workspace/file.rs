//! A YAML file of a workspace: its text, its tree, and the mistakes found in it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::config::mistakes::{At, describe};
use crate::config::yaml::{self, Content, Key, Mistake, Node, Place};
use crate::error::{Class, Error, Result};
use crate::hash::Hash;
use crate::key::ComponentName;
use crate::text::{Count, Number, Shown};

/// The largest file that is read.
const LARGEST: u64 = 4 << 20;

/// Mistakes that one message tells; nobody reads more before mending some.
const MOST_TOLD: usize = 100;

/// Mistakes that are kept until all are known, to tell the first of them.
const MOST_KEPT: usize = 1_000;

/// Bytes in front of a value that are looked at for its tag.
const LONGEST_TAG: usize = 100;

/// The same where it matters more that none is missed: comments may stand between.
const FARTHEST_TAG: usize = 4 << 10;

/// A file while it is read. Readers add what is wrong and go on, so that one run tells all of it.
pub(super) struct Reader {
    /// What messages call the file.
    shown: String,
    text: String,
    /// The digest of the file.
    pub(super) digest: Hash,
    mistakes: Vec<Mistake>,
    /// Mistakes that were not kept.
    more: usize,
}

impl Reader {
    /// Reads a file, called `shown` in messages, and parses it. Every error is of class `Workspace`.
    pub(super) fn open(path: &Path, shown: &str) -> Result<(Reader, Node)> {
        Self::parse(bytes(path, shown)?, shown)
    }

    /// Parses what such a file is to hold, or holds.
    pub(super) fn parse(bytes: Vec<u8>, shown: &str) -> Result<(Reader, Node)> {
        if bytes.len() as u64 > LARGEST {
            return Err(Error::new(Class::Workspace, format_args!("`{shown}` is larger than 4 MiB"))
                .hint("such files hold names and versions: take out what is generated or does not belong there"));
        }
        let digest = Hash::of(&bytes);
        let mut reader = Reader { shown: shown.to_owned(), text: String::new(), digest, mistakes: Vec::new(), more: 0 };
        let parsed = match String::from_utf8(bytes) {
            Ok(text) => {
                // Editors on Windows put a mark in front that says nothing.
                reader.text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
                yaml::read_bounded(&reader.text)
            }
            Err(error) => {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = 1 + good.iter().filter(|byte| **byte == b'\n').count() as u64;
                Err(Mistake::new(Place { line, column: 1 }, "not valid UTF-8").hint("save the file as UTF-8"))
            }
        };
        match parsed {
            Ok(node) => Ok((reader, node)),
            Err(mistake) => {
                reader.add(mistake);
                Err(reader.error())
            }
        }
    }

    /// Something that is wrong in its own words.
    pub(super) fn add(&mut self, mistake: Mistake) {
        if self.mistakes.len() < MOST_KEPT {
            self.mistakes.push(mistake);
        } else {
            self.more += 1;
        }
    }

    /// Something wrong with the value here.
    pub(super) fn wrong(&mut self, at: &At, place: Place, problem: impl std::fmt::Display, hint: &str) {
        self.add(Mistake::new(place, format_args!("`{}`: {problem}", at.as_str())).hint(hint));
    }

    /// A value of another kind than the one expected.
    pub(super) fn unexpected(&mut self, at: &At, node: &Node, expected: &str, hint: &str) {
        // A long list or map is described by its kind alone; converting what is in it would be for nothing.
        let found = match &node.content {
            Content::List(items) if !items.is_empty() => "a list".to_owned(),
            Content::Map(entries) if !entries.is_empty() => "a map".to_owned(),
            _ => describe(&node.to_json()),
        };
        self.wrong(at, node.place, format_args!("found {found}, expected {expected}"), hint);
    }

    /// What was read, or one error that tells every mistake, a line each.
    pub(super) fn finish(self) -> Result<Reader> {
        if self.mistakes.is_empty() { Ok(self) } else { Err(self.error()) }
    }

    fn error(mut self) -> Error {
        self.mistakes.sort_by_key(|mistake| mistake.place);
        let shown = &self.shown;
        let sentence = |mistake: &Mistake| match mistake.place.line {
            0 => format!("{shown}: {}", mistake.message),
            line => format!("{shown}:{line}: {}", mistake.message),
        };
        if let [only] = self.mistakes.as_slice() {
            let error = Error::new(Class::Workspace, sentence(only));
            return match &only.hint {
                Some(hint) => error.hint(hint),
                None => error,
            };
        }
        let all = self.mistakes.len() + self.more;
        let mut text = format!("{shown} has {}:", Count(all as u64, "mistake"));
        for mistake in self.mistakes.iter().take(MOST_TOLD) {
            let hint = mistake.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let _ = write!(text, "\n{}{hint}", sentence(mistake));
        }
        if all > MOST_TOLD {
            let _ = write!(text, "\nand {} more", Number((all - MOST_TOLD) as u64));
        }
        Error::new(Class::Workspace, text)
    }

    /// The entries of a mapping; nothing at all means none.
    pub(super) fn map<'n>(&mut self, at: &At, node: &'n Node) -> &'n [(Key, Node)] {
        match &node.content {
            Content::Map(entries) => entries,
            Content::Null => &[],
            _ => {
                self.unexpected(at, node, "a map", "write `name: value` lines below it, indented");
                &[]
            }
        }
    }

    /// The elements of a list; nothing at all means none.
    pub(super) fn list<'n>(&mut self, at: &At, node: &'n Node) -> &'n [Node] {
        match &node.content {
            Content::List(items) => items,
            Content::Null => &[],
            _ => {
                self.unexpected(at, node, "a list", "put it in brackets: `[a, b]`");
                &[]
            }
        }
    }

    /// Text; nothing at all means none. What YAML takes for something else, and what other readers of YAML do, is a
    /// mistake: `1.10` would silently become `1.1`. Integers are their digits.
    pub(super) fn text(&mut self, at: &At, node: &Node) -> Option<String> {
        let written = self.plain(node).unwrap_or_default().to_owned();
        let kind = match &node.content {
            Content::Null => return None,
            Content::List(_) | Content::Map(_) => {
                self.unexpected(at, node, "text", "write one value on the same line");
                return None;
            }
            Content::Text(text) => match self.plain(node).and_then(mistakable) {
                None => return Some(text.clone()),
                Some(kind) => kind,
            },
            Content::Number(_) if is_digits(written.strip_prefix('-').unwrap_or(&written)) => return Some(written),
            Content::Number(_) => "a number",
            Content::Bool(_) => "a truth value",
        };
        let shown = Shown(written.as_bytes());
        self.wrong(
            at,
            node.place,
            format_args!("found `{shown}`, which YAML takes for {kind}, expected text"),
            &format!("put quotes around it: `\"{shown}\"`"),
        );
        None
    }

    /// Text as it is written, whatever YAML takes it for: times and commits, which nothing is computed from.
    pub(super) fn verbatim(&mut self, at: &At, node: &Node) -> Option<String> {
        match (&node.content, self.plain(node)) {
            (Content::Null, _) => None,
            (Content::List(_) | Content::Map(_), _) => self.text(at, node),
            (_, Some(written)) => Some(written.to_owned()),
            (_, None) => node.scalar(),
        }
    }

    /// The name of a component, written as a key.
    pub(super) fn name(&mut self, at: &At, key: &Key) -> Option<ComponentName> {
        let written = self.text.get(key.written.clone()).unwrap_or_default();
        if !written.starts_with(['"', '\'']) && written != key.text && !written.is_empty() {
            let shown = Shown(written.as_bytes()).to_string();
            self.wrong(
                at,
                key.place,
                format_args!("found the name `{shown}`, which YAML takes for something else"),
                &format!("put quotes around it: `\"{shown}\":`"),
            );
            return None;
        }
        self.named(at, key.place, &key.text)
    }

    /// The name of a component.
    pub(super) fn named(&mut self, at: &At, place: Place, name: &str) -> Option<ComponentName> {
        match ComponentName::new(name) {
            Ok(name) => Some(name),
            Err(error) => {
                let hint = error.next_step().unwrap_or_default().to_owned();
                self.wrong(at, place, error.chain(), &hint);
                None
            }
        }
    }

    /// The key as it is written, if that is without quotes and on one line.
    pub(super) fn plain_key(&self, key: &Key) -> Option<&str> {
        let written = self.text.get(key.written.clone()).filter(|written| !written.is_empty())?;
        (!written.starts_with(['"', '\'']) && !written.contains('\n')).then_some(written)
    }

    /// The same for a key: what stands above it belongs to something else.
    pub(super) fn key_tag(&self, key: &Key) -> Option<&str> {
        let line = self.text.get(..key.written.start)?.rsplit('\n').next()?;
        self.tag(&key.written).filter(|tag| line.trim_end().ends_with(tag))
    }

    /// A tag in front of what is written here that makes more of it than text.
    pub(super) fn tag(&self, written: &Range<usize>) -> Option<&str> {
        let near =
            (written.start.saturating_sub(FARTHEST_TAG)..=written.start).find(|at| self.text.is_char_boundary(*at))?;
        let mut before = self.text.get(near..written.start)?;
        loop {
            // The comments between a tag and what it stands for.
            before = before.trim_end();
            let line = before.rsplit('\n').next().unwrap_or_default();
            let comment = line.match_indices('#').map(|(at, _)| at);
            let is_comment = |at: &usize| line[..*at].is_empty() || line[..*at].ends_with([' ', '\t']);
            if let Some(at) = comment.into_iter().find(is_comment) {
                before = &before[..before.len() - line.len() + at];
                continue;
            }
            let word = before.rsplit(|c: char| c.is_whitespace() || ",[]{}".contains(c)).next().unwrap_or_default();
            match word.chars().next() {
                Some('&' | '|' | '>') => before = &before[..before.len() - word.len()],
                Some('!') => return Some(word).filter(|tag| !matches!(*tag, "!" | "!!str")),
                _ => return None,
            }
        }
    }

    /// What is written for a value without quotes or tag; `None` for every other.
    pub(super) fn plain(&self, node: &Node) -> Option<&str> {
        let written = self.text.get(node.written.clone()).filter(|written| !written.is_empty())?;
        // `!!str 1.10` is text, and so is what stands below `|` or `>`. Not the whole text is looked through for them,
        // because that would be done for each value.
        let before = self.text.as_bytes()[..node.written.start].trim_ascii_end();
        let before = &before[before.len().saturating_sub(LONGEST_TAG)..];
        let introduced =
            before.rsplit(|byte| byte.is_ascii_whitespace() || b",[]{}".contains(byte)).next().unwrap_or_default();
        let typed = matches!(introduced.first(), Some(b'!' | b'|' | b'>'));
        (!written.starts_with(['"', '\'']) && !typed).then_some(written)
    }
}

fn bytes(path: &Path, shown: &str) -> Result<Vec<u8>> {
    let unusable = |doing: &str, error: std::io::Error| {
        Error::new(Class::Workspace, format_args!("{doing} `{shown}`")).caused_by(error)
    };
    let metadata = std::fs::metadata(path).map_err(|error| unusable("looking for", error))?;
    // Opening a pipe would wait for somebody to write.
    if !metadata.is_file() {
        return Err(Error::new(Class::Workspace, format_args!("`{shown}` is not a file"))
            .hint("put a file there, or give another folder"));
    }
    let file = File::open(path).map_err(|error| unusable("opening", error))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| unusable("reading", error))?;
    Ok(bytes)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What other readers of YAML, or this one, take a text without quotes for. The other tools of a workspace may be such.
fn mistakable(text: &str) -> Option<&'static str> {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text.to_ascii_lowercase().as_str() {
        "y" | "n" | "yes" | "no" | "on" | "off" => return Some("a truth value"),
        ".nan" => return Some("a number"),
        _ => {}
    }
    let mut parts = text.split(['T', 't', ' ']).next().unwrap_or_default().splitn(3, '-');
    let date = [4..=4, 1..=2, 1..=2]
        .into_iter()
        .all(|length| parts.next().is_some_and(|part| is_digits(part) && length.contains(&part.len())));
    if date {
        return Some("a date");
    }
    let begins = number.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || byte == b'.');
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let mut sixties = number.split(':');
    let sixty = number.contains(':') && sixties.all(|part| !part.is_empty() && digits(&part.replacen('.', "", 1)));
    let fraction = || number.parse::<f64>().is_ok();
    let is_number =
        begins && !is_digits(number) && (digits(number) || sixty || fraction()) || number.eq_ignore_ascii_case(".inf");
    is_number.then_some("a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_looks_like_something_else_is_told_from_text_that_does_not() {
        for (text, kind) in [
            ("2024-01-02", Some("a date")),
            ("2024-1-2", Some("a date")),
            ("2024-01-02T03:04:05Z", Some("a date")),
            ("2024-01-02 03:04:05", Some("a date")),
            ("yes", Some("a truth value")),
            ("Off", Some("a truth value")),
            ("12:30", Some("a number")),
            ("1_000", Some("a number")),
            ("01.10", Some("a number")),
            ("12e4567", Some("a number")),
            (".inf", Some("a number")),
            (".nan", Some("a number")),
            ("007", None),
            ("1.2.3", None),
            ("v1.10", None),
            ("2024-01", None),
            ("2024-01-02-3", None),
            ("inf", None),
            ("infinity", None),
            ("nan", None),
            ("1.2:3.4.5", None),
            ("", None),
            ("a:1", None),
            ("+", None),
        ] {
            assert_eq!(mistakable(text), kind, "{text}");
        }
    }
}
