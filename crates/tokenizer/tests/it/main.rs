//! The crate's tests through its public interface.

mod chat;
mod common;
mod damaged;
mod encode;
mod parse;
mod parse_random;
mod train;
