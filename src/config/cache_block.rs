//! The `cache:` block of the plugin's configuration.
//!
//! ```yaml
//! cache:                                   # one, or a list
//!   - key: 'npm-{{ os }}-{{ checksum "package-lock.json" }}'      # see `key::template`
//!     restore-keys: ['npm-{{ os }}-']      # one, or a list: prefixes, tried in this order
//!     paths: [node_modules, ~/.npm]        # one, or a list: files and folders of the working folder, or below ~
//!     id: node_modules                     # default: the last part of the first path
//!     save: success                        # or always, never, default-branch
//!     soft-fail: true
//! ```

use serde_json::Value;

use super::plugin::{below, tidy};
use crate::config::fields::{self, Fields};
use crate::config::mistakes::{At, Mistakes};
use crate::key::ComponentName;
use crate::key::template::Template;

/// More than anybody lists.
const MOST_PATHS: usize = 32;

/// When an entry is stored that was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Save {
    /// After a command that succeeded.
    #[default]
    Success,
    /// After every command, unless the job was cancelled.
    Always,
    /// Never.
    Never,
    /// After a command that succeeded on the default branch, no pull request's.
    DefaultBranch,
}

const SAVE: [(&str, Save); 4] = [
    ("success", Save::Success),
    ("always", Save::Always),
    ("never", Save::Never),
    ("default-branch", Save::DefaultBranch),
];

/// One entry of the `cache` block, valid.
#[derive(Debug, Clone)]
pub struct PluginCache {
    /// Its name: the component of its entries.
    pub id: ComponentName,
    /// The key.
    pub key: Template,
    /// Prefixes to fall back to, in their order.
    pub restore_keys: Vec<Template>,
    /// Files and folders, sorted: relative ones without `.` and `..`, and such as begin with `~/`.
    pub paths: Vec<String>,
    /// When it is stored.
    pub save: Save,
    /// Whether trouble is only a warning.
    pub soft_fail: bool,
}

impl PluginCache {
    /// The `<ID>` of `MONOFO_CACHE_<ID>_HIT`.
    pub fn variable(&self) -> String {
        variable(self.id.as_str())
    }
}

/// An id in upper snake case.
pub fn variable(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Reads the block. What is wrong is added to the mistakes.
pub(super) fn read(value: &Value, at: &At, mistakes: &mut Mistakes) -> Vec<PluginCache> {
    let mut found: Vec<PluginCache> = Vec::new();
    for (at, item) in items(value, at) {
        let Some(entry) = entry(item, &at, mistakes) else { continue };
        if found.iter().any(|earlier| earlier.variable() == entry.variable()) {
            mistakes.add(&at, format!("is named `{}`, as an entry before it: set `id` to tell them apart", entry.id));
        }
        for path in &entry.paths {
            let overlapping = |earlier: &&PluginCache| earlier.paths.iter().any(|other| overlap(path, other));
            if let Some(earlier) = found.iter().find(overlapping) {
                let why =
                    format!("found `{path}`, which overlaps with a path of `{}`, expected paths apart", earlier.id);
                mistakes.add(&at, why);
            }
        }
        found.push(entry);
    }
    found
}

/// Whether one path lies in the other: whichever is restored last would undo the other.
fn overlap(one: &str, other: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within(one, other) || within(other, one)
}

fn items<'a>(value: &'a Value, at: &At) -> Vec<(At, &'a Value)> {
    match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (at.index(i), item)).collect(),
        one => vec![(at.clone(), one)],
    }
}

fn entry(value: &Value, at: &At, mistakes: &mut Mistakes) -> Option<PluginCache> {
    let mut fields = Fields::of(value, at, "a map with `key` and `paths`", mistakes)?;
    let key = fields.take(&["key"], mistakes);
    if key.is_none() {
        mistakes
            .add(at, "has no `key`, expected a template such as `npm-{{ os }}-{{ checksum \"package-lock.json\" }}`");
    }
    let key = key.and_then(|(at, value)| template(value, &at, mistakes));
    let restore_keys = fields.take(&["restore-keys"], mistakes).map_or_else(Vec::new, |(at, value)| {
        items(value, &at).into_iter().filter_map(|(at, value)| template(value, &at, mistakes)).collect()
    });
    let listed = fields.take(&["paths"], mistakes);
    if listed.is_none() {
        mistakes.add(at, "has no `paths`, expected files and folders to keep");
    }
    let listed = listed.map(|(at, value)| paths(value, &at, mistakes));
    let id = match fields.take(&["id"], mistakes) {
        Some((at, value)) => fields::text(value, &at, mistakes).and_then(|text| match ComponentName::new(&text) {
            Ok(id) => Some(id),
            Err(_) => {
                mistakes.unexpected(&at, value, "letters, digits, `.`, `_` and `-`, beginning with a letter or digit");
                None
            }
        }),
        None => listed.as_ref().and_then(|paths| paths.first()).and_then(|path| {
            let id = usual_id(path);
            if id.is_none() {
                mistakes.add(at, format!("needs an `id`: none can be made of `{path}`"));
            }
            id
        }),
    };
    let save = fields.choice("save", &SAVE, mistakes).unwrap_or_default();
    let soft_fail = fields.boolean("soft-fail", mistakes).unwrap_or(true);
    if let Some((at, _)) = fields.take(&["skip-on-hit"], mistakes) {
        mistakes.add(
            &at,
            "no hook can keep an agent from running the step's command: let the command look at MONOFO_CACHE_HIT, as in `[ \"$$MONOFO_CACHE_HIT\" = exact ] || npm ci`",
        );
    }
    fields.finish(&["key", "restore-keys", "paths", "id", "save", "soft-fail"], mistakes);
    let mut paths = listed.filter(|paths| !paths.is_empty())?;
    paths.sort();
    Some(PluginCache { id: id?, key: key?, restore_keys, paths, save, soft_fail })
}

fn template(value: &Value, at: &At, mistakes: &mut Mistakes) -> Option<Template> {
    let Value::String(text) = value else {
        mistakes.unexpected(at, value, "a template");
        return None;
    };
    Template::parse(text).map_err(|error| mistakes.error(at, &error)).ok()
}

fn paths(value: &Value, at: &At, mistakes: &mut Mistakes) -> Vec<String> {
    let listed = items(value, at);
    if listed.is_empty() || listed.len() > MOST_PATHS {
        mistakes.unexpected(at, value, &format!("1 to {MOST_PATHS} paths"));
    }
    let mut found: Vec<String> = Vec::new();
    for (at, value) in listed {
        let Some(path) = fields::text(value, &at, mistakes).and_then(|path| path_of(&path, &at, mistakes)) else {
            continue;
        };
        match found.iter().find(|other| overlap(&path, other)) {
            Some(other) => {
                mistakes.add(&at, format!("found `{path}`, which overlaps with `{other}`, expected paths apart"))
            }
            None => found.push(path),
        }
    }
    found
}

fn path_of(path: &str, at: &At, mistakes: &mut Mistakes) -> Option<String> {
    let wrong = |mistakes: &mut Mistakes, expected: &str| {
        mistakes.unexpected(at, &Value::String(path.to_owned()), expected);
        None
    };
    if path.contains('*') {
        return wrong(mistakes, "a file or folder: paths are no globs");
    }
    let (home, rest) = match path.strip_prefix("~/") {
        Some(rest) => ("~/", rest.trim_start_matches('/')),
        None if path.starts_with('~') => {
            return wrong(mistakes, "a path of the working folder, or one that begins with `~/`");
        }
        None => ("", path),
    };
    if !below(rest, at, mistakes) {
        return None;
    }
    match tidy(rest).to_str() {
        Some(".") | None => {
            wrong(mistakes, "a file or folder in the working folder or below `~`, and not the folder itself")
        }
        Some(tidy) => Some(format!("{home}{tidy}")),
    }
}

/// The last part of a path as a name: `~/.npm` is `npm`.
fn usual_id(path: &str) -> Option<ComponentName> {
    let name: String = path
        .rsplit('/')
        .next()?
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    ComponentName::new(name.trim_start_matches(['.', '_', '-'])).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Class;

    fn block(value: Value) -> crate::error::Result<Vec<PluginCache>> {
        let mut mistakes = Mistakes::default();
        let found = read(&value, &At::top().key("cache"), &mut mistakes);
        mistakes.into_result().map(|()| found)
    }

    #[test]
    fn every_form_is_read_and_the_rest_has_defaults() {
        let found = block(json!({"key": "a", "paths": "~/.npm/"})).unwrap();
        assert_eq!((found[0].id.as_str(), found[0].variable().as_str()), ("npm", "NPM"));
        assert_eq!(
            (found[0].save, found[0].soft_fail, found[0].paths.as_slice()),
            (Save::Success, true, &["~/.npm".to_owned()][..])
        );
        let found = block(json!([
            {"key": "a", "paths": ["./web/x/../node_modules", "a.txt"], "restore-keys": "b", "save": "always", "soft-fail": false},
            {"key": "a", "paths": ["node_modules"], "id": "a-b.c", "restore-keys": ["b", "c"], "save": null, "skip-on-hit": null},
        ]))
        .unwrap();
        assert_eq!(found[0].paths, ["a.txt", "web/node_modules"]);
        assert_eq!((found[0].id.as_str(), found[0].save, found[0].soft_fail), ("node_modules", Save::Always, false));
        assert_eq!((found[1].variable().as_str(), found[1].restore_keys.len()), ("A_B_C", 2));
        assert!(block(json!([])).unwrap().is_empty());
    }

    #[test]
    fn mistakes_say_where_and_what_was_expected() {
        for (value, says) in [
            (json!("x"), "`cache`: found the text `x`, expected a map"),
            (json!({"paths": "a"}), "`cache`: has no `key`"),
            (json!({"key": "a"}), "`cache`: has no `paths`"),
            (json!({"key": "a", "paths": []}), "`cache.paths`: found an empty list"),
            (json!({"key": "a-{{ ox }}", "paths": "a"}), "`cache.key`: at character 6 of"),
            (json!({"key": "a", "paths": "a", "restore-keys": ["b", "{{"]}), "`cache.restore-keys[1]`: at character"),
            (json!({"key": "a", "paths": ["a", 3]}), "`cache.paths[1]`: found `3`"),
            (json!({"key": "a", "paths": ["a", "./a/b"]}), "`a/b`, which overlaps with `a`"),
            (
                json!([{"key": "b", "paths": "a/b"}, {"key": "a", "paths": ["x", "a"]}]),
                "`cache[1]`: found `a`, which overlaps with a path of `b`",
            ),
            (json!([{"key": "b", "paths": "a"}, {"key": "a", "paths": "a", "id": "c"}]), "a path of `a`"),
            (json!({"key": "a", "paths": "."}), "and not the folder itself"),
            (json!({"key": "a", "paths": "~/"}), "and not the folder itself"),
            (json!({"key": "a", "paths": "~root/x"}), "one that begins with `~/`"),
            (json!({"key": "a", "paths": "dist/*"}), "paths are no globs"),
            (json!({"key": "a", "paths": "a", "save": "sometimes"}), "expected one of `success`"),
            (json!({"key": "a", "paths": "a", "soft-fail": "no"}), "`cache.soft-fail`"),
            (json!({"key": "a", "paths": "a", "id": "-x"}), "`cache.id`: found the text `-x`"),
            (json!({"key": "a", "paths": "ä"}), "needs an `id`"),
            (json!({"key": "a", "paths": "a", "skip-on-hit": true}), "look at MONOFO_CACHE_HIT"),
            (json!([{"key": "a", "paths": "a"}, {"key": "b", "paths": "x/a"}]), "`cache[1]`: is named `a`"),
            (
                json!([{"key": "a", "paths": "a", "id": "x.y"}, {"key": "b", "paths": "b", "id": "x-y"}]),
                "is named `x-y`",
            ),
        ] {
            let error = block(value.clone()).unwrap_err();
            assert!(error.chain().contains(says), "{value}: {}", error.chain());
            assert_eq!(error.class(), Class::Usage, "{value}");
        }
        let error = block(json!({"key": "a", "path": "a", "paths": "a"})).unwrap_err();
        assert_eq!(error.next_step(), Some("did you mean `paths`?"));
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["/etc", "../x", "a/../../b", "~/../x", "~//../x"] {
            assert_eq!(block(json!({"key": "a", "paths": path})).unwrap_err().class(), Class::Refused, "{path}");
        }
    }
}
