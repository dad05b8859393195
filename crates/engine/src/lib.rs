//! Requests to tokens.
//!
//! [`Engine`] answers many requests at once, step by step; [`Handle`] is one on a thread of its own. [`Sequence`] is a
//! conversation that has the model for itself.
//!
//! Absent on purpose: text, HTTP and anything asynchronous. A request's tokens do not depend on the requests beside it.

mod complete;
mod constraint;
mod disk;
mod draw;
mod engine;
mod error;
mod event;
mod handle;
mod limits;
mod logprobs;
mod prefix;
mod request;
mod sequence;
mod speculation;
mod stats;

pub use complete::{Completion, complete, complete_until};
pub use constraint::{Allowed, Constraint, ConstraintError, Constraints, TokenSet};
pub use disk::{DiskCache, DiskError, DiskOptions, DiskStats};
pub use draw::Drawn;
pub use engine::Engine;
pub use error::{Error, Refused};
pub use event::{End, Event, Sink, Times, Usage};
pub use handle::{Handle, Health};
pub use limits::Limits;
pub use logprobs::Logprobs;
pub use ops::sampling::Params as Sampling;
pub use request::{Finish, MAX_LOGPROBS, Request};
pub use sequence::{Sequence, advance};
pub use speculation::Mtp;
pub use stats::{Stats, balancedness};
