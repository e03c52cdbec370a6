//! `$VARIABLE` in a pipeline file, replaced as `buildkite-agent pipeline upload` does it.
//!
//! | written | becomes |
//! |---|---|
//! | `$NAME`, `${NAME}` | the value, or nothing |
//! | `${NAME:-text}`, `${NAME-text}` | `text` if unset or empty; if unset |
//! | `${NAME?message}` | an error with this message if unset |
//! | `${NAME:2}`, `${NAME:2:3}`, `${NAME: -2}` | bytes from an offset, of a length; negative counts from the end |
//! | `$$`, `\$` | a dollar sign |
//! | `$(`, `$1`, `$` at the end | themselves |
//!
//! `\\` stays as it is. `${NAME:?message}` is not known to `pipeline upload`, so it is an error here too.

use std::iter::Peekable;
use std::str::CharIndices;

/// Where the values come from: `None` means unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables in `text`; the error says what is wrong with an expression.
pub fn interpolate(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut reader = Reader { text, chars: text.char_indices().peekable() };
    reader.expression(false, lookup)
}

struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn rest(&mut self) -> &'a str {
        self.chars.peek().map_or("", |(at, _)| &self.text[*at..])
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        while self.chars.next_if(|(_, c)| wanted(*c)).is_some() {}
        &rest[..length]
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.chars.next();
        }
    }

    /// Text and variables up to the end, or up to a closing brace when `inside` one.
    fn expression(&mut self, inside: bool, lookup: Lookup<'_>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if inside && c == '}' {
                break;
            }
            let rest = self.rest();
            if rest.starts_with("\\\\") {
                self.skip(2);
                out.push_str("\\\\");
            } else if rest.starts_with("\\$") || rest.starts_with("$$") {
                self.skip(2);
                out.push('$');
            } else if rest.starts_with("${") {
                self.skip(2);
                out.push_str(&self.braces(lookup)?);
            } else if c == '$' {
                self.skip(1);
                match self.name() {
                    Some(name) => out.push_str(&lookup(name).unwrap_or_default()),
                    None => out.push('$'),
                }
            } else {
                self.skip(1);
                out.push(c);
            }
        }
        Ok(out)
    }

    fn name(&mut self) -> Option<&'a str> {
        self.peek().filter(|c| c.is_alphabetic())?;
        Some(self.take_while(|c| c.is_alphanumeric() || c == '_'))
    }

    /// The value, or else the text up to the closing brace. A text that is not needed may ask for what is not set.
    fn default(&mut self, value: Option<String>, lookup: Lookup<'_>) -> Result<String, String> {
        match value {
            Some(value) => self.expression(true, &|_| Some(String::new())).map(|_| value),
            None => self.expression(true, lookup),
        }
    }

    /// What follows `${`, the closing brace included.
    fn braces(&mut self, lookup: Lookup<'_>) -> Result<String, String> {
        let start = self.rest();
        let name = self.name().ok_or_else(|| {
            format!("`${{{}`: a variable name must start with a letter; write `$$` for a dollar sign", shown(start))
        })?;
        let value = lookup(name);
        let rest = self.rest();
        let result = if rest.starts_with('}') {
            value.unwrap_or_default()
        } else if rest.starts_with(":-") {
            self.skip(2);
            self.default(value.filter(|value| !value.is_empty()), lookup)?
        } else if rest.starts_with('-') {
            self.skip(1);
            self.default(value, lookup)?
        } else if rest.starts_with('?') {
            self.skip(1);
            let message = self.expression(true, lookup)?;
            value.ok_or_else(|| format!("${name}: {}", if message.is_empty() { "not set" } else { &message }))?
        } else if rest.starts_with(":?") {
            return Err(format!("`${{{name}:?…}}` is not known to `pipeline upload`; write `${{{name}?message}}`"));
        } else if rest.starts_with(':') {
            self.skip(1);
            let range = self.take_while(|c| c != '}');
            substring(&value.unwrap_or_default(), range)
                .ok_or_else(|| format!("`${{{name}:{range}}}`: an offset and a length are whole numbers"))?
        } else {
            return Err(format!("`${{{}`: expected `}}`, `:-`, `-`, `?` or `:` after the name", shown(start)));
        };
        match self.chars.next() {
            Some((_, '}')) => Ok(result),
            _ => Err(format!("`${{{}`: the closing `}}` is missing", shown(start))),
        }
    }
}

/// The beginning of an expression, for a message.
fn shown(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.char_indices().nth(20).map_or(line, |(end, _)| &line[..end])
}

/// `OFFSET` or `OFFSET:LENGTH` of the value, in bytes, cut back to whole characters.
fn substring(value: &str, range: &str) -> Option<String> {
    let (offset, length) = range.split_once(':').map_or((range, None), |(offset, length)| (offset, Some(length)));
    let size = i64::try_from(value.len()).ok()?;
    let from_end = |number: i64| if number < 0 { number.saturating_add(size) } else { number };
    let from = from_end(offset.trim().parse().ok()?).clamp(0, size);
    let to = match length.map(|length| length.trim().parse::<i64>()).transpose().ok()? {
        None => size,
        Some(length) if length >= 0 => from.saturating_add(length).min(size),
        Some(length) => from_end(length).max(from),
    };
    let bytes = value.as_bytes().get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "B_2" => Some("beta".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_become_their_values() {
        for (text, result) in [
            ("", ""),
            ("no variables", "no variables"),
            ("$A", "alpha"),
            ("$A$B_2!", "alphabeta!"),
            ("$A-x ${A}x", "alpha-x alphax"),
            ("$NONE.", "."),
            ("${NONE}.", "."),
            ("${NONE:-d} ${EMPTY:-d} ${A:-d}", "d d alpha"),
            ("${NONE-d} ${EMPTY-d} ${A-d}", "d  alpha"),
            ("${NONE:-}", ""),
            ("${NONE:-${B_2}} ${NONE:-x${NONE:-y}z}", "beta xyz"),
            ("${A?must be set}", "alpha"),
            ("${A:-${NONE?not asked for}} ${A-$$}", "alpha alpha"),
            ("${A:1} ${A:1:2} ${A: -2} ${A:0:-1} ${A:9} ${A:-2}", "lpha lp ha alph  alpha"),
            ("$$A \\$A $${A} \\${A}", "$A $A ${A} ${A}"),
            ("$(date) $1 $? $_x 5$", "$(date) $1 $? $_x 5$"),
            ("a\\\\b \\n", "a\\\\b \\n"),
            ("é$A é", "éalpha é"),
        ] {
            assert_eq!(interpolate(text, &lookup).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn broken_expressions_are_named() {
        for (text, part) in [
            ("${", "must start with a letter"),
            ("${1}", "must start with a letter"),
            ("${A", "expected"),
            ("${A:-x", "closing"),
            ("${A+x}", "expected"),
            ("${NONE?set it first}", "$NONE: set it first"),
            ("${NONE?}", "$NONE: not set"),
            ("${NONE:?set it}", "`${NONE?message}`"),
            ("${A:x}", "whole numbers"),
            ("${NONE:-${NONE?asked for}}", "$NONE: asked for"),
        ] {
            let message = interpolate(text, &lookup).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
