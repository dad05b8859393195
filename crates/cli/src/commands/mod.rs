//! One file per command.

mod batch;
mod bench;
mod chat;
mod convert;
mod eval;
mod generate;
mod init;
mod inspect;
mod logits;
mod plan;
mod pretrain;
mod quickstart;
mod serve;
mod server;
mod status;
mod stored;
mod ticker;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use tensor::Ctx;

use crate::args::{Args, Command};

/// `started` is when the program began.
pub(crate) fn run(args: Args, started: Instant) -> Result<ExitCode> {
    let threads = Threads::new(args.threads)?;
    match args.command {
        Command::Quickstart(args) => quickstart::run(&args, threads.with(0)),
        Command::Init(args) => init::run(&args),
        Command::Pretrain(args) => pretrain::start(&args, threads),
        Command::Resume(args) => pretrain::resume(&args, threads),
        Command::Generate(args) => generate::run(&Ctx::new(threads.with(0))?, &args),
        Command::Chat(args) => chat::run(threads, &args),
        Command::Serve(args) => serve::run(threads, &args),
        Command::Logits(args) => logits::run(&Ctx::new(threads.with(0))?, &args),
        Command::Bench(args) => bench::run(&args, threads, started),
        Command::Batch(args) => batch::run(threads, &args),
        Command::Convert(args) => convert::run(&Ctx::new(threads.with(0))?, &args),
        Command::Eval(args) => eval::run(&Ctx::new(threads.with(0))?, &args),
        Command::Plan(args) => plan::run(&args, threads),
        Command::Inspect(args) => inspect::run(&args),
    }
}

/// How many compute threads to use: the command line's word, then the recipe's, then the environment's; 0 is all cores.
#[derive(Clone, Copy)]
pub(crate) struct Threads {
    argument: usize,
    environment: usize,
}

impl Threads {
    fn new(argument: usize) -> Result<Self> {
        let environment = config::env::threads()?.map_or(0, std::num::NonZero::get);
        Ok(Self { argument, environment })
    }

    /// The number beside a recipe that says `recipe`.
    pub(crate) fn with(self, recipe: usize) -> usize {
        [self.argument, recipe, self.environment].into_iter().find(|&n| n > 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Threads;

    #[test]
    fn the_command_line_comes_first() {
        let threads = |argument, recipe, environment| Threads { argument, environment }.with(recipe);
        assert_eq!(threads(3, 2, 1), 3);
        assert_eq!(threads(0, 2, 1), 2);
        assert_eq!(threads(0, 0, 1), 1);
        assert_eq!(threads(0, 0, 0), 0);
    }
}
