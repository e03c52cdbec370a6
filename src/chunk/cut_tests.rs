use proptest::prelude::*;

use super::*;
use crate::chunk::table::TABLE;

fn hash(window: &[u8]) -> u32 {
    (0..).zip(window).fold(0, |hash, (i, byte)| hash ^ TABLE[usize::from(*byte)].rotate_left(47 - i))
}

/// The rule as it is written down, one byte at a time.
fn plain(bytes: &[u8], sizes: Sizes) -> Vec<u64> {
    let d = Rule::new(sizes).divisor.value();
    let mut ends = Vec::new();
    let mut start = 0;
    for end in 1..=bytes.len() {
        let len = (end - start) as u64;
        let hit = len >= sizes.min && end - start >= WINDOW && hash(&bytes[end - WINDOW..end]) % d == d - 1;
        if hit || len == sizes.max || end == bytes.len() {
            ends.push(end as u64);
            start = end;
        }
    }
    ends
}

/// The same stream in segments, each scanned without knowing anything of the others.
fn in_segments(bytes: &[u8], sizes: Sizes, mut lens: impl Iterator<Item = usize>) -> Vec<u64> {
    let rule = Rule::new(sizes);
    let mut chooser = Chooser::new(rule);
    let mut ends = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let end = (start + lens.next().unwrap_or(bytes.len()).max(1)).min(bytes.len());
        let first = start.saturating_sub(WINDOW);
        let segment = Segment { bytes: &bytes[first..end], first: first as u64, start: start as u64 };
        chooser.feed(&segment, &rule.scan(&segment), |cut| ends.push(cut));
        start = end;
    }
    if ends.last().copied().unwrap_or(0) < bytes.len() as u64 {
        ends.push(bytes.len() as u64);
    }
    ends
}

fn pseudo_random(len: usize, mut seed: u64) -> Vec<u8> {
    let next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn seq(last: u32) -> Vec<u8> {
    (1..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

fn sizes_of(ends: &[u64]) -> Vec<u64> {
    ends.iter().scan(0, |before, end| Some(end - std::mem::replace(before, *end))).collect()
}

#[test]
fn the_discriminator_is_casyncs() {
    for (avg, d) in [(4096, 3075), (65_536, 49_535), (262_144, 202_440), (1_048_576, 886_711)] {
        assert_eq!(Rule::new(Sizes { min: avg / 4, avg, max: avg * 4 }).divisor.value(), d);
    }
    let clamped = |min, avg, max| Rule::new(Sizes { min, avg, max }).divisor.value();
    assert_eq!(clamped(60_000, 65_536, 262_144), 60_000);
    assert_eq!(clamped(2 << 20, 8 << 20, 32 << 20), 32 << 20);
    assert_eq!(clamped(2 << 20, 16 << 20, 64 << 20), 2 << 20);
}

#[test]
fn numbers_are_cut_where_casync_cuts_them() {
    let bytes = seq(300_000);
    let expected = [
        35418, 130_412, 35735, 35902, 20691, 67172, 117_029, 123_944, 75720, 55029, 81123, 25791, 50840, 100_367,
        127_425, 51164, 20139, 108_180, 21753, 49001, 54691, 59207, 30520, 52461, 108_482, 58496, 18664, 30157, 23682,
        25773, 44992, 35960, 71651, 26379, 14945,
    ];
    assert_eq!(sizes_of(&ends(&bytes, Sizes::default())), expected);
    // A hit exactly at the least size counts.
    let bytes = &seq(1_000_000)[19_034..][..300_000];
    assert_eq!(sizes_of(&ends(bytes, Sizes::default())), [16384, 130_412, 35735, 35902, 20691, 60876]);
}

#[test]
fn zeros_come_in_largest_chunks() {
    let sizes = |len| sizes_of(&ends(&vec![0; len], Sizes::default()));
    assert_eq!(sizes(262_144), [262_144]);
    assert_eq!(sizes(262_145), [262_144, 1]);
    assert_eq!(sizes(540_000), [262_144, 262_144, 15712]);
    assert_eq!(sizes(16_385), [16_385]);
    assert_eq!(sizes(1), [1]);
    assert!(sizes(0).is_empty());
}

#[test]
fn one_changed_byte_changes_few_chunks() {
    let bytes = pseudo_random(4 << 20, 7);
    let mut changed = bytes.clone();
    changed[2 << 20] ^= 1;
    let digests = |bytes: &[u8]| -> std::collections::HashSet<_> {
        let mut start = 0;
        let cut = |end| bytes[std::mem::replace(&mut start, end as usize)..end as usize].to_vec();
        ends(bytes, Sizes::default()).into_iter().map(cut).collect()
    };
    let (before, after) = (digests(&bytes), digests(&changed));
    assert!(after.difference(&before).count() <= 3);
    assert!(after.intersection(&before).count() > 40);
}

#[test]
fn sizes_are_read_as_desync_reads_them() {
    assert_eq!(Sizes::parse("16:64:256").unwrap(), Sizes::default());
    for wrong in ["", "64", "1:2", "64:16:256", "0:1:2", "16:64:256:1", "a:b:c", "59:64:256", "1:2:200000", "-1:2:3"] {
        assert_eq!(Sizes::parse(wrong).unwrap_err().class(), crate::error::Class::Usage, "{wrong}");
    }
}

/// Small sizes, so that little data has many cuts of every kind.
const SMALL: [Sizes; 4] = [
    Sizes { min: 64, avg: 256, max: 1024 },
    Sizes { min: 48, avg: 192, max: 768 },
    Sizes { min: 100, avg: 100, max: 100 },
    Sizes { min: 300, avg: 400, max: 450 },
];

proptest! {
    #[test]
    fn segments_are_cut_like_the_whole(
        len in 0usize..40_000,
        seed in 1u64..,
        lens in prop::collection::vec(1usize..3_000, 1..40),
        zeros in 0usize..20_000,
        which in 0usize..4,
    ) {
        let mut bytes = pseudo_random(len, seed);
        let middle = len / 2;
        bytes.splice(middle..middle, vec![0; zeros]);
        let expected = plain(&bytes, SMALL[which]);
        prop_assert_eq!(&ends(&bytes, SMALL[which]), &expected);
        prop_assert_eq!(&in_segments(&bytes, SMALL[which], lens.into_iter().cycle()), &expected);
    }
}
