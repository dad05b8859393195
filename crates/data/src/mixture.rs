use crate::error::{Error, Result};

/// Weights are integers out of this many: exact arithmetic, so that no rounding builds up over a run.
const WHOLE: f64 = (1_u64 << 40) as f64;

/// Which source the next sequence comes from.
///
/// With weights that sum to 1, source `d` has a right to `w_d · (g + 1)` of the first `g + 1` sequences. Among the
/// sources that have had less, the one that will first have had too little comes next, which is the one of the largest
/// `w_d / (taken_d + 1)` (the quota method of Balinski and Young, 1974). It keeps every source within one sequence of its
/// share at every `g`. Serving the largest deficit instead does not: with weights 1, 1, 262, 1, 21, 2, 1, 4, 125 some
/// source falls 1.17 sequences behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mixture {
    weights: Vec<u64>,
    total: u64,
}

impl Mixture {
    /// Weights in tokens, in the order of the sources; sequences are of equal length. They need not sum to 1.
    pub(crate) fn new(weights: &[(String, f64)]) -> Result<Self> {
        let refuse = |subject: String, found: String, expected: &str| {
            Err(Error::Setting { key: "weight", subject, found, expected: expected.to_owned() })
        };
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut parts = Vec::new();
        for (name, weight) in weights {
            let part = weight / sum * WHOLE;
            if !(weight.is_finite() && *weight > 0.0 && part >= 1.0) {
                let expected = "positive, and at least 1e-12 of the sum of all weights";
                return refuse(format!("source {name:?}"), weight.to_string(), expected);
            }
            parts.push(part.round() as u64);
        }
        match parts.iter().sum() {
            0 => refuse("the mixture".to_owned(), "missing".to_owned(), "given for at least one source"),
            total => Ok(Self { weights: parts, total }),
        }
    }

    /// The weights as integers, for comparison.
    pub(crate) fn weights(&self) -> &[u64] {
        &self.weights
    }

    /// The share of a source.
    pub(crate) fn share(&self, source: usize) -> f64 {
        self.weights[source] as f64 / self.total as f64
    }

    /// The source of the sequence that follows the `taken[d]` already taken from each source `d`. Ties go to the first.
    pub(crate) fn next(&self, taken: &[u64]) -> usize {
        let next: u128 = taken.iter().map(|&n| u128::from(n)).sum::<u128>() + 1;
        let entitled = |&d: &usize| u128::from(taken[d]) * u128::from(self.total) < u128::from(self.weights[d]) * next;
        let sooner = |a: usize, b: usize| {
            let weighted = |d: usize, other: usize| u128::from(self.weights[d]) * (u128::from(taken[other]) + 1);
            if weighted(b, a) > weighted(a, b) { b } else { a }
        };
        // The rights sum to one more than has been taken, so that some source is entitled.
        (0..taken.len()).filter(entitled).reduce(sooner).expect("the mixture has a source")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mixture(weights: &[f64]) -> Mixture {
        Mixture::new(&weights.iter().map(|&w| (String::new(), w)).collect::<Vec<_>>()).unwrap()
    }

    /// Draws `n` sequences and checks after each that no source is a whole sequence away from its share.
    fn check(weights: &[f64], n: u64) {
        let mixture = mixture(weights);
        let mut taken = vec![0; weights.len()];
        for g in 1..=n {
            let source = mixture.next(&taken);
            taken[source] += 1;
            for (d, &taken) in taken.iter().enumerate() {
                let error = (mixture.share(d) * g as f64 - taken as f64).abs();
                assert!(error < 1.0 + 1e-9, "source {d} of {weights:?} is {error} off after {g}");
            }
        }
        assert_eq!(taken.iter().sum::<u64>(), n);
    }

    #[test]
    fn where_the_largest_deficit_fails() {
        check(&[1.0, 1.0, 262.0, 1.0, 21.0, 2.0, 1.0, 4.0, 125.0], 5000);
    }

    #[test]
    fn equal_weights_take_turns() {
        let mixture = mixture(&[1.0; 3]);
        let mut taken = [0; 3];
        let order: Vec<_> = (0..6)
            .map(|_| {
                let d = mixture.next(&taken);
                taken[d] += 1;
                d
            })
            .collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn far_into_a_run_the_arithmetic_is_exact() {
        let mixture = mixture(&[1.0, 3.0]);
        let start = [1 << 60, 3 << 60];
        let mut taken = start;
        for _ in 0..400 {
            let source = mixture.next(&taken);
            taken[source] += 1;
        }
        assert_eq!([taken[0] - start[0], taken[1] - start[1]], [100, 300]);
    }

    #[test]
    fn weights_that_mean_nothing_are_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-30] {
            let weights = [("a".to_owned(), 1.0), ("b".to_owned(), bad)];
            assert!(matches!(Mixture::new(&weights), Err(Error::Setting { key: "weight", .. })), "{bad}");
        }
        assert!(Mixture::new(&[]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn shares_are_kept_at_every_moment(weights in prop::collection::vec(1_u32..2000, 1..12)) {
            check(&weights.into_iter().map(f64::from).collect::<Vec<_>>(), 1000);
        }
    }
}
