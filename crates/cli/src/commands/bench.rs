use std::process::ExitCode;

use anyhow::Result;
use config::{Counts, Recipe};
use serde_json::json;
use tensor::Ctx;

use super::Threads;
use crate::args::Bench;

pub(crate) fn run(args: &Bench, threads: Threads) -> Result<ExitCode> {
    let mut recipe = Recipe::load(&args.recipe, &args.sets)?;
    recipe.threads = threads.with(recipe.threads);
    let ctx = Ctx::new(recipe.threads)?;
    let tokens_per_s = train::speed::tokens_per_s(&ctx, &recipe)?;
    let flops = Counts::of(&recipe.model_config()?, recipe.data.seq_len as u32).flops_per_token;
    let gflops = tokens_per_s * (flops.training + flops.training_mtp) as f64 / 1e9;
    let peak = train::speed::peak_flops(&ctx) / 1e9;
    if args.json {
        let report = json!({
            "tokens_per_s": tokens_per_s, "gflop_per_s": gflops, "peak_gflop_per_s": peak, "threads": ctx.threads(),
        });
        println!("{report}");
    } else {
        println!("{tokens_per_s:.0} tokens/s on {} threads", ctx.threads());
        println!("{gflops:.0} GFLOP/s, {:.0} % of the {peak:.0} GFLOP/s measured peak", 100.0 * gflops / peak);
    }
    Ok(ExitCode::SUCCESS)
}
