use std::time::Duration;

use tensor::Rng;

/// How requests are asked again that failed for the moment: a busy server refused them, or they lost their connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is asked again.
    pub retries: u32,
    /// How long to wait before the first time; it doubles each time.
    pub first: Duration,
    /// How long to wait at most, if the server does not ask for more.
    pub longest: Duration,
    /// The longest wait that a server may ask for. A request whose server asks for more has failed.
    pub patience: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            retries: 8,
            first: Duration::from_secs(1),
            longest: Duration::from_mins(1),
            patience: Duration::from_hours(1),
        }
    }
}

impl Retry {
    /// How long to wait before retry `attempt` (from 0) of the request on `line`, whose server asked for `asked`; `None` if
    /// it is not worth it.
    ///
    /// The wait is at least what the server asks for. What is added to it, or taken from our own, is random, so that
    /// requests that were refused together do not come back together.
    pub(super) fn wait(&self, line: u64, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
        if attempt >= self.retries || asked.is_some_and(|asked| asked > self.patience) {
            return None;
        }
        let spread = Rng::new(u64::from(attempt), "batch retry", line).uniform();
        let own = self.first.saturating_mul(1 << attempt.min(20)).min(self.longest);
        let wait = own.mul_f64(1.0 - 0.5 * spread);
        Some(asked.map_or(wait, |asked| wait.max(asked + self.first.mul_f64(spread))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_the_server_has_the_last_word() {
        let retry = Retry { retries: 10, ..Retry::default() };
        let wait = |attempt, asked: Option<u64>| retry.wait(7, attempt, asked.map(Duration::from_secs));
        for attempt in 0..10 {
            let most = (1_u64 << attempt).min(60) as f64;
            let wait = wait(attempt, None).expect("not yet given up").as_secs_f64();
            assert!((0.5 * most..=most).contains(&wait), "{attempt}: {wait}");
        }
        assert_eq!(wait(10, None), None);
        let asked = wait(0, Some(30)).expect("worth it").as_secs_f64();
        assert!((30.0..31.0).contains(&asked), "{asked}");
        assert_eq!(wait(0, Some(3601)), None);
        assert_ne!(retry.wait(1, 0, None), retry.wait(2, 0, None));
    }
}
