//! Requests to tokens: sequences with their caches, prefilled alone and decoded together.
//!
//! Absent on purpose: text, HTTP and anything asynchronous. A request's tokens do not depend on the requests beside it.

mod complete;
mod error;
mod sequence;

pub use complete::{Completion, complete, complete_until};
pub use error::Error;
pub use ops::sampling::Params as Sampling;
pub use sequence::{Finish, Request, Sequence, advance};
