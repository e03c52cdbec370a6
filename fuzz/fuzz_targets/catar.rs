//! Unpacks whatever comes after the beginning of a catar. No panic; every failure is a refusal or damage; nothing lands
//! beside the target folder.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use monofo::context::Context;
use monofo::engine::{Chunks, inflate};
use monofo::error::Class;

/// The root's ENTRY: length, type, flags, mode, attributes, owner, group, time.
const ROOT: [u64; 8] = [64, 0x1396_fabc_ea5b_bb51, 0xb000_0000_1000_1f22, 0o040_755, 0, 0, 0, 0];

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let into = folder.path().join("target");
    let mut catar = ROOT.map(u64::to_le_bytes).concat();
    catar.extend_from_slice(data);
    if let Err(error) = inflate(Box::new(Cursor::new(catar)), &into, false, &Chunks::none(), &Context::default()) {
        assert!(matches!(error.class(), Class::Refused | Class::Damaged), "{:?}: {}", error.class(), error.chain());
    }
    let beside = std::fs::read_dir(folder.path()).expect("the temporary folder");
    let beside: Vec<_> = beside.flatten().filter(|entry| entry.file_name() != "target").collect();
    assert!(beside.is_empty(), "{beside:?}");
});
