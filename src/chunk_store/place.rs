//! Where a chunk store is, as a user writes it: text into stores.
//!
//! ```text
//! path/to/folder, file:///folder                       a folder
//! s3://bucket/prefix, gs://bucket/prefix               a bucket, with endpoint and credentials of the environment
//! s3+https://host:port/bucket/prefix?lookup=path       an S3 bucket of this service, as desync writes it
//! https://host/folder                                  a web server, read only
//! A,B                                                  asked in order; uploads go to the first
//! A|B                                                  B in place of A once A fails
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::{BucketStore, ChunkStore, Failover, FolderStore, HttpStore, Ordered};
use crate::cancel::Cancel;
use crate::env::Env;
use crate::error::{Error, IoContext, Result};
use crate::location::{self, Bucket, Location};
use crate::text::Shown;
use crate::transport::{Endpoint, Keyed, Limits, Web};

/// What a store may be, for hints.
const ACCEPTED: &str = "use a folder, `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix`, \
     `s3+https://host/bucket/prefix` or `https://host/folder`; several with `,` or `|` between them";

/// Opens what the text names. Nothing is connected to or created yet, except that wrong configuration is found.
pub fn open(text: &OsStr, env: &Env, cancel: &Cancel) -> Result<Arc<dyn ChunkStore>> {
    let groups = text.as_bytes().split(|byte| *byte == b',').map(|group| {
        let group =
            group.split(|byte| *byte == b'|').map(|one| open_one(OsStr::from_bytes(one.trim_ascii()), env, cancel));
        together(group.collect::<Result<_>>()?, |first, others| Arc::new(Failover::new(first, others)))
    });
    together(groups.collect::<Result<_>>()?, |first, others| Arc::new(Ordered::new(first, others)))
}

/// One store as it is, several as one.
fn together(
    stores: Vec<Arc<dyn ChunkStore>>,
    combine: impl FnOnce(Arc<dyn ChunkStore>, Vec<Arc<dyn ChunkStore>>) -> Arc<dyn ChunkStore>,
) -> Result<Arc<dyn ChunkStore>> {
    let mut stores = stores.into_iter();
    let first = stores.next().ok_or_else(empty)?;
    let others: Vec<_> = stores.collect();
    Ok(if others.is_empty() { first } else { combine(first, others) })
}

fn empty() -> Error {
    Error::usage("the chunk store's place is empty").hint(ACCEPTED)
}

/// A single store, before it is opened.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    At(Location),
    /// An S3 bucket with the address of its service.
    S3(Endpoint, Bucket),
    Web(String),
}

fn open_one(text: &OsStr, env: &Env, cancel: &Cancel) -> Result<Arc<dyn ChunkStore>> {
    let (limits, cancel) = (Limits::default(), cancel.clone());
    let objects = match parse(text)? {
        Place::At(Location::Agent) => {
            return Err(Error::usage("the agent's artifact storage cannot keep chunks").hint(ACCEPTED));
        }
        Place::At(Location::Folder(path)) => {
            let root = std::path::absolute(path).or_fail(|| "cannot tell the working directory")?;
            return Ok(Arc::new(FolderStore::new(root, cancel)));
        }
        Place::Web(base) => return Ok(Arc::new(HttpStore::new(Web::new(&base, env, limits, cancel)?))),
        Place::At(Location::S3(bucket)) => Keyed::s3(&bucket, None, env, limits, cancel)?,
        Place::S3(endpoint, bucket) => Keyed::s3(&bucket, Some(&endpoint), env, limits, cancel)?,
        Place::At(Location::Gs(bucket)) => Keyed::gs(&bucket, env, limits, cancel)?,
    };
    Ok(Arc::new(BucketStore::new(objects)))
}

fn parse(text: &OsStr) -> Result<Place> {
    if text.is_empty() {
        return Err(empty());
    }
    let Some((scheme, rest)) = text.to_str().and_then(|text| text.split_once(':')) else {
        return Location::parse(text).map(Place::At);
    };
    let kind = scheme.to_ascii_lowercase();
    match (kind.as_str(), rest.strip_prefix("//")) {
        ("file" | "s3" | "gs", _) => Location::parse(text).map(Place::At),
        ("s3+http" | "s3+https", Some(rest)) => service(&kind, rest),
        ("http" | "https", Some(rest)) => Ok(Place::Web(format!("{kind}://{rest}"))),
        ("s3+http" | "s3+https" | "http" | "https", None) => {
            Err(Error::usage(format_args!("a `{kind}` store lacks `//` after its scheme")).hint(ACCEPTED))
        }
        (_, None) => Location::parse(text).map(Place::At),
        (_, Some(_)) => {
            Err(Error::usage(format_args!("`{}://` is not a kind of chunk store", Shown(scheme.as_bytes())))
                .hint(ACCEPTED))
        }
    }
}

/// The part after `s3+http://` or `s3+https://`.
fn service(scheme: &str, rest: &str) -> Result<Place> {
    let usage = |why: &str| {
        Error::usage(format_args!("a `{scheme}://` store {why}")).hint(format_args!(
            "write `{scheme}://host:port/bucket/prefix`, and `?lookup=dns` or `?lookup=path` if needed"
        ))
    };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        return Err(Error::usage(format_args!("a `{scheme}://` store must not carry credentials"))
            .hint("remove the part before `@`; credentials come from the environment"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if host.is_empty() || !host.chars().all(plain) {
        return Err(usage("needs a host"));
    }
    if path.trim_matches('/').is_empty() {
        return Err(usage("needs a bucket"));
    }
    if path.contains(['%', '#']) {
        return Err(usage("has no fragment, and takes keys as they are, without `%`"));
    }
    let bucket = location::bucket(scheme, path.trim_start_matches('/'))?;
    let virtual_hosted = match query {
        None | Some("" | "lookup=auto") => {
            let name = host.split(':').next().unwrap_or(host);
            let known =
                [".amazonaws.com", ".amazonaws.com.cn", ".googleapis.com"].iter().any(|end| name.ends_with(end));
            // No certificate covers a name with more dots.
            known && !(scheme == "s3+https" && bucket.name.contains('.'))
        }
        Some("lookup=dns") => true,
        Some("lookup=path") => false,
        Some(_) => return Err(usage("takes no query but `lookup`, which is `auto`, `dns` or `path`")),
    };
    let url = format!("{}://{host}", scheme.trim_start_matches("s3+"));
    Ok(Place::S3(Endpoint { url, virtual_hosted }, bucket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn s3(url: &str, virtual_hosted: bool, name: &str, prefix: &str) -> Place {
        let bucket = Bucket { name: name.into(), prefix: prefix.into() };
        Place::S3(Endpoint { url: url.into(), virtual_hosted }, bucket)
    }

    #[test]
    fn places_are_read_as_desync_reads_them() {
        for (text, place) in [
            ("store", Place::At(Location::Folder("store".into()))),
            ("a:b", Place::At(Location::Folder("a:b".into()))),
            ("file:///a%20b", Place::At(Location::Folder("/a b".into()))),
            ("gs://b/p", Place::At(Location::Gs(Bucket { name: "b".into(), prefix: "p".into() }))),
            ("s3+http://127.0.0.1:9000/b/p/q/", s3("http://127.0.0.1:9000", false, "b", "p/q")),
            ("S3+HTTPS://minio.example/b?lookup=auto", s3("https://minio.example", false, "b", "")),
            ("s3+https://minio.example/b?lookup=dns", s3("https://minio.example", true, "b", "")),
            ("s3+https://s3.eu-west-1.amazonaws.com/b/p", s3("https://s3.eu-west-1.amazonaws.com", true, "b", "p")),
            ("s3+https://s3.amazonaws.com/b.c", s3("https://s3.amazonaws.com", false, "b.c", "")),
            ("s3+https://storage.googleapis.com/b?lookup=path", s3("https://storage.googleapis.com", false, "b", "")),
            ("https://h:1/a/", Place::Web("https://h:1/a/".into())),
        ] {
            assert_eq!(parse(OsStr::new(text)).unwrap(), place, "{text}");
        }
    }

    #[test]
    fn several_are_combined() {
        let env = Env::of([("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")]);
        let open = |text: &str| open(OsStr::new(text), &env, &Cancel::new()).unwrap();
        let store = open("/a , s3+http://h:1/b/p|http://h/x/,/c");
        assert_eq!(store.place(), "/a, s3+http://h:1/b/p | http://h/x, /c");
        assert!(!store.is_local());
        assert_eq!(store.at_once(), 64);
        assert!(open("/a|/b").is_local());
        assert_eq!(open("s3://b/p").place(), "s3://b/p");
    }

    #[test]
    fn wrong_places_are_usage_errors_with_a_hint_and_without_secrets() {
        let none: [(&str, &str); 0] = [];
        for text in [
            "",
            "agent",
            "/a,",
            "/a||/b",
            "sftp://user:hunter2@host/x",
            "s3:bucket:hunter2@x",
            "s3://hunter2@bucket/x",
            "s3+https:hunter2",
            "s3+https://",
            "s3+https:///b",
            "s3+https://host",
            "s3+https://host//",
            "s3+https://user:hunter2@host/b",
            "s3+https://host/b?token=hunter2",
            "s3+https://host/b?lookup=hunter2",
            "s3+https://host/b%20c",
            "s3+ftp://host/b",
            "http://user:hunter2@host/x",
            "https://host/x?token=hunter2",
            "https://",
            "https://ho st/",
            "https://host:hunter2/",
        ] {
            let error = open(OsStr::new(text), &Env::of(none), &Cancel::new()).err().unwrap();
            assert_eq!(error.class(), Class::Usage, "{text}");
            assert!(error.next_step().is_some(), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{text}: {error:?}");
        }
    }
}
