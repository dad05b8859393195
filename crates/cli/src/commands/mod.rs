//! One file per command.

mod bench;
mod chat;
mod generate;
mod init;
mod inspect;
mod logits;
mod pretrain;
mod quickstart;

use std::process::ExitCode;

use anyhow::Result;
use tensor::Ctx;

use crate::args::{Args, Command};

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let threads = threads(args.threads)?;
    match args.command {
        Command::Quickstart(args) => quickstart::run(&args, threads),
        Command::Init(args) => init::run(&args),
        Command::Pretrain(args) => pretrain::start(&args, threads),
        Command::Resume(args) => pretrain::resume(&args, threads),
        Command::Generate(args) => generate::run(&Ctx::new(threads)?, &args),
        Command::Chat(args) => chat::run(&Ctx::new(threads)?, &args),
        Command::Logits(args) => logits::run(&Ctx::new(threads)?, &args),
        Command::Bench(args) => bench::run(&args, threads),
        Command::Inspect(args) => inspect::run(&args),
    }
}

/// The command line, then the environment, then 0 for all cores.
fn threads(argument: usize) -> Result<usize> {
    Ok(match argument {
        0 => config::env::threads()?.map_or(0, std::num::NonZero::get),
        n => n,
    })
}
