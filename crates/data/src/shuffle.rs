use tensor::Rng;

/// Four rounds leave a bias that shows when a half has only two bits: of 4,000 permutations of ten items, the last but
/// one keeps its place in 518 rather than 400.
const ROUNDS: usize = 8;

/// A pseudo-random permutation of `0..n` with random access and no memory: a Feistel network over the smallest
/// power of four that holds `n`, applied again for as long as it leads outside (cycle walking).
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    n: u64,
    /// Bits of each half.
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` whose keys are the first numbers of `rng`.
    pub(crate) fn new(n: u64, mut rng: Rng) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.bits()) }
    }

    /// Where `i` goes.
    ///
    /// # Panics
    /// When `i` is not below `n`.
    pub(crate) fn apply(&self, i: u64) -> u64 {
        assert!(i < self.n, "{i} is not among 0..{}", self.n);
        let mut i = i;
        // The network is a permutation, so the walk comes back to 0..n; the domain is less than 4n, so it does so soon.
        loop {
            i = self.network(i);
            if i < self.n {
                return i;
            }
        }
    }

    fn network(&self, i: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (i >> self.half_bits, i & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `x`.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permutation(n: u64, seed: u64) -> Permutation {
        Permutation::new(n, Rng::new(seed, "test", 0))
    }

    #[test]
    fn every_size_is_permuted() {
        for n in (1..200).chain([255, 256, 257, 1000, 4095, 4097, 65_537]) {
            let permutation = permutation(n, n);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                assert!(!std::mem::replace(&mut seen[permutation.apply(i) as usize], true), "{i} of {n} collides");
            }
        }
    }

    #[test]
    fn the_largest_size_stays_in_range() {
        let permutation = permutation(u64::MAX, 3);
        let images: std::collections::BTreeSet<_> = (0..1000).map(|i| permutation.apply(u64::MAX - 1 - i)).collect();
        assert!(images.len() == 1000 && images.iter().all(|&i| i < u64::MAX));
    }

    #[test]
    fn every_place_is_as_likely() {
        // 4,000 keys, 10 items: each item in each place 400 times, with a standard deviation of 19.
        let mut counts = [[0; 10]; 10];
        for seed in 0..4000 {
            let permutation = permutation(10, seed);
            (0..10).for_each(|i| counts[i as usize][permutation.apply(i) as usize] += 1);
        }
        assert!(counts.iter().flatten().all(|count| (300..500).contains(count)), "{counts:?}");
    }

    #[test]
    fn neighbours_are_parted() {
        // In a random permutation the mean distance of neighbours is n / 3; of 10,000 it varies by less than 1 %.
        let permutation = permutation(10_000, 1);
        let distance = |i| permutation.apply(i).abs_diff(permutation.apply(i + 1));
        let mean = (0..9_999).map(distance).sum::<u64>() as f64 / 9_999.0;
        assert!((3_100.0..3_600.0).contains(&mean), "{mean}");
    }
}
