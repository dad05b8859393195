use serde::{Deserialize, Serialize};

/// A range of shares in which the true one lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end, in `[0, 1]`.
    pub low: f64,
    /// Upper end, in `[0, 1]`.
    pub high: f64,
}

impl Interval {
    /// Wilson's score interval for `successes` in `trials` (E. B. Wilson, 1927). Unlike the textbook's normal
    /// interval it stays within `[0, 1]` and has a width even when all or none succeed.
    ///
    /// # Panics
    /// When there are no trials, or more successes than trials.
    pub fn wilson(successes: usize, trials: usize) -> Self {
        assert!(trials > 0 && successes <= trials, "{successes} successes in {trials} trials");
        // The normal distribution's quantile at 97.5 %.
        let z = 1.959_963_984_540_054_f64;
        let n = trials as f64;
        let share = successes as f64 / n;
        let centre = share + z * z / (2.0 * n);
        let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z * z / n;
        // At the ends the exact value is 0 or 1; rounding must not miss it.
        let low = if successes == 0 { 0.0 } else { (centre - half) / scale };
        let high = if successes == trials { 1.0 } else { (centre + half) / scale };
        Self { low, high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_has_the_published_values() {
        // 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I, gives 0.2553 to 0.3662.
        // 0 of 20 in the same table: 0 to 0.1611; 1 of 29: 0.0061 to 0.1718; 15 of 148: 0.0624 to 0.1605.
        for (successes, trials, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let interval = Interval::wilson(successes, trials);
            assert!((interval.low - low).abs() < 5e-5 && (interval.high - high).abs() < 5e-5, "{interval:?}");
        }
    }

    #[test]
    fn wilson_is_symmetric_and_holds_the_share() {
        for trials in [1, 2, 7, 100, 12_345] {
            for successes in [0, 1, trials / 3, trials / 2, trials - 1, trials] {
                let share = successes as f64 / trials as f64;
                let (it, mirror) = (Interval::wilson(successes, trials), Interval::wilson(trials - successes, trials));
                assert!(0.0 <= it.low && it.low <= share && share <= it.high && it.high <= 1.0);
                assert!((it.low - (1.0 - mirror.high)).abs() < 1e-12);
            }
        }
    }
}
