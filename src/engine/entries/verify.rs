//! Reading entries again: what is not what was stored is moved out of the way.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::cache::set_aside;
use super::restore::{check, kind_of, time_of};
use super::tree;
use crate::archive::codec;
use crate::archive::restore::{Given, listing, restore};
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
    /// Those that are damaged, and why.
    pub damaged: Vec<(Hash, Error)>,
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
                set_aside(home, &name, None);
                found.damaged.push((name, error));
                continue;
            }
        };
        found.checked += 1;
        found.bytes += opened.record.output.bytes;
        let checked = match home.kind() {
            HomeKind::Cache => check_payload(home, &opened, context),
            HomeKind::Store => tree::hash(&opened.content, &context.cancel).and_then(|lines| {
                let output = &opened.record.output;
                let listing = listing(lines, kind_of(output));
                check(&listing, &listing.digest(), output)
            }),
        };
        match checked {
            Ok(()) => {}
            Err(error) if matches!(error.class(), Class::Damaged | Class::Refused | Class::Changed) => {
                set_aside(home, &name, Some(&opened));
                found.damaged.push((name, error));
            }
            Err(error) => return Err(error),
        }
    }
    for name in facts::check(home)? {
        found.damaged.push((name, Error::damaged("a text for explanations was damaged, and removed: it is losable")));
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
