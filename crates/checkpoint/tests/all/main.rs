//! The crate from outside: what it reads, refuses, writes, and leaves behind when it is killed.

mod damage;
mod files;
mod fp8;
mod integers;
mod reading;
mod replacing;
mod streaming;
mod writing;
