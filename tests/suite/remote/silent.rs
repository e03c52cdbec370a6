//! Remotes that take a request and never answer it, and those that take their time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use monofo::remote::{Limits, Section, Trouble};
use monofo::transport;

use super::contract::{Entry, check};
use super::dead::{limits, listen, open};
use crate::transport::http::{Bucket, Fault, Request};

/// Bytes a second: two seconds for a part or a payload of the tests.
const SLOW: u64 = 4000;

/// As in real use, but that a silence is short. The time for all of a body is much longer, or no longer than that.
fn short(slowest: u64) -> Limits {
    let transfers = transport::Limits {
        no_progress: Duration::from_millis(800),
        first_byte: Some(Duration::from_millis(700)),
        slowest,
        ..limits().transfers
    };
    Limits { transfers, ..limits() }
}

/// A request is not made again, whatever it stores, and nothing else is stored. What is there is read all the same.
#[test]
fn an_upload_to_a_remote_that_falls_silent_is_one_wait_and_no_more() {
    type Kind = (&'static str, usize, usize, fn(&Request) -> bool);
    let says = |what: &str, slowest| match (what, slowest) {
        // What may still be on its way gets time of its own.
        ("a payload", SLOW) => "sent nothing for 2.8 s",
        // The last one is the shortest.
        ("a part", SLOW) => "sent nothing for 1.8 s",
        ("an upload in parts" | "a marker", _) => "sent nothing for 0.70 s",
        _ => "sent nothing for 0.80 s",
    };
    let kinds: [Kind; 6] = [
        ("a payload", 8_000, 1, |request| request.method == "PUT" && request.path.ends_with(".lz4")),
        ("an upload in parts", 35_000, 1, |request| request.method == "POST" && request.query.starts_with("uploads")),
        // As many as are on their way at once.
        ("a part", 35_000, 4, |request| request.method == "PUT" && request.query.contains("partNumber")),
        ("its completion", 35_000, 1, |request| request.method == "POST" && request.query.contains("uploadId")),
        ("a marker", 10, 1, |request| request.method == "PUT" && request.path.contains("/index/")),
        ("a record", 10, 1, |request| request.method == "PUT" && request.path.ends_with("record.json")),
    ];
    for ((what, size, most, is_silent), slowest) in kinds.into_iter().flat_map(|kind| [(kind, SLOW), (kind, 1 << 40)]) {
        let bucket = Bucket::start(move |_, request| is_silent(request).then_some(Fault::Silent));
        let remote = open(&format!("http://{}", bucket.address), short(slowest));
        let failure = Entry::new(what, 1, size).publish(&remote, Section::Cache).unwrap_err();
        check(&failure, Trouble::Unreachable, &[says(what, slowest)]);
        assert!(!remote.is_given_up(), "{what}");
        let asked: Vec<Request> = bucket.seen();
        assert_eq!(asked.iter().filter(|request| is_silent(request)).count(), most, "{what}: {asked:?}");
        let after = asked.iter().rposition(is_silent).unwrap() + 1;
        // Taking an upload back is all that comes after it.
        assert!(asked[after..].iter().all(|request| request.method == "DELETE"), "{what}: {:?}", &asked[after..]);
        let before = asked.len();
        let failure = Entry::new("another", 2, 10).publish(&remote, Section::Cache).unwrap_err();
        check(&failure, Trouble::Unreachable, &["storing in s3://b was given up earlier"]);
        assert!(remote.record(Section::Cache, &Entry::new("third", 3, 10).hash).unwrap().is_none());
        assert!(bucket.seen()[before..].iter().all(Request::reads_object), "{what}");
    }
}

/// Takes a body at once, and answers after this pause.
fn late(pause: Duration) -> Bucket {
    Bucket::start(move |_, request| {
        if request.method == "PUT" && request.path.ends_with(".lz4") {
            std::thread::sleep(pause);
        }
        None
    })
}

/// A machine or a proxy takes all of it, and passes it on at its line's pace.
#[test]
fn an_answer_gets_the_time_that_what_was_sent_may_need_on_a_slow_line() {
    let entry = Entry::new("buffered", 1, 4 << 20);
    let limits = |slowest| {
        let short = short(slowest);
        Limits { transfers: transport::Limits { part_bytes: 8 << 20, ..short.transfers }, ..short }
    };
    // 0.8 s, and 3 s for the last 1 MiB.
    let bucket = late(Duration::from_millis(1600));
    entry.publish(&open(&format!("http://{}", bucket.address), limits(333_333)), Section::Cache).unwrap();
    // Of 4 MiB no more than 1 MiB counts.
    let bucket = late(Duration::from_secs(60));
    let remote = open(&format!("http://{}", bucket.address), limits(1 << 20));
    let failure = entry.publish(&remote, Section::Cache).unwrap_err();
    check(&failure, Trouble::Unreachable, &["sent nothing for 1.8 s"]);
}

/// A remote that cannot be written to is read from all the same.
#[test]
fn what_a_remote_does_not_store_is_given_up_after_three_entries_and_reads_go_on() {
    for status in [503, 409, 412] {
        let refuses = |request: &Request| request.method == "PUT" && request.path.ends_with("record.json");
        let bucket = Bucket::start(move |_, request| refuses(request).then(|| Fault::Status(status, String::new())));
        let remote = open(&format!("http://{}", bucket.address), limits());
        let there = Entry::new("there", 1, 10);
        bucket.insert(&there.key("shared", "cache", "record.json"), there.record.clone());
        for number in 1..=6 {
            let entry = Entry::new(&format!("not stored {number}"), 1, 10);
            let failure = entry.publish(&remote, Section::Cache).unwrap_err();
            let words = if number > 3 { "storing in s3://b was given up earlier" } else { "try again later" };
            check(&failure, Trouble::Unreachable, &[words]);
            let tries = bucket.seen().iter().filter(|request| refuses(request)).count();
            assert_eq!(tries, 4 * number.min(3), "{status}");
            assert!(remote.record(Section::Cache, &there.hash).unwrap().is_some());
        }
        assert!(bucket.seen().iter().filter(|request| request.method == "PUT").count() <= 12 + 9, "{status}");
        assert!(!remote.is_given_up());
    }
}

/// Takes uploads a block at a time.
fn slow(block: usize, pause: Duration) -> SocketAddr {
    let serve = move |mut stream: TcpStream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut left: usize = length.unwrap_or(0);
        let mut bytes = vec![0; block];
        while left > 0 {
            let most = left.min(block);
            if stream.read_exact(&mut bytes[..most]).is_err() {
                return;
            }
            left -= most;
            std::thread::sleep(if left > 0 { pause } else { Duration::ZERO });
        }
        let none = "404 X\r\nContent-Length: 38\r\n\r\n<Error><Code>NoSuchKey</Code></Error>";
        let answer = if head.starts_with("put") { "200 X\r\nETag: \"x\"\r\nContent-Length: 0\r\n\r\n" } else { none };
        let _ =
            stream.write_all(format!("HTTP/1.1 {answer}").replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes());
    };
    listen(serve).0
}

/// Longer as a whole than a silence may be.
#[test]
fn an_upload_that_moves_is_left_alone_unless_it_crawls() {
    let size = 24 << 20;
    let patient = |slowest| {
        let transfers = transport::Limits {
            no_progress: Duration::from_secs(2),
            part_bytes: 2 * size,
            slowest,
            ..limits().transfers
        };
        Limits { transfers, ..limits() }
    };
    let address = slow(1 << 20, Duration::from_millis(150));
    let entry = Entry::new("slow", 1, size);
    entry.publish(&open(&format!("http://{address}"), patient(1 << 20)), Section::Cache).unwrap();
    let failure = entry.publish(&open(&format!("http://{address}"), patient(1 << 40)), Section::Cache).unwrap_err();
    check(&failure, Trouble::Unreachable, &["took only", "in 2.0 s"]);
}
