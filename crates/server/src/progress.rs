//! How far a version is on its way into service.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a version passes through before it serves. Reading its files cannot be told in bytes: weights are mapped, and the
/// system reads them when they are first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its files are compared with the hashes of its manifest.
    Checking { done: u64, total: u64 },
    /// The loader is at work.
    Reading,
    /// Its engine is being started.
    Starting,
    /// It says its first token, for which most weights are read.
    Warming,
}

/// The stage that a load is in. The thread that loads writes it, everybody else reads it.
pub(crate) struct Progress {
    began: Instant,
    /// And when it began.
    stage: Mutex<(Stage, Instant)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, stage: Mutex::new((Stage::Reading, now)) }
    }

    /// How long the whole load has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes that another stage begins now.
    pub(crate) fn enter(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = (stage, Instant::now());
    }

    /// Notes that so many more bytes are checked.
    pub(crate) fn checked(&self, bytes: u64) {
        if let (Stage::Checking { done, .. }, _) = &mut *self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            *done += bytes;
        }
    }
}

/// For people, and without names of files: it is shown to whoever asks.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stage, since) = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = since.elapsed();
        match stage {
            Stage::Checking { done, total } => {
                let gigabytes = |bytes: u64| bytes as f64 / 1e9;
                write!(f, "checking files, {:.2} of {:.2} GB", gigabytes(done), gigabytes(total))?;
                if done > 0 {
                    let left = spent.as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
                    write!(f, ", about {left:.0} s to go")?;
                }
            }
            Stage::Reading => f.write_str("reading its files")?,
            Stage::Starting => f.write_str("starting its engine")?,
            Stage::Warming => f.write_str("waiting for its first token")?,
        }
        write!(f, " (for {:.0} s, {:.0} s in all)", spent.as_secs_f64(), self.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_says_what_it_is_at_and_how_much_is_left() {
        let progress = Progress::new();
        assert_eq!(progress.to_string(), "reading its files (for 0 s, 0 s in all)");
        progress.checked(5);
        progress.enter(Stage::Checking { done: 0, total: 4_000_000_000 });
        assert_eq!(progress.to_string(), "checking files, 0.00 of 4.00 GB (for 0 s, 0 s in all)");
        progress.checked(1_000_000_000);
        progress.stage.lock().unwrap().1 = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        assert_eq!(progress.to_string(), "checking files, 1.00 of 4.00 GB, about 30 s to go (for 10 s, 0 s in all)");
        progress.enter(Stage::Warming);
        assert!(progress.to_string().starts_with("waiting for its first token (for 0 s"));
    }
}
