//! The record of all inputs, whose canonical text's digest is the key.
//!
//! ```json
//! { "schema":"meta.cache-key/1", "component":"a", "version":"v1.2.3", "type":"bazel", "build_target":"//a:all",
//!   "platform":"linux-x86_64", "source":{"listing":"<sha256>"}, "extra":null,
//!   "env":{"CFLAGS":"<sha256 of value>","DEBUG":null},
//!   "dependencies":[{"name":"b","version":"v1.0.0","key":"<b's key>"}], "salt":"" }
//! { "schema":"meta.files-key/1", "component":"a", "platform":"linux-x86_64", "files":"<sha256>", "salt":"" }
//! ```
//! The second is that of a component that no manifest describes: a name and named files; a third is that of
//! [`TemplateKey`]. Keys nest: a dependency's key
//! covers its sources and its own dependencies.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::ComponentName;
use super::template_key::{self, TemplateKey};
use crate::error::{Error, Result};
use crate::hash::{Hash, canonical};

const COMPONENT: &str = "meta.cache-key/1";
const FILES: &str = "meta.files-key/1";

/// What is known of a component's sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// They are here; the digest of their listing.
    Listing(Hash),
    /// They are not here, and the lock in use pins this commit of them.
    Commit(String),
    /// They are not here.
    Absent,
}

/// A component that another needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Its name.
    pub name: ComponentName,
    /// Its version.
    pub version: String,
    /// Its key.
    pub key: Hash,
}

/// The inputs of a component that a manifest describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentKey {
    /// Its name.
    pub component: ComponentName,
    /// Its version.
    pub version: String,
    /// What kind of build it is.
    pub kind: String,
    /// What the build system is asked for.
    pub build_target: String,
    /// `linux-x86_64` and the like, or `any`.
    pub platform: String,
    /// Its sources.
    pub source: Sources,
    /// The digest of the listing of further inputs, if it has such.
    pub extra: Option<Hash>,
    /// Declared variables, each with its value's digest if it is set.
    pub env: BTreeMap<String, Option<Hash>>,
    /// Its direct dependencies, sorted by name.
    pub dependencies: Vec<Dependency>,
    /// `MONOFO_CACHE_SALT`: a deliberate fresh start.
    pub salt: String,
}

/// The inputs of a component that is just a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesKey {
    /// The name.
    pub component: ComponentName,
    /// `linux-x86_64` and the like.
    pub platform: String,
    /// The digest of the listing of the named files, if there are any.
    pub files: Option<Hash>,
    /// `MONOFO_CACHE_SALT`.
    pub salt: String,
}

/// Everything that an entry was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRecord {
    /// A component of a workspace.
    Component(ComponentKey),
    /// A name and named files.
    Files(FilesKey),
    /// An entry of the `cache:` block.
    Template(TemplateKey),
}

impl KeyRecord {
    /// The component that it is about.
    pub fn component(&self) -> &ComponentName {
        match self {
            KeyRecord::Component(record) => &record.component,
            KeyRecord::Files(record) => &record.component,
            KeyRecord::Template(record) => &record.component,
        }
    }

    /// The platform that it is about; `any` for a template, which names the system itself where that matters.
    pub fn platform(&self) -> &str {
        match self {
            KeyRecord::Component(record) => &record.platform,
            KeyRecord::Files(record) => &record.platform,
            KeyRecord::Template(_) => "any",
        }
    }

    /// The platform under which it stands in the index of a remote.
    pub fn shelf(&self) -> String {
        match self {
            KeyRecord::Template(record) => record.shelf(),
            record => record.platform().to_owned(),
        }
    }

    /// The version, empty for a component that is just a name.
    pub fn version(&self) -> &str {
        match self {
            KeyRecord::Component(record) => &record.version,
            KeyRecord::Files(_) | KeyRecord::Template(_) => "",
        }
    }

    /// What the build system is asked for, empty for a component that is just a name.
    pub fn build_target(&self) -> &str {
        match self {
            KeyRecord::Component(record) => &record.build_target,
            KeyRecord::Files(_) | KeyRecord::Template(_) => "",
        }
    }

    /// The digests of the listings that it covers: sources, then further inputs.
    pub fn listings(&self) -> Vec<Hash> {
        match self {
            KeyRecord::Component(ComponentKey { source: Sources::Listing(source), extra, .. }) => {
                std::iter::once(*source).chain(*extra).collect()
            }
            KeyRecord::Component(record) => record.extra.into_iter().collect(),
            KeyRecord::Files(record) => record.files.into_iter().collect(),
            KeyRecord::Template(record) => record.listings(),
        }
    }

    /// The record as JSON.
    pub fn value(&self) -> Value {
        let hex = |hash: &Option<Hash>| hash.map_or(Value::Null, |hash| Value::String(hash.to_string()));
        match self {
            KeyRecord::Component(record) => {
                let source = match &record.source {
                    Sources::Listing(hash) => json!({ "listing": hash.to_string() }),
                    Sources::Commit(commit) => json!({ "commit": commit }),
                    Sources::Absent => json!({ "absent": true }),
                };
                let env: Map<String, Value> =
                    record.env.iter().map(|(name, value)| (name.clone(), hex(value))).collect();
                let dependency = |dependency: &Dependency| {
                    json!({
                        "name": dependency.name.as_str(),
                        "version": dependency.version,
                        "key": dependency.key.to_string(),
                    })
                };
                json!({
                    "schema": COMPONENT,
                    "component": record.component.as_str(),
                    "version": record.version,
                    "type": record.kind,
                    "build_target": record.build_target,
                    "platform": record.platform,
                    "source": source,
                    "extra": hex(&record.extra),
                    "env": env,
                    "dependencies": record.dependencies.iter().map(dependency).collect::<Vec<_>>(),
                    "salt": record.salt,
                })
            }
            KeyRecord::Files(record) => json!({
                "schema": FILES,
                "component": record.component.as_str(),
                "platform": record.platform,
                "files": hex(&record.files),
                "salt": record.salt,
            }),
            KeyRecord::Template(record) => record.value(),
        }
    }

    /// The text that is hashed.
    pub fn canonical(&self) -> Vec<u8> {
        canonical::canonical(&self.value()).expect("a record holds no numbers")
    }

    /// The key.
    pub fn key(&self) -> Hash {
        Hash::of(&self.canonical())
    }

    /// Reads a record. Anything but what [`KeyRecord::value`] gives is an error of class `Damaged`: a field more would be
    /// one that the key covers and nobody here understands.
    pub fn parse(value: &Value) -> Result<Self> {
        let read = Fields(value).record();
        let read =
            read.ok_or_else(|| Error::damaged("the record of inputs is not one that this version understands"))?;
        if read.value() == *value { Ok(read) } else { Err(Error::damaged("the record of inputs has unknown parts")) }
    }
}

struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(str::to_owned)
    }

    fn name(&self, name: &str) -> Option<ComponentName> {
        ComponentName::new(&self.text(name)?).ok()
    }

    fn hash(&self, name: &str) -> Option<Hash> {
        Hash::parse(self.0.get(name)?.as_str()?)
    }

    /// A digest or `null`.
    fn hash_or_null(&self, name: &str) -> Option<Option<Hash>> {
        hash_or_null(self.0.get(name)?)
    }

    fn record(&self) -> Option<KeyRecord> {
        match self.text("schema")?.as_str() {
            COMPONENT => {
                let source = self.0.get("source")?;
                let source = if source.get("absent").is_some() {
                    Sources::Absent
                } else if source.get("commit").is_some() {
                    Sources::Commit(Fields(source).text("commit")?)
                } else {
                    Sources::Listing(Fields(source).hash("listing")?)
                };
                let env = self.0.get("env")?.as_object()?.iter();
                let dependency = |value: &Value| {
                    let fields = Fields(value);
                    let (name, version) = (fields.name("name")?, fields.text("version")?);
                    Some(Dependency { name, version, key: fields.hash("key")? })
                };
                Some(KeyRecord::Component(ComponentKey {
                    component: self.name("component")?,
                    version: self.text("version")?,
                    kind: self.text("type")?,
                    build_target: self.text("build_target")?,
                    platform: self.text("platform")?,
                    source,
                    extra: self.hash_or_null("extra")?,
                    env: env.map(|(name, value)| Some((name.clone(), hash_or_null(value)?))).collect::<Option<_>>()?,
                    dependencies: self
                        .0
                        .get("dependencies")?
                        .as_array()?
                        .iter()
                        .map(dependency)
                        .collect::<Option<_>>()?,
                    salt: self.text("salt")?,
                }))
            }
            FILES => Some(KeyRecord::Files(FilesKey {
                component: self.name("component")?,
                platform: self.text("platform")?,
                files: self.hash_or_null("files")?,
                salt: self.text("salt")?,
            })),
            template_key::SCHEMA => Some(KeyRecord::Template(TemplateKey::parse(self.0)?)),
            _ => None,
        }
    }
}

fn hash_or_null(value: &Value) -> Option<Option<Hash>> {
    if value.is_null() { Some(None) } else { Some(Some(Hash::parse(value.as_str()?)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, version: &str) -> ComponentKey {
        ComponentKey {
            component: ComponentName::new(name).unwrap(),
            version: version.into(),
            kind: "bazel".into(),
            build_target: format!("//{name}:all"),
            platform: "linux-x86_64".into(),
            source: Sources::Absent,
            extra: None,
            env: BTreeMap::new(),
            dependencies: Vec::new(),
            salt: String::new(),
        }
    }

    #[test]
    fn golden_keys() {
        let b = KeyRecord::Component(component("b", "v1.0.0"));
        assert_eq!(b.key().to_string(), "5670a1057f8c1e8616136a447781e22f094af378312fcd00c1f2e01cb86f0208");
        let listing = Hash::parse("2441eada427db59a806af29117391cf37702ab85509ddd185992ca21b54e058c").unwrap();
        let a = KeyRecord::Component(ComponentKey {
            source: Sources::Listing(listing),
            env: BTreeMap::from([("CFLAGS".into(), Some(Hash::of(b"-O2"))), ("DEBUG".into(), None)]),
            dependencies: vec![Dependency {
                name: ComponentName::new("b").unwrap(),
                version: "v1.0.0".into(),
                key: b.key(),
            }],
            ..component("a", "v1.2.3")
        });
        assert_eq!(a.key().to_string(), "1d6a7fabe5cbdafa46c28f707ddad8b09d97d8d241a8f6a7fbb874e7b68b77cb");
        for record in [a, b] {
            assert_eq!(KeyRecord::parse(&record.value()).unwrap(), record);
        }
    }

    #[test]
    fn a_record_with_a_field_more_or_less_is_not_read() {
        let files = FilesKey {
            component: ComponentName::new("a").unwrap(),
            platform: "any".into(),
            files: None,
            salt: String::new(),
        };
        let record = KeyRecord::Files(files);
        let value = record.value();
        assert_eq!(KeyRecord::parse(&value).unwrap(), record);
        let mut more = value.clone();
        more["links"] = Value::Null;
        let mut less = value.clone();
        less.as_object_mut().unwrap().remove("salt");
        let mut newer = value.clone();
        newer["schema"] = json!("meta.files-key/2");
        let mut outside = value;
        outside["component"] = json!("../x");
        for wrong in [more, less, newer, outside, json!(null), json!([])] {
            assert!(KeyRecord::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
