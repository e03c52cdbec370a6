//! How fast one core cuts, names and compresses, beside the bare libraries: `cargo bench --bench rates [-- FILE]`.
//!
//! FILE is best the tar of what is to be uploaded; without one, this program's own bytes are used. Each rate is the best
//! of several runs over at most 256 MiB, since what slows one down is somebody else.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use monofo::chunk::cut::{Rule, Segment, ends};
use monofo::chunk::{Digest, Packer, Sizes};

fn rate(bytes: usize, mut work: impl FnMut()) -> f64 {
    let took = (0..5).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    });
    bytes as f64 / took.fold(f64::INFINITY, f64::min) / 1e6
}

fn line(what: &str, ours: f64, library: &str, theirs: f64) {
    println!("{what:10} {ours:6.0} MB/s   {library}: {theirs:.0} MB/s   {:.2} times", ours / theirs);
}

fn main() {
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let mut bytes = std::fs::read(file.map_or_else(|| std::env::current_exe().unwrap(), Into::into)).unwrap();
    bytes.truncate(256 << 20);
    let ends = ends(&bytes, Sizes::default());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let chunks: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &bytes[start as usize..*end as usize]).collect();
    println!("{} bytes in {} chunks, one core", bytes.len(), chunks.len());

    let rule = Rule::new(Sizes::default());
    let scan = rate(bytes.len(), || {
        for segment in bytes.chunks(2 << 20) {
            black_box(rule.scan(&Segment { bytes: segment, first: 0, start: 0 }));
        }
    });
    let plain = rate(bytes.len(), || {
        let mut hash = 0u32;
        let mut hits = 0;
        for pair in bytes.windows(49) {
            // What every byte costs without any trick: a table, two rotations, a division.
            hash = hash.rotate_left(1)
                ^ u32::from(pair[0]).rotate_left(16)
                ^ u32::from(pair[48]).wrapping_mul(0x9e37_79b1);
            hits += u32::from(hash % black_box(49_535) == 49_534);
        }
        black_box(hits);
    });
    line("scan", scan, "a division for every byte", plain);

    let named = rate(bytes.len(), || {
        for batch in chunks.chunks(64) {
            black_box(Digest::Sha512_256.ids(batch));
        }
    });
    let sha2 = rate(bytes.len(), || {
        for chunk in &chunks {
            black_box(Digest::Sha512_256.id(chunk));
        }
    });
    line("SHA-512/256", named, "sha2", sha2);

    let mut packer = Packer::new().unwrap();
    let mut out = Vec::new();
    let packed = rate(bytes.len(), || chunks.iter().for_each(|chunk| packer.pack(chunk, &mut out).unwrap()));
    let bare = rate(bytes.len(), || {
        chunks.iter().for_each(|chunk| drop(black_box(zstd::bulk::compress(chunk, 3).unwrap())));
    });
    line("zstd -3", packed, "zstd::bulk::compress", bare);
}
