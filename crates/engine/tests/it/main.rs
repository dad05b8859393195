//! Answers from outside: what they must not depend on, what outlives the program, what leaves nothing behind, and what
//! is told about them.

mod disconnect;
mod disk;
mod distribution;
mod equality;
mod faults;
mod stats;
mod support;
