//! Buckets that refuse, hang, break off, lie or vanish.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::error::{Class, Error};
use monofo::location::Bucket as Place;
use monofo::transport::{Limits, Objects, Origin, Transport};

use super::contract::{get, name, noise, pick, put};
use super::http::{Bucket, Fault, Request};

pub(super) const KEY: &str = "build/a.tar/-.job";

pub(crate) fn limits() -> Limits {
    Limits {
        part_bytes: 10_000,
        range_bytes: 10_000,
        no_progress: Duration::from_millis(800),
        slowest: 1 << 20,
        backoff: Duration::from_millis(5),
        connect: Duration::from_secs(2),
        abort: Duration::from_secs(1),
        ..Limits::default()
    }
}

pub(super) fn origin() -> Origin {
    Origin { build: "build".into(), step: None, job: "job".into() }
}

fn at(address: SocketAddr, cancel: &Cancel, limits: Limits) -> Objects {
    let env = Env::of([
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2".into()),
    ]);
    let place = Place { name: "b".into(), prefix: String::new() };
    Objects::s3(&place, &env, limits, origin(), cancel.clone()).unwrap()
}

pub(super) fn over(bucket: &Bucket) -> Objects {
    at(bucket.address, &Cancel::new(), limits())
}

pub(super) fn fetch(transport: &Objects) -> Result<Vec<u8>, Error> {
    get(transport, "a.tar", &pick("build", None))
}

/// A fault for the first so many requests that fit.
pub(crate) fn first(
    count: usize,
    fits: fn(&Request) -> bool,
    fault: Fault,
) -> impl Fn(usize, &Request) -> Option<Fault> + Send + Sync {
    let left = AtomicUsize::new(count);
    move |_, request| {
        let hit = fits(request) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        hit.then(|| fault.clone())
    }
}

pub(crate) fn always(
    fits: fn(&Request) -> bool,
    fault: Fault,
) -> impl Fn(usize, &Request) -> Option<Fault> + Send + Sync {
    first(usize::MAX, fits, fault)
}

/// Whatever went wrong, nothing secret is in the error or its causes.
#[track_caller]
pub(crate) fn check_error(error: &Error, class: Class, words: &[&str]) {
    let text = format!("{} | {}", error.chain(), error.next_step().unwrap_or_default());
    assert_eq!(error.class(), class, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!format!("{text} {error:?}").contains("hunter2"), "{text}");
}

#[test]
fn a_healthy_bucket_serves_and_takes_parts() {
    let bucket = Bucket::start(|_, _| None);
    for size in [0, 1, 10_000, 10_001, 95_000] {
        let bytes = noise(7, size);
        put(&over(&bucket), "a.tar", &bytes).unwrap();
        assert!(fetch(&over(&bucket)).unwrap() == bytes, "{size}");
    }
    assert_eq!(bucket.objects(), [KEY]);
}

#[test]
fn a_refused_connection_names_the_endpoint() {
    let address = crate::harness::nobody_listens();
    let started = Instant::now();
    let error = fetch(&at(address, &Cancel::new(), limits())).unwrap_err();
    check_error(&error, Class::Unavailable, &[&address.to_string(), "connect", "AWS_ENDPOINT_URL", "refused"]);
    let error = put(&at(address, &Cancel::new(), limits()), "a.tar", b"x").unwrap_err();
    check_error(&error, Class::Unavailable, &[&address.to_string()]);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_silent_server_is_given_up() {
    let bucket = Bucket::start(|_, _| Some(Fault::Silent));
    let started = Instant::now();
    let error = fetch(&over(&bucket)).unwrap_err();
    check_error(&error, Class::Unavailable, &[&bucket.address.to_string(), "check the network"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let error = put(&over(&bucket), "a.tar", b"x").unwrap_err();
    check_error(&error, Class::Unavailable, &["sent nothing for"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn cancelling_ends_a_wait_at_once() {
    let bucket = Bucket::start(|_, _| Some(Fault::Silent));
    let cancel = Cancel::new();
    let transport = at(bucket.address, &cancel, limits());
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.stop(15);
    });
    let started = Instant::now();
    let error = fetch(&transport).unwrap_err();
    assert_eq!(error.class(), Class::Interrupted { signal: 15 });
    assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
}

#[test]
fn a_range_that_breaks_off_is_taken_up_where_it_stopped() {
    let bytes = noise(1, 35_000);
    for fault in [Fault::CutAfter(3_333), Fault::StallAfter(3_333)] {
        let bucket = Bucket::start(first(5, Request::reads_object, fault.clone()));
        bucket.insert(KEY, bytes.clone());
        assert!(fetch(&over(&bucket)).unwrap() == bytes, "{fault:?}");
        let ranges =
            bucket.seen().iter().filter_map(|request| request.headers.get("range").cloned()).collect::<Vec<_>>();
        assert!(ranges.iter().any(|range| range == "bytes=3333-9999"), "{ranges:?}");
    }
}

#[test]
fn a_body_that_always_ends_early_is_an_error_and_never_short_data() {
    for size in [5_000, 35_000] {
        for fault in [Fault::CutAfter(0), Fault::StallAfter(0)] {
            let bucket = Bucket::start(always(Request::reads_object, fault));
            bucket.insert(KEY, noise(1, size));
            let started = Instant::now();
            check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &["reading an artifact"]);
            assert!(started.elapsed() < Duration::from_secs(10));
            assert!(bucket.seen().len() < 150, "{} requests", bucket.seen().len());
        }
    }
}

#[test]
fn an_answer_shorter_than_its_range_is_never_taken_for_the_whole() {
    let bucket = Bucket::start(always(Request::reads_object, Fault::Short(1)));
    bucket.insert(KEY, noise(1, 35_000));
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &["ended after"]);
    let bucket = Bucket::start(always(Request::reads_object, Fault::Short(1)));
    bucket.insert(KEY, noise(1, 5_000));
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Changed, &["replaced"]);
}

#[test]
fn every_second_answer_may_be_an_error() {
    let bytes = noise(2, 95_000);
    let trouble = |number: usize, _: &Request| {
        number.is_multiple_of(2).then(|| Fault::Status(500, "<Error><Code>InternalError</Code></Error>".into()))
    };
    let bucket = Bucket::start(trouble);
    put(&over(&bucket), "a.tar", &bytes).unwrap();
    assert!(fetch(&over(&bucket)).unwrap() == bytes);
}

#[test]
fn a_service_in_trouble_is_given_up_after_a_few_tries() {
    let bucket = Bucket::start(|_, _| Some(Fault::Status(503, "<Error><Code>SlowDown</Code></Error>".into())));
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &["503", "SlowDown", "later"]);
    assert_eq!(bucket.seen().len(), 1 + limits().retries);
}

#[test]
fn a_refusal_is_final_and_says_what_to_check() {
    let body = "<Error><Code>AccessDenied</Code><Token-0>hunter2</Token-0></Error>";
    let bucket = Bucket::start(move |_, _| Some(Fault::Status(403, body.into())));
    let words = ["refused", "AccessDenied", "AWS_ACCESS_KEY_ID", "bucket `b`"];
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &words);
    assert_eq!(bucket.seen().len(), 1);
    check_error(&put(&over(&bucket), "a.tar", b"x").unwrap_err(), Class::Unavailable, &words);
    assert_eq!(bucket.seen().len(), 2);
}

#[test]
fn a_missing_bucket_and_a_wrong_region_are_named() {
    for (status, body, words) in [
        (404, "<Error><Code>NoSuchBucket</Code></Error>", &["no bucket `b`", "AWS_REGION"][..]),
        (404, "", &["no bucket `b`"]),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", &["another region", "AWS_REGION"]),
        (
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
            &["AWS_REGION=eu-west-1"],
        ),
    ] {
        let bucket = Bucket::start(move |_, _| Some(Fault::Status(status, body.into())));
        check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, words);
        assert_eq!(bucket.seen().len(), 1);
    }
}

#[test]
fn an_object_replaced_meanwhile_is_an_error_even_if_conditions_are_ignored() {
    let other = Fault::Header("ETag", "\"other\"".into());
    let bucket = Bucket::start(move |_, request: &Request| {
        (request.headers.get("range").is_some_and(|range| range.starts_with("bytes=20000-"))).then(|| other.clone())
    });
    bucket.insert(KEY, noise(1, 35_000));
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Changed, &["replaced"]);

    for fault in [None, Some(Fault::IgnoreCondition)] {
        let bucket = Bucket::start(always(Request::reads_object, fault.clone().unwrap_or(Fault::CutAfter(usize::MAX))));
        bucket.insert(KEY, noise(1, 35_000));
        let transport = over(&bucket);
        let mut download = transport.download(&name("a.tar"), &pick("build", None)).unwrap();
        bucket.insert(KEY, noise(2, 35_000));
        let error = download.reader.read_to_end(&mut Vec::new()).unwrap_err();
        check_error(&monofo::error::from_io("reading", error), Class::Changed, &["replaced"]);
        let reads: Vec<_> = bucket.seen().into_iter().filter(Request::reads_object).collect();
        assert!(!reads.is_empty() && reads.iter().all(|request| request.headers.contains_key("if-match")));
    }
}

#[test]
fn a_failed_upload_is_taken_back() {
    let part = |request: &Request| request.query.contains("partNumber=3");
    let bucket = Bucket::start(always(part, Fault::Status(403, String::new())));
    let transport = over(&bucket);
    check_error(&put(&transport, "a.tar", &noise(1, 95_000)).unwrap_err(), Class::Unavailable, &["refused"]);
    assert_eq!(bucket.open_uploads(), 0);
    assert!(bucket.objects().is_empty());
}

#[test]
fn a_cancelled_upload_is_taken_back() {
    let bucket = Bucket::start(|_, _| None);
    let cancel = Cancel::new();
    let transport = at(bucket.address, &cancel, limits());
    let mut upload = transport.upload(&name("a.tar")).unwrap();
    upload.write_all(&noise(1, 35_000)).unwrap();
    assert_eq!(bucket.open_uploads(), 1);
    cancel.stop(2);
    let error = upload.write_all(b"more").unwrap_err();
    assert_eq!(monofo::error::from_io("", error).class(), Class::Interrupted { signal: 2 });
    drop(upload);
    assert_eq!(bucket.open_uploads(), 0);
    assert!(bucket.objects().is_empty());
}

#[test]
fn a_cancelled_upload_to_a_server_that_hangs_ends_soon() {
    let hangs = |request: &Request| request.query.contains("partNumber") || request.method == "DELETE";
    let bucket = Bucket::start(always(hangs, Fault::Silent));
    let cancel = Cancel::new();
    let transport = at(bucket.address, &cancel, Limits { abort: Limits::default().abort, ..limits() });
    let mut upload = transport.upload(&name("a.tar")).unwrap();
    upload.write_all(&noise(1, 35_000)).unwrap();
    cancel.stop(15);
    let started = Instant::now();
    assert_eq!(upload.finish().unwrap_err().class(), Class::Interrupted { signal: 15 });
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn an_upload_to_a_missing_bucket_names_it() {
    let bucket = Bucket::start(always(|_| true, Fault::Status(404, String::new())));
    for size in [10, 35_000] {
        let error = put(&over(&bucket), "a.tar", &noise(1, size)).unwrap_err();
        check_error(&error, Class::Unavailable, &["no bucket `b`"]);
    }
}

#[test]
fn a_part_that_gets_stuck_is_sent_again() {
    let part = |request: &Request| request.query.contains("partNumber=2");
    let bucket = Bucket::start(first(1, part, Fault::Silent));
    let bytes = noise(5, 35_000);
    put(&over(&bucket), "a.tar", &bytes).unwrap();
    assert!(fetch(&over(&bucket)).unwrap() == bytes);
}

#[test]
fn an_upload_whose_last_answer_is_lost_has_succeeded() {
    let complete = |request: &Request| request.method == "POST" && request.query.contains("uploadId");
    let bucket = Bucket::start(first(1, complete, Fault::Lose));
    let bytes = noise(6, 35_000);
    put(&over(&bucket), "a.tar", &bytes).unwrap();
    assert!(fetch(&over(&bucket)).unwrap() == bytes);
}

#[test]
fn without_credentials_the_error_comes_soon_and_says_what_to_set() {
    let closed = crate::harness::nobody_listens();
    let place = Place { name: "b".into(), prefix: String::new() };
    let open = |metadata: Option<String>| {
        let mut variables = vec![("HOME", "/nonexistent".to_owned())];
        variables.extend(metadata.map(|address| ("AWS_METADATA_ENDPOINT", address)));
        Objects::s3(&place, &Env::of(variables), Limits::default(), origin(), Cancel::new()).unwrap()
    };
    let silent = Bucket::start(|_, _| Some(Fault::Silent));
    let no_role = Bucket::start(|_, _| Some(Fault::Status(404, String::new())));
    for metadata in [Some(closed), Some(silent.address), Some(no_role.address), None] {
        let transport = open(metadata.map(|address| format!("http://{address}")));
        let started = Instant::now();
        let error = fetch(&transport).unwrap_err();
        check_error(&error, Class::Unavailable, &["no credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}
