//! Reads whatever comes as an index. No panic; what is read is in order, and is written back as the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monofo::chunk::Index;
use monofo::error::Class;

fuzz_target!(|data: &[u8]| match Index::read(data) {
    Ok(index) => {
        assert!(index.write() == data, "written back as other bytes");
        let mut end = 0;
        for item in &index.items {
            assert!(item.end > end && item.end - end <= index.sizes.max);
            end = item.end;
        }
        assert_eq!(index.len(), end);
    }
    Err(error) => assert_eq!(error.class(), Class::Damaged, "{}", error.chain()),
});
