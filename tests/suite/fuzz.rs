//! A bounded fuzz of the unpacker, the same in every run: mutated archives never panic, hang or reach outside.
//!
//! `fuzz/` holds the open-ended one.

use std::time::{Duration, Instant};

use monofo::error::Class;

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
