//! Stops a run whose loss is no longer worth training on.

use std::collections::VecDeque;

use config::recipe::Guard as Settings;
use serde::{Deserialize, Serialize};

use crate::step::Measured;

/// The losses of the last steps. It is part of a checkpoint, so that a resumed run stops where the uninterrupted one
/// would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    recent: VecDeque<f64>,
}

/// What is wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Problem {
    /// A number is NaN or infinite.
    NotFinite {
        /// Which.
        quantity: &'static str,
    },
    /// The loss is far above the mean of the last steps.
    Spike {
        /// The step's loss.
        loss: f64,
        /// The mean.
        expected: f64,
    },
}

impl Guard {
    /// Judges a step before its update, and remembers its loss if it is good.
    pub fn check(&mut self, measured: &Measured, settings: &Settings) -> Option<Problem> {
        for (quantity, value) in [("loss", measured.loss), ("grad_norm", measured.grad_norm)] {
            if !value.is_finite() {
                return Some(Problem::NotFinite { quantity });
            }
        }
        if self.recent.len() >= settings.window {
            let expected = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
            if measured.loss > settings.spike_factor * expected {
                return Some(Problem::Spike { loss: measured.loss, expected });
            }
            self.recent.pop_front();
        }
        self.recent.push_back(measured.loss);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(loss: f64) -> Measured {
        Measured { loss, main_loss: loss, mtp_loss: None, balance_loss: 0.0, grad_norm: 1.0, expert_load: vec![] }
    }

    #[test]
    fn a_spike_is_judged_against_a_full_window_only() {
        let settings = Settings { spike_factor: 2.0, window: 3 };
        let mut guard = Guard::default();
        for loss in [10.0, 1.0, 1.0] {
            assert_eq!(guard.check(&measured(loss), &settings), None);
        }
        assert_eq!(guard.check(&measured(7.9), &settings), None);
        // The mean is now (1 + 1 + 7.9) / 3.
        let expected = (1.0 + 1.0 + 7.9) / 3.0;
        assert_eq!(guard.check(&measured(6.7), &settings), Some(Problem::Spike { loss: 6.7, expected }));
        assert_eq!(guard.check(&measured(6.5), &settings), None);
    }

    #[test]
    fn nan_is_never_remembered() {
        let settings = Settings { spike_factor: 2.0, window: 2 };
        let mut guard = Guard::default();
        let problem = guard.check(&measured(f64::NAN), &settings);
        assert_eq!(problem, Some(Problem::NotFinite { quantity: "loss" }));
        assert_eq!(guard, Guard::default());
    }
}
