use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::prompts::Prompts;
use crate::error::Error;

/// Of arrivals, in requests a second. Less is a mistake, and much less a moment that no clock reaches.
const LEAST_RATE: f64 = 1e-6;

/// What is asked for, and when.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The model's name; the server's first one without it.
    pub model: Option<String>,
    /// When requests are sent.
    pub arrivals: Arrivals,
    /// After how many requests no more are sent.
    pub requests: Option<u64>,
    /// After how many seconds no more are sent. Those that were sent are waited for.
    pub seconds: Option<f64>,
    /// Requests before the measurement.
    pub warmup: u64,
    /// What is asked.
    pub prompts: Prompts,
    /// Fields that are added to the body of every request, or put in the place of its own; null takes one out.
    pub extra: Map<String, Value>,
    /// Of arrivals and random prompts.
    pub seed: u64,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Each of so many users sends one, waits for the answer, and sends the next.
    Closed {
        /// The users.
        concurrency: usize,
    },
    /// At random moments (a Poisson process), whatever the server does.
    Open {
        /// Requests a second, on average.
        rate: f64,
        /// Requests that may be under way; others wait for their turn, and their waiting counts.
        concurrency: Option<usize>,
    },
}

impl Plan {
    /// # Errors
    /// It asks for nothing, has no end, or contradicts itself.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |text: &str| Err(Error::Plan(text.to_owned()));
        let is_positive = |x: f64| x > 0.0 && x.is_finite();
        match self.arrivals {
            Arrivals::Closed { concurrency: 0 } | Arrivals::Open { concurrency: Some(0), .. } => {
                return wrong("the concurrency is 0, but must be at least 1");
            }
            Arrivals::Open { rate, .. } if !(rate >= LEAST_RATE && rate.is_finite()) => {
                return Err(Error::Plan(format!(
                    "the rate is {rate}, but must be at least {LEAST_RATE} requests a second, one in eleven days"
                )));
            }
            Arrivals::Open { concurrency: Some(most), .. } if most > Semaphore::MAX_PERMITS => {
                return Err(Error::Plan(format!(
                    "the concurrency is {most}, but must be at most {}; leave it out for no limit",
                    Semaphore::MAX_PERMITS
                )));
            }
            _ => {}
        }
        match (self.requests, self.seconds) {
            (None, None) => return wrong("the load has no end; give a number of requests or of seconds"),
            (Some(0), _) => return wrong("the number of requests is 0, but must be at least 1"),
            (_, Some(seconds)) if !is_positive(seconds) => return wrong("the seconds must be a number above 0"),
            _ => {}
        }
        // Answers are timed chunk by chunk, which the stream is for.
        for field in ["stream", "prompt", "messages"] {
            if self.extra.contains_key(field) {
                return Err(Error::Plan(format!("the extra fields have {field:?}, which the load itself sets")));
            }
        }
        self.prompts.check()
    }
}
