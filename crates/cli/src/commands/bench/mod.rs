//! Measuring. Every number of this machine stands beside the limit that the same run measured on the same threads; a
//! server may be anywhere.

mod infer;
mod kernels;
mod machine;
mod memory;
mod report;
mod serve;
mod train;
mod work;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use tensor::Ctx;

use super::Threads;
use crate::args::{Bench, BenchCommand};

/// `started` is when the program began.
pub(crate) fn run(args: &Bench, threads: Threads, started: Instant) -> Result<ExitCode> {
    match &args.what {
        BenchCommand::Machine(args) => machine::run(&Ctx::new(threads.with(0))?, args),
        BenchCommand::Kernels(args) => kernels::run(threads.with(0), args),
        BenchCommand::Infer(args) => infer::run(&Ctx::new(threads.with(0))?, args, started),
        BenchCommand::Train(args) => train::run(args, threads),
        BenchCommand::Serve(args) => serve::run(args),
    }
}
