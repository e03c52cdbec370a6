//! SHA-512/256 (FIPS 180-4): 8 messages at once with AVX-512, 4 with AVX2, whichever the processor has. Elsewhere they go one
//! after the other through [`sha2`].

use std::fmt;

#[cfg(target_arch = "x86_64")]
use sha2::block_api::compress512;
use sha2::{Digest, Sha512_256};

use super::DIGEST;
#[cfg(target_arch = "x86_64")]
use super::digests;

/// A way to compute the digests: they all give the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// 8 messages at once.
    Avx512,
    /// 4 messages at once.
    Avx2,
    /// Each message by itself.
    OneAtATime,
}

impl Path {
    /// Every path, the fastest first.
    pub(crate) const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::OneAtATime];

    /// Whether this processor has what the path needs.
    fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            path => path == Self::OneAtATime,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::OneAtATime => "one at a time",
        })
    }
}

/// The path that [`sha512_256`] takes on this processor.
pub(crate) fn path() -> Path {
    Path::ALL.into_iter().find(|path| path.available()).unwrap_or(Path::OneAtATime)
}

/// The SHA-512/256 of each message, in the order of the messages, whose lengths may differ.
pub(crate) fn sha512_256(messages: &[&[u8]]) -> Vec<[u8; DIGEST]> {
    sha512_256_on(path(), messages).unwrap_or_else(|| one_at_a_time(messages))
}

/// The same on a chosen path; `None` where the processor lacks it.
pub(crate) fn sha512_256_on(path: Path, messages: &[&[u8]]) -> Option<Vec<[u8; DIGEST]>> {
    if !path.available() {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    let kind = super::Kind { initial: x86::INITIAL, one: compress512, digest: x86::digest };
    Some(match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => digests(messages, &kind, x86::avx512::PAYS_FROM, |state, blocks| {
            // SAFETY: `available` has just found avx512f and avx512bw, which is all that the function asks for.
            unsafe { x86::avx512::compress(state, blocks) }
        }),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => digests(messages, &kind, x86::avx2::PAYS_FROM, |state, blocks| {
            // SAFETY: `available` has just found avx2, which is all that the function asks for.
            unsafe { x86::avx2::compress(state, blocks) }
        }),
        _ => one_at_a_time(messages),
    })
}

/// Each message by itself through the library.
fn one_at_a_time(messages: &[&[u8]]) -> Vec<[u8; DIGEST]> {
    messages.iter().map(|message| Sha512_256::digest(message).into()).collect()
}

/// The lanes.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::DIGEST;

    /// What one step of the compression takes of one message.
    pub(super) type Block = [u8; 128];

    /// The eight working words of `L` messages: word first, then lane, as the vectors hold them.
    type State<const L: usize> = [[u64; L]; 8];

    /// The initial hash value of SHA-512/256: FIPS 180-4, section 5.3.6.2.
    #[rustfmt::skip]
    pub(super) const INITIAL: [u64; 8] = [
        0x2231_2194_fc2b_f72c, 0x9f55_5fa3_c84c_64c2, 0x2393_b86b_6f53_b151, 0x9638_7719_5940_eabd,
        0x9628_3ee2_a88e_ffe3, 0xbe5e_1e25_5386_3992, 0x2b01_99fc_2c85_b8aa, 0x0eb7_2ddc_81c5_2ca2,
    ];

    /// The constants of the 80 rounds: FIPS 180-4, section 4.2.3.
    #[rustfmt::skip]
    const K: [u64; 80] = [
        0x428a_2f98_d728_ae22, 0x7137_4491_23ef_65cd, 0xb5c0_fbcf_ec4d_3b2f, 0xe9b5_dba5_8189_dbbc, 0x3956_c25b_f348_b538,
        0x59f1_11f1_b605_d019, 0x923f_82a4_af19_4f9b, 0xab1c_5ed5_da6d_8118, 0xd807_aa98_a303_0242, 0x1283_5b01_4570_6fbe,
        0x2431_85be_4ee4_b28c, 0x550c_7dc3_d5ff_b4e2, 0x72be_5d74_f27b_896f, 0x80de_b1fe_3b16_96b1, 0x9bdc_06a7_25c7_1235,
        0xc19b_f174_cf69_2694, 0xe49b_69c1_9ef1_4ad2, 0xefbe_4786_384f_25e3, 0x0fc1_9dc6_8b8c_d5b5, 0x240c_a1cc_77ac_9c65,
        0x2de9_2c6f_592b_0275, 0x4a74_84aa_6ea6_e483, 0x5cb0_a9dc_bd41_fbd4, 0x76f9_88da_8311_53b5, 0x983e_5152_ee66_dfab,
        0xa831_c66d_2db4_3210, 0xb003_27c8_98fb_213f, 0xbf59_7fc7_beef_0ee4, 0xc6e0_0bf3_3da8_8fc2, 0xd5a7_9147_930a_a725,
        0x06ca_6351_e003_826f, 0x1429_2967_0a0e_6e70, 0x27b7_0a85_46d2_2ffc, 0x2e1b_2138_5c26_c926, 0x4d2c_6dfc_5ac4_2aed,
        0x5338_0d13_9d95_b3df, 0x650a_7354_8baf_63de, 0x766a_0abb_3c77_b2a8, 0x81c2_c92e_47ed_aee6, 0x9272_2c85_1482_353b,
        0xa2bf_e8a1_4cf1_0364, 0xa81a_664b_bc42_3001, 0xc24b_8b70_d0f8_9791, 0xc76c_51a3_0654_be30, 0xd192_e819_d6ef_5218,
        0xd699_0624_5565_a910, 0xf40e_3585_5771_202a, 0x106a_a070_32bb_d1b8, 0x19a4_c116_b8d2_d0c8, 0x1e37_6c08_5141_ab53,
        0x2748_774c_df8e_eb99, 0x34b0_bcb5_e19b_48a8, 0x391c_0cb3_c5c9_5a63, 0x4ed8_aa4a_e341_8acb, 0x5b9c_ca4f_7763_e373,
        0x682e_6ff3_d6b2_b8a3, 0x748f_82ee_5def_b2fc, 0x78a5_636f_4317_2f60, 0x84c8_7814_a1f0_ab72, 0x8cc7_0208_1a64_39ec,
        0x90be_fffa_2363_1e28, 0xa450_6ceb_de82_bde9, 0xbef9_a3f7_b2c6_7915, 0xc671_78f2_e372_532b, 0xca27_3ece_ea26_619c,
        0xd186_b8c7_21c0_c207, 0xeada_7dd6_cde0_eb1e, 0xf57d_4f7f_ee6e_d178, 0x06f0_67aa_7217_6fba, 0x0a63_7dc5_a2c8_98a6,
        0x113f_9804_bef9_0dae, 0x1b71_0b35_131c_471b, 0x28db_77f5_2304_7d84, 0x32ca_ab7b_40c7_2493, 0x3c9e_be0a_15c9_bebc,
        0x431d_67c4_9c10_0d4c, 0x4cc5_d4be_cb3e_42b6, 0x597f_299c_fc65_7e2a, 0x5fcb_6fab_3ad6_faec, 0x6c44_198c_4a47_5817,
    ];

    /// The digest that a final state stands for: its first half.
    pub(super) fn digest(state: &[u64; 8]) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        for (to, word) in digest.as_chunks_mut::<8>().0.iter_mut().zip(state) {
            *to = word.to_be_bytes();
        }
        digest
    }

    /// Defines functions that are one expression each and ask for processor features.
    macro_rules! define {
        ($features:literal: $($name:ident($($x:ident: $type:ty),+) -> $result:ty = $value:expr;)+) => {$(
            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn $name($($x: $type),+) -> $result {
                $value
            }
        )+};
    }

    /// A loop spelt out: only with constant indices do all the words stay in registers.
    macro_rules! sixteen {
        ($step:ident, $s:expr, $w:expr, $k:expr; $($t:literal)+) => { $($step($s, $w, $k, $t);)+ };
    }

    /// The steps of FIPS 180-4, section 6.4.2, with the vectors of the surrounding module. A macro, because a safe
    /// trait cannot have methods that ask for a processor feature.
    macro_rules! compress {
        ($features:literal) => {
            /// Takes every lane through its blocks: as many as the shortest slice has.
            #[target_feature(enable = $features)]
            pub(in super::super) fn compress(state: &mut State<LANES>, blocks: [&[Block]; LANES]) {
                let mut sum = [set(&[0; LANES]); 8];
                sum.iter_mut().zip(&*state).for_each(|(sum, words)| *sum = set(words));
                for at in 0..blocks.iter().map(|lane| lane.len()).min().unwrap_or(0) {
                    let (mut s, mut w) = (sum, load(blocks, at));
                    let (first, last) = K.as_chunks().0.split_at(4);
                    for k in first {
                        sixteen!(round_and_schedule, &mut s, &mut w, k; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
                    }
                    sixteen!(round, &mut s, &mut w, &last[0]; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
                    sum.iter_mut().zip(s).for_each(|(sum, word)| *sum = add(*sum, word));
                }
                state.iter_mut().zip(sum).for_each(|(words, sum)| *words = get(sum));
            }

            /// Round `t` of a group of sixteen. Rather than that the working words a to h move along by one each
            /// round, what is looked for moves backwards.
            #[inline]
            #[target_feature(enable = $features)]
            fn round(s: &mut [V; 8], w: &mut [V; 16], k: &[u64; 16], t: usize) {
                let i = 16 - t;
                let (a, b, c) = (s[i % 8], s[(i + 1) % 8], s[(i + 2) % 8]);
                let (e, f, g, h) = (s[(i + 4) % 8], s[(i + 5) % 8], s[(i + 6) % 8], s[(i + 7) % 8]);
                let sum = add(add(add(h, add(w[t], all(k[t]))), choose(e, f, g)), big_sigma_1(e));
                s[(i + 3) % 8] = add(s[(i + 3) % 8], sum);
                s[(i + 7) % 8] = add(add(sum, majority(a, b, c)), big_sigma_0(a));
            }

            /// The same, and in place of the word used the one for the round sixteen further on.
            #[inline]
            #[target_feature(enable = $features)]
            fn round_and_schedule(s: &mut [V; 8], w: &mut [V; 16], k: &[u64; 16], t: usize) {
                round(s, w, k, t);
                let sigmas = add(small_sigma_0(w[(t + 1) % 16]), small_sigma_1(w[(t + 14) % 16]));
                w[t] = add(add(w[t], w[(t + 9) % 16]), sigmas);
            }
        };
    }

    /// 8 lanes. Rotation, and any function of three bits, is one instruction.
    pub(super) mod avx512 {
        use std::arch::x86_64::*;

        use super::{Block, K, State, avx2};

        type V = __m512i;
        const LANES: usize = 8;
        /// A step for 8 lanes takes 1.5 times as long as one for a single message.
        pub(in super::super) const PAYS_FROM: usize = 2;

        compress!("avx512f,avx512bw");
        define! { "avx512f,avx512bw":
            all(k: u64) -> V = _mm512_set1_epi64(k.cast_signed());
            set(words: &[u64; LANES]) -> V = {
                let [a, b, c, d, e, f, g, h] = words.map(u64::cast_signed);
                _mm512_set_epi64(h, g, f, e, d, c, b, a)
            };
            get(v: V) -> [u64; LANES] = {
                let [a, b, c, d] = avx2::get(_mm512_castsi512_si256(v));
                let [e, f, g, h] = avx2::get(_mm512_extracti64x4_epi64::<1>(v));
                [a, b, c, d, e, f, g, h]
            };
            add(x: V, y: V) -> V = _mm512_add_epi64(x, y);
            xor(x: V, y: V, z: V) -> V = _mm512_ternarylogic_epi64::<0x96>(x, y, z);
            choose(x: V, y: V, z: V) -> V = _mm512_ternarylogic_epi64::<0xca>(x, y, z);
            majority(x: V, y: V, z: V) -> V = _mm512_ternarylogic_epi64::<0xe8>(x, y, z);
            big_sigma_0(x: V) -> V = xor(_mm512_ror_epi64::<28>(x), _mm512_ror_epi64::<34>(x), _mm512_ror_epi64::<39>(x));
            big_sigma_1(x: V) -> V = xor(_mm512_ror_epi64::<14>(x), _mm512_ror_epi64::<18>(x), _mm512_ror_epi64::<41>(x));
            small_sigma_0(x: V) -> V = xor(_mm512_ror_epi64::<1>(x), _mm512_ror_epi64::<8>(x), _mm512_srli_epi64::<7>(x));
            small_sigma_1(x: V) -> V = xor(_mm512_ror_epi64::<19>(x), _mm512_ror_epi64::<61>(x), _mm512_srli_epi64::<6>(x));
        }

        /// The 16 words of each lane's block `at`: vector `i` holds word `i` of all lanes.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        fn load(blocks: [&[Block]; LANES], at: usize) -> [V; 16] {
            let mut w = [_mm512_setzero_si512(); 16];
            for (half, w) in w.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let mut rows = [w[0]; LANES];
                for (row, lane) in rows.iter_mut().zip(blocks) {
                    *row = set(&lane[at].as_chunks().0.as_chunks().0[half].map(u64::from_be_bytes));
                }
                // An 8 by 8 transposition: single words within pairs of lanes, then pairs of words among the pairs.
                let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
                let pairs = [(r0, r1), (r2, r3), (r4, r5), (r6, r7)];
                let even = pairs.map(|(x, y)| _mm512_unpacklo_epi64(x, y));
                let odd = pairs.map(|(x, y)| _mm512_unpackhi_epi64(x, y));
                for (i, [a, b, c, d]) in [even, odd].into_iter().enumerate() {
                    let (x, y) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0x88>(c, d));
                    (w[i], w[i + 4]) = (_mm512_shuffle_i64x2::<0x88>(x, y), _mm512_shuffle_i64x2::<0xdd>(x, y));
                    let (x, y) = (_mm512_shuffle_i64x2::<0xdd>(a, b), _mm512_shuffle_i64x2::<0xdd>(c, d));
                    (w[i + 2], w[i + 6]) = (_mm512_shuffle_i64x2::<0x88>(x, y), _mm512_shuffle_i64x2::<0xdd>(x, y));
                }
            }
            w
        }
    }

    /// 4 lanes. Rotation takes two shifts and an exclusive or, or one shuffle where whole bytes move.
    pub(super) mod avx2 {
        use std::arch::x86_64::*;

        use super::{Block, K, State};

        type V = __m256i;
        const LANES: usize = 4;
        /// A step for 4 lanes takes twice as long as one for a single message.
        pub(in super::super) const PAYS_FROM: usize = 3;

        compress!("avx2");
        define! { "avx2":
            all(k: u64) -> V = _mm256_set1_epi64x(k.cast_signed());
            set(words: &[u64; LANES]) -> V = {
                let [a, b, c, d] = words.map(u64::cast_signed);
                _mm256_set_epi64x(d, c, b, a)
            };
            get(v: V) -> [u64; LANES] = {
                let (a, b) = (_mm256_extract_epi64::<0>(v), _mm256_extract_epi64::<1>(v));
                let (c, d) = (_mm256_extract_epi64::<2>(v), _mm256_extract_epi64::<3>(v));
                [a, b, c, d].map(i64::cast_unsigned)
            };
            add(x: V, y: V) -> V = _mm256_add_epi64(x, y);
            xor(x: V, y: V) -> V = _mm256_xor_si256(x, y);
            choose(x: V, y: V, z: V) -> V = xor(z, _mm256_and_si256(x, xor(y, z)));
            majority(x: V, y: V, z: V) -> V = xor(y, _mm256_and_si256(xor(x, y), xor(y, z)));
            big_sigma_0(x: V) -> V = xor(rotate::<28, 36>(x), xor(rotate::<34, 30>(x), rotate::<39, 25>(x)));
            big_sigma_1(x: V) -> V = xor(rotate::<14, 50>(x), xor(rotate::<18, 46>(x), rotate::<41, 23>(x)));
            rotate_8(x: V) -> V = shuffle::<0x0007_0605_0403_0201, 0x080f_0e0d_0c0b_0a09>(x);
            small_sigma_0(x: V) -> V = xor(rotate::<1, 63>(x), xor(rotate_8(x), _mm256_srli_epi64::<7>(x)));
            small_sigma_1(x: V) -> V = xor(rotate::<19, 45>(x), xor(rotate::<61, 3>(x), _mm256_srli_epi64::<6>(x)));
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        fn rotate<const RIGHT: i32, const LEFT: i32>(x: V) -> V {
            xor(_mm256_srli_epi64::<RIGHT>(x), _mm256_slli_epi64::<LEFT>(x))
        }

        /// Moves the bytes within each 16, by indices for the lower and the upper eight.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn shuffle<const LOW: i64, const HIGH: i64>(x: V) -> V {
            _mm256_shuffle_epi8(x, _mm256_set_epi64x(HIGH, LOW, HIGH, LOW))
        }

        /// The 16 words of each lane's block `at`: vector `i` holds word `i` of all lanes.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn load(blocks: [&[Block]; LANES], at: usize) -> [V; 16] {
            let mut w = [_mm256_setzero_si256(); 16];
            for (quarter, w) in w.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for (row, lane) in w.iter_mut().zip(blocks) {
                    let words = lane[at].as_chunks().0.as_chunks().0[quarter].map(u64::from_le_bytes);
                    *row = shuffle::<0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f>(set(&words)); // to big-endian
                }
                // A 4 by 4 transposition.
                let [a, b, c, d] = *w;
                let (x, y) = (_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d));
                (w[0], w[2]) = (_mm256_permute2x128_si256::<0x20>(x, y), _mm256_permute2x128_si256::<0x31>(x, y));
                let (x, y) = (_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d));
                (w[1], w[3]) = (_mm256_permute2x128_si256::<0x20>(x, y), _mm256_permute2x128_si256::<0x31>(x, y));
            }
            w
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::tests::{hex, hold};

    #[test]
    fn every_path_gives_what_the_library_gives() {
        hold(|messages| {
            let expected = one_at_a_time(messages);
            assert!(Path::ALL.into_iter().filter_map(|path| sha512_256_on(path, messages)).all(|got| got == expected));
            assert_eq!(sha512_256(messages), expected);
        });
    }

    #[test]
    fn the_standards_example() {
        let expected = "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23";
        for path in Path::ALL {
            for digest in sha512_256_on(path, &[b"abc".as_slice(); 9]).into_iter().flatten() {
                assert_eq!(hex(&digest), expected, "{path}");
            }
        }
    }
}
