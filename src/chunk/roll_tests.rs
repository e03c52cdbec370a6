use super::*;

fn divisor(d: u32) -> Divisor {
    Divisor::new(d)
}

fn noise(length: usize, mut x: u64) -> Vec<u8> {
    let next = |_| {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        x.to_le_bytes()[7]
    };
    (0..length).map(next).collect()
}

/// By the definition.
fn naive(bytes: &[u8], from: usize, to: usize, d: u32) -> Option<usize> {
    (from.max(WINDOW)..=to.min(bytes.len())).find(|&position| {
        let window = &bytes[position - WINDOW..position];
        let turned = |(i, &byte): (usize, &u8)| TABLE[usize::from(byte)].rotate_left(47 - u32::try_from(i).unwrap());
        window.iter().enumerate().map(turned).fold(0, |hash, x| hash ^ x) % d == d - 1
    })
}

const DIVISORS: [u32; 14] = [1, 2, 3, 4, 6, 49, 64, 1000, 4096, 49535, 65536, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

#[test]
fn known_hashes() {
    let bytes: Vec<u8> = (0..49).collect();
    assert_eq!(hash(&[0; WINDOW]), 0x9e48_9e48);
    assert_eq!(hash(&bytes[..WINDOW]), 0x6b67_dec6);
    assert_eq!(hash(&bytes[1..]), 0xa3fc_25f1);
    assert_eq!(roll(hash(&bytes[..WINDOW]), bytes[0], bytes[48]), 0xa3fc_25f1);
}

#[test]
fn multiples_are_recognised_without_division() {
    for d in DIVISORS {
        let divisor = divisor(d);
        let around = |n: u32| [n.wrapping_sub(2), n.wrapping_sub(1), n, n.wrapping_add(1)];
        let random = noise(4096, 3).as_chunks().0.iter().map(|&x| u32::from_le_bytes(x)).collect::<Vec<_>>();
        let multiples = random.iter().map(|x| x / d * d).chain([0, d, u32::MAX / d * d, u32::MAX, 1 << 31]);
        for h in multiples.flat_map(around).chain(random.iter().copied()) {
            let expected = (u64::from(h) + 1).is_multiple_of(u64::from(d));
            assert_eq!(divisor.hits(h), expected, "{h} {d}");
            assert!(divisor.may_hit::<false>(!h) == expected || h == u32::MAX, "{h} {d}");
            assert!(d % 2 == 0 || divisor.may_hit::<true>(!h) == divisor.may_hit::<false>(!h), "{h} {d}");
        }
    }
}

#[test]
fn the_first_hit_is_found() {
    for length in [0, 1, 47, 48, 49, 50, 100, 2000, 9000] {
        let bytes = noise(length, length as u64);
        for d in DIVISORS {
            for (from, to) in [(0, length), (48, length), (49, 49), (60, 59), (77, length + 5), (length, length)] {
                let expected = naive(&bytes, from, to, d);
                assert_eq!(next_hit(&bytes, from, to, &divisor(d)), expected, "{length} {d} {from} {to}");
                assert_eq!(next_hit(&bytes, from, to, &divisor(d)), expected);
            }
        }
    }
}

#[test]
fn lanes_find_all_hits_in_their_ranges() {
    for (d, skip) in [(1, 1), (3, 1), (7, 60), (100, 1), (1000, 500), (49535, 10)] {
        let bytes = noise(40_000, u64::from(d));
        let ranges = [(0, 9_000), (9_001, 40_000), (30_000, 30_000), (5, 39_999)];
        let expected = ranges.map(|(from, to)| {
            let next = |from| naive(&bytes, from, to, d);
            std::iter::successors(next(from), |&position| next(position + skip)).collect::<Vec<_>>()
        });
        let mut found: [Vec<usize>; 4] = Default::default();
        let mut waiting = ranges.iter().enumerate().map(|(index, &(from, to))| (index, Lane::new(&bytes, from, to)));
        let [(mut a, lane_a), (mut b, lane_b)] = [(); 2].map(|()| waiting.next().unwrap());
        let mut lanes = [lane_a, lane_b];
        loop {
            while let Some((lane, position)) = next_hit_of(&mut lanes, &divisor(d)) {
                found[if lane == 0 { a } else { b }].push(position);
                lanes[lane].skip_to(position + skip);
            }
            let over = usize::from(!lanes[0].is_over());
            assert!(lanes[over].is_over());
            let Some((index, lane)) = waiting.next() else { break };
            *(if over == 0 { &mut a } else { &mut b }) = index;
            lanes[over] = lane;
        }
        for (lane, index) in lanes.into_iter().zip([a, b]) {
            let mut lane = [lane];
            while let Some((_, position)) = next_hit_of(&mut lane, &divisor(d)) {
                found[index].push(position);
                lane[0].skip_to(position + skip);
            }
        }
        assert!(found == expected, "{d}");
    }
}
