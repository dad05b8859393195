//! `hadal quickstart`: from nothing to a trained model that answers.

mod corpus;
mod evaluation;
mod recipe;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use tensor::Ctx;
use train::report::history::History;
use train::report::html;
use train::{End, Run};

use super::chat;
use super::pretrain::{interrupted, observers, say, summary};
use crate::args::{Compute, Quickstart, SamplingArgs};
use crate::failure::{INTERRUPTED, Usage};
use crate::load;

pub(crate) fn run(args: &Quickstart, threads: usize) -> Result<ExitCode> {
    if !(args.minutes > 0.0 && args.minutes.is_finite()) {
        return Err(Usage(format!("--minutes is {}, but must be above 0", args.minutes)).into());
    }
    let out = &args.out;
    let mut run = if out.join("recipe.toml").exists() && !out.join(PREPARING).exists() {
        let run = Run::resume(out, |_| threads, &mut say)?;
        if run.is_finished() {
            eprintln!("{} holds a trained model; remove it, or choose another --out, to train anew", out.display());
        } else {
            eprintln!("continuing the run in {} after step {}", out.display(), run.step);
        }
        run
    } else {
        prepare(args, threads)?
    };

    if !run.is_finished() {
        let summary = summary(&run);
        for (name, value) in &summary.facts {
            eprintln!("{name}: {value}");
        }
        let stop = interrupted("stopping after this step")?;
        let mut observers = observers(&run, summary)?;
        if run.train(&mut observers, &stop)? == End::Interrupted {
            eprintln!("saved; run `hadal quickstart --out {}` again to continue", out.display());
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }

    let report = evaluation::load_or_run(&run, args.seed)?;
    let mut page = summary(&run);
    page.evaluation = evaluation::rows(&report);
    html::write(&run.dir.report(), &page, &History::read(&run.dir.metrics())?)?;
    println!("{report}");
    eprint!("{}", evaluation::failures(&report));
    let checkpoint = run.checkpoint().context("the finished run has a checkpoint")?;
    eprintln!("model   {}", checkpoint.display());
    eprintln!("report  {}", run.dir.report().display());
    if args.no_chat {
        return Ok(ExitCode::SUCCESS);
    }
    drop(run);
    talk(&Ctx::new(threads)?, &checkpoint)
}

/// Makes corpus, tokenizer and recipe, and the run of them.
fn prepare(args: &Quickstart, threads: usize) -> Result<Run> {
    let out = &args.out;
    claim(out)?;
    let begin = Instant::now();
    eprintln!("measuring this machine");
    let tokens = recipe::tokens(args, threads)?;
    eprintln!("making a corpus of about {} tokens", train::report::units::scaled(tokens as f64));
    corpus::make(out, args.seed, tokens)?;
    let recipe = recipe::resolved(args, threads, tokens)?;
    let run = Run::create(recipe, &mut say).context("preparing the quickstart run")?;
    fs_err::remove_file(out.join(PREPARING))?;
    eprintln!("prepared in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(run)
}

/// In a directory that this program is still filling.
const PREPARING: &str = "quickstart.preparing";

/// Makes the directory, empty but for the mark that it is ours. One that an interrupted preparation left is begun anew;
/// one that holds anything else is not touched.
fn claim(out: &Path) -> Result<()> {
    if out.join(PREPARING).exists() {
        fs_err::remove_dir_all(out)?;
    }
    if out.exists()
        && let Some(entry) = fs_err::read_dir(out)?.next()
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let message = format!("{} holds {name}, which no quickstart made; choose another --out", out.display());
        return Err(Usage(message).into());
    }
    fs_err::create_dir_all(out)?;
    fs_err::write(out.join(PREPARING), "")?;
    Ok(())
}

fn talk(ctx: &Ctx, checkpoint: &Path) -> Result<ExitCode> {
    let loaded = load::everything(checkpoint, Compute::default())?;
    eprintln!("\nIt knows seven small tasks. Try:  47+38   copy k d q x   reverse a b c   sort fox ant sun");
    let sampling = SamplingArgs {
        // The tasks have one right answer each.
        temperature: Some(0.0),
        top_k: None,
        top_p: None,
        min_p: None,
        repetition_penalty: None,
        presence_penalty: None,
        frequency_penalty: None,
        seed: 0,
        max_tokens: 64,
        stop: vec!["\n".to_owned()],
    };
    chat::converse(ctx, &loaded, None, &sampling)
}
