//! Where artifacts, chunks and cache entries can lie, as a user writes it: text into a [`Location`].
//!
//! ```text
//! agent                     the Buildkite agent's own artifact storage
//! path/to/folder            a folder, relative to the working directory
//! file:///absolute/folder   the same, as a URL (`%20` and the like are decoded)
//! s3://bucket/prefix        S3 or anything that speaks its protocol
//! gs://bucket/prefix        Google Cloud Storage
//! ```
//!
//! Credentials never belong into a location: user info and queries are refused, and an error never repeats them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::text::Shown;

/// What a location may be, for hints.
const ACCEPTED: &str = "use `agent`, a folder, `file:///folder`, `s3://bucket/prefix` or `gs://bucket/prefix`";

/// A place to keep things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The Buildkite agent's artifact storage.
    Agent,
    /// A folder on this machine, or on a file system mounted here.
    Folder(PathBuf),
    /// An S3 bucket.
    S3(Bucket),
    /// A Google Cloud Storage bucket.
    Gs(Bucket),
}

/// A bucket and the part of its keys that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// What our keys start with: without slashes at its ends, possibly empty.
    pub prefix: String,
}

impl Location {
    /// Reads a location. Wrong ones are usage errors that say what is accepted.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self> {
        let raw = text.as_ref();
        if raw.is_empty() {
            return Err(Error::usage("the location is empty").hint(ACCEPTED));
        }
        let Some(text) = raw.to_str() else {
            return Ok(Location::Folder(PathBuf::from(raw)));
        };
        if text.eq_ignore_ascii_case("agent") {
            return Ok(Location::Agent);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.split_once(':') {
                Some(("s3" | "gs" | "file", _)) => Err(Error::usage(format_args!(
                    "location `{}` lacks `//` after its scheme",
                    Shown(without_user(text).as_bytes())
                ))
                .hint(ACCEPTED)),
                _ => plain_folder(text),
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => folder(rest),
            "s3" => bucket("s3", rest).map(Location::S3),
            "gs" => bucket("gs", rest).map(Location::Gs),
            _ => Err(Error::usage(format_args!("`{}://` is not a kind of location", Shown(scheme.as_bytes())))
                .hint(ACCEPTED)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Agent => f.write_str("agent"),
            Location::Folder(path) => Shown::path(path).fmt(f),
            Location::S3(bucket) => write!(f, "s3://{bucket}"),
            Location::Gs(bucket) => write!(f, "gs://{bucket}"),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", Shown(self.prefix.as_bytes()))?;
        }
        Ok(())
    }
}

/// A folder without a scheme. What a shell would have put in its place, and what looks like the address of something else, is
/// hardly meant as one, and may have a password in it. One with such a name can be written with `./` or `/` in front.
fn plain_folder(text: &str) -> Result<Location> {
    if text == "~" || text.starts_with("~/") {
        return Err(Error::usage("`~` stands for nothing in a location").hint("write the folder's whole path"));
    }
    let first = text.split('/').next().unwrap_or(text);
    // A `/` before the colon makes it a path, for ssh and git as well.
    let address = (first.ends_with(':') && first.len() < text.len()) || (first.contains('@') && first.contains(':'));
    if address && !text.starts_with('.') {
        return Err(Error::usage("the location looks like an address, and is of no kind that is known")
            .hint(format_args!("{ACCEPTED}; if a folder has this name, write `./` in front of it")));
    }
    Ok(Location::Folder(PathBuf::from(text)))
}

/// The part after `file://`.
fn folder(rest: &str) -> Result<Location> {
    let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(Error::usage("a `file://` location needs an absolute path")
            .hint("write three slashes: `file:///folder`, or give the folder without `file://`"));
    }
    if path.contains(['?', '#']) {
        return Err(Error::usage("a `file://` location has no query and no fragment")
            .hint("write `?` as `%3F` and `#` as `%23`, or give the folder without `file://`"));
    }
    let bytes = percent_decode(path)?;
    if bytes.contains(&0) {
        return Err(Error::usage("a `file://` location contains a NUL byte"));
    }
    Ok(Location::Folder(PathBuf::from(OsString::from_vec(bytes))))
}

/// The part after `s3://` or `gs://`.
pub(crate) fn bucket(scheme: &str, rest: &str) -> Result<Bucket> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.contains('@') {
        return Err(Error::usage(format_args!("a `{scheme}://` location must not carry credentials"))
            .hint("remove the part before `@`; credentials come from the environment"));
    }
    if rest.contains(['?', '#']) {
        return Err(Error::usage(format_args!("a `{scheme}://` location has no query and no fragment")).hint(ACCEPTED));
    }
    if name.is_empty() {
        return Err(Error::usage(format_args!("a `{scheme}://` location needs a bucket"))
            .hint(format_args!("write `{scheme}://bucket/prefix`")));
    }
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if let Some(odd) = name.chars().find(|c| !known(*c)) {
        return Err(Error::usage(format_args!("{odd:?} cannot be part of a bucket's name"))
            .hint(format_args!("write `{scheme}://bucket/prefix`")));
    }
    let prefix = prefix.trim_matches('/');
    let odd_part = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
    if !prefix.is_empty() && prefix.split('/').any(odd_part) {
        return Err(Error::usage(format_args!("prefix `{}` is not a plain path", Shown(prefix.as_bytes())))
            .hint("leave out empty, `.` and `..` parts and control characters"));
    }
    Ok(Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
}

fn percent_decode(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let hex = |digit: u8| char::from(digit).to_digit(16);
        match rest {
            [high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0);
                out.push(value as u8);
                rest = tail;
            }
            _ => {
                return Err(Error::usage("a `%` in a `file://` location is not followed by two hexadecimal digits")
                    .hint("write `%25` for a percent sign, or give the folder without `file://`"));
            }
        }
    }
    Ok(out)
}

/// The text with everything between the scheme and an `@` taken out.
fn without_user(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, tail)| tail)
}

/// Creates a folder and those above it. A `.monofo` folder that this makes gets a `.gitignore` for its content, so that
/// what we keep in a working tree never shows up in its history.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let own = path.ancestors().find(|above| above.file_name().is_some_and(|name| name.as_bytes() == b".monofo"));
    let Some(own) = own.filter(|own| !own.exists()) else {
        return fs::create_dir_all(path);
    };
    fs::create_dir_all(path)?;
    fs::write(own.join(".gitignore"), "*\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn s3(name: &str, prefix: &str) -> Location {
        Location::S3(Bucket { name: name.into(), prefix: prefix.into() })
    }

    #[test]
    fn locations_are_read_as_documented() {
        for (text, location) in [
            ("agent", Location::Agent),
            (".monofo/artifacts", Location::Folder(".monofo/artifacts".into())),
            ("/var/a b", Location::Folder("/var/a b".into())),
            ("a:b", Location::Folder("a:b".into())),
            ("a@b", Location::Folder("a@b".into())),
            ("/a:/b", Location::Folder("/a:/b".into())),
            ("builds/main:/x", Location::Folder("builds/main:/x".into())),
            ("a/b@c:/d", Location::Folder("a/b@c:/d".into())),
            ("./pr-12:/x", Location::Folder("./pr-12:/x".into())),
            ("./cache@v1:2", Location::Folder("./cache@v1:2".into())),
            ("./~/a@b:c", Location::Folder("./~/a@b:c".into())),
            ("~a", Location::Folder("~a".into())),
            ("file:///var/a%20b%C3%A9", Location::Folder("/var/a bé".into())),
            ("file://localhost/var", Location::Folder("/var".into())),
            ("s3://bucket", s3("bucket", "")),
            ("S3://bucket/", s3("bucket", "")),
            ("s3://my.bucket-1/a/b/", s3("my.bucket-1", "a/b")),
            ("gs://b_1/p", Location::Gs(Bucket { name: "b_1".into(), prefix: "p".into() })),
        ] {
            assert_eq!(Location::parse(text).unwrap(), location, "{text}");
        }
        let raw = OsStr::from_bytes(b"dir/\xff");
        assert_eq!(Location::parse(raw).unwrap().to_string(), "dir/\\xff");
    }

    #[test]
    fn wrong_locations_are_usage_errors_with_a_hint_and_without_secrets() {
        for text in [
            "",
            "s3://",
            "s3:///prefix",
            "s3://AKID:hunter2@bucket/prefix",
            "s3://bucket/prefix?token=hunter2",
            "s3:bucket:hunter2@x",
            "~",
            "~/cache",
            "user:hunter2@host:/x",
            "user:hunter2@host/x",
            "git@host:hunter2/x",
            "https:/u:hunter2@h/x",
            "s3://buc ket/",
            "s3://bucket/a//b",
            "gs://bucket/../b",
            "file://relative/path",
            "file:///a%zz",
            "ftp://user:hunter2@host/",
            "https://hunter2@bucket.s3.amazonaws.com",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error.class(), Class::Usage, "{text}");
            assert!(error.next_step().is_some(), "{text}");
            assert!(!format!("{error:?}").contains("hunter2"), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_folder_that_looks_like_an_address_is_told_how_to_be_written() {
        for text in ["pr-12:/x", "cache@v1:2"] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.next_step().is_some_and(|hint| hint.contains("write `./` in front")), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_new_folder_of_ours_is_ignored_by_git_and_an_old_one_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        create_folder(&temp.path().join(".monofo/artifacts")).unwrap();
        let ignore = temp.path().join(".monofo/.gitignore");
        assert_eq!(fs::read_to_string(&ignore).unwrap(), "*\n");
        fs::remove_file(&ignore).unwrap();
        create_folder(&temp.path().join(".monofo/store")).unwrap();
        assert!(!ignore.exists());
        create_folder(&temp.path().join("plain/x")).unwrap();
        assert!(!temp.path().join("plain/.gitignore").exists());
    }
}
