//! How a gateway behaves.

use std::time::Duration;

use crate::address::Address;
use crate::error::Error;

/// How a gateway behaves. [`Options::new`] has the values that serve most.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers. The order does not matter.
    pub backends: Vec<Address>,
    /// How much more than the mean a backend may have to do before conversations leave it: it keeps them while its
    /// running requests are at most this times the mean, and one. At least 1.
    pub affinity_factor: f64,
    /// Pause between two questions for `/readyz`.
    pub health_interval: Duration,
    /// How long a backend may take to answer them.
    pub health_timeout: Duration,
    /// After so many questions in a row without an answer a backend is down. If it answers that it is not ready, it is
    /// down at once.
    pub fall: u32,
    /// After so many good answers in a row it is up again. A backend that was never seen before needs one.
    pub rise: u32,
    /// How long a connection to a backend may take to be made.
    pub connect_timeout: Duration,
    /// How long a backend may take until the first byte of its answer. An answer that is not streamed comes as a
    /// whole, so this bounds its generation too.
    pub response_timeout: Duration,
    /// How long the next piece of an answer may take, once the client has taken the one before, until it is cut.
    pub idle_timeout: Duration,
    /// How long a connection is kept for the next request. Shorter than the backends keep it, or else a request may
    /// meet a connection that is being closed.
    pub pool_idle_timeout: Duration,
    /// The largest body of a request.
    pub max_body_bytes: usize,
    /// The largest sum of the bodies that are held at one time. They are held until an answer begins, so that another
    /// backend can be tried. What is allocated for them may be twice that while they grow.
    pub max_buffered_bytes: usize,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// Whether `x-forwarded-for` and its like are believed, because they come from a proxy of ours: the client's
    /// address is then appended to them. Otherwise they are removed, since anybody can write them.
    pub trust_forwarded: bool,
}

impl Options {
    /// The usual values.
    pub fn new(backends: Vec<Address>) -> Self {
        Self {
            backends,
            affinity_factor: 1.25,
            health_interval: Duration::from_secs(2),
            health_timeout: Duration::from_secs(2),
            fall: 3,
            rise: 2,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_mins(30),
            idle_timeout: Duration::from_mins(5),
            pool_idle_timeout: Duration::from_secs(15),
            max_body_bytes: 32 << 20,
            max_buffered_bytes: 256 << 20,
            body_timeout: Duration::from_mins(2),
            trust_forwarded: false,
        }
    }

    /// Refuses what makes no sense.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.backends.is_empty() {
            return Err(Error::NoBackend);
        }
        for (at, address) in self.backends.iter().enumerate() {
            if self.backends[..at].contains(address) {
                return Err(Error::Twice { address: address.to_string() });
            }
        }
        let option = |name, found: String, expected| Err(Error::Option { name, found, expected });
        if !(self.affinity_factor >= 1.0 && self.affinity_factor.is_finite()) {
            return option("affinity_factor", self.affinity_factor.to_string(), "a number of at least 1");
        }
        for (name, value) in [("fall", self.fall), ("rise", self.rise)] {
            if value == 0 {
                return option(name, value.to_string(), "at least 1");
            }
        }
        for (name, value) in [
            ("health_interval", self.health_interval),
            ("health_timeout", self.health_timeout),
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("idle_timeout", self.idle_timeout),
            ("body_timeout", self.body_timeout),
        ] {
            if value.is_zero() {
                return option(name, format!("{value:?}"), "longer than nothing");
            }
        }
        if self.max_body_bytes == 0 || self.max_body_bytes > self.max_buffered_bytes {
            return option("max_body_bytes", self.max_body_bytes.to_string(), "from 1 to max_buffered_bytes");
        }
        if self.max_buffered_bytes > tokio::sync::Semaphore::MAX_PERMITS {
            return option("max_buffered_bytes", self.max_buffered_bytes.to_string(), "less than an eighth of all");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes usual values and says why they are refused.
    fn refused(change: impl Fn(&mut Options)) -> String {
        let mut options = Options::new(vec!["http://a".parse().expect("an address")]);
        options.validate().expect("the usual values are good");
        change(&mut options);
        options.validate().expect_err("refused").to_string()
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert!(refused(|o| o.backends.clear()).contains("at least one backend"));
        assert!(refused(|o| o.backends.push("HTTP://A:80/".parse().expect("an address"))).contains("named twice"));
        assert!(refused(|o| o.affinity_factor = f64::NAN).starts_with("affinity_factor is NaN"));
        assert!(refused(|o| o.affinity_factor = 0.5).starts_with("affinity_factor is 0.5"));
        assert!(refused(|o| o.fall = 0).starts_with("fall is 0"));
        assert!(refused(|o| o.rise = 0).starts_with("rise is 0"));
        assert!(refused(|o| o.health_interval = Duration::ZERO).starts_with("health_interval is 0"));
        assert!(refused(|o| o.max_body_bytes = 0).starts_with("max_body_bytes is 0"));
        assert!(refused(|o| o.max_buffered_bytes = 1).starts_with("max_body_bytes is 33554432"));
        assert!(refused(|o| o.max_buffered_bytes = usize::MAX).starts_with("max_buffered_bytes is"));
    }
}
