//! YAML text to a tree of nodes that know where they stand in the file.
//!
//! Anchors, aliases and merge keys are resolved, `yes` and `on` are text, keys become text. An alias stands where its anchor
//! is defined, since that is the line to mend. [`read`] is for pipelines and reads as `buildkite-agent pipeline upload`
//! does, where `0755` is octal; [`read_bounded`] is for files of a workspace, where what is written counts.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error as YamlError, Options, Spanned};

use crate::config::mistakes::At;
use crate::text::{Number as Count, Shown};

/// What anchors and merge keys may stand for in addition to what is written, in bytes of text.
const MOST_EXPANDED: usize = 1 << 20;

/// Lists and maps in each other. Reading one takes up to 50 KiB of stack, and a thread's may be as small as 2 MiB.
const DEEPEST: usize = 24;

/// Values that they may stand for. Written out, hardly any takes less than four bytes.
const MOST_REPEATED: usize = MOST_EXPANDED / 4;

/// Values in one file. With 4 MiB of text this bounds memory to some 200 MiB, and 10,000 components with a hundred
/// values each still fit.
const MOST_VALUES: usize = 1_000_000;

/// A place in the file, both counted from 1; line 0 means that it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// Something wrong at a place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// What is wrong, in lower case and without a final period.
    pub message: String,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}

impl Mistake {
    /// A mistake without a hint.
    pub fn new(place: Place, message: impl fmt::Display) -> Self {
        Mistake { place, message: message.to_string(), hint: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// A YAML node and the place where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub place: Place,
    /// Which bytes of the text it is written with, as far as that is known.
    pub written: Range<usize>,
    /// What it holds.
    pub content: Content,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer or a finite fraction.
    Number(Number),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it starts.
    pub place: Place,
    /// Which bytes of the text it is written with, as far as that is known.
    pub written: Range<usize>,
    /// Its text; numbers and booleans in their usual spelling.
    pub text: String,
    /// Whether it is written as a bare `null` or `~`, which `pipeline upload` refuses.
    pub bare_null: bool,
}

/// Reads a pipeline.
pub fn read(text: &str) -> Result<Node, Mistake> {
    let node = parse(text, serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true })?;
    refuse_null_keys(&node)?;
    Ok(node)
}

/// Reads a file of a workspace. What it expands to is bounded, so that a small file cannot fill the memory.
pub fn read_bounded(text: &str) -> Result<Node, Mistake> {
    let node = parse(
        text,
        serde_saphyr::options! {
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MOST_REPEATED },
            budget: serde_saphyr::budget! {
                max_total_scalar_bytes: text.len() + MOST_EXPANDED,
                max_depth: DEEPEST,
                max_nodes: MOST_VALUES,
                max_events: 4 * MOST_VALUES,
                // One anchor for a thousand components is no attack; the bounds above hold without this guess.
                enforce_alias_anchor_ratio: false,
            },
        },
    )?;
    let mut seen = HashSet::new();
    match expanded(&node, &mut seen) {
        more if more > MOST_EXPANDED => Err(too_much_expanded(node.place)),
        _ => Ok(node),
    }
}

fn parse(text: &str, options: Options) -> Result<Node, Mistake> {
    let root: Spanned<Content> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| mistake(error.without_snippet()))?;
    Ok(Node::from(root))
}

fn mistake(error: &YamlError) -> Mistake {
    let place = error.location().map_or(Place::default(), place);
    let mut innermost = error;
    while let YamlError::AliasError { error, .. } | YamlError::WithSnippet { error, .. } = innermost {
        innermost = error;
    }
    match innermost {
        YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::Budget { breach: BudgetBreach::ScalarBytes { .. }, .. } => too_much_expanded(place),
        YamlError::Budget { breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, .. } => {
            let most = Count(MOST_VALUES as u64);
            Mistake::new(
                place,
                format_args!("there are more than {most} values, those that aliases stand for included"),
            )
            .hint("make the file smaller")
        }
        YamlError::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Mistake::new(place, format_args!("more than {DEEPEST} lists and maps are nested in each other here"))
                .hint("nest less, or look for a bracket that is not closed")
        }
        YamlError::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map(|key| format!(" `{}`", Shown(key.as_bytes()))).unwrap_or_default();
            Mistake::new(place, format_args!("duplicate key{key}")).hint("remove or rename one of the two")
        }
        YamlError::RecursiveReferencesRequireWeakTypes { .. } => {
            Mistake::new(place, "an alias stands inside of its own anchor").hint("take the alias out")
        }
        YamlError::MultipleDocuments { .. } => {
            Mistake::new(place, "a second document begins here").hint("take out the `---` line and what follows it")
        }
        _ => Mistake::new(place, format_args!("not valid YAML: {}", without_place(&innermost.to_string())))
            .hint("look at the indentation, quotes and brackets here and on the line above"),
    }
}

fn too_much_expanded(place: Place) -> Mistake {
    Mistake::new(place, "what anchors and merge keys stand for is longer than 1 MiB")
        .hint("use fewer aliases, or write out what differs")
}

/// Bytes of text below that stand there only because an alias or merge key says so: what was at its place before.
fn expanded(node: &Node, seen: &mut HashSet<Place>) -> usize {
    let again = |place: Place, length: usize, seen: &mut HashSet<Place>| if seen.insert(place) { 0 } else { length };
    match &node.content {
        Content::Text(text) => again(node.place, text.len(), seen),
        Content::List(items) => items.iter().map(|item| expanded(item, seen)).sum(),
        Content::Map(entries) => {
            entries.iter().map(|(key, value)| again(key.place, key.text.len(), seen) + expanded(value, seen)).sum()
        }
        Content::Null | Content::Bool(_) | Content::Number(_) => again(node.place, 1, seen),
    }
}

fn place(location: serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

/// The parser's messages carry the place in words; ours stands in front already.
fn without_place(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let end = [" at line ", ", set "].iter().filter_map(|mark| first.find(mark)).min();
    let start = first.strip_prefix("error: ").unwrap_or(first);
    let cut = first.len() - start.len();
    first[cut..end.unwrap_or(first.len()).max(cut)].trim_end_matches([':', ' ']).to_string()
}

fn refuse_null_keys(node: &Node) -> Result<(), Mistake> {
    match &node.content {
        Content::List(items) => items.iter().try_for_each(refuse_null_keys),
        Content::Map(entries) => entries.iter().try_for_each(|(key, value)| {
            if key.bare_null {
                return Err(Mistake::new(
                    key.place,
                    "a key may not be a bare `null`: `pipeline upload` refuses the file",
                )
                .hint("put it in quotes: `\"null\": true`"));
            }
            refuse_null_keys(value)
        }),
        _ => Ok(()),
    }
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        let span = spanned.defined.span();
        let start = span.byte_offset().and_then(|start| usize::try_from(start).ok()).unwrap_or_default();
        let length = span.byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
        Node { place: place(spanned.defined), written: start..start.saturating_add(length), content: spanned.value }
    }
}

impl Node {
    /// The value of a key, if this is a mapping that has it.
    pub fn field(&self, name: &str) -> Option<&Node> {
        self.entries().iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A scalar as text, the way the agent turns it into an environment value; `None` for null, lists and mappings.
    pub fn scalar(&self) -> Option<String> {
        match &self.content {
            Content::Text(text) => Some(text.clone()),
            Content::Bool(value) => Some(value.to_string()),
            Content::Number(number) => Some(number.to_string()),
            Content::Null | Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The same data as JSON, order kept.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(number) => Value::Number(number.clone()),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// Where everything below is written, by its path as the plugin's messages spell it: the key for a value of a mapping,
    /// the value itself for an element of a list.
    pub fn places(&self) -> BTreeMap<String, Place> {
        let mut places = BTreeMap::new();
        self.add_places(&At::top(), &mut places);
        places
    }

    fn add_places(&self, at: &At, places: &mut BTreeMap<String, Place>) {
        match &self.content {
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let at = at.index(index);
                    places.insert(at.as_str().to_string(), item.place);
                    item.add_places(&at, places);
                }
            }
            Content::Map(entries) => {
                for (key, value) in entries {
                    let at = at.key(&key.text);
                    places.insert(at.as_str().to_string(), key.place);
                    value.add_places(&at, places);
                }
            }
            _ => {}
        }
    }

    /// Rewrites every text and key below; the first failure stops and is told where.
    pub fn rewrite(&mut self, change: &mut impl FnMut(&str) -> Result<String, String>) -> Result<(), Mistake> {
        match &mut self.content {
            Content::Text(text) => *text = change(text).map_err(|message| Mistake::new(self.place, message))?,
            Content::List(items) => items.iter_mut().try_for_each(|item| item.rewrite(change))?,
            Content::Map(entries) => {
                for (key, value) in entries {
                    key.text = change(&key.text).map_err(|message| Mistake::new(key.place, message))?;
                    value.rewrite(change)?;
                }
            }
            Content::Null | Content::Bool(_) | Content::Number(_) => {}
        }
        Ok(())
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Content, E> {
        Number::from_f64(value).map(Content::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Content>>()? {
            list.push(Node::from(item));
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<Content>>()? {
            let key = Node::from(key);
            let bare_null = matches!(key.content, Content::Null);
            let text = match (bare_null, key.scalar()) {
                (true, _) => "null".to_string(),
                (false, Some(text)) => text,
                (false, None) => return Err(de::Error::custom("a key must be plain text")),
            };
            let value = Node::from(entries.next_value::<Spanned<Content>>()?);
            map.push((Key { place: key.place, written: key.written, text, bare_null }, value));
        }
        Ok(Content::Map(map))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u64, column: u64) -> Place {
        Place { line, column }
    }

    #[test]
    fn nodes_know_their_line_and_column() {
        let root =
            read("steps:\n  - command: make\n    plugins:\n      - monofo#v1:\n          upload: { a.tar: [x, y] }\n")
                .unwrap();
        let places = root.places();
        for (path, place) in [
            ("steps", at(1, 1)),
            ("steps[0]", at(2, 5)),
            ("steps[0].command", at(2, 5)),
            ("steps[0].plugins[0][\"monofo#v1\"].upload", at(5, 11)),
            ("steps[0].plugins[0][\"monofo#v1\"].upload[\"a.tar\"]", at(5, 21)),
            ("steps[0].plugins[0][\"monofo#v1\"].upload[\"a.tar\"][1]", at(5, 32)),
        ] {
            assert_eq!(places.get(path), Some(&place), "{path}: {places:?}");
        }
    }

    #[test]
    fn an_aliased_or_merged_value_stands_where_it_is_defined() {
        let root = read("x: &base\n  one: 1\n  two: 2\na: *base\nb:\n  <<: *base\n  two: 3\n").unwrap();
        assert_eq!(root.field("b").unwrap().to_json(), serde_json::json!({"two": 3, "one": 1}));
        assert_eq!(root.field("a").unwrap().field("one").unwrap().place.line, 2);
        assert_eq!(root.field("b").unwrap().field("one").unwrap().place.line, 2);
        assert_eq!(root.field("b").unwrap().field("two").unwrap().place.line, 7);
    }

    #[test]
    fn scalars_are_typed_as_pipeline_upload_types_them() {
        let root =
            read("a: yes\nb: true\nc: 0755\nd: 1.5\ne: ~\nf: 'true'\ng: 12345678901234567890\n1: one\n").unwrap();
        assert_eq!(
            root.to_json(),
            serde_json::json!({"a": "yes", "b": true, "c": 493, "d": 1.5, "e": null, "f": "true",
                "g": 12_345_678_901_234_567_890_u64, "1": "one"})
        );
    }

    #[test]
    fn nodes_know_what_is_written_for_them() {
        let text = "a: 1.10 # c\nb: &x \"é\"\n1.10: [0x1f , 12e4567, *x]\ng:   plain text  here  \nn:\n";
        let root = read_bounded(text).unwrap();
        let written = |node: &Node| text[node.written.clone()].to_owned();
        let list = root.field("1.1").unwrap();
        let Content::List(items) = &list.content else { panic!("{list:?}") };
        assert_eq!(items.iter().map(written).collect::<Vec<_>>(), ["0x1f", "12e4567", "\"é\""]);
        for (key, expected) in [("a", "1.10"), ("b", "\"é\""), ("g", "plain text  here"), ("n", "")] {
            assert_eq!(written(root.field(key).unwrap()), expected, "{key}");
        }
        assert_eq!(&text[root.entries()[2].0.written.clone()], "1.10");
    }

    #[test]
    fn what_aliases_stand_for_is_bounded() {
        let word = "x".repeat(1024);
        let aliases = |count: usize| format!("a: &a {word}\nb: [{}]\n", vec!["*a"; count].join(", "));
        assert!(read_bounded(&aliases(1024)).is_ok());
        let error = read_bounded(&aliases(1025)).unwrap_err();
        assert!(error.message.contains("1 MiB"), "{error:?}");
        let merged: String = (0..1200).map(|index| format!("k{index}: {{<<: *b}}\n")).collect();
        assert!(read_bounded(&format!("b: &b {{ a: {word} }}\n{merged}")).is_err());
    }

    #[test]
    fn broken_yaml_is_told_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: [1, 2\nc: 3\n", 3),
            ("a: 1\na: 2\n", 2),
            ("a:\n\t- x\n", 2),
            ("a: *nowhere\n", 1),
            ("a: 1\nb:\n  null: true\n", 3),
        ] {
            let mistake = read(text).unwrap_err();
            assert_eq!(mistake.place.line, line, "{text:?}: {mistake:?}");
            assert!(!mistake.message.contains("at line "), "{mistake:?}");
            assert!(mistake.hint.is_some());
        }
        assert!(read("a: 1\nb:\n  'null': true\n").is_ok());
    }
}
