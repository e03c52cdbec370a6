//! A bounded fuzz of the unpacker, the same in every run: mutated archives never panic, hang or reach outside.
//!
//! `fuzz/` holds the open-ended one.

use std::time::{Duration, Instant};

use monofo::chunk::{ChunkId, Digest, Form, Index, Item, Packer, Sizes, Unpacker};
use monofo::error::Class;

use crate::catars;
use crate::damaged::sample;
use crate::harness::assert_same;
use crate::hostile::{guarded, outside, unpack};
use crate::tars::{Tar, compressed};

const ROUNDS: u64 = 800;

/// A small generator (xorshift64*), so that a round can be told by its number.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

/// Headers of another kind than what they were, names that lead out, numbers at their limits.
const MORSELS: [&[u8]; 18] = [
    b"../../outside/x",
    b"6",
    b"../",
    b"/",
    b"..",
    b"\0",
    b"0",
    b"1",
    b"2",
    b"5",
    b"S",
    b"x",
    b"g",
    b"L",
    b"77777777777\0",
    b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"GNU.sparse.map=0,",
];

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.next(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.next(bytes.len());
        match random.next(8) {
            0 => bytes[at] ^= 1 << random.next(8),
            1 => bytes[at] = random.next(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let morsel = MORSELS[random.next(MORSELS.len())];
                let end = (at + morsel.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&morsel[..end - at]);
            }
            4 => {
                // A block doubled, or swapped with another.
                let (from, to) = (at / 512 * 512, random.next(bytes.len()) / 512 * 512);
                let block = bytes[from..(from + 512).min(bytes.len())].to_vec();
                bytes.splice(to..to, block);
            }
            5 => {
                let start = at / 512 * 512;
                bytes.drain(start..(start + 512).min(bytes.len()));
            }
            6 => bytes.extend_from_within(at..(at + random.next(600)).min(bytes.len())),
            _ => {
                let end = (at + 1 + random.next(8)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

/// Morsels where headers have their fields, so that more than checksums is tried.
fn mutate_headers(bytes: &mut [u8], random: &mut Random) {
    // Name, kind and link text more often than the rest.
    const FIELDS: [(usize, usize); 15] = [
        (0, 100),
        (0, 100),
        (0, 100),
        (156, 1),
        (156, 1),
        (156, 1),
        (157, 100),
        (157, 100),
        (100, 8),
        (124, 12),
        (136, 12),
        (257, 8),
        (345, 155),
        (386, 97),
        (108, 8),
    ];
    let headers: Vec<usize> =
        (0..bytes.len() / 512 * 512).step_by(512).filter(|at| bytes[at + 257..][..5] == *b"ustar").collect();
    for _ in 0..=random.next(3) {
        let block = &mut bytes[headers[random.next(headers.len())]..][..512];
        let (start, len) = FIELDS[random.next(FIELDS.len())];
        let morsel = MORSELS[random.next(MORSELS.len())];
        let at = start + random.next(len.min(4));
        let end = (at + morsel.len()).min(start + len).min(512);
        if end > at {
            block[at..end].copy_from_slice(&morsel[..end - at]);
        }
    }
}

/// Makes the checksum of every header right again, so that what is inside gets read.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" || block[148..154].iter().all(u8::is_ascii_digit) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

#[test]
fn mutated_archives_are_unpacked_or_refused() {
    let sandbox = guarded();
    let before = outside(&sandbox);
    let tar = sample().symlink("l", "../../outside").symlink("m", "d").hard_link("n", "e/last").end();
    let tar = Tar::new().long(b'L', &[b'y'; 120]).file("y", "").raw(&tar).0;
    let seeds = compressed(&tar);
    let (mut whole, mut refused, mut damaged) = (0, 0, 0);
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (round << 20) ^ (round + 1));
        random.next(2);
        let mut bytes = match round % 8 {
            0..3 => seeds[(round % 8) as usize].1.clone(),
            _ => tar.clone(),
        };
        if round % 8 < 6 {
            mutate(&mut bytes, &mut random);
        } else {
            mutate_headers(&mut bytes, &mut random);
        }
        if round % 8 >= 4 {
            mend(&mut bytes);
        }
        let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
        let started = Instant::now();
        let result = unpack(&bytes, &into.path().join("here"));
        slowest = slowest.max(started.elapsed());
        match result {
            Ok(()) => whole += 1,
            Err(error) if error.class() == Class::Refused => refused += 1,
            Err(error) if error.class() == Class::Damaged => damaged += 1,
            Err(error) => panic!("round {round}: {:?}: {}", error.class(), error.chain()),
        }
        if round % 50 == 0 || round + 1 == ROUNDS {
            assert_same(&before, &outside(&sandbox), &format!("up to round {round}"));
        }
    }
    println!("{whole} unpacked, {refused} refused, {damaged} damaged; slowest {slowest:?}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    // A fuzz that always fails at the first checksum proves nothing.
    assert!(whole > 20 && refused > 5 && damaged > 100, "{whole} unpacked, {refused} refused, {damaged} damaged");
}

/// A word of an element, or a whole one, made into another.
fn mutate_elements(bytes: &mut Vec<u8>, random: &mut Random) {
    use crate::catars::{DEVICE, ENTRY, FILENAME, GOODBYE, PAYLOAD, SYMLINK};
    const WORDS: [u64; 16] =
        [0, 15, 16, 17, 24, 40, 64, 4096, u64::MAX, 1 << 63, ENTRY, FILENAME, PAYLOAD, SYMLINK, DEVICE, GOODBYE];
    const MODES: [u64; 8] = [0o100_644, 0o040_755, 0o120_777, 0o010_644, 0o140_644, 0o020_644, 0o060_644, 0];
    let ends = catars::sample().ends;
    for _ in 0..=random.next(2) {
        if bytes.len() < 128 {
            return;
        }
        // Most elements are where the sample has them, whatever came before.
        let start = |element: usize| if element == 0 { 0 } else { ends[element - 1] };
        let (one, two) = (random.next(ends.len()), random.next(ends.len()));
        let at = start(one).min(bytes.len() - 64);
        match random.next(6) {
            0 => bytes[at..at + 8].copy_from_slice(&WORDS[random.next(WORDS.len())].to_le_bytes()),
            1 => bytes[at + 8..at + 16].copy_from_slice(&WORDS[random.next(WORDS.len())].to_le_bytes()),
            2 => bytes[at + 24..at + 32].copy_from_slice(&MODES[random.next(MODES.len())].to_le_bytes()),
            3 => {
                let end = ends[one].min(bytes.len()).max(at);
                drop(bytes.drain(at..end));
            }
            4 => {
                let end = ends[one].min(bytes.len()).max(at);
                let element = bytes[at..end].to_vec();
                let to = start(two).min(bytes.len());
                bytes.splice(to..to, element);
            }
            _ => {
                // A name, or whatever else is there.
                let morsel = MORSELS[random.next(5)];
                let end = (at + 16 + morsel.len()).min(bytes.len());
                bytes[at + 16..end].copy_from_slice(&morsel[..end - at - 16]);
            }
        }
    }
}

#[test]
fn mutated_catars_are_unpacked_or_refused() {
    let sandbox = guarded();
    let before = outside(&sandbox);
    let whole = catars::sample().bytes;
    let (mut fine, mut refused, mut damaged) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut random = Random(0x2545_f491_4f6c_dd1d ^ (round << 20) ^ (round + 1));
        random.next(2);
        let mut bytes = whole.clone();
        if round % 4 == 0 {
            mutate(&mut bytes, &mut random)
        } else {
            mutate_elements(&mut bytes, &mut random)
        }
        let into = tempfile::tempdir_in(sandbox.work("out")).unwrap();
        match unpack(&bytes, &into.path().join("here")) {
            Ok(()) => fine += 1,
            Err(error) if error.class() == Class::Refused => refused += 1,
            Err(error) if error.class() == Class::Damaged => damaged += 1,
            Err(error) => panic!("round {round}: {:?}: {}", error.class(), error.chain()),
        }
        if round % 100 == 0 || round + 1 == ROUNDS {
            assert_same(&before, &outside(&sandbox), &format!("up to round {round}"));
        }
    }
    println!("{fine} unpacked, {refused} refused, {damaged} damaged");
    assert!(fine > 20 && refused > 5 && damaged > 100, "{fine} unpacked, {refused} refused, {damaged} damaged");
}

/// What is read as an index is written back as the same bytes, and is in order.
#[test]
fn mutated_indexes_are_damaged_or_stable() {
    let item = |end, id| Item { end, id: ChunkId([id; 32]) };
    let items = vec![item(20_000, 1), item(60_000, 2), item(60_001, 3), item(322_145, 4)];
    let index = Index { flags: 0xb000_0000_1000_1f22, sizes: Sizes::default(), digest: Digest::Sha512_256, items };
    let whole = index.write();
    let (mut read, mut damaged) = (0, 0);
    for round in 0..100 * ROUNDS {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (round << 20) ^ (round + 1));
        random.next(2);
        let mut bytes = whole.clone();
        match round % 4 {
            0 => mutate(&mut bytes, &mut random),
            1 => bytes[random.next(whole.len())] ^= 1 << random.next(8),
            _ => {
                let at = random.next(whole.len() / 8) * 8;
                let words = [0, 1, u64::MAX, 1 << 63, 16 << 10, 128 << 20, 40, 48, 20_001, 300_000];
                bytes[at..at + 8].copy_from_slice(&words[random.next(words.len())].to_le_bytes());
            }
        }
        match Index::read(&bytes) {
            Ok(index) => {
                assert!(index.write() == bytes, "round {round}");
                let mut end = 0;
                for item in &index.items {
                    assert!(item.end > end && item.end - end <= index.sizes.max, "round {round}");
                    end = item.end;
                }
                read += 1;
            }
            Err(error) => {
                assert_eq!(error.class(), Class::Damaged, "round {round}: {}", error.chain());
                damaged += 1;
            }
        }
    }
    assert!(read > 1000 && damaged > 1000, "{read} read, {damaged} damaged");
}

/// Stored bytes of any kind, to chunks of any length: no panic, and never more than was asked for.
#[test]
fn mutated_chunks_are_unpacked_or_wrong() {
    let chunk: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(i) >> 11) as u8).collect();
    let mut packed = Vec::new();
    Packer::new().unwrap().pack(&chunk, &mut packed).unwrap();
    let mut unpacker = Unpacker::new().unwrap();
    let mut gzip = Vec::new();
    let codec = monofo::archive::codec::Codec::Gzip(6);
    // Only a tar is compressed from outside; two blocks of zeros are one.
    monofo::archive::pack::compress(&[0u8; 1024][..], codec, &mut gzip, &monofo::context::Context::default()).unwrap();
    let mut out = vec![0; 256 << 10];
    let (mut right, mut wrong) = (0, 0);
    for round in 0..20 * ROUNDS {
        let mut random = Random(0x2545_f491_4f6c_dd1d ^ (round << 20) ^ (round + 1));
        random.next(2);
        let (seed, len) = if round % 3 == 0 { (&gzip, 1024) } else { (&packed, chunk.len()) };
        let mut bytes = seed.clone();
        if round % 16 > 0 {
            mutate(&mut bytes, &mut random);
        }
        let len = if round % 8 == 1 { random.next(out.len()) } else { len };
        let form = if round % 32 == 2 { Form::Plain } else { Form::Compressed };
        match unpacker.unpack(form, &bytes, &mut out[..len]) {
            Ok(()) => right += 1,
            Err(_) => wrong += 1,
        }
    }
    assert!(right > 500 && wrong > 1000, "{right} right, {wrong} wrong");
}
