//! A tiny S3 server with one bucket in memory, whose every answer a test can spoil.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Whether this reads an object's bytes.
    pub(crate) fn reads_object(&self) -> bool {
        self.method == "GET" && !self.query.contains("list-type")
    }
}

/// How an answer is spoiled.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Another answer altogether.
    Status(u16, String),
    /// A redirect to this address.
    Redirect(u16, String),
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// The answer is short by so many bytes, and says so.
    Short(usize),
    /// Nothing more comes after so many bytes of the body.
    StallAfter(usize),
    /// Not even headers come.
    Silent,
    /// The request is served, but its answer is lost.
    Lose,
    /// A header gets another value.
    Header(&'static str, String),
    /// The request's condition is ignored.
    IgnoreCondition,
}

type Hook = dyn Fn(usize, &Request) -> Option<Fault> + Send + Sync;

/// The server. It ends with the process.
pub(crate) struct Bucket {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    uploads: Mutex<BTreeMap<String, BTreeMap<usize, Vec<u8>>>>,
    seen: Mutex<Vec<Request>>,
    hook: Box<Hook>,
}

impl Bucket {
    /// Serves an empty bucket `b`; the hook sees every request with its number.
    pub(crate) fn start(hook: impl Fn(usize, &Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            objects: Mutex::default(),
            uploads: Mutex::default(),
            seen: Mutex::default(),
            hook: Box::new(hook),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Bucket { address, state }
    }

    pub(crate) fn insert(&self, key: &str, bytes: Vec<u8>) {
        self.state.objects.lock().unwrap().insert(key.into(), bytes);
    }

    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.state.objects.lock().unwrap().get(key).cloned()
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(crate) fn objects(&self) -> Vec<String> {
        self.state.objects.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn open_uploads(&self) -> usize {
        self.state.uploads.lock().unwrap().len()
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, headers: Vec::new(), body: body.into() }
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        let Some(request) = read_request(&stream) else { return };
        let number = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let fault = (self.hook)(number, &request);
        let (mut cut, mut stall) = (None, false);
        let mut answer = match &fault {
            Some(Fault::Silent) => {
                std::thread::sleep(Duration::from_secs(60));
                return;
            }
            Some(Fault::Status(status, body)) => Answer::of(*status, body.as_bytes()),
            Some(Fault::Redirect(status, address)) => {
                Answer { headers: vec![("Location", address.clone())], ..Answer::of(*status, "") }
            }
            Some(Fault::IgnoreCondition) => {
                let mut request = request.clone();
                request.headers.remove("if-match");
                request.headers.remove("if-none-match");
                self.answer(&request)
            }
            _ => self.answer(&request),
        };
        match fault {
            Some(Fault::Lose) => return,
            Some(Fault::Short(count)) => answer.body.truncate(answer.body.len().saturating_sub(count)),
            Some(Fault::CutAfter(count)) => cut = Some(count),
            Some(Fault::StallAfter(count)) => (cut, stall) = (Some(count), true),
            Some(Fault::Header(name, value)) => {
                answer.headers.retain(|(other, _)| *other != name);
                answer.headers.push((name, value));
            }
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        if request.method != "HEAD" {
            head += &format!("Content-Length: {}\r\n", answer.body.len());
        }
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
        let end = cut.unwrap_or(body.len()).min(body.len());
        let _ = stream.write_all(format!("{head}\r\n").as_bytes());
        let _ = stream.write_all(&body[..end]);
        let _ = stream.flush();
        if stall {
            std::thread::sleep(Duration::from_secs(60));
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let key = request.path.strip_prefix("/b/").unwrap_or_default().to_owned();
        let upload = query(&request.query, "uploadId");
        match request.method.as_str() {
            "GET" if request.query.contains("list-type") => self.list(&request.query),
            "GET" | "HEAD" => self.object(&key, request),
            "POST" if request.query.starts_with("uploads") => {
                let mut uploads = self.uploads.lock().unwrap();
                let id = format!("u{}", uploads.len());
                uploads.insert(id.clone(), BTreeMap::new());
                Answer::of(
                    200,
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
                )
            }
            "PUT" => {
                let mut answer = Answer::of(200, "");
                answer.headers.push(("ETag", etag(&request.body)));
                match upload {
                    None => {
                        let mut objects = self.objects.lock().unwrap();
                        if request.headers.contains_key("if-none-match") && objects.contains_key(&key) {
                            return Answer::of(412, "<Error><Code>PreconditionFailed</Code></Error>");
                        }
                        objects.insert(key, request.body.clone());
                    }
                    Some(id) => {
                        let number = query(&request.query, "partNumber").unwrap().parse().unwrap();
                        match self.uploads.lock().unwrap().get_mut(&id) {
                            Some(parts) => drop(parts.insert(number, request.body.clone())),
                            None => return Answer::of(404, "<Error><Code>NoSuchUpload</Code></Error>"),
                        }
                    }
                }
                answer
            }
            "POST" if upload.is_none() => self.delete(&request.body),
            "POST" => match self.uploads.lock().unwrap().remove(&upload.unwrap()) {
                None => Answer::of(404, "<Error><Code>NoSuchUpload</Code></Error>"),
                Some(parts) => {
                    let bytes: Vec<u8> = parts.into_values().flatten().collect();
                    let tag = etag(&bytes);
                    self.objects.lock().unwrap().insert(key, bytes);
                    Answer::of(
                        200,
                        format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"),
                    )
                }
            },
            "DELETE" => {
                match upload {
                    Some(upload) => drop(self.uploads.lock().unwrap().remove(&upload)),
                    None => drop(self.objects.lock().unwrap().remove(&key)),
                }
                Answer::of(204, "")
            }
            _ => Answer::of(405, ""),
        }
    }

    /// Removes the objects that a list names.
    fn delete(&self, list: &[u8]) -> Answer {
        let list = String::from_utf8_lossy(list);
        let mut body = String::from("<DeleteResult>");
        for key in list.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            self.objects.lock().unwrap().remove(key);
            body += &format!("<Deleted><Key>{key}</Key></Deleted>");
        }
        Answer::of(200, body + "</DeleteResult>")
    }

    fn list(&self, text: &str) -> Answer {
        let prefix = query(text, "prefix").unwrap_or_default().replace("%2F", "/");
        let mut body = String::from("<ListBucketResult>");
        for (key, bytes) in self.objects.lock().unwrap().iter().filter(|(key, _)| key.starts_with(&prefix)) {
            body += &format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>{}</ETag></Contents>",
                bytes.len(),
                etag(bytes)
            );
        }
        Answer::of(200, body + "</ListBucketResult>")
    }

    fn object(&self, key: &str, request: &Request) -> Answer {
        let objects = self.objects.lock().unwrap();
        let Some(bytes) = objects.get(key) else {
            return Answer::of(404, "<Error><Code>NoSuchKey</Code></Error>");
        };
        let tag = etag(bytes);
        if request.headers.get("if-match").is_some_and(|wanted| *wanted != tag) {
            return Answer::of(412, "<Error><Code>PreconditionFailed</Code></Error>");
        }
        let mut answer = Answer::of(200, bytes.clone());
        answer.headers = vec![("ETag", tag), ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT".into())];
        if request.method == "HEAD" {
            answer.headers.push(("Content-Length", bytes.len().to_string()));
        }
        if let Some(range) = request.headers.get("range") {
            let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            answer.status = 206;
            answer.body = bytes[from..=to].to_vec();
            answer.headers.push(("Content-Range", format!("bytes {from}-{to}/{}", bytes.len())));
        }
        answer
    }
}

/// A tag that differs when bytes do.
fn etag(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    format!("\"{:x}\"", hash.finish())
}

fn query(text: &str, name: &str) -> Option<String> {
    text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(Into::into))
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, target) = (parts.next()?.to_owned(), parts.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.replace("%2D", "-"), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, query, headers, body })
}
