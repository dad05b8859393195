//! Answers from outside: what they must not depend on, what outlives the program, and what leaves nothing behind.

mod disconnect;
mod disk;
mod distribution;
mod equality;
mod support;
