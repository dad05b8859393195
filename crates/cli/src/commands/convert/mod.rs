//! A model directory in another format.

mod encode;
mod plan;
mod spec;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use checkpoint::{Load, Reader, Sink, TensorSpec, WriteOptions, stream_model, write_dir_atomically};
use tensor::{Ctx, TensorSource};

use super::status::Status;
use crate::args::Convert;
use crate::failure::Usage;
use crate::load;
use plan::{Change, Step};
use spec::Spec;

/// What belongs to a model beside config and weights: how text becomes tokens and how answers are drawn.
const FILES: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tiktoken.model",
];

pub(crate) fn run(ctx: &Ctx, args: &Convert) -> Result<ExitCode> {
    let spec = Spec::parse(&args.quant)?;
    refuse_full(&args.out)?;
    let config = load::config(&args.model)?;
    let opening = || format!("opening the weights in {}", args.model.display());
    let reader = Reader::open(&args.model).with_context(opening)?.with_dtype(Load::AsStored);
    let steps = plan::steps(&config, &reader, &spec).with_context(opening)?;
    let converted = plan::config(&config, &spec, &steps)?;
    let twice: Vec<&Step> = steps.iter().filter(|step| step.is_rounded_twice()).collect();
    if let Some(first) = twice.first() {
        eprintln!(
            "warning: {} weights, `{}` among them, are quantised already and are rounded a second time; convert from the \
             unquantised model where you have it",
            twice.len(),
            first.name
        );
    }

    if let Some(parent) = args.out.parent() {
        fs_err::create_dir_all(parent)?;
    }
    write_dir_atomically(&args.out, |dir| -> Result<()> {
        write_weights(ctx, &reader, &steps, dir)?;
        converted.write(dir.join("config.json"))?;
        for file in FILES {
            let path = args.model.join(file);
            if fs_err::exists(&path)? {
                fs_err::copy(path, dir.join(file))?;
            }
        }
        Ok(())
    })
    .with_context(|| format!("writing {}", args.out.display()))?;
    eprintln!("{}: weights {}", args.out.display(), plan::summary(&steps));
    Ok(ExitCode::SUCCESS)
}

fn write_weights(ctx: &Ctx, reader: &Reader, steps: &[Step], dir: &Path) -> Result<()> {
    let units: Vec<Vec<TensorSpec>> = steps.iter().map(|step| step.specs.clone()).collect();
    let total: u64 = steps.iter().map(Step::size_bytes).sum();
    let mut done = 0;
    let mut status = Status::new();
    stream_model(dir, &units, WriteOptions::default().max_shard_bytes, |unit, sink: &mut Sink<'_>| -> Result<()> {
        let step = &steps[unit];
        status.show(|| {
            let percent = 100.0 * done as f64 / total as f64;
            format!("{percent:.0} % of {:.1} GB  {}", total as f64 / 1e9, step.name)
        });
        match step.change {
            Change::Keep => {
                for (i, spec) in step.specs.iter().enumerate() {
                    sink.append(i, reader.raw(&spec.name)?.bytes)?;
                }
            }
            Change::Recode { dims, to, .. } => {
                encode::write(ctx, &step.name, &reader.load(&step.name, &dims)?, dims, to, sink)?;
            }
        }
        done += step.size_bytes();
        Ok(())
    })
}

/// A directory that holds something is not written into, and not replaced.
fn refuse_full(out: &Path) -> Result<()> {
    if !fs_err::exists(out)? {
        return Ok(());
    }
    if let Some(entry) = fs_err::read_dir(out)?.next() {
        let found = entry?.file_name();
        let message = format!("--out {}: it holds {} already; name a new directory", out.display(), found.display());
        return Err(Usage(message).into());
    }
    Ok(())
}
