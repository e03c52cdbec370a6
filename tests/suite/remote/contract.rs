//! What every remote does, as plain functions run on each place.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Barrier;

use monofo::cancel::Cancel;
use monofo::error::Class;
use monofo::hash::Hash;
use monofo::remote::{Content, Failure, LONGEST_RECORD, Marker, Published, Remote, Scope, Section, Trouble};

use super::subjects::{self, Subject};
use crate::transport::contract::noise;

/// An entry to publish.
pub(super) struct Entry {
    pub(super) hash: Hash,
    pub(super) record: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) name: String,
    file: tempfile::NamedTempFile,
}

pub(super) const ANY: Marker<'static> = Marker { component: "api", platform: "any" };

pub(super) const LISTING: &str = "source.listing.zst";

impl Entry {
    /// An entry under a hash of the seed, with a payload of this size that differs by `variant`.
    pub(super) fn new(seed: &str, variant: u64, size: usize) -> Self {
        let payload = noise(variant, size);
        let digest = Hash::of(&payload);
        // Half of the digest: the server in this process makes file names of whole keys, and file names are short.
        let name = format!("{}.tar.lz4", &digest.to_string()[..32]);
        let record = format!("{{\"payload\":\"{digest}\",\"size\":{size},\"variant\":{variant}}}").into_bytes();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &payload).unwrap();
        Entry { hash: Hash::of(seed.as_bytes()), record, payload, name, file }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn publish(&self, remote: &Remote, section: Section) -> Result<Published, Failure> {
        let extras = [(LISTING, b"a listing".to_vec())];
        let content =
            Content { record: &self.record, payload: (&self.name, self.path()), extras: &extras, marker: Some(&ANY) };
        remote.publish(section, &self.hash, &content)
    }

    /// The key of a file of it.
    pub(super) fn key(&self, scope: &str, section: &str, file: &str) -> String {
        format!("meta-v1/{scope}/{section}/{}/{}/{file}", self.hash.shard(), self.hash)
    }

    pub(super) fn read(&self, remote: &Remote, section: Section, scope: &Scope) -> Result<Vec<u8>, Failure> {
        let size = self.payload.len() as u64;
        let mut reader = remote.payload(section, scope, &self.hash, &self.name, size)?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(Failure::of_read)?;
        Ok(bytes)
    }
}

#[track_caller]
pub(super) fn check(failure: &Failure, trouble: Trouble, words: &[&str]) {
    let text = format!("{} | {}", failure.error.chain(), failure.error.next_step().unwrap_or_default());
    assert_eq!(failure.trouble, trouble, "{text}");
    assert!(trouble == Trouble::Local || failure.error.class() == Class::Unavailable, "{text}");
    assert!(failure.error.next_step().is_some(), "no hint: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!format!("{text} {failure:?}").contains("hunter2"), "{text} {failure:?}");
}

fn what_is_published_is_found_whole(subject: &Subject) {
    let remote = subject.open("shared", &["shared"]);
    for (number, size) in [0, 1, 1000, subject.part, subject.part + 1, 2 * subject.part + 7].into_iter().enumerate() {
        if size > subject.most {
            println!("SKIPPED: this place takes no payload of {size} bytes");
            continue;
        }
        let entry = Entry::new(&format!("whole {size}"), number as u64, size);
        let section = if number % 2 == 0 { Section::Cache } else { Section::Store };
        assert_eq!(entry.publish(&remote, section).unwrap(), Published::Created);
        let fresh = subject.open("-", &["shared"]);
        let (scope, record) = fresh.record(section, &entry.hash).unwrap().unwrap();
        assert_eq!((scope.as_str(), &record), ("shared", &entry.record));
        assert!(fresh.holds(section, &scope, &entry.hash, &entry.name, size as u64).unwrap());
        assert!(entry.read(&fresh, section, &scope).unwrap() == entry.payload, "{size}");
        let extra = fresh.extra(section, &scope, &entry.hash, LISTING, 1000).unwrap();
        assert_eq!(extra.as_deref(), Some(&b"a listing"[..]));
        let other = if section == Section::Cache { Section::Store } else { Section::Cache };
        assert!(fresh.record(other, &entry.hash).unwrap().is_none());
    }
}

fn what_is_absent_is_none(subject: &Subject) {
    let remote = subject.open("shared", &["shared", "trusted"]);
    let entry = Entry::new("absent", 1, 10);
    let scope = Scope::new("shared").unwrap();
    for _ in 0..4 {
        assert!(remote.record(Section::Cache, &entry.hash).unwrap().is_none());
    }
    assert!(remote.extra(Section::Cache, &scope, &entry.hash, LISTING, 1000).unwrap().is_none());
    assert!(remote.newest("api", "any", 5).unwrap().is_empty());
    assert!(!remote.remove(Section::Cache, &entry.hash).unwrap());
    assert!(!remote.holds(Section::Cache, &scope, &entry.hash, &entry.name, 10).unwrap());
    let failure = entry.read(&remote, Section::Cache, &scope).unwrap_err();
    check(&failure, Trouble::Dangling, &["payload that is not there"]);
    assert!(!remote.is_given_up());
}

fn scopes_are_asked_in_order_and_written_apart(subject: &Subject) {
    let (one, two) = (Entry::new("scopes", 1, 10), Entry::new("scopes", 2, 20));
    one.publish(&subject.open("trusted", &["trusted"]), Section::Cache).unwrap();
    two.publish(&subject.open("pr/7", &["pr/7"]), Section::Cache).unwrap();
    for (read, found) in [
        (&["trusted"][..], Some(("trusted", &one))),
        (&["pr/7", "trusted"], Some(("pr/7", &two))),
        (&["trusted", "pr/7"], Some(("trusted", &one))),
        (&["branch/x", "pr/7"], Some(("pr/7", &two))),
        (&["branch/x", "pr", "pr/7/x"], None),
    ] {
        let remote = subject.open("-", read);
        let got = remote.record(Section::Cache, &one.hash).unwrap();
        let expected = found.map(|(scope, entry)| (Scope::new(scope).unwrap(), entry.record.clone()));
        assert_eq!(got, expected, "{read:?}");
        if let Some((scope, entry)) = found {
            assert!(entry.read(&remote, Section::Cache, &Scope::new(scope).unwrap()).unwrap() == entry.payload);
        }
    }
    let remote = subject.open("-", &["trusted"]);
    let failure = one.publish(&remote, Section::Cache).unwrap_err();
    check(&failure, Trouble::Local, &["may not write", "MONOFO_SCOPE"]);
    assert_eq!(failure.error.class(), Class::Usage);
    check(&remote.remove(Section::Cache, &one.hash).unwrap_err(), Trouble::Local, &["may not write"]);
}

fn the_first_record_stays_and_a_spoilt_payload_is_mended(subject: &Subject) {
    let remote = subject.open("shared", &["shared"]);
    let (one, two) = (Entry::new("stays", 1, 1000), Entry::new("stays", 2, 1000));
    let scope = Scope::new("shared").unwrap();
    assert_eq!(one.publish(&remote, Section::Cache).unwrap(), Published::Created);
    for entry in [&one, &two] {
        assert_eq!(entry.publish(&remote, Section::Cache).unwrap(), Published::Exists(one.record.clone()));
    }
    // Only the one whose record stands gets its payload stored again.
    let payload = one.key("shared", "cache", &one.name);
    for damage in ["missing", "longer"] {
        match damage {
            "missing" => (subject.spoil)(&payload),
            _ => (subject.plant)(&payload, &noise(3, 2000)),
        }
        let (trouble, words) = match damage {
            "missing" => (Trouble::Dangling, "stores it again"),
            _ => (Trouble::Damaged, "2000 of 1000 bytes"),
        };
        assert_eq!(two.publish(&remote, Section::Cache).unwrap(), Published::Exists(one.record.clone()));
        check(&one.read(&remote, Section::Cache, &scope).unwrap_err(), trouble, &[words]);
        assert_eq!(one.publish(&remote, Section::Cache).unwrap(), Published::Exists(one.record.clone()));
        assert!(one.read(&remote, Section::Cache, &scope).unwrap() == one.payload);
    }
    assert!(!remote.is_given_up());
}

fn what_is_no_record_is_refused_and_hides_no_other_scope(subject: &Subject) {
    let entry = Entry::new("refused", 1, 10);
    let key = entry.key("shared", "store", "record.json");
    let long = vec![b'{'; LONGEST_RECORD as usize + 1];
    let most = &long[..LONGEST_RECORD as usize];
    let remote = subject.open("shared", &["shared"]);
    for (bytes, words) in [
        (&b"<html>hunter2</html>"[..], "no record"),
        (b"", "no record"),
        (b"[]", "no record"),
        (&long, "longer than the 1.0 MB"),
    ] {
        (subject.plant)(&key, bytes);
        check(&remote.record(Section::Store, &entry.hash).unwrap_err(), Trouble::Refused, &[words]);
        check(&entry.publish(&remote, Section::Store).unwrap_err(), Trouble::Refused, &[words]);
    }
    entry.publish(&subject.open("trusted", &["trusted"]), Section::Store).unwrap();
    let both = subject.open("-", &["shared", "trusted"]);
    let (scope, record) = both.record(Section::Store, &entry.hash).unwrap().unwrap();
    assert_eq!((scope.as_str(), record), ("trusted", entry.record.clone()));
    let failure = both.extra(Section::Store, &scope, &entry.hash, LISTING, 8).unwrap_err();
    check(&failure, Trouble::Refused, &["longer than the 8 B"]);
    (subject.plant)(&key, most);
    assert_eq!(remote.record(Section::Store, &entry.hash).unwrap().unwrap().1, most);
    assert!(!remote.is_given_up() && !both.is_given_up());
}

fn the_newest_come_first_and_each_once(subject: &Subject) {
    let trusted = subject.open("trusted", &["trusted"]);
    let own = subject.open("pr/7", &["pr/7", "trusted"]);
    let entries: Vec<Entry> = (0..4).map(|seed| Entry::new(&format!("newest {seed}"), seed, 10)).collect();
    for (entry, remote) in [(0, &trusted), (1, &own), (2, &trusted), (0, &own), (3, &trusted)] {
        entries[entry].publish(remote, Section::Cache).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (subject.plant)("meta-v1/trusted/index/api/any/0000-x", b"");
    let newest = |remote: &Remote, most| -> Vec<(String, usize)> {
        let found = remote.newest("api", "any", most).unwrap();
        let number = |hash| entries.iter().position(|entry| entry.hash == hash).unwrap();
        found.into_iter().map(|(scope, hash)| (scope.to_string(), number(hash))).collect()
    };
    let trusted_at = |number| ("trusted".to_owned(), number);
    assert_eq!(newest(&trusted, 10), [trusted_at(3), trusted_at(2), trusted_at(0)]);
    assert_eq!(newest(&own, 10), [trusted_at(3), ("pr/7".into(), 0), trusted_at(2), ("pr/7".into(), 1)]);
    assert_eq!(newest(&own, 2), [trusted_at(3), ("pr/7".into(), 0)]);
    for (component, platform) in [("api", "linux-x86_64"), ("ap", "any"), ("api2", "any")] {
        assert!(own.newest(component, platform, 10).unwrap().is_empty());
    }
}

fn a_removed_entry_is_gone_and_can_be_made_again(subject: &Subject) {
    let remote = subject.open("shared", &["shared"]);
    let (one, two) = (Entry::new("removed", 1, 10), Entry::new("removed", 2, 10));
    let scope = Scope::new("shared").unwrap();
    one.publish(&remote, Section::Cache).unwrap();
    one.publish(&remote, Section::Store).unwrap();
    one.publish(&subject.open("trusted", &[]), Section::Cache).unwrap();
    assert!(remote.remove(Section::Cache, &one.hash).unwrap());
    assert!(!remote.remove(Section::Cache, &one.hash).unwrap());
    assert!(remote.record(Section::Cache, &one.hash).unwrap().is_none());
    check(&one.read(&remote, Section::Cache, &scope).unwrap_err(), Trouble::Dangling, &[]);
    assert_eq!(remote.extra(Section::Cache, &scope, &one.hash, LISTING, 100).unwrap(), None);
    assert!(remote.record(Section::Store, &one.hash).unwrap().is_some());
    assert!(subject.open("-", &["trusted"]).record(Section::Cache, &one.hash).unwrap().is_some());
    assert_eq!(two.publish(&remote, Section::Cache).unwrap(), Published::Created);
    assert!(two.read(&remote, Section::Cache, &scope).unwrap() == two.payload);
}

fn of_two_writers_one_wins_and_the_other_says_so(subject: &Subject) {
    if !subject.is_exclusive {
        println!("SKIPPED: this place knows no conditions");
        return;
    }
    for round in 0..12_u64 {
        let entries: Vec<Entry> =
            (0..3).map(|writer| Entry::new(&format!("race {round}"), 10 * round + writer, 500)).collect();
        let barrier = Barrier::new(entries.len());
        let outcomes: Vec<Published> = std::thread::scope(|scope| {
            let writers: Vec<_> = entries
                .iter()
                .map(|entry| {
                    scope.spawn(|| {
                        let remote = subject.open("shared", &["shared"]);
                        barrier.wait();
                        entry.publish(&remote, Section::Cache).unwrap()
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let remote = subject.open("-", &["shared"]);
        let (scope, record) = remote.record(Section::Cache, &entries[0].hash).unwrap().unwrap();
        let winner = entries.iter().position(|entry| entry.record == record).unwrap();
        for (writer, outcome) in outcomes.into_iter().enumerate() {
            let expected = if writer == winner { Published::Created } else { Published::Exists(record.clone()) };
            assert_eq!(outcome, expected, "round {round}, writer {writer}");
        }
        assert!(entries[winner].read(&remote, Section::Cache, &scope).unwrap() == entries[winner].payload);
    }
}

fn names_are_checked_before_anything_is_asked(subject: &Subject) {
    let remote = subject.open("shared", &["shared"]);
    let entry = Entry::new("names", 1, 10);
    let scope = Scope::new("shared").unwrap();
    let publish = |record: &[u8], payload: (&str, &Path)| {
        let content = Content { record, payload, extras: &[], marker: None };
        remote.publish(Section::Cache, &entry.hash, &content).unwrap_err()
    };
    for name in ["", "record.json", "../x", "a/b", "/x", "x\0"] {
        let failures = [
            remote.payload(Section::Cache, &scope, &entry.hash, name, 1).err().unwrap(),
            remote.extra(Section::Cache, &scope, &entry.hash, name, 1).unwrap_err(),
            publish(b"{}", (name, entry.path())),
            remote.newest("api", &format!("{name}/"), 1).unwrap_err(),
        ];
        for failure in &failures {
            assert_eq!((failure.trouble, failure.error.class()), (Trouble::Local, Class::Usage), "{name:?}");
        }
    }
    let missing = Path::new("/nonexistent/payload");
    let failure = publish(&entry.record, (&entry.name, missing));
    assert_eq!((failure.trouble, failure.error.class()), (Trouble::Local, Class::Failed));
    assert!(remote.record(Section::Cache, &entry.hash).unwrap().is_none());
}

fn a_cancelled_remote_stops(subject: &Subject) {
    let cancel = Cancel::new();
    let remote = subject.cancelled_by("shared", &["shared"], cancel.clone());
    let entry = Entry::new("cancelled", 1, 10);
    cancel.stop(15);
    let failures =
        [remote.record(Section::Cache, &entry.hash).unwrap_err(), entry.publish(&remote, Section::Cache).unwrap_err()];
    for failure in failures {
        assert_eq!((failure.trouble, failure.error.class()), (Trouble::Local, Class::Interrupted { signal: 15 }));
    }
    assert!(!remote.is_given_up());
    assert!(subject.open("-", &["shared"]).record(Section::Cache, &entry.hash).unwrap().is_none());
}

contract! {
    subjects: folder memory s3 outside_s3 outside_gs;
    what_is_published_is_found_whole
    what_is_absent_is_none
    scopes_are_asked_in_order_and_written_apart
    the_first_record_stays_and_a_spoilt_payload_is_mended
    what_is_no_record_is_refused_and_hides_no_other_scope
    the_newest_come_first_and_each_once
    a_removed_entry_is_gone_and_can_be_made_again
    of_two_writers_one_wins_and_the_other_says_so
    names_are_checked_before_anything_is_asked
    a_cancelled_remote_stops
}
