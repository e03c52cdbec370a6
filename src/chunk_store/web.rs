//! Chunks of a web server, read only: a folder that it serves, or desync's own server.

use std::collections::HashMap;
use std::time::Duration;

use super::{About, ChunkStore, Listed, Stored, name_of};
use crate::chunk::{ChunkId, Form};
use crate::error::{Error, Result};
use crate::transport::Web;

/// A store of a web server.
pub struct HttpStore {
    files: Web,
}

impl HttpStore {
    /// A store over the files below an address.
    pub fn new(files: Web) -> Self {
        HttpStore { files }
    }

    fn read_only(&self, doing: &str) -> Error {
        Error::usage(format_args!(
            "{doing} in {} is not possible: http:// and https:// stores are read only",
            self.place()
        ))
        .hint("name a store that can be written, a folder or a bucket, before this one")
    }
}

impl ChunkStore for HttpStore {
    fn place(&self) -> String {
        self.files.place()
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Stored>> {
        for form in [Form::Compressed, Form::Plain] {
            if let Some(bytes) = self.files.get("reading a chunk", &name_of(id, form))? {
                return Ok(Some(Stored { form, bytes }));
            }
        }
        Ok(None)
    }

    fn about(&self, id: &ChunkId) -> Result<Option<About>> {
        let found = self.files.head("looking for a chunk", &name_of(id, Form::Compressed))?;
        Ok(found.map(|file| About { len: file.len, age: file.age }).filter(|about| about.len > 0))
    }

    fn put(&self, _id: &ChunkId, _packed: &[u8]) -> Result<()> {
        Err(self.read_only("storing a chunk"))
    }

    fn keep_alive(&self, _id: &ChunkId) -> Result<bool> {
        Ok(false)
    }

    fn discard(&self, _id: &ChunkId) -> Result<&'static str> {
        Ok("it cannot be removed from there")
    }

    fn survey(&self, _chunks: usize) -> Result<Option<HashMap<ChunkId, About>>> {
        Ok(None)
    }

    fn list(&self, _each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        Err(self.read_only("listing chunks"))
    }

    fn remove(&self, _listed: &[Listed], _older_than: Duration) -> Result<u64> {
        Err(self.read_only("removing chunks"))
    }

    fn at_once(&self) -> usize {
        64
    }
}
