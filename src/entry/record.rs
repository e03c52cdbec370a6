//! An entry's metadata: what it was made from, what came out, and what it is filed under.
//!
//! ```json
//! { "schema":"meta.cache-entry/1", "key":"…", "component":"a", "version":"v1.2.3", "build_target":"//a:all",
//!   "platform":"linux-x86_64", "created_at":"2026-01-02T03:04:05Z", "inputs":{ the record of inputs },
//!   "output":{ "tree":"…", "root":"dir", "name":"out", "files":12, "links":1, "empty_dirs":0, "bytes":34567 },
//!   "payload":{ "file":"payload-<sha256>.tar.lz4", "encoding":"tar.lz4", "sha256":"…", "bytes":9876 },
//!   "source":{ "files":40, "bytes":123456 }, "origin":{ "kind":"local" }, "scope":"shared", "signatures":[],
//!   "tool":"1.0.0" }
//! ```
//! Cache and store share it: in a store the schema is `meta.store-entry/1`, there is a `content_hash`, `inputs_key` stands for
//! `key`, and the payload is `null`. No user, host, path or credential stands in it. Fields that are not known are kept.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::HomeKind;
use crate::archive::codec::Codec;
use crate::artifact::Format;
use crate::error::{Error, Result};
use crate::hash::{Hash, canonical, escape};
use crate::key::KeyRecord;

/// The schema of a cache's entries.
pub const SCHEMA_CACHE: &str = "meta.cache-entry/1";
/// The schema of a store's entries, and a part of their addresses.
pub const SCHEMA_STORE: &str = "meta.store-entry/1";

/// More than any record has.
pub(super) const MOST_BYTES: u64 = 1 << 20;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    /// A folder.
    Dir,
    /// A single file.
    File,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Digest of its listing.
    pub tree: Hash,
    /// Whether it is a folder or a file.
    pub root: RootKind,
    /// The last part of the name it had; that of the file itself.
    pub name: String,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub links: u64,
    /// Folders without anything in them.
    pub empty_dirs: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Whether the payload has the files' own times and modes, and they come back with it.
    pub mtimes: bool,
}

impl Output {
    /// Whether another says the same of how much there is.
    pub fn same_counts(&self, other: &Output) -> bool {
        let counts = |output: &Output| (output.files, output.links, output.empty_dirs, output.bytes);
        counts(self) == counts(other)
    }
}

/// How a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// LZ4: fast.
    #[default]
    TarLz4,
    /// Zstandard: small.
    TarZst,
}

impl Encoding {
    /// Its name, which is the end of a payload's.
    pub fn word(self) -> &'static str {
        match self {
            Encoding::TarLz4 => "tar.lz4",
            Encoding::TarZst => "tar.zst",
        }
    }

    /// Reads a name.
    pub fn parse(word: &str) -> Option<Encoding> {
        [Encoding::TarLz4, Encoding::TarZst].into_iter().find(|encoding| encoding.word() == word)
    }

    /// How it is made. A payload has a digest, and what is in it another one: a third checksum would only cost time.
    pub fn codec(self) -> Result<Codec> {
        match self {
            Encoding::TarLz4 => Ok(Codec::BareLz4),
            Encoding::TarZst => Codec::new(Format::TarZst, None),
        }
    }
}

/// The archive that an entry's artifact is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Its compression.
    pub encoding: Encoding,
    /// Digest of its bytes as they are kept.
    pub sha256: Hash,
    /// Their number.
    pub bytes: u64,
}

impl Payload {
    /// Its file beside the metadata. Made from its digest, never taken from a record's text.
    pub fn file(&self) -> String {
        format!("payload-{}.{}", self.sha256, self.encoding.word())
    }

    /// Its object in a remote.
    pub fn object(&self) -> String {
        format!("{}.{}", self.sha256, self.encoding.word())
    }
}

/// An entry's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Hash,
    /// The record that the key is the digest of.
    pub inputs: KeyRecord,
    /// What came out.
    pub output: Output,
    /// The archive; none where files lie as they are.
    pub payload: Option<Payload>,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Where it came from: `local`, or `remote`.
    pub origin: Value,
    /// The scope it was made in.
    pub scope: String,
    /// The whole document, with what is not known here.
    raw: Value,
}

impl Record {
    /// The metadata of an artifact that was made here and now.
    pub fn new(inputs: KeyRecord, output: Output, source: (u64, u64), scope: &str) -> Self {
        let key = inputs.key();
        let created = seconds(SystemTime::now());
        let raw = json!({ "source": { "files": source.0, "bytes": source.1 }, "signatures": [] });
        let origin = json!({ "kind": "local" });
        Record { key, inputs, output, payload: None, created, origin, scope: scope.to_owned(), raw }
    }

    /// Notes how long the artifact took to build. No key or address covers that.
    pub fn remember_build(&mut self, took: Duration) {
        self.raw["build"] = json!({ "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX) });
    }

    /// How long the artifact took to build, where somebody noted that.
    pub fn built_in(&self) -> Option<Duration> {
        let milliseconds = self.raw.get("build")?.get("milliseconds")?.as_u64()?;
        Some(Duration::from_millis(milliseconds.min(MOST)))
    }

    /// The address in a store: it commits to all that went in and all that came out.
    pub fn address(&self) -> Hash {
        let value = json!({
            "schema": SCHEMA_STORE,
            "component": self.inputs.component().as_str(),
            "inputs": self.key.to_string(),
            "output": self.output.tree.to_string(),
        });
        Hash::of(&canonical::canonical(&value).expect("an address holds no numbers"))
    }

    /// What it is filed under.
    pub fn name(&self, kind: HomeKind) -> Hash {
        match kind {
            HomeKind::Cache => self.key,
            HomeKind::Store => self.address(),
        }
    }

    /// The document.
    pub fn value(&self, kind: HomeKind) -> Value {
        let Output { tree, root, name, files, links, empty_dirs, bytes, mtimes } = &self.output;
        let mut value = match kind {
            HomeKind::Cache => json!({ "schema": SCHEMA_CACHE, "key": self.key.to_string() }),
            HomeKind::Store => json!({
                "schema": SCHEMA_STORE,
                "content_hash": self.address().to_string(),
                "inputs_key": self.key.to_string(),
                "commit": commit(&self.inputs),
            }),
        };
        let mut common = json!({
            "component": self.inputs.component().as_str(),
            "version": self.inputs.version(),
            "build_target": self.inputs.build_target(),
            "platform": self.inputs.platform(),
            "created_at": time_text(self.created),
            "inputs": self.inputs.value(),
            "output": {
                "tree": tree.to_string(),
                "root": match root { RootKind::Dir => "dir", RootKind::File => "file" },
                "name": name,
                "files": files,
                "links": links,
                "empty_dirs": empty_dirs,
                "bytes": bytes,
            },
            "payload": self.payload.map(|payload| json!({
                "file": payload.file(),
                "encoding": payload.encoding.word(),
                "sha256": payload.sha256.to_string(),
                "bytes": payload.bytes,
            })),
            "origin": self.origin,
            "scope": self.scope,
            "tool": env!("CARGO_PKG_VERSION"),
        });
        if *mtimes {
            common["output"]["mtimes"] = Value::Bool(true);
        }
        for fields in [&common, &self.raw] {
            for (name, field) in fields.as_object().into_iter().flatten() {
                if value.get(name).is_none() {
                    value[name] = field.clone();
                }
            }
        }
        value
    }

    /// The document as it is written.
    pub fn text(&self, kind: HomeKind) -> Vec<u8> {
        format!("{:#}\n", self.value(kind)).into_bytes()
    }

    /// Reads metadata that is filed under a name, and believes nothing: key and address are made again from what it says.
    /// Class `Damaged` for anything that is wrong; a schema of a later version is told apart by whoever opens it.
    pub fn parse(text: &[u8], kind: HomeKind, name: &Hash) -> Result<Record> {
        let record = Self::parse_lean(text, kind, name)?;
        // What is said twice is the same: nobody finds an entry by one name that is another's.
        let mut made = Record { raw: Value::Null, ..record.clone() }.value(kind);
        if let Some(made) = made.as_object_mut() {
            made.remove("tool");
        }
        if !says(&record.raw, &made) {
            return Err(Error::damaged("what the metadata says of its inputs and content does not add up"));
        }
        Ok(record)
    }

    /// The same without a look at what is said twice, for lists: they show what was recomputed.
    pub(super) fn parse_lean(text: &[u8], kind: HomeKind, name: &Hash) -> Result<Record> {
        if text.len() as u64 > MOST_BYTES {
            return Err(Error::damaged("the metadata is longer than 1 MiB"));
        }
        let raw: Value =
            serde_json::from_slice(text).map_err(|error| Error::damaged("the metadata is no JSON").caused_by(error))?;
        if raw.get("schema").and_then(Value::as_str) != Some(schema(kind)) {
            return Err(Error::damaged(format_args!("the metadata is not of the schema {}", schema(kind))));
        }
        let inputs = KeyRecord::parse(raw.get("inputs").unwrap_or(&Value::Null))?;
        let read = Self::fields(&raw, inputs)
            .ok_or_else(|| Error::damaged("a field of the metadata is missing or out of range"))?;
        let record = Record { raw, ..read };
        if record.name(kind) != *name {
            return Err(Error::damaged("what the metadata says does not add up to its name"));
        }
        let told = match kind {
            HomeKind::Cache => record.raw.get("key"),
            HomeKind::Store => record.raw.get("content_hash"),
        };
        if told.and_then(Value::as_str) != Some(name.to_string().as_str()) {
            return Err(Error::damaged("the metadata is that of another entry"));
        }
        Ok(record)
    }

    fn fields(raw: &Value, inputs: KeyRecord) -> Option<Record> {
        let output = raw.get("output")?;
        let text = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let number = |value: &Value, name: &str| value.get(name)?.as_u64().filter(|number| *number <= MOST);
        let name = text(output, "name")?;
        let payload = match raw.get("payload")? {
            Value::Null => None,
            payload => Some(Payload {
                encoding: Encoding::parse(&text(payload, "encoding")?)?,
                sha256: Hash::parse(&text(payload, "sha256")?)?,
                bytes: number(payload, "bytes")?,
            }),
        };
        Some(Record {
            // The same text: it was compared when it was read.
            key: Hash::of(&canonical::canonical(raw.get("inputs")?).ok()?),
            output: Output {
                tree: Hash::parse(&text(output, "tree")?)?,
                root: match text(output, "root")?.as_str() {
                    "dir" => RootKind::Dir,
                    "file" => RootKind::File,
                    _ => return None,
                },
                name: is_plain(&name).then_some(name)?,
                files: number(output, "files")?,
                links: number(output, "links")?,
                empty_dirs: number(output, "empty_dirs")?,
                bytes: number(output, "bytes")?,
                mtimes: match output.get("mtimes") {
                    None | Some(Value::Bool(false)) => false,
                    Some(Value::Bool(true)) => true,
                    Some(_) => return None,
                },
            },
            inputs,
            payload,
            created: parse_time(&text(raw, "created_at")?)?,
            origin: raw.get("origin")?.clone(),
            scope: text(raw, "scope")?,
            raw: Value::Null,
        })
    }

    /// The same without what is not known here: enough to decide by, and small where there are many.
    #[must_use]
    pub fn slim(mut self) -> Record {
        self.raw = Value::Null;
        self
    }

    /// Files and bytes of the sources, as far as they were counted.
    pub fn source(&self) -> (u64, u64) {
        let number = |name| self.raw.get("source").and_then(|source| source.get(name)).and_then(Value::as_u64);
        (number("files").unwrap_or(0), number("bytes").unwrap_or(0))
    }
}

/// Whether a document says all that another one does, and perhaps more.
fn says(document: &Value, other: &Value) -> bool {
    match (document, other) {
        (Value::Object(document), Value::Object(other)) => {
            other.iter().all(|(name, value)| document.get(name).is_some_and(|there| says(there, value)))
        }
        (document, other) => document == other,
    }
}

fn schema(kind: HomeKind) -> &'static str {
    match kind {
        HomeKind::Cache => SCHEMA_CACHE,
        HomeKind::Store => SCHEMA_STORE,
    }
}

fn commit(inputs: &KeyRecord) -> Option<&str> {
    match inputs {
        KeyRecord::Component(record) => match &record.source {
            crate::key::Sources::Commit(commit) => Some(commit),
            _ => None,
        },
        KeyRecord::Files(_) | KeyRecord::Template(_) => None,
    }
}

/// Whether metadata that was not understood is of a later version, which is to be left alone.
pub(crate) fn is_newer(text: &[u8], kind: HomeKind) -> bool {
    let base = schema(kind).trim_end_matches('1');
    let later = |schema: &str| schema.strip_prefix(base)?.parse::<u32>().ok().filter(|version| *version > 1);
    let value: Option<Value> = serde_json::from_slice(text).ok();
    value.as_ref().and_then(|value| value.get("schema")?.as_str()).and_then(later).is_some()
}

/// Whether something says of itself that it is metadata of this version, whatever else is wrong with it.
pub(crate) fn is_of_this_version(text: &[u8], kind: HomeKind) -> bool {
    let value: Option<Value> = serde_json::from_slice(text).ok();
    value.as_ref().and_then(|value| value.get("schema")?.as_str()) == Some(schema(kind))
}

/// Whether a name can be that of one file.
fn is_plain(name: &str) -> bool {
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.contains(&b'/');
    escape::unescape(name.as_bytes()).is_ok_and(|name| plain(&name) && !name.contains(&0))
}

/// More than any artifact has, of whatever; sums of many stay within 64 bits.
const MOST: u64 = 1 << 48;

/// Seconds since 1970; 0 before.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time in RFC 3339, UTC, whole seconds.
pub(crate) fn time_text(seconds: u64) -> String {
    // What lies beyond the year 9999 is no time of ours.
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// This moment, in the same form.
pub fn now_text() -> String {
    time_text(seconds(SystemTime::now()))
}

fn parse_time(text: &str) -> Option<u64> {
    humantime::parse_rfc3339(text).ok().map(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{ComponentName, FilesKey};

    fn record() -> Record {
        let inputs = KeyRecord::Files(FilesKey {
            component: ComponentName::new("a").unwrap(),
            platform: "linux-x86_64".into(),
            files: Some(Hash::of(b"files")),
            salt: String::new(),
        });
        let output = Output {
            tree: Hash::of(b"tree"),
            root: RootKind::Dir,
            name: "out".into(),
            files: 2,
            links: 1,
            empty_dirs: 0,
            bytes: 10,
            mtimes: false,
        };
        let payload = Payload { encoding: Encoding::TarLz4, sha256: Hash::of(b"payload"), bytes: 7 };
        Record { payload: Some(payload), ..Record::new(inputs, output, (3, 4), "shared") }
    }

    #[test]
    fn the_golden_address() {
        let key = Hash::parse("1d6a7fabe5cbdafa46c28f707ddad8b09d97d8d241a8f6a7fbb874e7b68b77cb").unwrap();
        let tree = Hash::parse("e34dc4d201ec7895699af5d6c07454d263366e1ef5d10595b4310d532db2661b").unwrap();
        let mut record = record();
        (record.key, record.output.tree) = (key, tree);
        assert_eq!(record.address().to_string(), "986f17193907943a61d86c9de994e6ef2789645b5b55705bdc7764ee3a35cb26");
    }

    #[test]
    fn metadata_is_read_as_it_is_written_with_what_is_not_known() {
        for kind in [HomeKind::Cache, HomeKind::Store] {
            let mut record = record();
            record.output.mtimes = kind == HomeKind::Cache;
            let name = record.name(kind);
            let mut value = record.value(kind);
            value["later"] = json!([1, { "x": null }]);
            let read = Record::parse(value.to_string().as_bytes(), kind, &name).unwrap();
            assert_eq!(read.value(kind), value);
            assert_eq!((read.source(), read.output.clone(), read.payload), ((3, 4), record.output, record.payload));
        }
    }

    #[test]
    fn nothing_that_does_not_add_up_is_believed() {
        let record = record();
        let name = record.key;
        let good = record.value(HomeKind::Cache);
        #[expect(clippy::type_complexity, reason = "a table of names and changes")]
        let changes: [(&str, fn(&mut Value)); 10] = [
            ("schema", |value| value["schema"] = json!("meta.cache-entry/2")),
            ("key", |value| value["key"] = json!(Hash::of(b"").to_string())),
            ("inputs", |value| value["inputs"]["platform"] = json!("any")),
            ("tree", |value| value["output"]["tree"] = json!("e3b0")),
            ("name", |value| value["output"]["name"] = json!("../x")),
            ("root", |value| value["output"]["root"] = json!("device")),
            ("bytes", |value| value["output"]["bytes"] = json!(-1)),
            ("encoding", |value| value["payload"]["encoding"] = json!("tar.xz")),
            ("sha256", |value| value["payload"]["sha256"] = json!("../../x")),
            ("no payload", |value| drop(value.as_object_mut().unwrap().remove("payload"))),
        ];
        for (what, change) in changes {
            let mut value = good.clone();
            change(&mut value);
            let text = value.to_string();
            assert!(Record::parse(text.as_bytes(), HomeKind::Cache, &name).is_err(), "{what}");
            assert_eq!(is_newer(text.as_bytes(), HomeKind::Cache), what == "schema", "{what}");
        }
        let text = good.to_string();
        assert!(Record::parse(text.as_bytes(), HomeKind::Cache, &Hash::of(b"another")).is_err());
        assert!(Record::parse(text.as_bytes(), HomeKind::Store, &name).is_err());
        assert!(Record::parse(&text.as_bytes()[1..], HomeKind::Cache, &name).is_err());
    }
}
