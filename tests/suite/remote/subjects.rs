//! The places that the contract is tried on.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::location::{Bucket, Location};
use monofo::remote::{Limits, Remote, Scope, Scopes};
use monofo::transport::{self, Keyed};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::chunk_stores::servers::s3_server;

type Plant = dyn Fn(&str, &[u8]) + Sync;

type Open = dyn Fn(Scopes, Cancel) -> Remote + Sync;

/// A place under test.
pub(super) struct Subject {
    open: Box<Open>,
    /// Puts a file of any name there.
    pub(super) plant: Box<Plant>,
    /// Removes a file.
    pub(super) spoil: Box<dyn Fn(&str) + Sync>,
    /// Largest payload that the place can take.
    pub(super) most: usize,
    /// A payload of this size is the first that travels in parts.
    pub(super) part: usize,
    /// Whether of two who make a record at the same moment one always loses.
    pub(super) is_exclusive: bool,
}

impl Subject {
    /// Opens it with a scope to write to, `-` for none, and scopes to read.
    pub(super) fn open(&self, write: &str, read: &[&str]) -> Remote {
        self.cancelled_by(write, read, Cancel::new())
    }

    pub(super) fn cancelled_by(&self, write: &str, read: &[&str], cancel: Cancel) -> Remote {
        (self.open)(scopes(write, read), cancel)
    }
}

pub(super) fn scopes(write: &str, read: &[&str]) -> Scopes {
    let write = (write != "-").then(|| Scope::new(write).unwrap());
    Scopes { write, read: read.iter().map(|scope| Scope::new(scope).unwrap()).collect() }
}

fn limits(part_bytes: usize) -> Limits {
    let transfers = transport::Limits { part_bytes, ..Limits::default().transfers };
    Limits { transfers, ..Limits::default() }
}

pub(super) fn folder() -> Option<Subject> {
    let temp = Arc::new(tempfile::tempdir().unwrap());
    let root = temp.path().join("shared/remote");
    std::fs::create_dir_all(&root).unwrap();
    let location = Location::Folder(root.clone());
    let keep = Arc::clone(&temp);
    let other = root.clone();
    Some(Subject {
        open: Box::new(move |scopes, cancel| {
            let _keep = &keep;
            Remote::open(&location, scopes, &Env::default(), &cancel).unwrap()
        }),
        plant: Box::new(move |name, bytes| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }),
        spoil: Box::new(move |name| fs::remove_file(other.join(name)).unwrap()),
        most: usize::MAX,
        part: 64 << 10,
        is_exclusive: true,
    })
}

fn bucket(
    open: impl Fn(Scopes, Cancel) -> Remote + Sync + 'static,
    raw: Keyed,
    part: usize,
    most: usize,
) -> Option<Subject> {
    let raw = Arc::new(raw);
    let other = Arc::clone(&raw);
    Some(Subject {
        open: Box::new(open),
        plant: Box::new(move |name, bytes| raw.put("planting", name, "text/plain", bytes.to_vec()).unwrap()),
        spoil: Box::new(move |name| assert_eq!(other.remove("spoiling", &[name]).unwrap(), 1)),
        most,
        part,
        is_exclusive: true,
    })
}

pub(super) fn memory() -> Option<Subject> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let raw = Keyed::over(Arc::clone(&store), "a/prefix", limits(64 << 10).transfers, Cancel::new()).unwrap();
    let open =
        move |scopes, cancel| Remote::over(Arc::clone(&store), "a/prefix", scopes, limits(64 << 10), &cancel).unwrap();
    bucket(open, raw, 64 << 10, usize::MAX)
}

/// An S3 server inside this process, over a folder, which takes no part below 5 MiB but the last.
pub(super) fn s3() -> Option<Subject> {
    let (server, env, temp) = s3_server();
    fs::create_dir(temp.path().join("bkt")).unwrap();
    let place = Bucket { name: "bkt".into(), prefix: "p".into() };
    let raw = Keyed::s3(&place, None, &env, transport::Limits::default(), Cancel::new()).unwrap();
    let location = Location::S3(place);
    let open = move |scopes, cancel| {
        let _keep = (&server, &temp);
        Remote::with_limits(&location, scopes, &env, limits(5 << 20), &cancel).unwrap()
    };
    // The server looks whether an object is there, and then writes it.
    bucket(open, raw, 5 << 20, usize::MAX).map(|subject| Subject { is_exclusive: false, ..subject })
}

/// A server that the environment names, with the limits of real use.
fn outside(variable: &str, most: usize) -> Option<Subject> {
    let env = Env::of_process();
    let Some(url) = env.text(variable) else {
        println!("SKIPPED: {variable} is not set; `scripts/peers/object-servers` starts servers and sets it");
        return None;
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let location = Location::parse(format!("{url}/remote-{}-{}", std::process::id(), now.as_nanos())).unwrap();
    let limits = Limits::default();
    let raw = match &location {
        Location::S3(bucket) => Keyed::s3(bucket, None, &env, limits.transfers.clone(), Cancel::new()).unwrap(),
        Location::Gs(bucket) => Keyed::gs(bucket, &env, limits.transfers.clone(), Cancel::new()).unwrap(),
        other => panic!("{other} is not a bucket"),
    };
    let part = limits.transfers.part_bytes;
    bucket(move |scopes, cancel| Remote::open(&location, scopes, &env, &cancel).unwrap(), raw, part, most)
}

pub(super) fn outside_s3() -> Option<Subject> {
    outside("MONOFO_TEST_S3_URL", usize::MAX)
}

pub(super) fn outside_gs() -> Option<Subject> {
    // The emulator knows neither uploads in parts nor conditions.
    let emulator = Env::of_process().text("STORAGE_EMULATOR_HOST").is_some();
    let most = if emulator { Limits::default().transfers.part_bytes } else { usize::MAX };
    outside("MONOFO_TEST_GS_URL", most).map(|subject| Subject { is_exclusive: !emulator, ..subject })
}
