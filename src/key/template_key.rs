//! The inputs of an entry of the `cache:` block: what its template came to, and the paths that it holds.
//!
//! ```json
//! { "schema":"meta.template-key/1", "component":"node_modules", "pipeline":"web",
//!   "parts":[ {"text":"npm-"}, {"fn":"os","of":[],"value":"linux"}, {"text":"-"},
//!             {"fn":"checksum","of":["package-lock.json"],"value":"<sha256>"} ],
//!   "key":"npm-linux-<sha256>", "paths":["node_modules"], "salt":"" }
//! ```
//! The digest covers the parts one by one, so `a-{{ x }}` and `a{{ y }}` never meet, whatever they come to. `key` is what
//! they read together: prefixes are compared with it.

use serde_json::{Value, json};

use super::ComponentName;
use super::template::{Call, Function};
use crate::hash::Hash;

/// The schema of such records.
pub(super) const SCHEMA: &str = "meta.template-key/1";

/// What stands in a readable key for the checksum of no file.
const NOTHING: &str = "none";

/// A piece of a template, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// Text that stood for itself.
    Text(String),
    /// What a call gave; `None` for a variable that is not set, and for a checksum of nothing.
    Result(Call, Option<String>),
}

impl KeyPart {
    fn value(&self) -> Value {
        match self {
            KeyPart::Text(text) => json!({ "text": text }),
            KeyPart::Result(call, value) => {
                json!({ "fn": call.function.name(), "of": call.arguments, "value": value })
            }
        }
    }

    fn parse(value: &Value) -> Option<KeyPart> {
        if let Some(text) = value.get("text") {
            return Some(KeyPart::Text(text.as_str()?.to_owned()));
        }
        let arguments = value.get("of")?.as_array()?.iter();
        let call = Call {
            function: Function::parse(value.get("fn")?.as_str()?)?,
            arguments: arguments.map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            optional: false,
        };
        let given = match value.get("value")? {
            Value::Null => None,
            text => Some(text.as_str()?.to_owned()),
        };
        let is_digest = || given.as_deref().is_none_or(|text| Hash::parse(text).is_some());
        (call.function != Function::Checksum || is_digest()).then_some(KeyPart::Result(call, given))
    }

    /// What it reads in a key.
    pub fn text(&self) -> &str {
        match self {
            KeyPart::Text(text) => text,
            KeyPart::Result(call, None) if call.function == Function::Checksum => NOTHING,
            KeyPart::Result(_, value) => value.as_deref().unwrap_or(""),
        }
    }

    /// The same with digests cut short, for the log.
    fn shown(&self) -> &str {
        match self {
            KeyPart::Result(call, Some(digest)) if call.function == Function::Checksum => {
                &digest[..digest.len().min(12)]
            }
            part => part.text(),
        }
    }
}

/// The text that parts read together.
pub fn text_of(parts: &[KeyPart]) -> String {
    parts.iter().map(KeyPart::text).collect()
}

/// The inputs of an entry of the `cache:` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateKey {
    /// The entry's `id`.
    pub component: ComponentName,
    /// The pipeline, empty outside a job: keys of two pipelines never meet.
    pub pipeline: String,
    /// What the template came to.
    pub parts: Vec<KeyPart>,
    /// The paths, as configured: an entry with other paths is another one.
    pub paths: Vec<String>,
    /// `MONOFO_CACHE_SALT`.
    pub salt: String,
}

impl TemplateKey {
    /// The readable key.
    pub fn text(&self) -> String {
        text_of(&self.parts)
    }

    /// The readable key with digests cut short, for the log.
    pub fn shown(&self) -> String {
        self.parts.iter().map(KeyPart::shown).collect()
    }

    /// Whether another one is of the same block entry, whatever its key.
    pub fn is_kin(&self, other: &TemplateKey) -> bool {
        (&self.component, &self.pipeline, &self.paths, &self.salt)
            == (&other.component, &other.pipeline, &other.paths, &other.salt)
    }

    /// Names all that are kin in the index of a remote, beside `any`, so that listing them meets nobody else's.
    pub fn shelf(&self) -> String {
        let kin = json!([self.component.as_str(), self.pipeline, self.paths, self.salt]);
        format!("any-{}", Hash::of(kin.to_string().as_bytes()).short())
    }

    /// The digests of the listings of files that it covers.
    pub fn listings(&self) -> Vec<Hash> {
        let digest = |part: &KeyPart| match part {
            KeyPart::Result(call, Some(digest)) if call.function == Function::Checksum => Hash::parse(digest),
            _ => None,
        };
        self.parts.iter().filter_map(digest).collect()
    }

    /// The record as JSON.
    pub fn value(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "component": self.component.as_str(),
            "pipeline": self.pipeline,
            "parts": self.parts.iter().map(KeyPart::value).collect::<Vec<_>>(),
            "key": self.text(),
            "paths": self.paths,
            "salt": self.salt,
        })
    }

    /// Reads a record; that nothing is in it beside is for the caller to check.
    pub(super) fn parse(value: &Value) -> Option<TemplateKey> {
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let paths = value.get("paths")?.as_array()?.iter();
        Some(TemplateKey {
            component: ComponentName::new(&text("component")?).ok()?,
            pipeline: text("pipeline")?,
            parts: value.get("parts")?.as_array()?.iter().map(KeyPart::parse).collect::<Option<_>>()?,
            paths: paths.map(|path| path.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            salt: text("salt")?,
        })
    }

    /// What has changed since another one, in a few words; `None` when all that the template asks for is the same.
    pub fn change_since(&self, before: &TemplateKey) -> Option<String> {
        let alike = |a: &KeyPart, b: &KeyPart| match (a, b) {
            (KeyPart::Text(a), KeyPart::Text(b)) => a == b,
            (KeyPart::Result(a, _), KeyPart::Result(b, _)) => (a.function, &a.arguments) == (b.function, &b.arguments),
            _ => false,
        };
        let same_template = self.parts.len() == before.parts.len()
            && self.parts.iter().zip(&before.parts).all(|(now, then)| alike(now, then));
        if !same_template {
            return Some("the template itself changed".to_owned());
        }
        let mut changed = self.parts.iter().zip(&before.parts).filter(|(now, then)| now != then);
        let told: Vec<String> = changed
            .by_ref()
            .filter_map(|(now, then)| match (now, then) {
                (KeyPart::Result(call, _), KeyPart::Result(..)) if call.function == Function::Checksum => {
                    Some(format!("{call} changed"))
                }
                (KeyPart::Result(call, _), KeyPart::Result(..)) => {
                    Some(format!("{call} changed from `{}` to `{}`", then.text(), now.text()))
                }
                _ => None,
            })
            .collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyRecord;

    fn call(function: Function, arguments: &[&str]) -> Call {
        Call { function, arguments: arguments.iter().map(ToString::to_string).collect(), optional: false }
    }

    fn record(parts: Vec<KeyPart>) -> TemplateKey {
        TemplateKey {
            component: ComponentName::new("node_modules").unwrap(),
            pipeline: "web".into(),
            parts,
            paths: vec!["node_modules".into()],
            salt: String::new(),
        }
    }

    #[test]
    fn golden_key() {
        let digest = "2441eada427db59a806af29117391cf37702ab85509ddd185992ca21b54e058c";
        let record = KeyRecord::Template(record(vec![
            KeyPart::Text("npm-".into()),
            KeyPart::Result(call(Function::Os, &[]), Some("linux".into())),
            KeyPart::Result(call(Function::Checksum, &["package-lock.json"]), Some(digest.into())),
            KeyPart::Result(call(Function::Env, &["UNSET"]), None),
        ]));
        assert_eq!(record.value()["key"], format!("npm-linux{digest}"));
        assert_eq!(record.key().to_string(), "d7757c7a28dea5cd437448a60a8383aab92643d500527c24aaa612fcec1c7cda");
        assert_eq!(KeyRecord::parse(&record.value()).unwrap(), record);
    }

    #[test]
    fn parts_that_read_alike_are_other_keys() {
        let env =
            |name: &str, value: Option<&str>| KeyPart::Result(call(Function::Env, &[name]), value.map(str::to_owned));
        let text = |text: &str| KeyPart::Text(text.to_owned());
        let all = [
            vec![text("a-"), env("X", Some("b"))],
            vec![text("a"), env("X", Some("-b"))],
            vec![text("a"), env("Y", Some("-b"))],
            vec![text("a-b")],
            vec![text("a-b"), env("X", Some(""))],
            vec![text("a-b"), env("X", None)],
        ];
        let keys: std::collections::BTreeSet<_> =
            all.into_iter().map(|parts| KeyRecord::Template(record(parts)).key()).collect();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn what_does_not_add_up_is_not_read() {
        let good = record(vec![KeyPart::Text("a".into())]).value();
        assert!(KeyRecord::parse(&good).is_ok());
        for (field, value) in [
            ("key", json!("b")),
            ("parts", json!([{ "text": "a", "more": "" }])),
            ("parts", json!([{ "fn": "os", "of": [], "value": true }])),
            ("parts", json!([{ "fn": "checksum", "of": ["x"], "value": "short" }])),
            ("parts", json!([{ "fn": "later", "of": [], "value": "x" }])),
            ("paths", json!([null])),
            ("component", json!("../x")),
            ("more", json!("x")),
        ] {
            let mut wrong = good.clone();
            wrong[field] = value;
            assert!(KeyRecord::parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_changed_is_told_by_the_call() {
        let lock = |digest: &str| {
            KeyPart::Result(call(Function::Checksum, &["a.lock"]), Some(Hash::of(digest.as_bytes()).to_string()))
        };
        let os = |os: &str| KeyPart::Result(call(Function::Os, &[]), Some(os.to_owned()));
        let before = record(vec![os("linux"), lock("1")]);
        let change = |parts| record(parts).change_since(&before);
        assert_eq!(change(vec![os("linux"), lock("1")]), None);
        assert_eq!(change(vec![os("linux"), lock("2")]).unwrap(), "checksum \"a.lock\" changed");
        assert_eq!(
            change(vec![os("macos"), lock("2")]).unwrap(),
            "os changed from `linux` to `macos`, checksum \"a.lock\" changed"
        );
        assert_eq!(change(vec![os("linux")]).unwrap(), "the template itself changed");
    }
}
