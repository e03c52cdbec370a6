//! Remotes that do not answer, each in its own way: how long they are waited for, and how often they are asked.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::location::{Bucket as Place, Location};
use monofo::remote::{Limits, Remote, Scope, Section, Trouble};
use monofo::transport;

use super::contract::{Entry, check};
use super::subjects::scopes;
use crate::transport::contract::noise;
use crate::transport::http::{Bucket, Fault, Request};

/// As in real use, but that everything is over much sooner.
pub(super) fn limits() -> Limits {
    Limits {
        record: Duration::from_millis(1500),
        patience: 3,
        probe: None,
        transfers: transport::Limits {
            connect: Duration::from_millis(400),
            first_byte: Some(Duration::from_millis(1500)),
            no_progress: Duration::from_secs(2),
            backoff: Duration::from_millis(5),
            slowest: 1 << 20,
            part_bytes: 10_000,
            range_bytes: 10_000,
            ranges_in_flight: 2,
            crawl_bytes: 0,
            ..Limits::default().transfers
        },
    }
}

/// The longest that a lookup may take, on a machine that does other things too.
const PROMISED: Duration = Duration::from_millis(2500);

pub(super) fn open(endpoint: &str, limits: Limits) -> Remote {
    let env = Env::of([
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "AKTEST"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2"),
        ("AWS_SESSION_TOKEN", "hunter2token"),
    ]);
    let place = Location::S3(Place { name: "b".into(), prefix: String::new() });
    Remote::with_limits(&place, scopes("shared", &["shared", "trusted"]), &env, limits, &Cancel::new()).unwrap()
}

pub(super) fn over(bucket: &Bucket) -> Remote {
    open(&format!("http://{}", bucket.address), limits())
}

/// Hands every connection to this function, and counts them. It ends with the process.
pub(super) fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (serve, seen) = (Arc::new(serve), Arc::clone(&count));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.fetch_add(1, Ordering::SeqCst);
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, count)
}

/// Reads a request up to the end of its head.
pub(super) fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
}

/// One lookup fails so in time, and nothing is asked after it.
#[track_caller]
fn check_silent(kind: &str, remote: &Remote, words: &[&str], asked: &dyn Fn() -> usize) {
    let entry = Entry::new("dead", 1, 10);
    let started = Instant::now();
    let failure = remote.record(Section::Cache, &entry.hash).unwrap_err();
    let took = started.elapsed();
    assert!(took < PROMISED, "{kind}: {took:?}");
    check(&failure, Trouble::Unreachable, words);
    assert!(remote.is_given_up(), "{kind}");
    let (before, started) = (asked(), Instant::now());
    for _ in 0..40 {
        let failure = remote.record(Section::Cache, &entry.hash).unwrap_err();
        check(&failure, Trouble::Unreachable, &["given up earlier"]);
    }
    let scope = Scope::new("shared").unwrap();
    for failure in [
        entry.publish(remote, Section::Cache).unwrap_err(),
        entry.read(remote, Section::Cache, &scope).unwrap_err(),
        remote.newest("api", "any", 1).unwrap_err(),
        remote.remove(Section::Cache, &entry.hash).unwrap_err(),
    ] {
        check(&failure, Trouble::Unreachable, &["given up earlier"]);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{kind}");
    assert_eq!(asked(), before, "{kind}");
}

#[test]
fn a_host_without_a_name_or_a_listener_is_given_up_at_once() {
    let none = || 0;
    check_silent("no name", &open("http://nobody.invalid:9", limits()), &["nobody.invalid", "network"], &none);
    let closed = crate::harness::nobody_listens();
    check_silent("refused", &open(&format!("http://{closed}"), limits()), &["cannot connect", "refused"], &none);
}

/// In a run that is told to look now and then.
#[test]
fn a_remote_that_is_back_is_asked_again_after_one_short_look() {
    let dead = Arc::new(AtomicBool::new(true));
    let is_dead = Arc::clone(&dead);
    let bucket = Bucket::start(move |_, _| is_dead.load(Ordering::SeqCst).then_some(Fault::Silent));
    let endpoint = format!("http://{}", bucket.address);
    let wait = Duration::from_millis(300);
    let remote = open(&endpoint, Limits { probe: Some(wait), ..limits() });
    let entry = Entry::new("back", 1, 10);
    remote.record(Section::Cache, &entry.hash).unwrap_err();
    assert!(remote.is_given_up());
    dead.store(false, Ordering::SeqCst);
    let before = bucket.seen().len();
    check(&remote.record(Section::Cache, &entry.hash).unwrap_err(), Trouble::Unreachable, &["given up earlier"]);
    assert_eq!(bucket.seen().len(), before, "it was asked before its time");
    std::thread::sleep(wait * 2);
    assert!(remote.record(Section::Cache, &entry.hash).unwrap().is_none());
    assert!(!remote.is_given_up());
    let asked: Vec<String> = bucket.seen()[before..].iter().map(|request| request.path.clone()).collect();
    assert!(asked[0].ends_with("/meta-v1/nothing"), "{asked:?}");
    // While it is dead, a look is one request, whoever waits for it.
    dead.store(true, Ordering::SeqCst);
    remote.record(Section::Cache, &entry.hash).unwrap_err();
    std::thread::sleep(wait * 2);
    let before = bucket.seen().len();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| remote.record(Section::Cache, &entry.hash).unwrap_err());
        }
    });
    assert_eq!(bucket.seen().len() - before, 1);
}

#[test]
fn a_black_hole_is_given_up_within_the_time_for_a_lookup() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts; once the queue is full, the system answers no more.
    let filled: Vec<_> =
        (0..8).map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()).collect();
    assert!(filled.len() < 8, "the queue did not fill");
    check_silent("black hole", &open(&format!("http://{address}"), limits()), &["check the network"], &|| 0);
}

/// With the limits of real use: 40 questions cost what one does, some 10 s, and not 40 times that.
#[test]
fn a_dead_remote_costs_what_one_question_does_however_many_are_asked() {
    let silent = Bucket::start(|_, _| Some(Fault::Silent));
    let stalls = Bucket::start(|_, request| request.reads_object().then_some(Fault::StallAfter(5)));
    let entry = Entry::new("promised", 1, 10);
    stalls.insert(&entry.key("shared", "cache", "record.json"), entry.record.clone());
    let closed = crate::harness::nobody_listens();
    for endpoint in [
        "http://nobody.invalid:9".to_owned(),
        format!("http://{closed}"),
        format!("http://{}", silent.address),
        format!("http://{}", stalls.address),
    ] {
        let remote = open(&endpoint, Limits::default());
        let started = Instant::now();
        for _ in 0..40 {
            remote.record(Section::Cache, &entry.hash).unwrap_err();
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(60), "{endpoint}: {took:?}");
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_within_the_time_for_a_lookup() {
    let bucket = Bucket::start(|_, _| Some(Fault::Silent));
    let asked = || bucket.seen().len();
    check_silent("silent", &over(&bucket), &["1.5 s", "network"], &asked);
    assert_eq!(asked(), 1);
}

#[test]
fn a_server_that_falls_silent_in_a_record_is_given_up_too() {
    let bucket = Bucket::start(|_, request| request.reads_object().then_some(Fault::StallAfter(5)));
    let entry = Entry::new("dead", 1, 10);
    bucket.insert(&entry.key("shared", "cache", "record.json"), entry.record.clone());
    let asked = || bucket.seen().len();
    check_silent("silent in mid-body", &over(&bucket), &["check the network"], &asked);
    assert!(asked() <= 2, "{}", asked());
}

#[test]
fn a_server_without_tls_is_unreachable() {
    let (address, count) = listen(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let env = Env::of([
        ("AWS_ENDPOINT_URL", format!("https://{address}")),
        ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2".into()),
    ]);
    let place = Location::S3(Place { name: "b".into(), prefix: String::new() });
    match Remote::with_limits(&place, scopes("shared", &["shared"]), &env, limits(), &Cancel::new()) {
        Ok(remote) => {
            check_silent("no TLS", &remote, &["cannot connect"], &|| count.load(Ordering::SeqCst));
            assert!(count.load(Ordering::SeqCst) <= 4);
        }
        Err(error) => println!("SKIPPED: this machine has no certificates: {}", error.chain()),
    }
}

#[test]
fn connections_that_are_reset_are_given_up_after_three_lookups() {
    // What was sent and not read makes the system answer with a reset.
    let (address, count) = listen(drop);
    let remote = open(&format!("http://{address}"), limits());
    let entry = Entry::new("reset", 1, 10);
    for lookup in 1..=3 {
        assert!(!remote.is_given_up());
        let started = Instant::now();
        let failure = remote.record(Section::Cache, &entry.hash).unwrap_err();
        check(&failure, Trouble::Unreachable, &["connection", "network"]);
        assert!(started.elapsed() < PROMISED);
        assert_eq!(count.load(Ordering::SeqCst), 4 * lookup, "{failure:?}");
    }
    assert!(remote.is_given_up());
    check(&remote.record(Section::Cache, &entry.hash).unwrap_err(), Trouble::Unreachable, &["given up earlier"]);
    assert_eq!(count.load(Ordering::SeqCst), 12);
}

#[test]
fn a_busy_service_is_asked_four_times_and_given_up_after_three_lookups() {
    for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (429, ""), (408, "")] {
        let body = format!("<Error><Code>{code}</Code><Message>hunter2</Message></Error>");
        let bucket = Bucket::start(move |_, _| Some(Fault::Status(status, body.clone())));
        let remote = over(&bucket);
        let entry = Entry::new("busy", 1, 10);
        for lookup in 1..=5 {
            let failure = remote.record(Section::Cache, &entry.hash).unwrap_err();
            check(&failure, Trouble::Unreachable, &[]);
            assert_eq!(bucket.seen().len(), 4 * lookup.min(3), "{status}");
            assert_eq!(remote.is_given_up(), lookup >= 3);
        }
    }
}

#[test]
fn a_busy_service_is_left_alone_for_a_moment_but_not_for_an_hour() {
    for (asked, least, most) in [(1, 1000, 5000), (3600, 0, 900)] {
        let tries = AtomicUsize::new(0);
        let (address, count) = listen(move |mut stream| {
            read_head(&mut stream);
            let answer = match tries.fetch_add(1, Ordering::SeqCst) {
                0 => format!("503 X\r\nRetry-After: {asked}\r\nContent-Length: 0"),
                _ => "404 X\r\nContent-Length: 38\r\n\r\n<Error><Code>NoSuchKey</Code></Error>".into(),
            };
            let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
        });
        let patient = Limits { record: Duration::from_secs(10), ..limits() };
        let remote = open(&format!("http://{address}"), patient);
        let entry = Entry::new("left alone", 1, 10);
        let started = Instant::now();
        assert!(remote.record(Section::Cache, &entry.hash).unwrap().is_none());
        let took = started.elapsed().as_millis();
        assert!((least..most).contains(&took), "{took} ms");
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
}

#[test]
fn half_of_all_answers_may_be_errors() {
    // But of one request never more than three in a row.
    let tries: Mutex<HashMap<String, usize>> = Mutex::default();
    let spoilt = move |number: usize, request: &Request| {
        let range = request.headers.get("range").cloned().unwrap_or_default();
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(format!("{} {} {} {range}", request.method, request.path, request.query)).or_default();
        let spoil = *tries < 3 && noise(number as u64, 1)[0].is_multiple_of(2);
        *tries = if spoil { *tries + 1 } else { 0 };
        spoil.then(|| Fault::Status([500, 503, 429, 408][number % 4], String::new()))
    };
    let bucket = Bucket::start(spoilt);
    let remote = over(&bucket);
    for seed in 0..50 {
        let entry = Entry::new(&format!("half {seed}"), seed, 25_000);
        assert!(remote.record(Section::Cache, &entry.hash).unwrap().is_none());
        entry.publish(&remote, Section::Cache).unwrap();
        let (scope, record) = remote.record(Section::Cache, &entry.hash).unwrap().unwrap();
        assert_eq!(record, entry.record);
        assert!(entry.read(&remote, Section::Cache, &scope).unwrap() == entry.payload);
    }
}

#[test]
fn a_payload_that_stalls_is_given_up_and_not_read_again() {
    let bucket = Bucket::start(|_, request| {
        (request.reads_object() && request.path.ends_with(".lz4")).then_some(Fault::StallAfter(100))
    });
    let entry = Entry::new("stalls", 1, 35_000);
    bucket.insert(&entry.key("shared", "cache", &entry.name), entry.payload.clone());
    let remote = over(&bucket);
    let started = Instant::now();
    let read = entry.read(&remote, Section::Cache, &Scope::new("shared").unwrap());
    let failure = read.map(|bytes| bytes.len()).unwrap_err();
    check(&failure, Trouble::Unreachable, &["reading a payload", "sent nothing for 2.0 s"]);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    // One look, and the ranges that are on their way at once.
    assert_eq!(bucket.seen().len(), 3);
    assert!(remote.is_given_up());
}

/// Serves an object of this many bytes, as a head at once and a body in drops.
fn dripping(size: usize, drop: usize, every: Duration) -> SocketAddr {
    let (address, _) = listen(move |mut stream| {
        read_head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                    Connection: close\r\n";
        let _ = stream.write_all(format!("{head}Content-Length: {size}\r\n\r\n").as_bytes());
        for piece in vec![7; size].chunks(drop) {
            if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
                return;
            }
            std::thread::sleep(every);
        }
    });
    address
}

#[test]
fn a_payload_that_crawls_is_given_up_and_a_slow_one_is_not() {
    let crawl = |range_bytes| {
        let transfers = transport::Limits {
            crawl_bytes: 2000,
            crawl_time: Duration::from_millis(500),
            range_bytes,
            ..limits().transfers
        };
        Limits { transfers, ..limits() }
    };
    let read = |address: SocketAddr| {
        let remote = open(&format!("http://{address}"), crawl(100_000));
        let size = 20_000;
        let entry = Entry::new("drips", 1, 1);
        let scope = Scope::new("shared").unwrap();
        let mut bytes = Vec::new();
        let mut reader = remote.payload(Section::Cache, &scope, &entry.hash, &entry.name, size)?;
        reader.read_to_end(&mut bytes).map_err(monofo::remote::Failure::of_read)?;
        assert!(bytes.len() as u64 == size);
        Ok(())
    };
    // Twice the least, for several times the window.
    read(dripping(20_000, 400, Duration::from_millis(50))).map_err(|failure: monofo::remote::Failure| failure).unwrap();
    let started = Instant::now();
    let failure = read(dripping(20_000, 1, Duration::from_millis(50))).unwrap_err();
    check(&failure, Trouble::Unreachable, &["sent only"]);
    assert!(started.elapsed() < Duration::from_secs(5));
}
