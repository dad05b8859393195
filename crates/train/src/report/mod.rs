//! What a run tells its user: `metrics.jsonl`, TensorBoard event files, `report.html`, and progress on the terminal.
//!
//! The training loop knows only [`Observer`]. It tells its observers everything of a step before it saves that step's
//! checkpoint, so that a run resumed from the checkpoint finds the step's records in the log.

pub mod history;
pub mod html;
pub mod log;
pub mod metrics;
pub mod progress;
pub mod series;
pub mod tensorboard;
pub mod units;

use std::io;
use std::path::PathBuf;

use metrics::{Event, Sample, StepMetrics, ValidationMetrics};

/// Something that is told what happens in a run.
pub trait Observer {
    /// An optimiser step is done.
    ///
    /// # Errors
    /// When it cannot be reported.
    fn on_step(&mut self, step: &StepMetrics) -> Result<(), Error>;

    /// The held-out split has been measured.
    ///
    /// # Errors
    /// When it cannot be reported.
    fn on_validation(&mut self, validation: &ValidationMetrics) -> Result<(), Error>;

    /// The model has continued a prompt.
    ///
    /// # Errors
    /// When it cannot be reported.
    fn on_sample(&mut self, sample: &Sample) -> Result<(), Error>;

    /// Something happened that is not a measurement.
    ///
    /// # Errors
    /// When it cannot be reported.
    fn on_event(&mut self, event: &Event) -> Result<(), Error>;

    /// The run ends here, for whatever reason: what is held back for an interval is written now.
    ///
    /// # Errors
    /// When it cannot be reported.
    fn finish(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Several observers as one, told in the order of the list.
///
/// A failing observer does not keep the news from those behind it: all are told, then the first error is returned.
#[derive(Default)]
pub struct Observers(pub Vec<Box<dyn Observer>>);

impl Observers {
    fn tell(&mut self, mut news: impl FnMut(&mut dyn Observer) -> Result<(), Error>) -> Result<(), Error> {
        let mut first = Ok(());
        for observer in &mut self.0 {
            first = first.and(news(observer.as_mut()));
        }
        first
    }
}

impl Observer for Observers {
    fn on_step(&mut self, step: &StepMetrics) -> Result<(), Error> {
        self.tell(|observer| observer.on_step(step))
    }

    fn on_validation(&mut self, validation: &ValidationMetrics) -> Result<(), Error> {
        self.tell(|observer| observer.on_validation(validation))
    }

    fn on_sample(&mut self, sample: &Sample) -> Result<(), Error> {
        self.tell(|observer| observer.on_sample(sample))
    }

    fn on_event(&mut self, event: &Event) -> Result<(), Error> {
        self.tell(|observer| observer.on_event(event))
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.tell(|observer| observer.finish())
    }
}

/// Why something could not be reported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; its message names the operation.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file, or `standard error`.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A new run would write into an older run's log.
    #[error("{} already holds the metrics of a run; resume that run, or choose another directory", path.display())]
    AlreadyThere {
        /// The log.
        path: PathBuf,
    },
    /// A line that no kill can leave: only the last line of a log may be torn.
    #[error("line {line} of {} is not a record of a run; repair or remove that line", path.display())]
    BadRecord {
        /// The log.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(&'static str);

    impl Observer for Failing {
        fn on_step(&mut self, _: &StepMetrics) -> Result<(), Error> {
            Ok(())
        }

        fn on_validation(&mut self, _: &ValidationMetrics) -> Result<(), Error> {
            Ok(())
        }

        fn on_sample(&mut self, _: &Sample) -> Result<(), Error> {
            Ok(())
        }

        fn on_event(&mut self, _: &Event) -> Result<(), Error> {
            Err(Error::AlreadyThere { path: self.0.into() })
        }
    }

    struct Counting(std::rc::Rc<std::cell::Cell<u32>>);

    impl Observer for Counting {
        fn on_step(&mut self, _: &StepMetrics) -> Result<(), Error> {
            Ok(())
        }

        fn on_validation(&mut self, _: &ValidationMetrics) -> Result<(), Error> {
            Ok(())
        }

        fn on_sample(&mut self, _: &Sample) -> Result<(), Error> {
            Ok(())
        }

        fn on_event(&mut self, _: &Event) -> Result<(), Error> {
            self.0.set(self.0.get() + 1);
            Ok(())
        }
    }

    #[test]
    fn every_observer_is_told_and_the_first_error_is_returned() {
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut observers = Observers(vec![
            Box::new(Failing("first")),
            Box::new(Counting(count.clone())),
            Box::new(Failing("second")),
            Box::new(Counting(count.clone())),
        ]);
        let error = observers.on_event(&Event::Interrupted { step: 3 }).unwrap_err();
        assert!(matches!(error, Error::AlreadyThere { path } if path == std::path::Path::new("first")));
        assert_eq!(count.get(), 2);
        observers.finish().unwrap();
    }
}
