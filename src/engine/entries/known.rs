//! What was hashed for a key, as far as it is still known: on this machine, else in a remote.

use std::time::Instant;

use super::share::{SOURCES, read_record};
use crate::entry::{Home, HomeKind, Record, facts, peek};
use crate::hash::{Hash, Listing};
use crate::key::KeyRecord;
use crate::remote::{LONGEST_EXTRA, Remote, Section};

/// Where what was hashed then is found.
pub(super) struct Known<'a> {
    cache: &'a Home,
    remote: Option<&'a Remote>,
    /// When the remote was asked first. All of an explanation gets the time of one lookup: nobody waits for it any longer.
    started: Instant,
}

impl<'a> Known<'a> {
    pub(super) fn new(cache: &'a Home, remote: Option<&'a Remote>) -> Self {
        Known { cache, remote, started: Instant::now() }
    }

    /// The remote, while there is time to ask it.
    fn remote(&self) -> Option<&Remote> {
        self.remote.filter(|remote| remote.has_time(self.started))
    }

    pub(super) fn remote_record(&self, key: &Hash) -> Option<Record> {
        let (scope, text) = self.remote()?.record(Section::Cache, key).ok()??;
        read_record(&text, HomeKind::Cache, key, &scope).ok()
    }

    /// The record of a key.
    pub(super) fn record(&self, key: &Hash) -> Option<KeyRecord> {
        let fact =
            facts::get(self.cache, key).and_then(|text| KeyRecord::parse(&serde_json::from_slice(&text).ok()?).ok());
        let entry = || Some(peek(self.cache, key).ok()??.record?.inputs);
        fact.or_else(entry).or_else(|| Some(self.remote_record(key)?.inputs))
    }

    /// The listing of a digest; in a remote it lies beside the record of the key that covers it.
    pub(super) fn listing(&self, digest: &Hash, key: &Hash) -> Option<Listing> {
        let text = facts::get(self.cache, digest).or_else(|| {
            let (scope, _) = self.remote()?.record(Section::Cache, key).ok()??;
            let packed = self.remote()?.extra(Section::Cache, &scope, key, SOURCES, LONGEST_EXTRA).ok()??;
            facts::unpack(&packed, digest)
        });
        Listing::parse(&text?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;
    use crate::cancel::Cancel;
    use crate::env::Env;
    use crate::remote::{Limits, Scopes};

    #[test]
    fn a_remote_is_asked_for_no_longer_than_a_lookup_may_take() {
        let scopes = Scopes::of(&Env::default()).unwrap();
        let limits = Limits { record: Duration::from_millis(1), ..Limits::default() };
        let remote = Remote::over(Arc::new(InMemory::new()), "", scopes, limits, &Cancel::new()).unwrap();
        let cache = Home::new("/nonexistent", HomeKind::Cache);
        let mut known = Known::new(&cache, Some(&remote));
        std::thread::sleep(Duration::from_millis(2));
        assert!(known.remote().is_none());
        known.started = Instant::now() + Duration::from_secs(60);
        assert!(known.remote().is_some());
    }
}
