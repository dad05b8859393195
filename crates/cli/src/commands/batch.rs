use std::process::ExitCode;

use anyhow::Result;
use client::batch::{self, Backend, Plan, Progress, Retry};

use super::pretrain::interrupted;
use super::serve::Local;
use super::ticker::Ticker;
use super::{Threads, server};
use crate::args::{Batch, BatchCommand, BatchRun};
use crate::failure::{INTERRUPTED, Usage};

pub(super) fn run(threads: Threads, args: &Batch) -> Result<ExitCode> {
    match &args.what {
        BatchCommand::Run(args) => match (&args.url, &args.model) {
            (Some(url), _) => answer(server::open(url, &args.access)?, args),
            (None, Some(dir)) => answer(Local::start(threads, dir, args)?, args),
            (None, None) => Err(Usage("there is no --url and no --model".into()).into()),
        },
    }
}

/// Works through the file, wherever its requests go.
fn answer(backend: impl Backend, args: &BatchRun) -> Result<ExitCode> {
    let plan = Plan {
        input: args.input.clone(),
        output: args.output.clone(),
        concurrency: args.concurrency,
        retry: Retry { retries: args.retries, ..Retry::default() },
    };
    let stop = interrupted("stopping; what was not answered is asked again by the next run")?;
    let mut ticker = Ticker::stderr();
    let outcome = batch::run(backend, &plan, &stop, &mut |progress| ticker.show(&line(progress)));
    ticker.clear();
    let outcome = outcome?;
    let progress = outcome.progress;
    if progress.was_torn {
        eprintln!("{}: the last line was not written to its end and was taken out", plan.output.display());
    }
    eprintln!("{}", line(&progress));
    if outcome.is_interrupted {
        eprintln!("stopped; go on with the same command");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if progress.all_failed() > 0 {
        eprintln!("{} has {} failures among its lines", plan.output.display(), progress.all_failed());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// How far a run is, for a person.
fn line(progress: &Progress) -> String {
    let counts = [(progress.before, "before"), (progress.all_failed(), "failed"), (progress.retries, "sent again")];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let counts: String = counts.collect();
    format!("{} of {} requests answered{counts}", progress.ended(), progress.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_is_said() {
        let mut progress = Progress { total: 9, before: 2, succeeded: 3, ..Progress::default() };
        assert_eq!(line(&progress), "5 of 9 requests answered, 2 before");
        (progress.failed, progress.failed_before, progress.retries) = (1, 1, 4);
        assert_eq!(line(&progress), "6 of 9 requests answered, 2 before, 2 failed, 4 sent again");
    }
}
