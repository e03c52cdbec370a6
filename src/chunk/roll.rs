//! Where casync's rolling hash ("buzhash") asks for a cut.
//!
//! The hash of a window of 48 bytes `w` is the exclusive or of `rotl(TABLE[w[i]], 47 - i)`. A position is a hit when the
//! hash of the 48 bytes before it is one less than a multiple of a divisor.
//!
//! Each step of the hash waits for the one before it, which leaves most of a processor idle. So [`next_hit_of`] steps
//! through several [`Lane`]s at once, which have nothing to do with each other.

use super::table::TABLE;

/// How many bytes the hash covers.
pub const WINDOW: usize = 48;

/// What a byte that entered 48 steps ago has become: rotated 48 times, which is 16 times.
static LEAVING: [u32; 256] = {
    let mut table = TABLE;
    let mut byte = 0;
    while byte < 256 {
        table[byte] = table[byte].rotate_left(16);
        byte += 1;
    }
    table
};

/// The hash of a whole window.
#[inline]
pub(super) fn hash(window: &[u8]) -> u32 {
    window.iter().fold(0, |hash: u32, &byte| hash.rotate_left(1) ^ TABLE[usize::from(byte)])
}

/// The hash of the window one byte further on.
#[inline]
pub(super) fn roll(hash: u32, leaving: u8, entering: u8) -> u32 {
    hash.rotate_left(1) ^ (LEAVING[usize::from(leaving)] ^ TABLE[usize::from(entering)])
}

/// A divisor, made ready to recognise its multiples by a multiplication: with `d = odd * 2^twos`, `n` is a multiple
/// exactly when `n / odd`, rotated right by `twos`, is at most `(2^32 - 1) / d`, where dividing by an odd number modulo
/// 2^32 is multiplying by its inverse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Divisor {
    divisor: u32,
    /// What to multiply the complement of a hash by: as `!hash` is `-(hash + 1)`, the inverse of `-odd`.
    inverse: u32,
    twos: u32,
    limit: u32,
}

impl Divisor {
    /// Of any number but zero.
    pub(super) fn new(divisor: u32) -> Self {
        let twos = divisor.trailing_zeros();
        let odd = divisor >> twos;
        // Newton: odd * odd is 1 modulo 8, so three bits are right, and each turn doubles them.
        let inverse = (0..4).fold(odd, |x, _| x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x))));
        Self { divisor, inverse: inverse.wrapping_neg(), twos, limit: u32::MAX / divisor }
    }

    /// The number itself.
    #[cfg(test)]
    pub(super) fn value(&self) -> u32 {
        self.divisor
    }

    /// Whether the hash with this complement is a hit, but for a few that are not: `u32::MAX + 1` is taken for a
    /// multiple of anything. `ODD` promises that the divisor is: a rotation by a variable is slow.
    #[inline]
    fn may_hit<const ODD: bool>(self, complement: u32) -> bool {
        let quotient = complement.wrapping_mul(self.inverse);
        (if ODD { quotient } else { quotient.rotate_right(self.twos) }) <= self.limit
    }

    /// Whether the hash is a hit.
    #[inline]
    fn hits(&self, hash: u32) -> bool {
        hash % self.divisor == self.divisor - 1
    }
}

/// A range on its way through [`next_hit_of`].
#[derive(Clone, Debug)]
pub(super) struct Lane<'a> {
    bytes: &'a [u8],
    to: usize,
    /// The position the lane is at.
    at: usize,
    /// The hash of the window before `at`; of no meaning once `at` is past `to`.
    hash: u32,
    /// Whether the hash has been looked at.
    done: bool,
}

impl<'a> Lane<'a> {
    /// A lane for the positions from `from` to `to`, both included.
    pub(super) fn new(bytes: &'a [u8], from: usize, to: usize) -> Self {
        let mut lane = Self { bytes, to: to.min(bytes.len()), at: 0, hash: 0, done: false };
        lane.skip_to(from);
        lane
    }

    /// Goes on at `from`, or at the end of the first window where that is later.
    pub(super) fn skip_to(&mut self, from: usize) {
        self.at = from.max(WINDOW);
        self.hash = self.bytes.get(self.at - WINDOW..self.at).map_or(0, hash);
        self.done = self.at > self.to;
    }

    /// Whether there is no position left.
    pub(super) fn is_over(&self) -> bool {
        self.done && self.at >= self.to
    }
}

/// Goes through the lanes side by side up to the first hit in any, and says in which lane and where. All lanes can go on
/// from where they then are, or skip. `None`: a lane is over, see [`Lane::is_over`].
pub(super) fn next_hit_of<const N: usize>(lanes: &mut [Lane; N], divisor: &Divisor) -> Option<(usize, usize)> {
    loop {
        for (index, lane) in lanes.iter_mut().enumerate() {
            if !std::mem::replace(&mut lane.done, true) && divisor.hits(lane.hash) {
                return Some((index, lane.at));
            }
        }
        let count = lanes.iter().map(|lane| lane.to.saturating_sub(lane.at)).min()?;
        if count == 0 {
            return None;
        }
        let mut hashes = lanes.each_ref().map(|lane| lane.hash);
        let leaving = lanes.each_ref().map(|lane| &lane.bytes[lane.at - WINDOW..][..count]);
        let entering = lanes.each_ref().map(|lane| &lane.bytes[lane.at..][..count]);
        let steps = if divisor.twos == 0 {
            steps::<N, true>(&mut hashes, leaving, entering, *divisor)
        } else {
            steps::<N, false>(&mut hashes, leaving, entering, *divisor)
        };
        for (lane, hash) in lanes.iter_mut().zip(hashes) {
            *lane = Lane { at: lane.at + steps, hash, done: false, ..*lane };
        }
    }
}

/// Rolls all hashes up to where one may be a hit or the bytes end, and says how far that was.
#[inline]
fn steps<const N: usize, const ODD: bool>(
    hashes: &mut [u32; N],
    leaving: [&[u8]; N],
    entering: [&[u8]; N],
    divisor: Divisor,
) -> usize {
    // Complements roll like the hashes themselves, and are tested with one instruction less.
    let mut complements = hashes.map(|hash| !hash);
    let mut roll_to = |leaving: [u8; N], entering: [u8; N]| {
        let mut may_hit = false;
        for lane in 0..N {
            complements[lane] = roll(complements[lane], leaving[lane], entering[lane]);
            may_hit |= divisor.may_hit::<ODD>(complements[lane]);
        }
        may_hit
    };
    let count = leaving[0].len();
    let (leaving, entering) = (leaving.map(|bytes| &bytes[..count]), entering.map(|bytes| &bytes[..count]));
    let (chunks_out, chunks_in) =
        (leaving.map(|bytes| bytes.as_chunks::<UNROLL>().0), entering.map(|bytes| bytes.as_chunks::<UNROLL>().0));
    let step = 'all: {
        for chunk in 0..count / UNROLL {
            let (out, into) = (chunks_out.map(|chunks| &chunks[chunk]), chunks_in.map(|chunks| &chunks[chunk]));
            for i in 0..UNROLL {
                if roll_to(out.map(|bytes| bytes[i]), into.map(|bytes| bytes[i])) {
                    break 'all chunk * UNROLL + i + 1;
                }
            }
        }
        for i in count / UNROLL * UNROLL..count {
            if roll_to(leaving.map(|bytes| bytes[i]), entering.map(|bytes| bytes[i])) {
                break 'all i + 1;
            }
        }
        count
    };
    *hashes = complements.map(|complement| !complement);
    step
}

/// How many bytes go by between two looks at whether any are left.
const UNROLL: usize = 8;

/// The first hit from `from` to `to`, both included, going through the range in one lane.
pub(super) fn next_hit(bytes: &[u8], from: usize, to: usize, divisor: &Divisor) -> Option<usize> {
    next_hit_of(&mut [Lane::new(bytes, from, to)], divisor).map(|(_, position)| position)
}

#[cfg(test)]
#[path = "roll_tests.rs"]
mod tests;
