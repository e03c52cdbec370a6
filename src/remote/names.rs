//! Names in a remote, made of checked parts only.
//!
//! ```text
//! meta-v1/<scope>/cache/ab/<K>/record.json           one entry; K begins with ab
//! meta-v1/<scope>/cache/ab/<K>/<sha256>.tar.lz4      its payload
//! meta-v1/<scope>/store/ab/<S>/…                     the same for the store
//! meta-v1/<scope>/index/<component>/<platform>/<inverse time>-<K>
//! ```

use std::time::SystemTime;

use super::{Marker, Scope, Section};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::ComponentName;
use crate::key::component::is_name;

/// The layout's version: what is laid out in another way begins with another name.
pub(super) const LAYOUT: &str = "meta-v1";

/// The longest name of a file.
const LONGEST_FILE: usize = 128;

/// The longest name of a platform.
const LONGEST_PLATFORM: usize = 64;

/// The file that makes an entry: without it nothing else is looked at.
const RECORD: &str = "record.json";

/// A name under which nothing ever lies: whoever asks for it wants to know whether anybody answers.
pub(super) const NOTHING: &str = "meta-v1/nothing";

/// The folder of an entry.
pub(super) struct Home(String);

impl Home {
    pub(super) fn new(section: Section, scope: &Scope, hash: &Hash) -> Self {
        let section = match section {
            Section::Cache => "cache",
            Section::Store => "store",
        };
        Home(format!("{LAYOUT}/{scope}/{section}/{}/{hash}", hash.shard()))
    }

    pub(super) fn folder(&self) -> &str {
        &self.0
    }

    pub(super) fn record(&self) -> String {
        format!("{}/{RECORD}", self.0)
    }

    /// The name of another file of the entry.
    pub(super) fn file(&self, name: &str) -> Result<String> {
        if !is_name(name, LONGEST_FILE) || name == RECORD {
            let shown: String = name.chars().take(LONGEST_FILE).flat_map(char::escape_debug).collect();
            return Err(Error::usage(format_args!("`{shown}` is not a possible name of a file of an entry")));
        }
        Ok(format!("{}/{name}", self.0))
    }
}

/// The folder of all markers of a component, in a folder for each platform.
pub(super) fn indexes(scope: &Scope, component: &ComponentName) -> String {
    format!("{LAYOUT}/{scope}/index/{component}")
}

/// The folder of the markers of a component on a platform.
pub(super) fn index(scope: &Scope, marker: &Marker<'_>) -> Result<String> {
    let component = ComponentName::new(marker.component)?;
    if !is_name(marker.platform, LONGEST_PLATFORM) {
        let shown: String = marker.platform.chars().take(LONGEST_PLATFORM).flat_map(char::escape_debug).collect();
        return Err(Error::usage(format_args!("`{shown}` is not a possible name of a platform")));
    }
    Ok(format!("{}/{}", indexes(scope, &component), marker.platform))
}

/// The name of a marker: later ones sort before earlier ones.
pub(super) fn marker(time: SystemTime, hash: &Hash) -> String {
    format!("{:016x}-{hash}", inverse(time))
}

/// The inverse of a time: of two, the later one has the smaller.
pub(super) fn inverse(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::MAX - u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The inverse time and hash of a marker; `None` for what is none.
pub(super) fn parse_marker(name: &str) -> Option<(u64, Hash)> {
    let (time, hash) = name.split_once('-')?;
    let digits = time.len() == 16 && time.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Some((u64::from_str_radix(time, 16).ok().filter(|_| digits)?, Hash::parse(hash)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Class;

    #[test]
    fn names_are_the_documented_ones() {
        let hash = Hash::of(b"");
        let home = Home::new(Section::Store, &Scope::new("pr/7").unwrap(), &hash);
        assert_eq!(home.record(), format!("meta-v1/pr/7/store/e3/{hash}/record.json"));
        assert_eq!(home.file("x.tar.lz4").unwrap(), format!("meta-v1/pr/7/store/e3/{hash}/x.tar.lz4"));
        for wrong in ["", "record.json", "../x", "a/b", ".x", "x\n", "ä"] {
            assert_eq!(home.file(wrong).unwrap_err().class(), Class::Usage, "{wrong:?}");
        }
        let scope = Scope::new("shared").unwrap();
        let at = |component, platform| index(&scope, &Marker { component, platform });
        assert_eq!(at("api", "linux-x86_64").unwrap(), "meta-v1/shared/index/api/linux-x86_64");
        for (component, platform) in
            [("", "any"), ("..", "any"), ("a/b", "any"), ("a", ""), ("a", "../b"), ("a", "a b")]
        {
            assert_eq!(at(component, platform).unwrap_err().class(), Class::Usage);
        }
    }

    #[test]
    fn later_markers_sort_first_and_what_is_none_is_left_out() {
        let hash = Hash::of(b"x");
        let at = |millis| marker(SystemTime::UNIX_EPOCH + Duration::from_millis(millis), &hash);
        assert!(at(1_800_000_000_001) < at(1_800_000_000_000));
        assert_eq!(parse_marker(&at(5)), Some((u64::MAX - 5, hash)));
        for wrong in
            ["", "x", &at(5)[1..], &format!("+{}", &at(5)[1..]), &at(5).to_uppercase(), &format!("{}/x", at(5))]
        {
            assert_eq!(parse_marker(wrong), None, "{wrong}");
        }
    }
}
