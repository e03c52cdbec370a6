//! Unpacks whatever comes as a stored chunk, to any length up to 256 KiB. No panic; what is unpacked twice is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monofo::chunk::{Digest, Form, Unpacker, stored_is};

fuzz_target!(|input: (bool, u32, &[u8])| {
    let (plain, len, stored) = input;
    let form = if plain { Form::Plain } else { Form::Compressed };
    let mut chunk = vec![0; len as usize % (256 << 10) + 1];
    let mut unpacker = Unpacker::new().expect("an unpacker");
    if unpacker.unpack(form, stored, &mut chunk).is_ok() {
        let mut again = vec![1; chunk.len()];
        assert_eq!(unpacker.unpack(form, stored, &mut again), Ok(()));
        assert!(again == chunk);
    }
    // Not the same question: it takes no frame with a window of more than 128 MiB.
    let _ = stored_is(form, stored, &Digest::default().id(&chunk));
});
