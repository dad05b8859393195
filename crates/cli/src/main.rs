//! The `hadal` program: arguments, exit codes, hints. Results go to stdout, everything else to stderr.

mod args;
mod commands;
mod failure;
mod load;
mod sampling;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

fn main() -> ExitCode {
    let started = Instant::now();
    let outcome = commands::run(args::Args::parse(), started);
    match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
