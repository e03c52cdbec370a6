//! Digests of several independent messages at once.
//!
//! One message is a chain: no block can start before the one before it is done, and that chain leaves most of a processor
//! idle. Here each lane follows a message of its own. A lane whose message ends takes the next one, the longest first, so the
//! lanes run dry at about the same time. When too few are left for the lanes to pay, each is finished from where it is by
//! [`sha2`].
//!
//! | part | what it does |
//! |---|---|
//! | [`sha256`] | the digest of cache and store, two at a time |
//! | [`sha512`] | the digest of chunks, up to eight at a time |

#![allow(unsafe_code, reason = "calls of functions that ask for a processor feature, after it was found")]

pub(crate) mod sha256;
pub(crate) mod sha512;

/// The length of a digest in bytes.
pub(crate) const DIGEST: usize = 32;

/// A digest of the SHA-2 family: words `W` and blocks of `B` bytes.
#[cfg(target_arch = "x86_64")]
struct Kind<W, const B: usize> {
    /// The initial hash value.
    initial: [W; 8],
    /// Takes one message through some blocks.
    one: fn(&mut [W; 8], &[[u8; B]]),
    /// What a final state stands for.
    digest: fn(&[W; 8]) -> [u8; DIGEST],
}

/// A message on its way through a lane: the blocks still to do.
#[cfg(target_arch = "x86_64")]
struct Lane<'a, const B: usize> {
    message: usize,
    now: &'a [[u8; B]],
    /// What comes after `now`: the padded end, and nothing once that is under way.
    then: &'a [[u8; B]],
}

/// The padded end of a message (FIPS 180-4, section 5.1): what its whole blocks leave over, one bit, zeros and the length in
/// bits, in one block, or in two where that does not fit.
#[cfg(target_arch = "x86_64")]
fn padded_end<const B: usize>(message: &[u8]) -> ([[u8; B]; 2], usize) {
    // The length takes an eighth of a block.
    let room = B / 8;
    let rest = message.as_chunks::<B>().1;
    let count = if rest.len() < B - room { 1 } else { 2 };
    let mut end = [[0; B]; 2];
    let bytes = end.as_flattened_mut();
    bytes[..rest.len()].copy_from_slice(rest);
    bytes[rest.len()] = 0x80;
    let bits = (message.len() as u128 * 8).to_be_bytes();
    bytes[count * B - room..count * B].copy_from_slice(&bits[bits.len() - room..]);
    (end, count)
}

/// The digests of the messages, `L` at a time. `compress` takes every lane through as many blocks as the shortest of its slices
/// has; with fewer than `pays_from` messages under way the library is faster.
#[cfg(target_arch = "x86_64")]
fn digests<W: Copy, const B: usize, const L: usize>(
    messages: &[&[u8]],
    kind: &Kind<W, B>,
    pays_from: usize,
    compress: impl Fn(&mut [[W; L]; 8], [&[[u8; B]]; L]),
) -> Vec<[u8; DIGEST]> {
    let ends: Vec<_> = messages.iter().map(|message| padded_end(message)).collect();
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_by_key(|&message| std::cmp::Reverse(messages[message].len()));
    let mut waiting = order.into_iter().map(|message| {
        let (end, count) = &ends[message];
        Lane { message, now: messages[message].as_chunks().0, then: &end[..*count] }
    });
    let mut results = vec![[0; DIGEST]; messages.len()];
    let mut state = kind.initial.map(|word| [word; L]);
    let mut lanes: [Option<Lane<'_, B>>; L] = std::array::from_fn(|_| waiting.next());
    loop {
        for (at, slot) in lanes.iter_mut().enumerate() {
            while let Some(lane) = slot
                && lane.now.is_empty()
            {
                lane.now = std::mem::take(&mut lane.then);
                if lane.now.is_empty() {
                    results[lane.message] = (kind.digest)(&state.map(|word| word[at]));
                    *slot = waiting.next();
                    state.iter_mut().zip(kind.initial).for_each(|(word, initial)| word[at] = initial);
                }
            }
        }
        let busy = lanes.iter().flatten().count();
        let Some(any) = lanes.iter().flatten().next() else { return results };
        if busy < pays_from {
            break;
        }
        // A lane without a message does the blocks of another once more, and nobody looks at its state.
        let count = lanes.iter().flatten().map(|lane| lane.now.len()).min().unwrap_or(0);
        let blocks = std::array::from_fn(|at| &lanes[at].as_ref().unwrap_or(any).now[..count]);
        compress(&mut state, blocks);
        lanes.iter_mut().flatten().for_each(|lane| lane.now = &lane.now[count..]);
    }
    for (at, lane) in lanes.iter().enumerate() {
        if let Some(lane) = lane {
            let mut state = state.map(|word| word[at]);
            (kind.one)(&mut state, lane.now);
            (kind.one)(&mut state, lane.then);
            results[lane.message] = (kind.digest)(&state);
        }
    }
    results
}

#[cfg(test)]
mod tests {
    /// `length` bytes that look random, others for every seed.
    fn noise(seed: usize, length: usize) -> Vec<u8> {
        let mut x = seed as u64 + 1;
        let next = |_| {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            x.to_le_bytes()[7]
        };
        (0..length).map(next).collect()
    }

    pub(super) fn hex(digest: &[u8]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Gives messages to a check: of every length around the blocks, in any number, up to long ones.
    pub(super) fn hold(check: impl Fn(&[&[u8]])) {
        let check = |lengths: Vec<usize>| {
            let messages: Vec<_> = lengths.into_iter().enumerate().map(|(seed, length)| noise(seed, length)).collect();
            check(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>());
        };
        check((0..=520).collect());
        (0..=260).for_each(|length| check(vec![length; 8]));
        for count in 0..=20 {
            check(vec![1000; count]);
            check((0..count).map(|n| n * 7919 % 3001).collect());
            let factor = if count == 20 { 1203 } else { 41 };
            check(noise(count, count).into_iter().map(|byte| usize::from(byte) * factor).collect());
        }
    }
}
