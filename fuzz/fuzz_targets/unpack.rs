//! Unpacks whatever comes. No panic; every failure is a refusal or damage; nothing lands beside the target folder.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use monofo::context::Context;
use monofo::engine::{Chunks, inflate};
use monofo::error::Class;

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let into = folder.path().join("target");
    if let Err(error) = inflate(Box::new(Cursor::new(data.to_vec())), &into, false, &Chunks::none(), &Context::default()) {
        assert!(matches!(error.class(), Class::Refused | Class::Damaged), "{:?}: {}", error.class(), error.chain());
    }
    let beside: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the temporary folder")
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name() != "target")
        .collect();
    assert!(beside.is_empty(), "{beside:?}");
});
