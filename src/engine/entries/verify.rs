//! Reading entries again: what is not what was stored is moved out of the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::cache::{Aside, set_aside};
use super::restore::{check, kind_of, time_of};
use super::store::{is_wrong, sound};
use crate::archive::codec;
use crate::archive::restore::{Given, restore};
use crate::context::Context;
use crate::entry::{Home, HomeKind, Opened, Staging, facts, open};
use crate::error::{Class, Error, IoContext, Result};
use crate::hash::{Hash, Hasher};

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Entries that were looked at.
    pub checked: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Those that are damaged, why, and what became of them.
    pub damaged: Vec<(Hash, Error)>,
    /// How many of these are in quarantine now, or were removed.
    pub moved: u64,
    /// Those that could not be read, and why. They stay.
    pub unreadable: Vec<(Hash, Error)>,
}

impl Checked {
    /// Takes note of what is wrong with an entry. Errors are those that are nobody's fault.
    fn note(&mut self, home: &Home, name: Hash, seen: Option<&Opened>, error: Error) -> Result<()> {
        match error.class() {
            Class::Interrupted { .. } => return Err(error),
            _ if is_wrong(&error) => {
                let aside = set_aside(home, &name, seen);
                self.moved += u64::from(matches!(aside, Aside::Moved));
                self.damaged.push((name, aside.told(error)));
            }
            _ => self.unreadable.push((name, error)),
        }
        Ok(())
    }
}

/// Checks every entry. Blocks.
pub fn verify(home: &Home, context: &Context) -> Result<Checked> {
    let mut found = Checked::default();
    for name in home.names()?.entries {
        context.cancel.check()?;
        let opened = match open(home, &name) {
            Ok(None) => continue,
            Ok(Some(opened)) => opened,
            Err(error) => {
                found.checked += 1;
                found.note(home, name, None, error)?;
                continue;
            }
        };
        found.checked += 1;
        found.bytes += opened.record.output.bytes;
        let checked = match home.kind() {
            HomeKind::Cache => check_payload(home, &opened, context),
            HomeKind::Store => sound(&opened.content, &opened.record, context),
        };
        if let Err(error) = checked {
            found.note(home, name, Some(&opened), error)?;
        }
    }
    let wrong = facts::check(home)?;
    let stem = |path: &Path| Hash::parse(path.file_stem()?.to_str()?);
    let left = facts::all(home)?;
    let left: BTreeMap<Hash, bool> =
        left.iter().filter_map(|(path, status)| Some((stem(path)?, status.is_file()))).collect();
    for name in wrong {
        let text = |then: &str| format!("a text for explanations {then}: it is losable");
        match left.get(&name) {
            Some(true) => found.unreadable.push((name, Error::failed(text("cannot be read, and stays")))),
            Some(false) => found.damaged.push((name, Error::damaged(text("is no file, and stays")))),
            None => {
                found.moved += 1;
                found.damaged.push((name, Error::damaged(text("was damaged, and removed"))));
            }
        }
    }
    Ok(found)
}

/// Both digests: that of the archive, and that of what is in it.
fn check_payload(home: &Home, opened: &Opened, context: &Context) -> Result<()> {
    let (Some(file), Some(payload)) = (&opened.payload, &opened.record.payload) else {
        return Err(Error::damaged("it has no payload"));
    };
    let again = || -> std::io::Result<File> {
        let mut again = file.try_clone()?;
        again.seek(SeekFrom::Start(0))?;
        Ok(again)
    };
    let doing = || "cannot read the payload";
    let (mut reader, mut hasher) = (again().or_fail(doing)?, Hasher::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        context.cancel.check()?;
        match reader.read(&mut buffer).or_fail(doing)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    if hasher.finish() != payload.sha256 {
        return Err(Error::damaged("its payload is not what was stored"));
    }
    // A cache that may only be read is checked elsewhere.
    let (staging, elsewhere);
    let place = match Staging::new(home) {
        Ok(made) => {
            staging = made;
            staging.path()
        }
        Err(_) => {
            elsewhere = tempfile::tempdir().or_fail(|| "cannot make a folder to unpack into")?;
            elsewhere.path()
        }
    };
    let output = &opened.record.output;
    let content = codec::decode(Box::new(again().or_fail(doing)?), context)?;
    let (folder, time) = (place.join("tree"), time_of(place)?);
    let (listing, digest) =
        restore(content, &folder, kind_of(output), Given::Same(time.0, time.1), output.bytes, context)?;
    check(&listing, &digest, output)
}
