//! Buckets and web servers that refuse, hang, break off or vanish; and how much they are asked.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use monofo::cancel::Cancel;
use monofo::chunk_store::{self, BucketStore, ChunkStore, HttpStore};
use monofo::env::Env;
use monofo::error::{Class, Error};
use monofo::location::Bucket as Place;
use monofo::transport::{Keyed, Limits, Web};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::servers::{FileServer, Told, chunk, s3_server};
use crate::transport::faults::{always, check_error, first, limits};
use crate::transport::http::{Bucket, Fault, Request};

fn s3_at(address: SocketAddr, cancel: &Cancel) -> BucketStore {
    let env = Env::of([
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2".into()),
    ]);
    let place = Place { name: "b".into(), prefix: "p".into() };
    BucketStore::new(Keyed::s3(&place, None, &env, limits(), cancel.clone()).unwrap())
}

fn gs_at(address: SocketAddr) -> BucketStore {
    let env = Env::of([("STORAGE_EMULATOR_HOST", address.to_string())]);
    let place = Place { name: "b".into(), prefix: "p".into() };
    BucketStore::new(Keyed::gs(&place, &env, limits(), Cancel::new()).unwrap())
}

fn web_at(address: SocketAddr) -> HttpStore {
    HttpStore::new(Web::new(&format!("http://{address}/p"), &Env::default(), limits(), Cancel::new()).unwrap())
}

fn name(seed: usize) -> String {
    let id = chunk(seed).0.to_string();
    format!("p/{}/{id}.cacnk", &id[..4])
}

/// Everything that can be asked of a store, and fails.
fn failures(store: &dyn ChunkStore, writable: bool) -> Vec<Error> {
    let (id, packed) = chunk(1);
    let mut errors = vec![store.get(&id).unwrap_err(), store.about(&id).unwrap_err()];
    if writable {
        let listed = chunk_store::Listed {
            id: Some(id),
            name: name(1)[2..].to_owned(),
            about: chunk_store::About { len: 1, age: Duration::from_secs(9) },
        };
        errors.extend([
            store.put(&id, &packed).unwrap_err(),
            store.survey(10).unwrap_err(),
            store.list(&mut |_| Ok(())).unwrap_err(),
            store.remove(&[listed], Duration::ZERO).unwrap_err(),
            store.discard(&id).unwrap_err(),
        ]);
    }
    errors
}

#[track_caller]
fn check_all(store: &dyn ChunkStore, writable: bool, words: &[&str]) {
    for error in failures(store, writable) {
        check_error(&error, Class::Unavailable, words);
        let text = format!("{} {}", error.chain(), error.next_step().unwrap());
        assert!(text.contains("chunk") && !text.contains("artifact") && !text.contains("upload"), "{text}");
    }
}

#[test]
fn what_cannot_be_reached_is_unavailable_and_never_missing() {
    let closed = crate::harness::nobody_listens();
    let silent = Bucket::start(|_, _| Some(Fault::Silent));
    for address in [closed, silent.address] {
        let words = [&*address.to_string(), "network"];
        std::thread::scope(|scope| {
            scope.spawn(|| check_all(&s3_at(address, &Cancel::new()), true, &words));
            scope.spawn(|| check_all(&gs_at(address), true, &words));
            scope.spawn(|| check_all(&web_at(address), false, &words));
        });
    }
}

#[test]
fn what_is_refused_is_unavailable_and_never_missing() {
    for (status, body, words) in [
        (403, "", "refused"),
        (401, "<Error><Code>hunter2 </Code></Error>", "refused"),
        (403, "<Error><Code>AccessDenied</Code></Error>", "refused"),
        (500, "<Error><Code>InternalError</Code></Error>", "try again later"),
        (503, "", "try again later"),
        (400, "", "does not take this request"),
    ] {
        let bucket = Bucket::start(move |_, _| Some(Fault::Status(status, body.into())));
        let words = [words, &*status.to_string()];
        check_all(&s3_at(bucket.address, &Cancel::new()), true, &words);
        check_all(&gs_at(bucket.address), true, &words);
        check_all(&web_at(bucket.address), false, &words);
    }
}

#[test]
fn a_missing_bucket_is_no_missing_chunk() {
    let answers = |request: &Request| request.method != "HEAD";
    let gone = "<Error><Code>NoSuchBucket</Code></Error>";
    for fault in [Fault::Status(404, gone.into()), Fault::Status(404, String::new())] {
        let bucket = Bucket::start(always(answers, fault));
        check_all(&s3_at(bucket.address, &Cancel::new()), true, &["has no bucket `b`", "AWS_ENDPOINT_URL"]);
        check_all(&gs_at(bucket.address), true, &["has no bucket `b`"]);
    }
    // Something else answers there, and has never heard of anything.
    let page = Bucket::start(|_, request: &Request| {
        let lists = request.query.contains("list-type");
        Some(if lists {
            Fault::Status(200, "<html></html>".into())
        } else {
            Fault::Status(404, "<html></html>".into())
        })
    });
    let error = s3_at(page.address, &Cancel::new()).get(&chunk(1).0).unwrap_err();
    check_error(&error, Class::Unavailable, &["was not understood"]);
}

#[test]
fn whether_a_bucket_is_there_is_asked_once() {
    let bucket = Bucket::start(|_, _| None);
    let store = s3_at(bucket.address, &Cancel::new());
    std::thread::scope(|scope| {
        for seed in 0..16 {
            let store = &store;
            scope.spawn(move || assert_eq!(store.about(&chunk(seed).0).unwrap(), None));
        }
    });
    let lists = bucket.seen().iter().filter(|request| request.query.contains("list-type")).count();
    assert_eq!((lists, bucket.seen().len()), (1, 17));
    // A chunk that is missing says it by its code.
    let bucket = Bucket::start(|_, _| None);
    let store = s3_at(bucket.address, &Cancel::new());
    assert_eq!(store.get(&chunk(1).0).unwrap(), None);
    assert_eq!(bucket.seen().len(), 2);
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_again() {
    let reads: fn(&Request) -> bool = |request| request.method == "GET" && request.path.ends_with(".cacnk");
    let (id, packed) = chunk(2);
    for fault in
        [Fault::CutAfter(50), Fault::StallAfter(50), Fault::Lose, Fault::Silent, Fault::Status(503, String::new())]
    {
        let bucket = Bucket::start(first(1, reads, fault.clone()));
        bucket.insert(&name(2), packed.clone());
        let got = s3_at(bucket.address, &Cancel::new()).get(&id).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        assert!(got.unwrap().bytes == packed, "{fault:?}");
        let bucket = Bucket::start(first(1, reads, fault.clone()));
        bucket.insert(&name(2), packed.clone());
        let base = format!("http://{}/b/p", bucket.address);
        let web = HttpStore::new(Web::new(&base, &Env::default(), limits(), Cancel::new()).unwrap());
        let got = web.get(&id).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        assert!(got.unwrap().bytes == packed, "{fault:?}");
    }
    let bucket = Bucket::start(always(reads, Fault::CutAfter(50)));
    bucket.insert(&name(2), packed);
    for error in [
        s3_at(bucket.address, &Cancel::new()).get(&id).unwrap_err(),
        HttpStore::new(
            Web::new(&format!("http://{}/b/p", bucket.address), &Env::default(), limits(), Cancel::new()).unwrap(),
        )
        .get(&id)
        .unwrap_err(),
    ] {
        check_error(&error, Class::Unavailable, &["reading a chunk"]);
        assert!(!error.chain().contains("artifact"));
    }
}

#[test]
fn a_web_server_that_sends_elsewhere_is_not_followed() {
    let other = Bucket::start(|_, _| None);
    let address = format!("http://{}/b/p", other.address);
    let bucket = Bucket::start(move |_, _| Some(Fault::Redirect(302, address.clone())));
    check_all(&web_at(bucket.address), false, &["not followed", "302", "use the address"]);
    assert!(other.seen().is_empty());
}

#[test]
fn a_cancellation_ends_a_request_that_hangs() {
    let bucket = Bucket::start(|_, _| Some(Fault::Silent));
    let cancel = Cancel::new();
    let env = Env::of([
        ("AWS_ENDPOINT_URL", format!("http://{}", bucket.address)),
        ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2".into()),
    ]);
    let place = Place { name: "b".into(), prefix: String::new() };
    let store = BucketStore::new(Keyed::s3(&place, None, &env, Limits::default(), cancel.clone()).unwrap());
    let stop = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.stop(2);
    });
    let started = Instant::now();
    assert_eq!(store.get(&chunk(1).0).unwrap_err().class(), Class::Interrupted { signal: 2 });
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

/// The chunks of many threads go through few connections.
fn hammer(store: &dyn ChunkStore, rounds: usize) {
    std::thread::scope(|scope| {
        for thread in 0..64 {
            scope.spawn(move || {
                for _ in 0..rounds {
                    let (id, packed) = chunk(thread % 20);
                    assert!(store.get(&id).unwrap().unwrap().bytes == packed);
                    assert!(store.about(&id).unwrap().is_some());
                    assert_eq!(store.about(&chunk(1000 + thread).0).unwrap(), None);
                }
            });
        }
    });
}

#[test]
fn connections_are_used_again() {
    let (server, env, _temp) = s3_server();
    let place = Place { name: "bucket".into(), prefix: "p".into() };
    let store = BucketStore::new(Keyed::s3(&place, None, &env, Limits::default(), Cancel::new()).unwrap());
    for seed in 0..20 {
        let (id, packed) = chunk(seed);
        store.put(&id, &packed).unwrap();
    }
    hammer(&store, 10);
    let connections = server.connections.load(Ordering::Relaxed);
    assert!(connections <= 2 * 64, "{connections} connections for 1920 requests");

    let temp = tempfile::tempdir().unwrap();
    let folder = chunk_store::FolderStore::new(temp.path(), Cancel::new());
    for seed in 0..20 {
        let (id, packed) = chunk(seed);
        folder.put(&id, &packed).unwrap();
    }
    let server = FileServer::start(temp.path(), Told::Everything);
    let web =
        Web::new(&format!("http://{}", server.address), &Env::default(), Limits::default(), Cancel::new()).unwrap();
    hammer(&HttpStore::new(web), 10);
    let connections = server.connections.load(Ordering::Relaxed);
    assert!(connections <= 2 * 64, "{connections} connections for 1920 requests");
}

#[test]
fn a_survey_is_made_when_it_costs_less_than_the_questions() {
    for (stored, chunks, made) in [(500, 1, true), (2500, 1, true), (6500, 10, false), (6500, 400, true)] {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let keyed = || Keyed::over(Arc::clone(&objects), "p", Limits::default(), Cancel::new()).unwrap();
        let raw = keyed();
        for seed in 0..stored {
            raw.put("planting", &name(seed)[2..], "application/zstd", b"x".to_vec()).unwrap();
        }
        let store = BucketStore::new(keyed());
        let survey = store.survey(chunks).unwrap();
        assert_eq!(survey.as_ref().map(|all| all.len()), made.then_some(stored), "{stored} {chunks}");
        let mut listed = 0;
        let mut gone = Vec::new();
        store
            .list(&mut |one| {
                listed += 1;
                // A store may be used while it is listed.
                if listed == 1 {
                    assert!(store.get(&one.id.unwrap())?.is_some());
                }
                gone.push(one);
                Ok(())
            })
            .unwrap();
        assert_eq!(listed, stored);
        assert_eq!(store.remove(&gone, Duration::ZERO).unwrap(), stored as u64);
        assert_eq!(store.survey(1).unwrap().unwrap().len(), 0);
    }
}

#[test]
fn a_place_as_desync_writes_it_is_the_same_place() {
    let (server, env, temp) = s3_server();
    let (id, packed) = chunk(1);
    let own = Env::of([
        ("S3_ACCESS_KEY", "AKTEST"),
        ("S3_SECRET_KEY", "secret"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ]);
    let folder = temp.path().join("second");
    let text = format!("s3+http://{}/bucket/p?lookup=path,{}", server.address, folder.display());
    let store = chunk_store::open(OsStr::new(&text), &own, &Cancel::new()).unwrap();
    store.put(&id, &packed).unwrap();
    let same = chunk_store::open(OsStr::new("s3://bucket/p"), &env, &Cancel::new()).unwrap();
    assert!(same.get(&id).unwrap().unwrap().bytes == packed);
    assert!(temp.path().join("bucket").join(name(1)).is_file());
    // The second is asked for what the first lacks.
    let (other, bytes) = chunk(2);
    chunk_store::FolderStore::new(&folder, Cancel::new()).put(&other, &bytes).unwrap();
    assert!(store.get(&other).unwrap().unwrap().bytes == bytes);
    assert_eq!(same.get(&other).unwrap(), None);
    // The first of a group is down.
    let text = format!("http://127.0.0.1:1/x|s3+http://{}/bucket/p", server.address);
    let group = chunk_store::open(OsStr::new(&text), &own, &Cancel::new()).unwrap();
    assert!(group.get(&id).unwrap().unwrap().bytes == packed);
}
