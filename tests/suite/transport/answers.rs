//! Answers that are none of a bucket, or that mean something else than their status says.

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::error::Class;
use monofo::location::Bucket as Place;
use monofo::transport::Objects;

use super::contract::{noise, put};
use super::faults::{KEY, always, check_error, fetch, limits, origin, over};
use super::http::{Bucket, Fault, Request};

fn completes(request: &Request) -> bool {
    request.method == "POST" && request.query.contains("uploadId")
}

fn lists(request: &Request) -> bool {
    request.query.contains("list-type")
}

#[test]
fn a_redirect_is_not_followed_and_carries_no_token_elsewhere() {
    for status in [301, 302, 303, 307, 308] {
        let other = Bucket::start(|_, _| Some(Fault::Status(403, String::new())));
        let address = format!("http://localhost:{}/elsewhere", other.address.port());
        let bucket = Bucket::start(move |_, _| Some(Fault::Redirect(status, address.clone())));
        let env = Env::of([
            ("AWS_ENDPOINT_URL", format!("http://{}", bucket.address)),
            ("AWS_ACCESS_KEY_ID", "AKTEST".into()),
            ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2".into()),
            ("AWS_SESSION_TOKEN", "hunter2token".into()),
        ]);
        let place = Place { name: "b".into(), prefix: String::new() };
        let transport = Objects::s3(&place, &env, limits(), origin(), Cancel::new()).unwrap();
        let words = ["lies in another region", &status.to_string(), "AWS_REGION", "AWS_ENDPOINT_URL"];
        check_error(&fetch(&transport).unwrap_err(), Class::Unavailable, &words);
        check_error(&put(&transport, "a.tar", b"x").unwrap_err(), Class::Unavailable, &words);
        check_error(&put(&transport, "a.tar", &noise(1, 35_000)).unwrap_err(), Class::Unavailable, &words);
        assert_eq!(bucket.seen().len(), 3, "{status}");
        assert!(bucket.seen().iter().all(|request| request.headers.contains_key("x-amz-security-token")));
        assert!(other.seen().is_empty(), "{status}: {:?}", other.seen());
    }
}

#[test]
fn a_failure_behind_a_status_that_says_yes_keeps_its_code_and_not_its_text() {
    for prolog in ["", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"] {
        for (code, words) in [
            ("InternalError", ["(InternalError)", "try again later"]),
            ("AccessDenied", ["(AccessDenied)", "AWS_ACCESS_KEY_ID"]),
            ("InvalidPart", ["(InvalidPart)", "endpoint"]),
        ] {
            let body = format!("{prolog}<Error><Code>{code}</Code><Message>hunter2 is wrong</Message></Error>");
            let bucket = Bucket::start(always(completes, Fault::Status(200, body)));
            let error = put(&over(&bucket), "a.tar", &noise(1, 35_000)).unwrap_err();
            check_error(&error, Class::Unavailable, &words);
            let tries = bucket.seen().iter().filter(|request| completes(request)).count();
            assert_eq!(tries, if code == "InternalError" { 1 + limits().retries } else { 1 });
        }
    }
}

#[test]
fn a_page_of_something_else_is_neither_a_listing_nor_an_upload() {
    let pages = [
        "<html>hunter2 login</html>",
        "<!DOCTYPE html><html><head><title>hunter2</title></head><body><p>not closed</body></html>",
        "<?xml version=\"1.0\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\"><p>hunter2</p></html>",
        "{\"hunter2\": 1}",
        "hunter2",
        "",
    ];
    for page in pages {
        let bucket = Bucket::start(move |_, _| Some(Fault::Status(200, page.into())));
        let words = ["was not understood", &bucket.address.to_string(), "AWS_ENDPOINT_URL", "S3 service"];
        check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &words);
        assert_eq!(bucket.seen().len(), 1);
        // One without ETag, one that is not a new upload's document.
        for size in [10, 35_000] {
            let error = put(&over(&bucket), "a.tar", &noise(1, size)).unwrap_err();
            check_error(&error, Class::Unavailable, &words);
        }
    }
}

#[test]
fn what_a_parser_says_about_an_answer_is_not_repeated() {
    let listing = "<ListBucketResult><Contents><Key>k</Key><Size>hunter2</Size></Contents></ListBucketResult>";
    let bucket = Bucket::start(always(lists, Fault::Status(200, listing.into())));
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &["was not understood"]);
    let range = Fault::Header("Content-Range", "bytes 1-2/hunter2".into());
    let bucket = Bucket::start(always(|request| request.headers.contains_key("range"), range));
    bucket.insert(KEY, noise(1, 35_000));
    check_error(&fetch(&over(&bucket)).unwrap_err(), Class::Unavailable, &["was not understood"]);
}

#[test]
fn only_a_missing_bucket_is_called_one() {
    let unknown = Fault::Status(404, "<Error><Code>XAdminUserNotFound</Code><Message>hunter2</Message></Error>".into());
    let bucket = Bucket::start(always(|_| true, unknown));
    let words = ["status 404 (XAdminUserNotFound)", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"];
    let mut errors = vec![fetch(&over(&bucket)).unwrap_err()];
    errors.extend([10, 35_000].map(|size| put(&over(&bucket), "a.tar", &noise(1, size)).unwrap_err()));
    for error in errors {
        check_error(&error, Class::Unavailable, &words);
        assert!(!error.to_string().contains("no bucket"), "{error:?}");
    }
}

#[test]
fn of_uploads_of_one_second_the_one_of_the_latest_job_is_taken() {
    let bucket = Bucket::start(|_, _| None);
    bucket.insert("build/a.tar/z.0190b8a0-1111", b"first".to_vec());
    bucket.insert("build/a.tar/a.0190b8a0-2222", b"second".to_vec());
    assert_eq!(fetch(&over(&bucket)).unwrap(), b"second");
}
