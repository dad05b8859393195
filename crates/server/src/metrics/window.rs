//! Times of the last minute, for those who look on without a Prometheus.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_mins(1);
/// More than that in a minute are the newest so many.
const MOST: usize = 8192;

/// Numbers with the moments at which they came.
#[derive(Default)]
pub(crate) struct Window(Mutex<VecDeque<(Instant, f64)>>);

impl Window {
    pub(crate) fn add(&self, number: f64) {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.len() == MOST {
            numbers.pop_front();
        }
        numbers.push_back((Instant::now(), number));
    }

    /// How many there are, and those below which such shares of them lie.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> (usize, [Option<f64>; N]) {
        let mut sorted: Vec<f64> = {
            let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            while numbers.front().is_some_and(|(at, _)| at.elapsed() > SPAN) {
                numbers.pop_front();
            }
            numbers.iter().map(|(_, number)| *number).collect()
        };
        sorted.sort_by(f64::total_cmp);
        let of = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied()
        };
        (sorted.len(), shares.map(of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numbers_that_came() {
        let window = Window::default();
        assert_eq!(window.quantiles([0.5]), (0, [None]));
        for number in [3.0, 1.0, 2.0, 4.0] {
            window.add(number);
        }
        assert_eq!(window.quantiles([0.5, 0.95, 0.0]), (4, [Some(2.0), Some(4.0), Some(1.0)]));
        for i in 0..2 * MOST {
            window.add(i as f64);
        }
        assert_eq!(window.quantiles([1.0]), (MOST, [Some((2 * MOST - 1) as f64)]));
    }
}
