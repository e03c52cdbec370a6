//! SHA-256 (FIPS 180-4): two messages at once where the processor has instructions for it. They take four times as long to
//! answer as to start, so that a second message costs next to nothing. Elsewhere the messages go one after the other through
//! [`sha2`].

use sha2::{Digest, Sha256};

use super::DIGEST;

/// The SHA-256 of each message, in the order of the messages, whose lengths may differ.
pub(crate) fn sha256(messages: &[&[u8]]) -> Vec<[u8; DIGEST]> {
    #[cfg(target_arch = "x86_64")]
    if x86::available() {
        return x86::digests_of(messages);
    }
    one_at_a_time(messages)
}

/// Each message by itself through the library.
fn one_at_a_time(messages: &[&[u8]]) -> Vec<[u8; DIGEST]> {
    messages.iter().map(|message| Sha256::digest(message).into()).collect()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use sha2::block_api::compress256;

    use super::super::{Kind, digests};
    use super::DIGEST;

    type Block = [u8; 64];

    /// The eight working words of two messages: word first, then lane.
    type State = [[u32; LANES]; 8];

    const LANES: usize = 2;

    /// The initial hash value: FIPS 180-4, section 5.3.3.
    #[rustfmt::skip]
    const INITIAL: [u32; 8] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ];

    /// The constants of the 64 rounds: FIPS 180-4, section 4.2.2.
    #[rustfmt::skip]
    const K: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// Whether this processor has what [`compress`] needs.
    pub(super) fn available() -> bool {
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
    }

    pub(super) fn digests_of(messages: &[&[u8]]) -> Vec<[u8; DIGEST]> {
        let kind = Kind { initial: INITIAL, one: compress256, digest };
        digests(messages, &kind, LANES, |state, blocks| {
            // SAFETY: `available` has just found sha, sse4.1 and ssse3, which is all that the function asks for.
            unsafe { compress(state, blocks) }
        })
    }

    fn digest(state: &[u32; 8]) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        for (to, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *to = word.to_be_bytes();
        }
        digest
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn set(words: [u32; 4]) -> __m128i {
        let [a, b, c, d] = words.map(u32::cast_signed);
        _mm_set_epi32(d, c, b, a)
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn get(vector: __m128i) -> [u32; 4] {
        [
            _mm_extract_epi32::<0>(vector),
            _mm_extract_epi32::<1>(vector),
            _mm_extract_epi32::<2>(vector),
            _mm_extract_epi32::<3>(vector),
        ]
        .map(i32::cast_unsigned)
    }

    /// The words of a block, in the order of the rounds.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn load(block: &Block) -> [__m128i; 4] {
        let mut words = [_mm_setzero_si128(); 4];
        for (words, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
            let [low, high] = [0, 1].map(|half| i64::from_le_bytes(bytes.as_chunks().0[half]));
            let to_big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
            *words = _mm_shuffle_epi8(_mm_set_epi64x(high, low), to_big_endian);
        }
        words
    }

    /// Takes both lanes through their blocks: as many as the shorter slice has. The two are written side by side, since a
    /// processor looks ahead only so far.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn compress(state: &mut State, blocks: [&[Block]; LANES]) {
        // As the instructions take them: words a, b, e, f and words c, d, g, h, each with the first on top.
        let mut sums = [[_mm_setzero_si128(); 2]; LANES];
        for (lane, sum) in sums.iter_mut().enumerate() {
            let [a, b, c, d, e, f, g, h] = state.map(|word| word[lane]);
            *sum = [set([f, e, b, a]), set([h, g, d, c])];
        }
        for (first, second) in blocks[0].iter().zip(blocks[1]) {
            let (mut s, mut w) = (sums, [load(first), load(second)]);
            // Spelt out: only with constant indices do all the words stay in registers.
            let (scheduling, last) = K.as_chunks::<4>().0.split_at(3);
            for k in scheduling {
                round_and_schedule(&mut s, &mut w, k[0], 0);
                round_and_schedule(&mut s, &mut w, k[1], 1);
                round_and_schedule(&mut s, &mut w, k[2], 2);
                round_and_schedule(&mut s, &mut w, k[3], 3);
            }
            for k in last {
                round(&mut s, &w, k[0], 0);
                round(&mut s, &w, k[1], 1);
                round(&mut s, &w, k[2], 2);
                round(&mut s, &w, k[3], 3);
            }
            for (sum, s) in sums.iter_mut().zip(s) {
                *sum = [_mm_add_epi32(sum[0], s[0]), _mm_add_epi32(sum[1], s[1])];
            }
        }
        for (lane, [upper, lower]) in sums.into_iter().enumerate() {
            let ([f, e, b, a], [h, g, d, c]) = (get(upper), get(lower));
            state.iter_mut().zip([a, b, c, d, e, f, g, h]).for_each(|(word, sum)| word[lane] = sum);
        }
    }

    /// Four rounds of both lanes, with the words `t` of their blocks' four vectors.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn round(s: &mut [[__m128i; 2]; LANES], w: &[[__m128i; 4]; LANES], k: [u32; 4], t: usize) {
        let k = set(k);
        let words = [_mm_add_epi32(w[0][t], k), _mm_add_epi32(w[1][t], k)];
        for (s, words) in s.iter_mut().zip(words) {
            s[1] = _mm_sha256rnds2_epu32(s[1], s[0], words);
        }
        for (s, words) in s.iter_mut().zip(words) {
            s[0] = _mm_sha256rnds2_epu32(s[0], s[1], _mm_shuffle_epi32::<0x0e>(words));
        }
    }

    /// The same, and in place of the words used those for sixteen rounds further on.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn round_and_schedule(s: &mut [[__m128i; 2]; LANES], w: &mut [[__m128i; 4]; LANES], k: [u32; 4], t: usize) {
        round(s, w, k, t);
        for w in w {
            let (b, c, d) = (w[(t + 1) % 4], w[(t + 2) % 4], w[(t + 3) % 4]);
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[t], b), _mm_alignr_epi8::<4>(d, c));
            w[t] = _mm_sha256msg2_epu32(sum, d);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::tests::{hex, hold};

    #[test]
    fn two_at_a_time_give_what_the_library_gives() {
        hold(|messages| assert_eq!(sha256(messages), one_at_a_time(messages)));
    }

    #[test]
    fn the_standards_example() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(sha256(&[b"abc".as_slice(); 5]).iter().all(|digest| hex(digest) == expected));
    }
}
