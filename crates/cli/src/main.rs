//! The `hadal` program: arguments, exit codes, hints. Results go to stdout, everything else to stderr.

mod args;
mod commands;
mod failure;
mod load;
mod sampling;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

/// A server runs for weeks with many threads, and the C library's allocator keeps in each thread's pool what another thread
/// could use: under mixed load it held 14 % more after half an hour than after a minute.
#[global_allocator]
static ALLOCATOR: tensor::Allocator = tensor::Allocator;

fn main() -> ExitCode {
    let started = Instant::now();
    tensor::give_pages_back_at_once();
    let outcome = commands::run(args::Args::parse(), started);
    match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
