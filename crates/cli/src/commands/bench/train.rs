use std::process::ExitCode;

use anyhow::Result;
use config::{Counts, Recipe};
use ops::Precision;
use serde_json::json;
use tensor::Ctx;

use super::super::Threads;
use super::memory::Resident;
use super::report::{self, GIGA};
use crate::args::BenchTrain;

pub(super) fn run(args: &BenchTrain, threads: Threads) -> Result<ExitCode> {
    let mut recipe = Recipe::load(&args.recipe, &args.sets)?;
    recipe.threads = threads.with(recipe.threads);
    let ctx = Ctx::new(recipe.threads)?;
    let precision = train::step::precision(&recipe);
    let speed = train::speed::measure(&ctx, &recipe)?;
    // Before the limits are measured, which takes memory of its own.
    let memory = Resident::now();
    let limits = ops::machine::quick(&ctx);

    let flops = Counts::of(&recipe.model_config()?, recipe.data.seq_len as u32).flops_per_token;
    let tokens_per_s = speed.tokens_per_s();
    let rate = tokens_per_s.median() * (flops.training + flops.training_mtp) as f64;
    let limit = limits.flops(precision);
    let precision = match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    if args.json {
        let report = json!({
            "threads": ctx.threads(),
            "level": report::level(ctx.isa.level()),
            "precision": precision,
            "tokens_per_step": speed.tokens,
            "step_s": report::spread(&speed.seconds, 1.0),
            "tokens_per_s": report::spread(&tokens_per_s, 1.0),
            "gflop_per_s": rate / GIGA,
            "share_of_flops": rate / limit,
            "memory": memory.map(Resident::json),
            "limits": report::rates(&limits),
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}, {}, {precision}", report::threads(ctx.threads()), report::level(ctx.isa.level()));
    println!(
        "{} tokens/s, {} s a step of {} tokens",
        report::text(&tokens_per_s, 1.0),
        report::text(&speed.seconds, 1.0),
        speed.tokens
    );
    let share = report::percent(rate / limit);
    println!("{:.0} GFLOP/s, {share} of the {:.0} GFLOP/s measured for {precision}", rate / GIGA, limit / GIGA);
    if let Some(memory) = memory {
        println!("memory: {}", memory.text());
    }
    Ok(ExitCode::SUCCESS)
}
