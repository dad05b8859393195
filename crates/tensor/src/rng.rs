use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};

/// A stream of random numbers, named by a seed, a purpose and an index.
///
/// Every random decision of a run descends from one seed: each purpose (`"init"`, `"sample"`, ..) and each index within
/// it (a parameter, a document, a request) has a stream of its own, so that no decision depends on how many numbers
/// another one drew.
#[derive(Clone)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of `purpose` and `index` under `seed`. The purpose and the index are part of the cipher's key, so
    /// streams never overlap.
    ///
    /// # Panics
    /// When the purpose is longer than 16 bytes.
    pub fn new(seed: u64, purpose: &'static str, index: u64) -> Self {
        assert!(purpose.len() <= 16, "the purpose {purpose:?} of a random stream has more than 16 bytes");
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        key[16..16 + purpose.len()].copy_from_slice(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * f64::powi(2.0, -53)
    }

    /// Uniform in `0..n`, without bias.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        // Lemire's method: the high word of a 128-bit product, rejecting the few low words that would be favoured.
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// A standard normal number (Box and Muller's method, the cosine half).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed_and_distinct() {
        let first = |seed, purpose, index| Rng::new(seed, purpose, index).bits();
        assert_eq!(first(1, "init", 0), first(1, "init", 0));
        let all = [first(1, "init", 0), first(2, "init", 0), first(1, "data", 0), first(1, "init", 1)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(7, "test", 0);
        let n = 100_000;
        let normal: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = normal.iter().sum::<f64>() / n as f64;
        let var = normal.iter().map(|x| x * x).sum::<f64>() / n as f64;
        // Five standard errors: 1/sqrt(n) for the mean, sqrt(2/n) for the variance.
        assert!(mean.abs() < 0.016 && (var - 1.0).abs() < 0.023, "mean {mean}, variance {var}");
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[rng.below(7) as usize] += 1);
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
    }
}
