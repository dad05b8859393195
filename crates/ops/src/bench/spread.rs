use std::time::Instant;

/// What repeated measurements of one thing gave: never none.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// In ascending order.
    sorted: Vec<f64>,
}

impl Spread {
    /// Of the values of some repetitions, in any order.
    ///
    /// # Panics
    /// When there is no value, or one is not a number.
    pub fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a spread has at least one value");
        assert!(values.iter().all(|x| !x.is_nan()), "a spread has no NaN: {values:?}");
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// The seconds that `run` takes, repeated at least `times` times and for at least `seconds`.
    pub fn of_seconds(times: usize, seconds: f64, mut run: impl FnMut()) -> Self {
        let begin = Instant::now();
        let mut values = Vec::with_capacity(times);
        while values.len() < times.max(1) || begin.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            run();
            values.push(start.elapsed().as_secs_f64());
        }
        Self::of(values)
    }

    /// The value in the middle, or the mean of the two there.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The values below which a quarter and three quarters lie, between two neighbours in proportion.
    pub fn quartiles(&self) -> [f64; 2] {
        [self.quantile(0.25), self.quantile(0.75)]
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.sorted[0]
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.sorted[self.sorted.len() - 1]
    }

    /// The number of repetitions.
    #[expect(clippy::len_without_is_empty, reason = "a spread is never empty")]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// `amount` over each value: from seconds to a rate.
    #[must_use]
    pub fn rate_of(&self, amount: f64) -> Self {
        Self::of(self.sorted.iter().map(|seconds| amount / seconds).collect())
    }

    fn quantile(&self, q: f64) -> f64 {
        let at = q * (self.sorted.len() - 1) as f64;
        let (below, above) = (self.sorted[at.floor() as usize], self.sorted[at.ceil() as usize]);
        below + (above - below) * at.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_quarters() {
        let odd = Spread::of(vec![5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((odd.median(), odd.quartiles()), (3.0, [2.0, 4.0]));
        let even = Spread::of(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.median(), even.quartiles()), (2.5, [1.75, 3.25]));
        let one = Spread::of(vec![7.0]);
        assert_eq!((one.median(), one.quartiles(), one.len()), (7.0, [7.0; 2], 1));
    }

    #[test]
    fn the_fastest_is_the_highest_rate() {
        let rate = Spread::of(vec![4.0, 1.0, 2.0]).rate_of(8.0);
        assert_eq!((rate.min(), rate.median(), rate.max()), (2.0, 4.0, 8.0));
    }

    #[test]
    fn it_is_repeated_as_often_and_as_long_as_asked() {
        let mut runs = 0;
        assert_eq!(Spread::of_seconds(3, 0.0, || runs += 1).len(), 3);
        assert_eq!(runs, 3);
        let slow = Spread::of_seconds(1, 0.01, || std::thread::sleep(std::time::Duration::from_millis(4)));
        assert!(slow.len() >= 2 && slow.min() >= 0.004);
    }

    #[test]
    #[should_panic(expected = "at least one value")]
    fn nothing_has_no_spread() {
        Spread::of(Vec::new());
    }

    #[test]
    #[should_panic(expected = "no NaN")]
    fn nan_is_refused() {
        Spread::of(vec![1.0, f64::NAN]);
    }
}
