//! Tasks and the harness: what share of its questions a model answers exactly, with what certainty, and how often
//! one would be right without having learnt the task.
//!
//! Absent on purpose: models and tokenizers. Whatever completes a prompt is a [`Completer`].

mod completer;
mod error;
mod interval;
mod report;
mod run;
mod task;

pub use completer::Completer;
pub use error::EvalError;
pub use interval::Interval;
pub use report::{Failure, Report, TaskResult};
pub use run::{Options, evaluate};
pub use task::{Item, Task};
