//! What an answer must look like, as sets of tokens that may come next.
//!
//! [`Grammars`] belongs to one vocabulary and compiles a [`Grammar`]; what comes out, [`Compiled`], makes the
//! [`Constraints`](engine::Constraints) of requests. The parsing is `llguidance`'s: an Earley parser over a lexer of
//! derivatives, which walks the tree of all tokens once for each draw.
//!
//! Grammars come from outside, so everything here has a ceiling ([`limits`]): what is handed to the compiler, what it may
//! build, and what a single draw may cost. A grammar above one is refused; an answer that runs into one ends with an
//! error, and no other answer notices. Nothing is ever fetched.
//!
//! Control tokens are no text: no grammar of text can produce one, and only tool calls have those of their format. Ids
//! without a token are never allowed.

mod answer;
mod check;
mod compile;
mod error;
mod grammar;
pub mod limits;
mod source;
mod vocabulary;

pub use compile::{Compiled, Grammars};
pub use error::Error;
pub use grammar::{Function, Grammar};
