//! The transports that the contract is tried on.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::location::{Bucket, Location};
use monofo::transport::{Agent, Folder, Limits, Objects, Origin, Transport};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;

use super::agent::Stub;

/// A transport under test.
pub(super) struct Subject {
    open: Box<dyn Fn(Origin) -> Arc<dyn Transport> + Sync>,
    /// Sizes around this are the interesting ones.
    pub(super) part: usize,
    /// How far apart two uploads must be to be told apart by age.
    pub(super) tick: Duration,
    /// Largest artifact that the place can take.
    pub(super) most: usize,
    /// Counts what lies in the place, finished or not, where that can be seen.
    pub(super) residue: Option<Box<dyn Fn() -> usize>>,
    /// Whether places follow our layout: then other steps can be told, and ids can be anything.
    pub(super) own_layout: bool,
}

impl Subject {
    pub(super) fn open(&self, build: &str, step: Option<&str>, job: &str) -> Arc<dyn Transport> {
        (self.open)(Origin { build: build.into(), step: step.map(Into::into), job: job.into() })
    }
}

/// Small parts make large tests unnecessary, where the place allows them.
fn small_parts() -> Limits {
    Limits { part_bytes: 64 << 10, range_bytes: 48 << 10, ..Limits::default() }
}

pub(super) fn memory() -> Option<Subject> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open = move |origin| -> Arc<dyn Transport> {
        Arc::new(Objects::over(Arc::clone(&store), "a/prefix", small_parts(), origin, Cancel::new()).unwrap())
    };
    Some(Subject {
        open: Box::new(open),
        part: small_parts().part_bytes,
        tick: Duration::from_millis(5),
        most: usize::MAX,
        residue: None,
        own_layout: true,
    })
}

pub(super) fn folder() -> Option<Subject> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().to_owned();
    Some(Subject {
        open: Box::new(move |origin| Arc::new(Folder::new(temp.path(), origin, Cancel::new()))),
        part: 64 << 10,
        tick: Duration::from_millis(20),
        most: usize::MAX,
        residue: Some(Box::new(move || files_below(&root))),
        own_layout: true,
    })
}

/// S3 takes no part below 5 MiB but the last, and this server insists.
fn smallest_parts() -> Limits {
    Limits { part_bytes: 5 << 20, range_bytes: 1 << 20, ..Limits::default() }
}

/// An S3 server inside this process, over a folder.
pub(super) fn s3() -> Option<Subject> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().to_owned();
    fs::create_dir(root.join("bucket")).unwrap();
    let server = S3Server::start(&root);
    let env = Env::of([
        ("AWS_ENDPOINT_URL", format!("http://{}", server.address)),
        ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
        ("AWS_SECRET_ACCESS_KEY", "secret".into()),
    ]);
    let bucket = Bucket { name: "bucket".into(), prefix: "p".into() };
    let open = move |origin| -> Arc<dyn Transport> {
        let _keep = (&server, &temp);
        Arc::new(Objects::s3(&bucket, &env, smallest_parts(), origin, Cancel::new()).unwrap())
    };
    Some(Subject {
        open: Box::new(open),
        part: smallest_parts().part_bytes,
        tick: Duration::from_millis(1100),
        most: usize::MAX,
        residue: Some(Box::new(move || files_below(&root))),
        own_layout: true,
    })
}

/// The agent's transport over a stand-in for the agent.
pub(super) fn agent() -> Option<Subject> {
    let stub = Stub::new();
    let temporary = stub.temporary();
    Some(Subject {
        open: Box::new(move |origin| stub.open(&origin)),
        part: 64 << 10,
        tick: Duration::from_millis(5),
        most: usize::MAX,
        residue: Some(Box::new(move || files_below(&temporary))),
        own_layout: false,
    })
}

/// A real agent, on `PATH`, and the endpoint that the environment names. An upload does not tell its build or step, so the
/// API there must read them from the job's id, `<build>@<step>.<job>`, with `_<code point>_` for odd characters.
pub(super) fn outside_agent() -> Option<Subject> {
    let outside = Env::of_process();
    let Some(endpoint) = outside.text("MONOFO_TEST_AGENT_ENDPOINT").map(str::to_owned) else {
        println!("SKIPPED: MONOFO_TEST_AGENT_ENDPOINT is not set to the address of an agent API");
        return None;
    };
    let open = move |origin: Origin| -> Arc<dyn Transport> {
        let step = origin.step.unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let escape = |text: &str| -> String {
            text.chars().map(|c| if plain(c) { c.to_string() } else { format!("_{:x}_", u32::from(c)) }).collect()
        };
        let job = format!("{}@{}.{}", escape(&origin.build), escape(&step), escape(&origin.job));
        let own = [
            ("BUILDKITE_AGENT_ENDPOINT", endpoint.as_str()),
            ("BUILDKITE_AGENT_ACCESS_TOKEN", "hunter2hunter2"),
            ("BUILDKITE_BUILD_ID", &origin.build),
            ("BUILDKITE_JOB_ID", &job),
            ("BUILDKITE_STEP_KEY", &step),
        ];
        Arc::new(Agent::new(&Env::of(outside.iter().chain(own)), Cancel::new()).unwrap())
    };
    Some(Subject {
        open: Box::new(open),
        part: 64 << 10,
        tick: Duration::from_millis(5),
        most: usize::MAX,
        residue: None,
        own_layout: false,
    })
}

/// A server that the environment names, with the sizes of real use.
fn outside(variable: &str, most: usize) -> Option<Subject> {
    let env = Env::of_process();
    let Some(url) = env.text(variable) else {
        println!("SKIPPED: {variable} is not set; `scripts/peers/object-servers` starts servers and sets it");
        return None;
    };
    let location = Location::parse(url).unwrap();
    let open = move |origin| -> Arc<dyn Transport> {
        Arc::new(match &location {
            Location::S3(bucket) => Objects::s3(bucket, &env, Limits::default(), origin, Cancel::new()).unwrap(),
            Location::Gs(bucket) => Objects::gs(bucket, &env, Limits::default(), origin, Cancel::new()).unwrap(),
            other => panic!("{other} is not a bucket"),
        })
    };
    Some(Subject {
        open: Box::new(open),
        part: Limits::default().part_bytes,
        tick: Duration::from_millis(1100),
        most,
        residue: None,
        own_layout: true,
    })
}

pub(super) fn outside_s3() -> Option<Subject> {
    outside("MONOFO_TEST_S3_URL", usize::MAX)
}

pub(super) fn outside_gs() -> Option<Subject> {
    // The emulator answers a request for a multipart upload with status 400: it is for the service itself only.
    let emulator = Env::of_process().text("STORAGE_EMULATOR_HOST").is_some();
    outside("MONOFO_TEST_GS_URL", if emulator { Limits::default().part_bytes } else { usize::MAX })
}

fn files_below(folder: &Path) -> usize {
    let files =
        walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    files.inspect(|entry| println!("{}", entry.path().display())).count()
}

/// Serves a folder as S3 until dropped.
pub(crate) struct S3Server {
    pub(crate) address: SocketAddr,
    /// How many connections there were.
    pub(crate) connections: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl S3Server {
    pub(crate) fn start(root: &Path) -> Self {
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single("AKTEST", "secret"));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        S3Server { address, connections, _runtime: runtime }
    }
}
