//! Stores that have, lack or fail, combined.

use std::sync::Mutex;

use super::*;
use crate::chunk::Form;

/// What a store says to everything.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Has,
    Lacks,
    Fails,
    Stops,
}

struct Fake {
    name: &'static str,
    says: Mutex<Says>,
    asked: Mutex<Vec<&'static str>>,
}

impl Fake {
    fn new(name: &'static str, says: Says) -> Arc<Self> {
        Arc::new(Fake { name, says: Mutex::new(says), asked: Mutex::default() })
    }

    fn say(&self, question: &'static str) -> Result<bool> {
        self.asked.lock().unwrap().push(question);
        match *self.says.lock().unwrap() {
            Says::Has => Ok(true),
            Says::Lacks => Ok(false),
            Says::Fails => Err(Error::new(Class::Unavailable, format_args!("{} fails", self.name))),
            Says::Stops => Err(Error::new(Class::Interrupted { signal: 2 }, "interrupted")),
        }
    }

    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn some() -> About {
    About { len: 1, age: Duration::ZERO }
}

impl ChunkStore for Fake {
    fn place(&self) -> String {
        self.name.into()
    }

    fn get(&self, _: &ChunkId) -> Result<Option<Stored>> {
        Ok(self.say("get")?.then(|| Stored { form: Form::Compressed, bytes: self.name.into() }))
    }

    fn about(&self, _: &ChunkId) -> Result<Option<About>> {
        Ok(self.say("about")?.then(some))
    }

    fn put(&self, _: &ChunkId, _: &[u8]) -> Result<()> {
        self.say("put").map(drop)
    }

    fn keep_alive(&self, _: &ChunkId) -> Result<bool> {
        self.say("keep_alive")
    }

    fn discard(&self, _: &ChunkId) -> Result<&'static str> {
        self.say("discard").map(|_| self.name)
    }

    fn survey(&self, _: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        Ok(self.say("survey")?.then(|| HashMap::from([(ChunkId([self.name.as_bytes()[0]; 32]), some())])))
    }

    fn list(&self, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        each(Listed { id: None, name: self.name.into(), about: some() })?;
        self.say("list").map(drop)
    }

    fn remove(&self, listed: &[Listed], _: Duration) -> Result<u64> {
        self.say("remove").map(|_| listed.len() as u64)
    }

    fn at_once(&self) -> usize {
        self.name.len()
    }
}

const ID: ChunkId = ChunkId([7; 32]);

fn from(store: &dyn ChunkStore) -> Result<Option<String>> {
    Ok(store.get(&ID)?.map(|stored| String::from_utf8(stored.bytes).unwrap()))
}

fn ordered(says: [Says; 2]) -> (Arc<Fake>, Arc<Fake>, Ordered) {
    let (a, b) = (Fake::new("a", says[0]), Fake::new("bb", says[1]));
    (Arc::clone(&a), Arc::clone(&b), Ordered::new(a, vec![b]))
}

fn failover(says: [Says; 2]) -> (Arc<Fake>, Arc<Fake>, Failover) {
    let (a, b) = (Fake::new("a", says[0]), Fake::new("bb", says[1]));
    (Arc::clone(&a), Arc::clone(&b), Failover::new(a, vec![b]))
}

#[test]
fn in_order_what_is_missing_is_looked_for_in_the_next_and_an_error_is_one() {
    for (says, expected) in [
        ([Says::Has, Says::Fails], Some("a")),
        ([Says::Lacks, Says::Has], Some("bb")),
        ([Says::Lacks, Says::Lacks], None),
    ] {
        let (_, _, store) = ordered(says);
        assert_eq!(from(&store).unwrap().as_deref(), expected);
        assert_eq!(store.about(&ID).unwrap().is_some(), expected.is_some());
    }
    for says in [[Says::Fails, Says::Has], [Says::Lacks, Says::Fails]] {
        let (_, _, store) = ordered(says);
        assert_eq!(from(&store).unwrap_err().class(), Class::Unavailable);
        assert_eq!(store.about(&ID).unwrap_err().class(), Class::Unavailable);
    }
}

#[test]
fn in_order_the_first_takes_uploads_and_clean_ups() {
    let (a, b, store) = ordered([Says::Lacks, Says::Has]);
    store.put(&ID, b"x").unwrap();
    store.list(&mut |_| Ok(())).unwrap();
    store.remove(&[], Duration::ZERO).unwrap();
    assert_eq!((a.asked(), b.asked()), (vec!["put", "list", "remove"], vec![]));
    // Where it is is where it is kept, or taken away.
    assert!(store.keep_alive(&ID).unwrap());
    assert_eq!(store.discard(&ID).unwrap(), "bb");
    assert_eq!((a.asked(), b.asked()), (vec!["about", "get"], vec!["about", "keep_alive", "get", "discard"]));
    assert_eq!(store.place(), "a, bb");
    assert_eq!(store.at_once(), 2);
}

#[test]
fn in_order_a_survey_needs_all() {
    assert_eq!(ordered([Says::Has, Says::Has]).2.survey(9).unwrap().unwrap().len(), 2);
    assert_eq!(ordered([Says::Has, Says::Lacks]).2.survey(9).unwrap(), None);
    assert!(ordered([Says::Has, Says::Fails]).2.survey(9).is_err());
}

#[test]
fn after_a_failure_the_next_is_used_for_good() {
    let (a, b, store) = failover([Says::Fails, Says::Has]);
    assert_eq!(from(&store).unwrap().as_deref(), Some("bb"));
    *a.says.lock().unwrap() = Says::Has;
    assert_eq!(from(&store).unwrap().as_deref(), Some("bb"));
    store.put(&ID, b"x").unwrap();
    assert_eq!(a.asked(), ["get"]);
    assert_eq!(b.asked(), ["get", "get", "put"]);
    // And back, when that one fails.
    *b.says.lock().unwrap() = Says::Fails;
    assert_eq!(from(&store).unwrap().as_deref(), Some("a"));
    assert_eq!(store.place(), "a | bb");
}

#[test]
fn an_upload_moves_on_as_it_begins_and_then_stays() {
    let (a, b, store) = failover([Says::Fails, Says::Has]);
    store.survey(9).unwrap();
    store.put(&ID, b"x").unwrap();
    assert_eq!((a.asked(), b.asked()), (vec!["survey"], vec!["survey", "put"]));
    // Half of the chunks there and half here would be no archive anywhere.
    *a.says.lock().unwrap() = Says::Has;
    *b.says.lock().unwrap() = Says::Fails;
    assert!(store.put(&ID, b"x").is_err() && store.about(&ID).is_err());
    assert!(a.asked().is_empty());
}

#[test]
fn without_a_survey_the_first_that_answers_is_stayed_with() {
    let (a, b, store) = failover([Says::Lacks, Says::Lacks]);
    // Too much to list: no store has been heard of yet.
    assert_eq!(store.survey(9).unwrap(), None);
    *a.says.lock().unwrap() = Says::Fails;
    assert_eq!(store.about(&ID).unwrap(), None);
    *a.says.lock().unwrap() = Says::Has;
    store.put(&ID, b"x").unwrap();
    assert_eq!(b.asked(), ["about", "put"]);
}

#[test]
fn missing_is_final_and_failing_everywhere_is_an_error() {
    let (_, b, store) = failover([Says::Lacks, Says::Has]);
    assert_eq!(from(&store).unwrap(), None);
    assert_eq!(store.about(&ID).unwrap(), None);
    assert!(b.asked().is_empty());
    let (a, b, store) = failover([Says::Fails, Says::Fails]);
    assert_eq!(from(&store).unwrap_err().to_string(), "bb fails");
    assert_eq!((a.asked().len(), b.asked().len()), (1, 1));
    let (_, b, store) = failover([Says::Stops, Says::Has]);
    assert_eq!(from(&store).unwrap_err().class(), Class::Interrupted { signal: 2 });
    assert!(b.asked().is_empty());
}

#[test]
fn what_was_listed_is_removed_there_and_no_list_is_made_of_two() {
    let (a, b, store) = failover([Says::Has, Says::Has]);
    let mut names = Vec::new();
    let mut note = |listed: Listed| {
        names.push(listed.name);
        Ok(())
    };
    store.list(&mut note).unwrap();
    *a.says.lock().unwrap() = Says::Fails;
    assert!(store.list(&mut note).is_err());
    assert_eq!(names, ["a", "a"]);
    assert_eq!(from(&store).unwrap().as_deref(), Some("bb"));
    assert!(store.remove(&[], Duration::ZERO).is_err());
    assert_eq!(b.asked(), ["get"]);
}
