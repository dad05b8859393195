//! A file of requests, worked through: OpenAI's batch files, one request a line, one line of the answer for each.
//!
//! A run may end at any moment, by Ctrl-C or by force, and begins again where it was: answers are appended line by line, and
//! what has an answer is not asked again. Where the requests go is a [`Backend`].

mod backend;
mod input;
mod line;
mod output;
mod retry;
mod run;

pub use backend::Backend;
pub use retry::Retry;
pub use run::{Outcome, Plan, Progress, run};
