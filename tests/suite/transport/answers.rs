//! Answers that are none of a bucket, or that mean something else than their status says.

use monofo::cancel::Cancel;
use monofo::env::Env;
use monofo::error::Class;
use monofo::location::Bucket as Place;
use monofo::transport::Objects;

use super::contract::{noise, put};
use super::faults::{check_error, fetch, limits, origin};
use super::http::{Bucket, Fault};

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
