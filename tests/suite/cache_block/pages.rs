//! What a proxy answers in a bucket's place, and what another version stored there: no good entry is lost by it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use super::sharing::shares_in;
use super::{Machine, nothing};
use crate::transport::http::{Bucket, Fault, Request};

const ALL_WELL: u8 = 0;
const JSON_FOR_RECORDS: u8 = 1;
const PAGE_FOR_PAYLOADS: u8 = 2;
const NO_PAYLOADS: u8 = 3;

fn is_payload(request: &Request) -> bool {
    request.path.contains(".tar.")
}

/// A bucket with one entry, stored by another machine, and what answers in its place.
struct Proxied {
    bucket: Bucket,
    how: Arc<AtomicU8>,
    machine: Machine,
    cache: Value,
}

impl Proxied {
    fn new() -> Self {
        let how = Arc::new(AtomicU8::new(ALL_WELL));
        let answers = Arc::clone(&how);
        let bucket = Bucket::start(move |_, request| match answers.load(Ordering::SeqCst) {
            JSON_FOR_RECORDS if request.reads_object() && request.path.ends_with("record.json") => {
                Some(Fault::Status(200, "{\"message\":\"please log in\"}".into()))
            }
            PAGE_FOR_PAYLOADS if request.reads_object() && is_payload(request) => {
                Some(Fault::Status(200, "<html>please log in</html>".into()))
            }
            NO_PAYLOADS if request.method == "PUT" && is_payload(request) => Some(Fault::Status(403, String::new())),
            _ => None,
        });
        let machine = Machine::with(&shares_in(&format!("http://{}", bucket.address)));
        let proxied = Proxied { bucket, how, machine, cache: json!({ "key": "a", "paths": "deps" }) };
        let (hit, log) = proxied.job(ALL_WELL, ALL_WELL, "theirs");
        assert!(hit == "miss" && log.contains("shared in"), "{log}");
        proxied
    }

    /// A job on a machine that has nothing yet; one answers before its command, the other after it.
    fn job(&self, before: u8, after: u8, made: &str) -> (String, String) {
        let _ = fs::remove_dir_all(self.machine.home());
        self.machine.clean();
        self.how.store(before, Ordering::SeqCst);
        self.machine.job(&self.cache, |sandbox| {
            self.how.store(after, Ordering::SeqCst);
            sandbox.write("deps/of", made);
        })
    }

    fn names_and_bytes(&self) -> Vec<(String, Vec<u8>)> {
        // Markers are only hints.
        let names = self.bucket.objects().into_iter().filter(|name| !name.contains("/index/"));
        names.map(|name| (name.clone(), self.bucket.object(&name).unwrap())).collect()
    }

    /// What a machine gets that has nothing yet.
    #[track_caller]
    fn assert_has(&self, made: &str) {
        let _ = fs::remove_dir_all(self.machine.home());
        self.machine.clean();
        self.how.store(ALL_WELL, Ordering::SeqCst);
        let (hit, log) = self.machine.job(&self.cache, nothing);
        assert!(hit == "exact" && !log.contains("warning"), "{log}");
        assert_eq!(fs::read_to_string(self.machine.sandbox.work("deps/of")).unwrap(), made);
    }

    fn removals(&self) -> usize {
        let removes = |request: &Request| request.method == "DELETE" || request.query.starts_with("delete");
        self.bucket.seen().iter().filter(|request| removes(request)).count()
    }
}

#[test]
fn an_answer_in_json_that_is_none_of_ours_costs_no_good_entry() {
    let proxied = Proxied::new();
    let there = proxied.names_and_bytes();
    for after in [ALL_WELL, NO_PAYLOADS, JSON_FOR_RECORDS] {
        let (hit, log) = proxied.job(JSON_FOR_RECORDS, after, "ours");
        assert!(hit == "miss" && log.contains("warning: deps: remote entry refused"), "{log}");
        assert!(proxied.names_and_bytes() == there && proxied.removals() == 0, "{log}");
        proxied.assert_has("theirs");
    }
}

#[test]
fn a_page_for_a_payload_costs_no_entry_and_a_new_one_goes_over_the_old_one() {
    let proxied = Proxied::new();
    let there = proxied.names_and_bytes();
    let (hit, log) = proxied.job(PAGE_FOR_PAYLOADS, NO_PAYLOADS, "ours");
    assert!(hit == "miss" && log.contains("refused us: storing a payload"), "{log}");
    assert!(proxied.names_and_bytes() == there, "{log}");
    proxied.assert_has("theirs");
    let (hit, log) = proxied.job(PAGE_FOR_PAYLOADS, ALL_WELL, "ours");
    assert!(hit == "miss" && log.contains("shared in"), "{log}");
    proxied.assert_has("ours");
    assert_eq!(proxied.removals(), 0);
}

#[test]
fn a_record_of_a_later_version_stays_and_is_told() {
    let proxied = Proxied::new();
    let (name, record) = proxied.names_and_bytes().into_iter().find(|(name, _)| name.ends_with("record.json")).unwrap();
    let mut later: Value = serde_json::from_slice(&record).unwrap();
    later["schema"] = json!("meta.cache-entry/2");
    let later = later.to_string().into_bytes();
    proxied.bucket.insert(&name, later.clone());
    let (hit, log) = proxied.job(ALL_WELL, ALL_WELL, "ours");
    assert!(hit == "miss" && log.contains("a later version of monofo stored it"), "{log}");
    assert!(proxied.bucket.object(&name).unwrap() == later && proxied.removals() == 0, "{log}");
    // What only claims to be ours is.
    proxied.bucket.insert(&name, b"{\"schema\":\"meta.cache-entry/1\"}".to_vec());
    let (_, log) = proxied.job(ALL_WELL, ALL_WELL, "ours");
    assert!(log.contains("shared in"), "{log}");
    proxied.assert_has("ours");
    assert_eq!(proxied.removals(), 0);
    // In a folder too.
    let mut machine = Machine::new();
    let remote = machine.sandbox.path("remote");
    machine.set(&[("MONOFO_REMOTE", &format!("file://{}", remote.display()))]);
    machine.job(&proxied.cache, |sandbox| sandbox.write("deps/of", "theirs"));
    let name = crate::harness::walk(&remote).into_keys().find(|name| name.ends_with(b"record.json")).unwrap();
    let place = crate::harness::join(&remote, &name);
    fs::write(&place, &later).unwrap();
    machine.forget();
    machine.clean();
    let (hit, log) = machine.job(&proxied.cache, |sandbox| sandbox.write("deps/of", "ours"));
    assert!(hit == "miss" && log.contains("a later version of monofo stored it"), "{log}");
    assert!(fs::read(&place).unwrap() == later);
}
