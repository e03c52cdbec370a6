//! Pins: names under which artifacts are kept, whatever gc removes. `roots/pins/<name>.json`.
//!
//! ```json
//! { "schema": "meta.pin/1", "hash": "…", "created_at": "2026-01-02T03:04:05Z" }
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::home::list;
use super::staging::{sync_dir, sync_file};
use super::{Home, Staging, now_text, plain};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::Hash;
use crate::key::is_name;
use crate::text::Shown;

const SCHEMA: &str = "meta.pin/1";

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its name.
    pub name: String,
    /// What it keeps.
    pub hash: Hash,
}

fn folder(store: &Home) -> PathBuf {
    store.root().join("roots").join("pins")
}

/// All pins. One that cannot be read is an error of class `Damaged`: what it keeps is not known.
pub fn all(store: &Home) -> Result<Vec<Pin>> {
    let folder = folder(store);
    let mut pins = Vec::new();
    plain::check_folder(&folder)?;
    for file in list(&folder)? {
        let path = folder.join(&file);
        let damaged = || {
            Error::damaged(format_args!("the pin in `{}` cannot be read", Shown::path(&path)))
                .hint("mend it or remove the file; `monofo store pin` writes it again")
        };
        // Other names are none of ours: what editors and file systems leave.
        let Some(name) = file.strip_suffix(".json").filter(|name| is_name(name, 64)) else { continue };
        let text = match plain::read(&path) {
            // It was removed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(|error| damaged().caused_by(error))?,
        };
        let value: Value = serde_json::from_slice(&text).map_err(|error| damaged().caused_by(error))?;
        let hash = value.get("hash").and_then(Value::as_str).and_then(Hash::parse);
        let known = value.get("schema").and_then(Value::as_str) == Some(SCHEMA);
        pins.push(Pin { name: name.to_owned(), hash: hash.filter(|_| known).ok_or_else(damaged)? });
    }
    pins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pins)
}

/// Keeps an artifact under a name, in place of what that name kept before.
pub fn pin(store: &Home, name: &str, hash: &Hash) -> Result<()> {
    check_name("pin", name)?;
    let folder = folder(store);
    let doing = || format!("cannot write the pin `{name}`");
    fs::create_dir_all(&folder).or_fail(doing)?;
    let staging = Staging::new(store)?;
    let staged = staging.join("pin");
    let mut file = File::create(&staged).or_fail(doing)?;
    let document = json!({ "schema": SCHEMA, "hash": hash.to_string(), "created_at": now_text() });
    file.write_all(format!("{document:#}\n").as_bytes()).or_fail(doing)?;
    sync_file(&file)?;
    fs::rename(&staged, folder.join(format!("{name}.json"))).or_fail(doing)?;
    sync_dir(&folder)
}

/// Removes a pin. Class `NotThere` when there is none.
pub fn unpin(store: &Home, name: &str) -> Result<()> {
    check_name("pin", name)?;
    let folder = folder(store);
    match fs::remove_file(folder.join(format!("{name}.json"))) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::new(Class::NotThere, format_args!("there is no pin `{name}`")))
        }
        other => other.or_fail(|| format!("cannot remove the pin `{name}`")).and_then(|()| sync_dir(&folder)),
    }
}

/// Judges the name of a pin or profile before a path is made of it.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    if is_name(name, 64) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Error::usage(format_args!("`{shown}` is not a possible name of a {what}"))
        .hint("use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 64"))
}
