//! The stores that the contract is tried on.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use monofo::cancel::Cancel;
use monofo::chunk::{ChunkId, Digest};
use monofo::chunk_store::{BucketStore, ChunkStore, FolderStore, HttpStore};
use monofo::env::Env;
use monofo::location::{Bucket, Location};
use monofo::transport::{Keyed, Limits, Web};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::transport::subjects::S3Server;

type Plant = dyn Fn(&str, &[u8]) + Sync;

/// A store under test.
pub struct Subject {
    open: Box<dyn Fn(Cancel) -> Arc<dyn ChunkStore> + Sync>,
    /// Puts chunks where the store finds them; the store itself, when it takes any.
    pub writer: Arc<dyn ChunkStore>,
    pub writable: bool,
    /// Puts a file of any name there.
    pub plant: Box<Plant>,
}

impl Subject {
    pub fn open(&self) -> Arc<dyn ChunkStore> {
        self.cancelled_by(Cancel::new())
    }

    pub fn cancelled_by(&self, cancel: Cancel) -> Arc<dyn ChunkStore> {
        (self.open)(cancel)
    }
}

/// A chunk's id, and bytes to store for it.
pub fn chunk(seed: usize) -> (ChunkId, Vec<u8>) {
    let bytes: Vec<u8> = (0..100 + seed % 7 * 3000).map(|at| (at * 31 + seed * 7) as u8).collect();
    (Digest::default().id(&seed.to_le_bytes()), bytes)
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn folder() -> Option<Subject> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().to_owned();
    let open = move |cancel| -> Arc<dyn ChunkStore> { Arc::new(FolderStore::new(temp.path(), cancel)) };
    let writer = open(Cancel::new());
    let plant = move |name: &str, bytes: &[u8]| write(&root, name, bytes);
    Some(Subject { open: Box::new(open), writer, writable: true, plant: Box::new(plant) })
}

fn bucket(open: impl Fn(Cancel) -> Keyed + Sync + 'static) -> Option<Subject> {
    let writer: Arc<dyn ChunkStore> = Arc::new(BucketStore::new(open(Cancel::new())));
    let raw = open(Cancel::new());
    Some(Subject {
        open: Box::new(move |cancel| Arc::new(BucketStore::new(open(cancel)))),
        writer,
        writable: true,
        plant: Box::new(move |name, bytes| raw.put("planting", name, "text/plain", bytes.to_vec()).unwrap()),
    })
}

pub fn memory() -> Option<Subject> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    bucket(move |cancel| Keyed::over(Arc::clone(&store), "", Limits::default(), cancel).unwrap())
}

/// An S3 server inside this process, over a folder.
pub fn s3() -> Option<Subject> {
    let (server, env, temp) = s3_server();
    bucket(move |cancel| {
        let _keep = (&server, &temp);
        let bucket = Bucket { name: "bucket".into(), prefix: "some/prefix".into() };
        Keyed::s3(&bucket, None, &env, Limits::default(), cancel).unwrap()
    })
}

pub fn s3_server() -> (S3Server, Env, tempfile::TempDir) {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("bucket")).unwrap();
    let server = S3Server::start(temp.path());
    let env = Env::of([
        ("AWS_ENDPOINT_URL", format!("http://{}", server.address)),
        ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
        ("AWS_SECRET_ACCESS_KEY", "secret".into()),
    ]);
    (server, env, temp)
}

/// A server that the environment names.
fn outside(variable: &str) -> Option<Subject> {
    let env = Env::of_process();
    let Some(url) = env.text(variable) else {
        println!("SKIPPED: {variable} is not set; `scripts/peers/object-servers` starts servers and sets it");
        return None;
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let location = Location::parse(format!("{url}/chunks-{}-{}", std::process::id(), now.as_nanos())).unwrap();
    bucket(move |cancel| match &location {
        Location::S3(bucket) => Keyed::s3(bucket, None, &env, Limits::default(), cancel).unwrap(),
        Location::Gs(bucket) => Keyed::gs(bucket, &env, Limits::default(), cancel).unwrap(),
        other => panic!("{other} is not a bucket"),
    })
}

pub fn outside_s3() -> Option<Subject> {
    outside("MONOFO_TEST_S3_URL")
}

pub fn outside_gs() -> Option<Subject> {
    outside("MONOFO_TEST_GS_URL")
}

fn web_over(told: Told) -> Option<Subject> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().to_owned();
    let server = FileServer::start(&root, told);
    let open = move |cancel| -> Arc<dyn ChunkStore> {
        let _keep = &temp;
        let base = format!("http://{}/a%20b/", server.address);
        Arc::new(HttpStore::new(Web::new(&base, &Env::default(), Limits::default(), cancel).unwrap()))
    };
    let writer = Arc::new(FolderStore::new(root.join("a%20b"), Cancel::new()));
    let plant = move |name: &str, bytes: &[u8]| write(&root.join("a%20b"), name, bytes);
    Some(Subject { open: Box::new(open), writer, writable: false, plant: Box::new(plant) })
}

pub fn web() -> Option<Subject> {
    web_over(Told::Everything)
}

/// As desync's own server answers.
pub fn web_without_lengths() -> Option<Subject> {
    web_over(Told::Bytes)
}

/// What a file server tells beside the bytes.
#[derive(Clone, Copy, PartialEq)]
pub enum Told {
    Everything,
    Bytes,
}

/// Serves a folder over HTTP, until the process ends.
pub struct FileServer {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl FileServer {
    pub fn start(root: &Path, told: Told) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, root) = (Arc::clone(&connections), root.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let root = root.clone();
                std::thread::spawn(move || drop(serve(&root, &stream, told)));
            }
        });
        FileServer { address, connections }
    }
}

fn serve(root: &Path, mut stream: &TcpStream, told: Told) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let file = fs::read(root.join(path.trim_start_matches('/')));
        let (head, body) = match (&file, told) {
            (Err(_), _) => ("404 Not Found\r\nContent-Length: 4".to_owned(), b"gone".to_vec()),
            (Ok(bytes), Told::Everything) => {
                let time = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT";
                (format!("200 OK\r\n{time}\r\nContent-Length: {}", bytes.len()), bytes.clone())
            }
            (Ok(bytes), Told::Bytes) => {
                let mut body = Vec::new();
                for block in bytes.chunks(1000) {
                    body.extend_from_slice(format!("{:x}\r\n", block.len()).as_bytes());
                    body.extend_from_slice(block);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"0\r\n\r\n");
                ("200 OK\r\nTransfer-Encoding: chunked".to_owned(), body)
            }
        };
        let mut answer = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
        if method == "GET" {
            answer.extend_from_slice(&body);
        }
        stream.write_all(&answer)?;
    }
    Ok(())
}
