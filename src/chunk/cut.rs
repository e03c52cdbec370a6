//! Where a stream is cut: casync's rule, found in any number of segments at a time.
//!
//! A hash of the last 48 bytes rolls along; a chunk ends behind the first byte, at least `min` from its start, where the
//! hash has the wanted remainder, and at `max` at the latest. The hash sees nothing but those 48 bytes, so where it *hits*
//! does not depend on where chunks start. That lets threads look for hits in segments of their own ([`Rule::scan`]) and the
//! cuts be chosen afterwards, in order ([`Chooser`]), with the result of one thread that goes from start to end.
//!
//! Bytes closer than `min` to the start of a chunk need no look. A segment's thread does not know where chunks start, but
//! soon guesses right, since the same bytes lead to the same cuts; what it left out are *holes*, which the chooser looks
//! into should a guess have been wrong.

use std::ops::RangeInclusive;

pub use super::roll::WINDOW;
use super::roll::{Divisor, Lane, next_hit, next_hit_of};
use crate::error::{Error, Result};

/// Largest chunk that casync takes.
pub const LARGEST: u64 = 128 << 20;

/// Least, average and largest size of chunks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// No chunk is shorter, but for the last.
    pub min: u64,
    /// What the rule aims at.
    pub avg: u64,
    /// No chunk is longer.
    pub max: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { min: 16 << 10, avg: 64 << 10, max: 256 << 10 }
    }
}

impl Sizes {
    /// Reads `MIN:AVG:MAX` in KiB, as desync's `-m` takes it.
    pub fn parse(text: &str) -> Result<Sizes> {
        let wrong = |why: &str| {
            Error::usage(format_args!("chunk sizes `{}` {why}", text.escape_debug()))
                .hint("write MIN:AVG:MAX in KiB, such as 16:64:256")
        };
        let numbers: Option<Vec<u64>> = text.split(':').map(|part| part.parse().ok()).collect();
        let Some(&[min, avg, max]) = numbers.as_deref() else { return Err(wrong("are not three numbers")) };
        if !(1 <= min && min <= avg && avg <= max && max <= LARGEST >> 10) {
            return Err(wrong("are not in order, or not between 1 KiB and 128 MiB"));
        }
        let sizes = Sizes { min: min << 10, avg: avg << 10, max: max << 10 };
        if Rule::new(sizes).clamped {
            return Err(wrong("cannot be kept: with these, programs disagree about where to cut")
                .hint("keep MIN at most half and MAX at least twice AVG, and AVG below 8192"));
        }
        Ok(sizes)
    }
}

/// The rule for certain sizes.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    sizes: Sizes,
    divisor: Divisor,
    clamped: bool,
}

/// Where the hash hits in a part of a stream. A position counts the bytes in front of it: a chunk can end there.
#[derive(Debug, Default, Clone)]
pub struct Scan {
    hits: Vec<u64>,
    /// Positions nobody looked at.
    holes: Vec<RangeInclusive<u64>>,
}

/// A part of a stream that lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The bytes, with [`WINDOW`] bytes of what comes before them in front (fewer at the start of the stream).
    pub bytes: &'a [u8],
    /// Position of the first of `bytes`.
    pub first: u64,
    /// Position where the segment itself starts.
    pub start: u64,
}

impl Segment<'_> {
    /// Position where it ends.
    pub fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    /// Where a position lies in the bytes.
    fn at(&self, position: u64) -> usize {
        usize::try_from(position - self.first).unwrap_or(usize::MAX)
    }

    /// The first hit at one of these positions.
    fn next_hit(&self, from: u64, to: u64, divisor: &Divisor) -> Option<u64> {
        next_hit(self.bytes, self.at(from), self.at(to), divisor).map(|at| self.first + at as u64)
    }
}

impl Rule {
    /// The rule for these sizes: `1 <= min <= avg <= max`.
    pub fn new(sizes: Sizes) -> Rule {
        // The formula is casync's, down to the rounding; so is keeping the result between the sizes.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sizes stay below 2^27, and casts saturate"
        )]
        let wanted = {
            let avg = sizes.avg as f64;
            (avg / (1.332_375_15 - 1.428_888_52e-7 * avg)) as i64
        };
        let kept = wanted.clamp(sizes.min.cast_signed(), sizes.max.cast_signed());
        let divisor = Divisor::new(u32::try_from(kept).unwrap_or(u32::MAX).max(1));
        Rule { sizes, divisor, clamped: kept != wanted }
    }

    /// The sizes it is for.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Looks for hits in a segment: in both halves at once, which takes not much longer than one.
    pub fn scan(&self, segment: &Segment<'_>) -> Scan {
        let middle = u64::midpoint(segment.start, segment.end());
        let mut first = Chain::new(segment, segment.start + 1, middle);
        let mut second = Chain::new(segment, middle + 1, segment.end());
        let mut lanes = [first.lane.clone(), second.lane.clone()];
        while !first.over && !second.over {
            let hit = next_hit_of(&mut lanes, &self.divisor);
            if hit.is_some_and(|(lane, _)| lane == 0) || hit.is_none() && lanes[0].is_over() {
                first.go_on(self, segment, hit.map(|(_, at)| at), &mut lanes[0]);
            } else {
                second.go_on(self, segment, hit.map(|(_, at)| at), &mut lanes[1]);
            }
        }
        let [lane, second_lane] = &mut lanes;
        for (chain, lane) in [(&mut first, lane), (&mut second, second_lane)] {
            while !chain.over {
                let hit = next_hit_of(std::array::from_mut(lane), &self.divisor).map(|(_, at)| at);
                chain.go_on(self, segment, hit, lane);
            }
        }
        let mut scan = first.scan;
        scan.hits.append(&mut second.scan.hits);
        scan.holes.append(&mut second.scan.holes);
        scan
    }
}

/// A range being scanned. Once a hit is found, it is taken for the start of a chunk.
struct Chain<'a> {
    lane: Lane<'a>,
    scan: Scan,
    end: u64,
    /// Where the chunk at hand would have to end at the latest, once a start is guessed.
    latest: u64,
    over: bool,
}

impl<'a> Chain<'a> {
    fn new(segment: &Segment<'a>, from: u64, end: u64) -> Self {
        let lane = Lane::new(segment.bytes, segment.at(from), segment.at(end.max(from - 1)));
        Chain { lane, scan: Scan::default(), end, latest: u64::MAX, over: from > end }
    }

    /// Takes a hit, or that there is none up to where the lane was to go.
    fn go_on(&mut self, rule: &Rule, segment: &Segment<'a>, hit: Option<usize>, lane: &mut Lane<'a>) {
        let cut = match hit {
            Some(at) => {
                let hit = segment.first + at as u64;
                self.scan.hits.push(hit);
                hit
            }
            None if self.latest <= self.end => self.latest,
            None => {
                self.over = true;
                return;
            }
        };
        let next = cut + rule.sizes.min.max(1);
        self.latest = cut.saturating_add(rule.sizes.max);
        if cut < self.end && next > cut + 1 {
            self.scan.holes.push(cut + 1..=self.end.min(next - 1));
        }
        self.over = next > self.end;
        if !self.over {
            *lane = Lane::new(segment.bytes, segment.at(next), segment.at(self.end.min(self.latest)));
        }
    }
}

/// Chooses cuts among hits, segment after segment.
#[derive(Debug)]
pub struct Chooser {
    rule: Rule,
    /// Where the chunk at hand starts.
    start: u64,
}

impl Chooser {
    /// At the start of a stream.
    pub fn new(rule: Rule) -> Self {
        Chooser { rule, start: 0 }
    }

    /// Where the chunk at hand starts.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Calls back with every cut up to the end of the next segment.
    pub fn feed(&mut self, segment: &Segment<'_>, scan: &Scan, mut cut: impl FnMut(u64)) {
        let Sizes { min, max, .. } = self.rule.sizes;
        let end = segment.end();
        loop {
            let latest = self.start.saturating_add(max);
            let from = self.start.saturating_add(min).max(segment.start + 1);
            if from > end {
                return;
            }
            let to = latest.min(end);
            let found = if from <= to { self.first_hit(segment, scan, from, to) } else { None };
            self.start = match found {
                Some(hit) => hit,
                None if latest <= end => latest,
                None => return,
            };
            cut(self.start);
        }
    }

    /// The first hit at one of these positions, with a look into the holes before it.
    fn first_hit(&self, segment: &Segment<'_>, scan: &Scan, from: u64, to: u64) -> Option<u64> {
        let hit = scan.hits.get(scan.hits.partition_point(|hit| *hit < from)).copied().filter(|hit| *hit <= to);
        let upto = hit.unwrap_or(to);
        let holes = &scan.holes[scan.holes.partition_point(|hole| *hole.end() < from)..];
        let in_hole = holes
            .iter()
            .take_while(|hole| *hole.start() < upto)
            .find_map(|hole| segment.next_hit(from.max(*hole.start()), upto.min(*hole.end()), &self.rule.divisor));
        in_hole.or(hit)
    }
}

/// The ends of all chunks of a stream that lies in memory.
pub fn ends(bytes: &[u8], sizes: Sizes) -> Vec<u64> {
    let rule = Rule::new(sizes);
    let segment = Segment { bytes, first: 0, start: 0 };
    let mut ends = Vec::new();
    Chooser::new(rule).feed(&segment, &rule.scan(&segment), |end| ends.push(end));
    if ends.last().copied().unwrap_or(0) < bytes.len() as u64 {
        ends.push(bytes.len() as u64);
    }
    ends
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
