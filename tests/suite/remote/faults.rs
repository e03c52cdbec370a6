//! Remotes that refuse, lie, break off or get in each other's way.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::error::Class;
use monofo::location::{Bucket as Place, Location};
use monofo::remote::{LONGEST_RECORD, Limits, Published, Remote, Scope, Section, Trouble};

use super::contract::{Entry, check};
use super::dead::{limits, listen, open, over, read_head};
use super::subjects::scopes;
use crate::transport::contract::noise;
use crate::transport::faults::{always, first};
use crate::transport::http::{Bucket, Fault, Request};

fn makes_record(request: &Request) -> bool {
    request.method == "PUT" && request.path.ends_with("record.json")
}

fn shared() -> Scope {
    Scope::new("shared").unwrap()
}

#[test]
fn a_refusal_is_final_says_what_to_check_and_opens_no_breaker() {
    let entry = Entry::new("denied", 1, 10);
    for (status, body, words) in [
        (
            403,
            "<Error><Code>AccessDenied</Code><Token-0>hunter2</Token-0></Error>",
            &["AccessDenied", "may not list"][..],
        ),
        (401, "", &["refused", "AWS_ACCESS_KEY_ID"]),
        (400, "<Error><Code>ExpiredToken</Code></Error>", &["expired", "renew"]),
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", &["clock"]),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", &["no bucket `b`"]),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", &["another region", "AWS_REGION"]),
        (
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
            &["AWS_REGION=eu-west-1"],
        ),
    ] {
        let bucket = Bucket::start(move |_, _| Some(Fault::Status(status, body.into())));
        let remote = over(&bucket);
        check(&remote.record(Section::Cache, &entry.hash).unwrap_err(), Trouble::Denied, words);
        // One for each scope that is read, and one for each operation after that.
        assert_eq!(bucket.seen().len(), 2, "{status} {body}");
        check(&entry.publish(&remote, Section::Cache).unwrap_err(), Trouble::Denied, &[]);
        check(&remote.newest("api", "any", 3).unwrap_err(), Trouble::Denied, &[]);
        assert_eq!(bucket.seen().len(), 4, "{status} {body}");
        assert!(!remote.is_given_up());
    }
}

#[test]
fn credentials_that_expire_on_the_way_end_a_payload_with_a_refusal() {
    let later = |request: &Request| request.headers.get("range").is_some_and(|range| range.starts_with("bytes=20000"));
    let body = "<Error><Code>ExpiredToken</Code></Error>";
    let bucket = Bucket::start(always(later, Fault::Status(400, body.into())));
    let entry = Entry::new("expired", 1, 35_000);
    bucket.insert(&entry.key("shared", "cache", &entry.name), entry.payload.clone());
    let read = entry.read(&over(&bucket), Section::Cache, &shared());
    check(&read.map(|bytes| bytes.len()).unwrap_err(), Trouble::Denied, &["reading a payload", "renew"]);
}

#[test]
fn without_credentials_there_is_one_wait_and_no_more() {
    let silent = Bucket::start(|_, _| Some(Fault::Silent));
    let env =
        Env::of([("HOME", "/nonexistent".to_owned()), ("AWS_METADATA_ENDPOINT", format!("http://{}", silent.address))]);
    let place = Location::S3(Place { name: "b".into(), prefix: String::new() });
    let remote = Remote::open(&place, scopes("shared", &["shared"]), &env, &Cancel::new()).unwrap();
    let entry = Entry::new("nameless", 1, 10);
    let started = Instant::now();
    let failure = remote.record(Section::Cache, &entry.hash).unwrap_err();
    check(&failure, Trouble::Denied, &["no credentials", "AWS_PROFILE"]);
    assert!(started.elapsed() < Duration::from_secs(11));
    let started = Instant::now();
    check(&remote.record(Section::Cache, &entry.hash).unwrap_err(), Trouble::Denied, &["given up earlier"]);
    assert!(started.elapsed() < Duration::from_millis(200));
}

#[test]
fn a_web_page_in_place_of_an_answer_is_refused() {
    let page = "<!DOCTYPE html><html><title>hunter2</title></html>";
    let bucket = Bucket::start(move |_, _| Some(Fault::Status(200, page.into())));
    let remote = over(&bucket);
    let entry = Entry::new("page", 1, 10);
    check(&remote.record(Section::Cache, &entry.hash).unwrap_err(), Trouble::Refused, &["no record"]);
    assert_eq!(bucket.seen().len(), 2);
    for failure in [
        entry.publish(&remote, Section::Cache).unwrap_err(),
        remote.newest("api", "any", 1).unwrap_err(),
        entry.read(&remote, Section::Cache, &shared()).unwrap_err(),
    ] {
        check(&failure, Trouble::Refused, &[]);
    }
    assert!(!remote.is_given_up());
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Bucket::start(|_, _| Some(Fault::Status(403, String::new())));
    let address = format!("http://localhost:{}/elsewhere", other.address.port());
    let bucket = Bucket::start(move |_, _| Some(Fault::Redirect(307, address.clone())));
    let entry = Entry::new("redirect", 1, 10);
    check(&over(&bucket).record(Section::Cache, &entry.hash).unwrap_err(), Trouble::Denied, &["another region"]);
    assert!(other.seen().is_empty());
}

#[test]
fn of_a_huge_record_nothing_is_read() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let (address, _) = listen(move |mut stream| {
        read_head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
        let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", 1 << 30).as_bytes());
        let block = vec![b'{'; 64 << 10];
        while let Ok(wrote) = stream.write(&block) {
            count.fetch_add(wrote, Ordering::SeqCst);
        }
    });
    let remote = open(&format!("http://{address}"), limits());
    let entry = Entry::new("huge", 1, 10);
    let started = Instant::now();
    let failure = remote.record(Section::Cache, &entry.hash).unwrap_err();
    check(&failure, Trouble::Refused, &["longer than"]);
    assert!(started.elapsed() < Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(300));
    // What the system took off the sender's hands, in two connections, and nothing near a GiB.
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < 32 * LONGEST_RECORD as usize, "{sent}");
}

#[test]
fn a_payload_that_is_short_long_or_replaced_is_damaged() {
    let entry = Entry::new("damaged", 1, 35_000);
    let key = entry.key("shared", "cache", &entry.name);
    for size in [0, 34_999, 35_001] {
        let bucket = Bucket::start(|_, _| None);
        bucket.insert(&key, noise(1, size));
        let read = entry.read(&over(&bucket), Section::Cache, &shared()).map(|bytes| bytes.len());
        check(&read.unwrap_err(), Trouble::Damaged, &[&format!("{size} of 35000 bytes")]);
        assert_eq!(bucket.seen().len(), 1);
    }
    let tagged = Fault::Header("ETag", "\"other\"".into());
    let bucket = Bucket::start(move |_, request: &Request| {
        request.headers.get("range").is_some_and(|range| range.starts_with("bytes=20000-")).then(|| tagged.clone())
    });
    bucket.insert(&key, entry.payload.clone());
    let read = entry.read(&over(&bucket), Section::Cache, &shared()).map(|bytes| bytes.len());
    check(&read.unwrap_err(), Trouble::Damaged, &["replaced"]);
    // A part that is missing on the way is asked for again.
    let bucket = Bucket::start(first(2, Request::reads_object, Fault::CutAfter(3_333)));
    bucket.insert(&key, entry.payload.clone());
    assert!(entry.read(&over(&bucket), Section::Cache, &shared()).unwrap() == entry.payload);
}

#[test]
fn a_record_that_breaks_off_is_asked_for_again_and_given_up_after_three_lookups() {
    let entry = Entry::new("breaks", 1, 10);
    let key = entry.key("shared", "cache", "record.json");
    let bucket = Bucket::start(first(2, Request::reads_object, Fault::CutAfter(7)));
    bucket.insert(&key, entry.record.clone());
    assert_eq!(over(&bucket).record(Section::Cache, &entry.hash).unwrap().unwrap().1, entry.record);
    assert_eq!(bucket.seen().len(), 3);
    let bucket = Bucket::start(always(Request::reads_object, Fault::CutAfter(7)));
    bucket.insert(&key, entry.record.clone());
    let remote = over(&bucket);
    for lookup in 1..=3 {
        check(
            &remote.record(Section::Cache, &entry.hash).unwrap_err(),
            Trouble::Unreachable,
            &["looking for a record"],
        );
        assert_eq!(bucket.seen().len(), 4 * lookup);
    }
    assert!(remote.is_given_up());
}

#[test]
fn an_upload_that_is_cut_anywhere_leaves_no_record_without_payload_and_the_next_completes_it() {
    let entry = Entry::new("cut", 1, 35_000);
    let whole = Bucket::start(|_, _| None);
    entry.publish(&over(&whole), Section::Cache).unwrap();
    let requests = whole.seen().len();
    assert!(requests > 8, "{requests}");
    for fault in [Fault::Status(403, String::new()), Fault::Lose] {
        for cut in 0..requests {
            let spoilt = fault.clone();
            // From this request on, nothing works.
            let bucket = Bucket::start(move |number, _| {
                (number >= cut && number < cut + 200).then(|| match (&spoilt, number - cut) {
                    (Fault::Lose, 0) => Fault::Lose,
                    _ => Fault::Status(403, String::new()),
                })
            });
            let failed = entry.publish(&over(&bucket), Section::Cache);
            let record = bucket.object(&entry.key("shared", "cache", "record.json"));
            let payload = bucket.object(&entry.key("shared", "cache", &entry.name));
            assert!(failed.is_err(), "{fault:?} at {cut}");
            assert!(record.is_none() || payload == Some(entry.payload.clone()), "{fault:?} at {cut}");
            let healthy = Bucket::start(|_, _| None);
            for key in bucket.objects() {
                healthy.insert(&key, bucket.object(&key).unwrap());
            }
            let published = entry.publish(&over(&healthy), Section::Cache).unwrap();
            let expected = if record.is_some() { Published::Exists(entry.record.clone()) } else { Published::Created };
            assert_eq!(published, expected);
            assert!(entry.read(&over(&healthy), Section::Cache, &shared()).unwrap() == entry.payload);
        }
    }
}

/// A payload's name is its digest, so others may have stored one of this size there before.
#[test]
fn an_upload_whose_end_is_unclear_takes_no_older_payload_for_its_own() {
    let ends = |request: &Request| request.method == "POST" && request.query.contains("uploadId");
    let gone = "<Error><Code>NoSuchUpload</Code></Error>";
    for (fault, lies_there, is_stored) in [
        (Fault::Status(404, gone.into()), true, false),
        (Fault::Status(404, gone.into()), false, false),
        (Fault::Lose, true, true),
        (Fault::Lose, false, true),
    ] {
        let entry = Entry::new("unclear end", 1, 35_000);
        let bucket = Bucket::start(first(1, ends, fault.clone()));
        let key = entry.key("shared", "cache", &entry.name);
        if lies_there {
            bucket.insert(&key, vec![0; 35_000]);
        }
        let published = entry.publish(&over(&bucket), Section::Cache);
        assert_eq!(published.is_ok(), is_stored, "{fault:?} {lies_there}: {published:?}");
        assert!(!is_stored || bucket.object(&key) == Some(entry.payload.clone()));
    }
}

#[test]
fn an_unclear_answer_about_a_record_is_settled_by_looking() {
    let entry = Entry::new("unclear", 1, 100);
    let conflict = "<Error><Code>ConditionalRequestConflict</Code></Error>";
    for fault in [
        Fault::Status(409, conflict.into()),
        Fault::Status(412, String::new()),
        Fault::Status(503, String::new()),
        Fault::Lose,
    ] {
        let bucket = Bucket::start(first(1, makes_record, fault.clone()));
        let remote = over(&bucket);
        let published = entry.publish(&remote, Section::Cache).unwrap();
        assert_eq!(published, Published::Created, "{fault:?}");
        assert_eq!(remote.record(Section::Cache, &entry.hash).unwrap().unwrap().1, entry.record);
        let puts: Vec<Request> = bucket.seen().into_iter().filter(makes_record).collect();
        assert!(puts.iter().all(|request| request.headers.get("if-none-match").is_some_and(|tag| tag == "*")));
        // Where only the answer was lost, a look finds it.
        assert_eq!(puts.len(), if matches!(fault, Fault::Lose) { 1 } else { 2 }, "{fault:?}");
    }
    let bucket = Bucket::start(always(makes_record, Fault::Status(409, conflict.into())));
    check(&entry.publish(&over(&bucket), Section::Cache).unwrap_err(), Trouble::Unreachable, &["try again later"]);
    assert_eq!(bucket.seen().into_iter().filter(makes_record).count(), 4);
}

#[test]
fn a_record_that_somebody_else_made_meanwhile_stays() {
    let (ours, theirs) = (Entry::new("meanwhile", 1, 100), Entry::new("meanwhile", 2, 100));
    let (key, record) = (ours.key("shared", "cache", "record.json"), theirs.record.clone());
    // The other one stores it at the last moment: between the last look and the request.
    let bucket: Arc<OnceLock<Bucket>> = Arc::default();
    let shared = Arc::clone(&bucket);
    let started = Bucket::start(move |_, request| {
        if makes_record(request) {
            shared.get().unwrap().insert(&key, record.clone());
        }
        None
    });
    let bucket = bucket.get_or_init(|| started);
    let published = ours.publish(&over(bucket), Section::Cache).unwrap();
    assert_eq!(published, Published::Exists(theirs.record.clone()));
    assert_eq!(bucket.object(&ours.key("shared", "cache", "record.json")), Some(theirs.record));
}

#[test]
fn of_many_writers_one_wins_also_when_answers_get_lost() {
    for round in 0..40_u64 {
        let trouble = move |number: usize, request: &Request| {
            let spoil = makes_record(request) && noise(round * 100 + number as u64, 1)[0].is_multiple_of(3);
            spoil.then(|| match (round + number as u64) % 3 {
                0 => Fault::Lose,
                1 => Fault::Status(409, String::new()),
                _ => Fault::Status(503, String::new()),
            })
        };
        let bucket = Bucket::start(trouble);
        let equal = round.is_multiple_of(2);
        let entries: Vec<Entry> =
            (0..3).map(|writer| Entry::new(&format!("many {round}"), if equal { 1 } else { writer }, 300)).collect();
        let barrier = Barrier::new(entries.len());
        let outcomes: Vec<Published> = std::thread::scope(|scope| {
            let writers: Vec<_> = entries
                .iter()
                .map(|entry| {
                    scope.spawn(|| {
                        let remote = over(&bucket);
                        barrier.wait();
                        entry.publish(&remote, Section::Cache).unwrap()
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let record = over(&bucket).record(Section::Cache, &entries[0].hash).unwrap().unwrap().1;
        let created: Vec<&Entry> = entries
            .iter()
            .zip(&outcomes)
            .filter_map(|(entry, outcome)| (*outcome == Published::Created).then_some(entry))
            .collect();
        for outcome in &outcomes {
            assert!(*outcome == Published::Created || *outcome == Published::Exists(record.clone()), "round {round}");
        }
        // Whose answer was lost may find a record that equals its own.
        assert!(created.iter().all(|entry| entry.record == record), "round {round}");
        assert!(equal || created.len() <= 1, "round {round}: {}", created.len());
        let winner = entries.iter().find(|entry| entry.record == record).unwrap();
        assert!(winner.read(&over(&bucket), Section::Cache, &shared()).unwrap() == winner.payload);
    }
}

#[test]
fn a_store_without_conditions_is_looked_at_first() {
    for (fault, puts) in [(Fault::IgnoreCondition, 1), (Fault::Status(501, String::new()), 5)] {
        let refuses = fault.clone();
        let bucket = Bucket::start(move |_, request| {
            (makes_record(request) && request.headers.contains_key("if-none-match")).then(|| refuses.clone())
        });
        let remote = over(&bucket);
        let (one, two) = (Entry::new("ignores", 1, 100), Entry::new("ignores", 2, 100));
        assert_eq!(one.publish(&remote, Section::Cache).unwrap(), Published::Created, "{fault:?}");
        assert_eq!(bucket.seen().into_iter().filter(makes_record).count(), puts);
        assert_eq!(two.publish(&remote, Section::Cache).unwrap(), Published::Exists(one.record.clone()));
        assert_eq!(bucket.seen().into_iter().filter(makes_record).count(), puts);
    }
}

#[test]
fn the_agents_storage_is_no_remote() {
    let opened = Remote::open(&Location::Agent, scopes("shared", &["shared"]), &Env::default(), &Cancel::new());
    let error = opened.err().unwrap();
    assert_eq!(error.class(), Class::Usage);
    assert!(error.next_step().unwrap().contains("s3://bucket/prefix"), "{error:?}");
}

#[test]
fn a_folder_in_the_way_is_told_apart_and_names_no_other_setting() {
    let temp = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (temp.path().join("root"), temp.path().join("elsewhere"));
    for folder in [&root, &elsewhere] {
        std::fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink(&elsewhere, root.join("meta-v1")).unwrap();
    let at = |path: &std::path::Path| {
        let place = Location::Folder(path.to_owned());
        Remote::open(&place, scopes("shared", &["shared"]), &Env::default(), &Cancel::new()).unwrap()
    };
    let entry = Entry::new("in the way", 1, 10);
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (path, trouble) in [(&root, Trouble::Refused), (&file, Trouble::Unreachable)] {
        let remote = at(path);
        for failure in [
            remote.record(Section::Cache, &entry.hash).unwrap_err(),
            entry.publish(&remote, Section::Cache).unwrap_err(),
        ] {
            check(&failure, trouble, &["the remote's location"]);
            assert!(!failure.error.next_step().unwrap().contains("MONOFO_ARTIFACTS"));
        }
    }
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_hit_costs_one_request_and_a_miss_one_for_each_scope() {
    let bucket = Bucket::start(|_, _| None);
    let remote = over(&bucket);
    let entry = Entry::new("requests", 1, 100);
    assert!(bucket.seen().is_empty());
    assert!(remote.record(Section::Cache, &entry.hash).unwrap().is_none());
    assert_eq!(bucket.seen().len(), 2);
    bucket.insert(&entry.key("shared", "cache", "record.json"), entry.record.clone());
    remote.record(Section::Cache, &entry.hash).unwrap().unwrap();
    assert_eq!(bucket.seen().len(), 3);
    let limits = Limits::default();
    assert_eq!((limits.record, limits.transfers.connect), (Duration::from_secs(10), Duration::from_secs(3)));
}
