//! Uploads and downloads of chunked artifacts in this process, over folders, with everything in reach that can break.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use monofo::artifact::ArtifactName;
use monofo::cancel::Cancel;
use monofo::chunk::{Digest, Index, Sizes};
use monofo::chunk_store::{Cache, ChunkStore, FolderStore, Seeds};
use monofo::context::Context;
use monofo::engine::{self, Chunking, Chunks, DownloadRequest, IfEmpty, Outcome, Selection, UploadRequest};
use monofo::error::Result;
use monofo::transport::{Download, Pick, Transport, Upload};

use crate::harness::{Node, Sandbox, assert_same, walk};

pub const NAME: &str = "a.catar.caibx";

/// An artifact in memory, where it can be changed.
#[derive(Clone, Default)]
pub struct Memory(pub Arc<Mutex<Vec<u8>>>);

struct Begun(Memory, Vec<u8>);

impl Write for Begun {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Upload for Begun {
    fn finish(self: Box<Self>) -> Result<()> {
        *self.0.0.lock().unwrap() = self.1;
        Ok(())
    }
}

impl Transport for Memory {
    fn place(&self) -> String {
        "memory".into()
    }

    fn upload(&self, _: &ArtifactName) -> Result<Box<dyn Upload>> {
        Ok(Box::new(Begun(self.clone(), Vec::new())))
    }

    fn download(&self, _: &ArtifactName, _: &Pick) -> Result<Download> {
        let bytes = self.0.lock().unwrap().clone();
        Ok(Download { reader: Box::new(Cursor::new(bytes)), size: None, from: "memory".into() })
    }
}

/// A store, a cache, seeds and an artifact. `store`, `cache` and `seeds` are folders of the sandbox.
pub struct Desk {
    pub sandbox: Sandbox,
    pub artifact: Memory,
    pub sizes: Sizes,
    pub digest: Digest,
    pub cache: bool,
    /// How many bytes seeds may take; none are kept when it is 0.
    pub seeds: u64,
    pub cancel: Cancel,
    /// Put in front of the store.
    pub wrap: fn(FolderStore, &Cancel) -> Arc<dyn ChunkStore>,
}

impl Desk {
    pub fn new() -> Self {
        Desk {
            sandbox: Sandbox::new(),
            artifact: Memory::default(),
            sizes: Sizes::default(),
            digest: Digest::default(),
            cache: false,
            seeds: 0,
            cancel: Cancel::new(),
            wrap: |store, _| Arc::new(store),
        }
    }

    /// Chunks of 1 to 4 KiB.
    pub fn small() -> Self {
        Desk { sizes: Sizes { min: 1 << 10, avg: 2 << 10, max: 4 << 10 }, ..Self::new() }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.sandbox.path(relative)
    }

    fn chunks(&self) -> Chunks {
        let (folder, cancel, wrap) = (self.sandbox.path(""), self.cancel.clone(), self.wrap);
        let (cache, seeds, sizes, digest) = (self.cache, self.seeds, self.sizes, self.digest);
        Chunks::new(move || {
            Ok(Chunking {
                store: wrap(FolderStore::new(folder.join("store"), cancel.clone()), &cancel),
                cache: cache.then(|| Cache::new(folder.join("cache"), 1 << 30, cancel.clone())),
                seeds: (seeds > 0).then(|| Seeds::new(folder.join("seeds"), "scope", seeds)),
                sizes,
                digest,
            })
        })
    }

    fn context(&self) -> Context {
        Context { cancel: self.cancel.clone(), ..Context::default() }
    }

    pub fn upload_as(&self, name: &str, from: &str) -> Result<Outcome> {
        let selection = Selection { root: self.path(from), globs: vec!["**".to_owned()], ..Selection::default() };
        let name = ArtifactName::new(name)?;
        let request = UploadRequest { name, selection, level: None, if_empty: IfEmpty::Error };
        engine::upload(&request, &self.artifact, &self.chunks(), &self.context())
    }

    pub fn upload(&self, from: &str) -> Result<Outcome> {
        self.upload_as(NAME, from)
    }

    pub fn download_as(&self, name: &str, into: &str) -> Result<Outcome> {
        let request = DownloadRequest {
            name: ArtifactName::new(name)?,
            pick: Pick { build: "local".into(), step: None },
            root: self.path(into),
            into: PathBuf::new(),
            same_owner: false,
        };
        engine::download(&request, &self.artifact, &self.chunks(), &self.context())
    }

    pub fn download(&self, into: &str) -> Result<Outcome> {
        self.download_as(NAME, into)
    }

    /// Downloads into a folder of its own, asserts that what comes is right, and removes it.
    #[track_caller]
    pub fn assert_heals(&self, expected: &BTreeMap<Vec<u8>, Node>, what: &str) -> Outcome {
        let outcome = self.download("heals").unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
        assert_same(expected, &walk(&self.path("heals")), what);
        fs::remove_dir_all(self.path("heals")).unwrap();
        outcome
    }

    pub fn index(&self) -> Index {
        Index::read(&self.artifact.0.lock().unwrap()).unwrap()
    }

    /// The store's file of a chunk of the artifact.
    pub fn chunk(&self, number: usize) -> PathBuf {
        chunk_in(&self.path("store"), &self.index().items[number].id.to_string())
    }

    /// Forgets what was kept on this machine.
    pub fn forget(&self) {
        for folder in ["cache", "seeds"] {
            let _ = fs::remove_dir_all(self.path(folder));
        }
    }
}

pub fn chunk_in(store: &Path, id: &str) -> PathBuf {
    store.join(&id[..4]).join(format!("{id}.cacnk"))
}

/// Files below a folder, by suffix of their names.
pub fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let paths = walk(folder).into_iter().filter(|(_, node)| node.kind == 'f');
    let paths = paths.filter(|(path, _)| path.ends_with(suffix.as_bytes()));
    paths.map(|(path, _)| crate::harness::join(folder, &path)).collect()
}

/// Asserts that every file with a chunk's name is that chunk. Returns how many there are.
#[track_caller]
pub fn assert_chunks_are_whole(store: &Path, digest: Digest) -> usize {
    let chunks = files(store, ".cacnk");
    for path in &chunks {
        let bytes = zstd::stream::decode_all(&fs::read(path).unwrap()[..]);
        let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(digest.id(&bytes).to_string(), path.file_stem().unwrap().to_str().unwrap());
    }
    chunks.len()
}

/// A tree: repeatable noise, in files of about this size.
pub fn noise(root: &Path, files: usize, size: usize) {
    fs::create_dir_all(root).unwrap();
    for file in 0..files {
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ (file as u64 + 1);
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let content: Vec<u8> = std::iter::repeat_with(next).take(size + file).collect();
        let path = root.join(format!("folder {}", file % 3)).join(format!("file {file}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}
