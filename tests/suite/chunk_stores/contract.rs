//! What every store does, as plain functions run on each of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use monofo::cancel::Cancel;
use monofo::chunk::{ChunkId, Form};
use monofo::chunk_store::{ChunkStore, Listed, Stored};
use monofo::error::Class;

use super::servers::{self, Subject, chunk};

fn bytes(store: &dyn ChunkStore, id: &ChunkId) -> Option<Vec<u8>> {
    store.get(id).unwrap().map(|stored| stored.bytes)
}

fn list(store: &dyn ChunkStore) -> BTreeMap<String, Listed> {
    let mut all = BTreeMap::new();
    store
        .list(&mut |listed| {
            assert!(all.insert(listed.name.clone(), listed).is_none(), "listed twice");
            Ok(())
        })
        .unwrap();
    all
}

fn what_is_stored_is_there_until_it_is_removed(subject: &Subject) {
    let store = subject.open();
    for seed in 0..8 {
        let (id, packed) = chunk(seed);
        subject.writer.put(&id, &packed).unwrap();
        assert_eq!(store.get(&id).unwrap(), Some(Stored { form: Form::Compressed, bytes: packed.clone() }));
        assert_eq!(store.about(&id).unwrap().unwrap().len, packed.len() as u64);
    }
    if !subject.writable {
        for error in [
            store.put(&chunk(1).0, b"x").unwrap_err(),
            store.list(&mut |_| Ok(())).unwrap_err(),
            store.remove(&[], Duration::ZERO).unwrap_err(),
        ] {
            assert_eq!(error.class(), Class::Usage);
            assert!(error.to_string().contains("read only") && error.next_step().is_some());
        }
        assert_eq!(store.discard(&chunk(1).0).unwrap(), "it cannot be removed from there");
        assert_eq!(store.survey(10).unwrap(), None);
        return;
    }
    let listed = list(&*store);
    assert_eq!(listed.len(), 8);
    for seed in 0..8 {
        let (id, packed) = chunk(seed);
        let one = &listed[&format!("{}/{id}.cacnk", &id.to_string()[..4])];
        assert_eq!((one.id, one.about.len), (Some(id), packed.len() as u64));
        assert!(one.about.age < Duration::from_secs(60), "{:?}", one.about.age);
    }
    // Some are too young to go, and some are gone already.
    let some: Vec<Listed> = listed.into_values().take(3).collect();
    assert_eq!(store.remove(&some, Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(list(&*store).len(), 8);
    assert_eq!(store.remove(&some, Duration::ZERO).unwrap(), 3);
    store.remove(&some, Duration::ZERO).unwrap();
    store.remove(&[], Duration::ZERO).unwrap();
    let left = list(&*store);
    assert_eq!(left.len(), 5);
    for one in &some {
        assert!(!left.contains_key(&one.name));
        assert_eq!(store.get(&one.id.unwrap()).unwrap(), None);
        assert_eq!(store.about(&one.id.unwrap()).unwrap(), None);
    }
}

fn what_is_missing_is_not_there(subject: &Subject) {
    let store = subject.open();
    (subject.plant)("README", b"x");
    for seed in 0..4 {
        let (id, _) = chunk(seed);
        assert_eq!(store.about(&id).unwrap(), None);
        assert_eq!(store.get(&id).unwrap(), None);
        assert!(!store.keep_alive(&id).unwrap());
        assert!(!store.discard(&id).unwrap().is_empty());
    }
}

fn what_is_there_and_empty_is_not_there(subject: &Subject) {
    let store = subject.open();
    let (id, packed) = chunk(1);
    (subject.plant)(&format!("{}/{id}.cacnk", &id.to_string()[..4]), b"");
    assert_eq!(store.about(&id).unwrap(), None);
    assert!(store.survey(1000).unwrap().is_none_or(|all| all.is_empty()));
    subject.writer.put(&id, &packed).unwrap();
    assert_eq!(bytes(&*store, &id), Some(packed));
}

fn an_uncompressed_chunk_is_read_as_it_is(subject: &Subject) {
    let (id, plain) = chunk(5);
    (subject.plant)(&format!("{}/{id}", &id.to_string()[..4]), &plain);
    assert_eq!(subject.open().get(&id).unwrap(), Some(Stored { form: Form::Plain, bytes: plain }));
}

fn the_last_writer_wins(subject: &Subject) {
    let store = subject.open();
    let id = chunk(1).0;
    for packed in [&b"one"[..], b"two, and longer", b"3"] {
        subject.writer.put(&id, packed).unwrap();
        assert_eq!(bytes(&*store, &id).as_deref(), Some(packed));
        assert_eq!(store.about(&id).unwrap().unwrap().len, packed.len() as u64);
    }
}

fn a_wrong_chunk_is_taken_out_of_the_way(subject: &Subject) {
    if !subject.writable {
        return;
    }
    let store = subject.open();
    let ((wrong, _), (right, packed)) = (chunk(1), chunk(2));
    store.put(&wrong, b"wrong").unwrap();
    store.put(&right, &packed).unwrap();
    assert!(store.discard(&wrong).unwrap().contains("next upload"));
    assert_eq!(store.get(&wrong).unwrap(), None);
    assert_eq!(store.about(&wrong).unwrap(), None);
    assert_eq!(store.discard(&wrong).unwrap(), "it is gone already");
    store.put(&wrong, b"right").unwrap();
    assert_eq!(bytes(&*store, &wrong).as_deref(), Some(&b"right"[..]));
    assert_eq!(bytes(&*store, &right), Some(packed));
}

fn two_writers_do_not_disturb_each_other(subject: &Subject) {
    let stores = [subject.open(), subject.open()];
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(move || {
                for seed in 0..24 {
                    let (id, packed) = chunk(seed % 12);
                    match subject.writable {
                        true => store.put(&id, &packed).unwrap(),
                        false => subject.writer.put(&id, &packed).unwrap(),
                    }
                    assert_eq!(bytes(&**store, &id), Some(packed));
                }
            });
        }
    });
}

fn many_at_once_get_their_own(subject: &Subject) {
    let store = subject.open();
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let store = &store;
            scope.spawn(move || {
                for seed in [thread, thread + 64, thread + 128] {
                    let (id, packed) = chunk(seed);
                    assert_eq!(store.about(&id).unwrap(), None);
                    subject.writer.put(&id, &packed).unwrap();
                    assert_eq!(store.about(&id).unwrap().unwrap().len, packed.len() as u64);
                    assert_eq!(bytes(&**store, &id), Some(packed));
                }
            });
        }
    });
}

fn a_survey_finds_what_a_list_finds(subject: &Subject) {
    if !subject.writable {
        return;
    }
    let store = subject.open();
    for name in ["README", "0000/notes.txt", "abcd/abcd.cacnk", "index/a.caibx", "zzzz/z"] {
        (subject.plant)(name, b"not a chunk");
    }
    for seed in 0..40 {
        let (id, packed) = chunk(seed);
        store.put(&id, &packed).unwrap();
    }
    let listed: HashMap<_, _> = list(&*store).into_values().map(|one| (one.id.unwrap(), one.about.len)).collect();
    assert_eq!(listed.len(), 40);
    if let Some(all) = store.survey(10).unwrap() {
        assert_eq!(all.into_iter().map(|(id, about)| (id, about.len)).collect::<HashMap<_, _>>(), listed);
    }
}

fn a_cancelled_store_stops(subject: &Subject) {
    let cancel = Cancel::new();
    let store = subject.cancelled_by(cancel.clone());
    let (id, packed) = chunk(1);
    subject.writer.put(&id, &packed).unwrap();
    assert_eq!(bytes(&*store, &id), Some(packed));
    cancel.stop(15);
    let stopped = Class::Interrupted { signal: 15 };
    assert_eq!(store.get(&id).unwrap_err().class(), stopped);
    if subject.writable {
        assert_eq!(store.put(&id, b"x").unwrap_err().class(), stopped);
        assert_eq!(store.list(&mut |_| Ok(())).unwrap_err().class(), stopped);
    }
}

contract! {
    servers: folder memory s3 web web_without_lengths outside_s3 outside_gs;
    what_is_stored_is_there_until_it_is_removed
    what_is_missing_is_not_there
    what_is_there_and_empty_is_not_there
    an_uncompressed_chunk_is_read_as_it_is
    the_last_writer_wins
    a_wrong_chunk_is_taken_out_of_the_way
    two_writers_do_not_disturb_each_other
    many_at_once_get_their_own
    a_survey_finds_what_a_list_finds
    a_cancelled_store_stops
}
