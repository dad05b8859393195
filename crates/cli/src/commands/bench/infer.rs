use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Error, Result};
use model::{Cache, CacheKind, Model, Precision};
use ops::bench::Spread;
use ops::machine::{Rates, Reading};
use serde_json::{Value, json};
use tensor::{Ctx, Rng};
use tokenizer::Tokenizer;

use super::memory::Resident;
use super::report::{self, GIGA};
use super::work;
use crate::args::BenchInfer;
use crate::failure::Usage;
use crate::load;

/// Tokens of the prompt whose first answer ends the start.
const START: usize = 16;
/// Steps of decoding before those that are timed.
const WARM_UP: usize = 2;
/// Weights that are read between steps to see how fast that goes, at most.
const READ_BYTES: usize = 512 << 20;
/// Steps from one reading to the next.
const STEPS_A_ROUND: usize = 4;
/// Tokens of the text that shows how many experts a batch chooses.
const TRACED: usize = 256;

/// Times of one length of prompt.
struct Prefill {
    tokens: usize,
    seconds: Spread,
}

/// Times of one batch at one context.
struct Decode {
    batch: usize,
    context: usize,
    /// Of a step.
    seconds: Spread,
    /// Bytes a second of the model's weights that this machine reads between the steps, if they are more than its caches
    /// hold.
    read: Option<Spread>,
}

/// Everything that is measured before the limits of arithmetic are.
struct Measured {
    /// From the start of the program to the first token after a prompt of [`START`].
    start_s: f64,
    memory_at_start: Option<Resident>,
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    memory: Option<Resident>,
}

/// Prompts and tokens are random: what a model says does not change what it costs, apart from the experts it chooses.
/// Drawing tokens from logits is not part of a step.
pub(super) fn run(ctx: &Ctx, args: &BenchInfer, started: Instant) -> Result<ExitCode> {
    let model = load::weights(&args.model, args.compute)?;
    check(args, &model)?;
    // A model that answers has one, and reads it.
    if args.model.join("tokenizer.json").exists() {
        black_box(Tokenizer::read(&args.model)?);
    }
    model.prefill(ctx, &ids(&model, args, "start", 0, START), &mut model.new_cache())?;
    let start_s = started.elapsed().as_secs_f64();
    let memory_at_start = Resident::now();
    let prefill = args.prompt.iter().map(|&tokens| prefill(ctx, args, &model, tokens)).collect::<Result<_>>()?;
    let mut decoded = Vec::new();
    for &context in &args.context {
        decoded.extend(decode(ctx, args, &model, context)?);
    }
    let measured = Measured { start_s, memory_at_start, prefill, decode: decoded, memory: Resident::now() };
    // What follows takes memory of its own.
    let choices = choices(ctx, args, &model);
    let limits = ops::machine::quick(ctx);
    let report = json(ctx, args, &model, &measured, &choices, &limits);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, &measured);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &BenchInfer, model: &Model) -> Result<()> {
    for (name, values) in [("--prompt", &args.prompt), ("--batch", &args.batch), ("--context", &args.context)] {
        if values.contains(&0) {
            return Err(Usage(format!("{name} holds 0; its numbers begin at 1")).into());
        }
    }
    for (name, value) in [("--tokens", args.tokens), ("--repeat", args.repeat)] {
        if value == 0 {
            return Err(Usage(format!("{name} is 0; it begins at 1")).into());
        }
    }
    let decoded = args.context.iter().map(|context| context + WARM_UP + args.tokens);
    let longest = args.prompt.iter().copied().chain(decoded).chain([START]).max().unwrap_or(0);
    let limit = model.config.max_position_embeddings;
    if longest > limit {
        let hint = "choose a smaller --prompt, --context or --tokens";
        return Err(
            Usage(format!("a sequence would have {longest} tokens, but the model takes {limit}; {hint}")).into()
        );
    }
    Ok(())
}

fn prefill(ctx: &Ctx, args: &BenchInfer, model: &Model, tokens: usize) -> Result<Prefill> {
    let ids = ids(model, args, "prompt", tokens, tokens);
    let mut failed = None;
    let mut run = || {
        failed = black_box(model.prefill(ctx, &ids, &mut model.new_cache())).err().or(failed.take());
    };
    run();
    let seconds = Spread::of_seconds(args.repeat, 0.0, run);
    failed.map_or(Ok(Prefill { tokens, seconds }), |error| Err(error.into()))
}

/// All batches at one context. Sequences have different texts, so they share nothing; each is prefilled once.
fn decode(ctx: &Ctx, args: &BenchInfer, model: &Model, context: usize) -> Result<Vec<Decode>> {
    let weights = work::some_weights(model, READ_BYTES);
    let sequences = args.batch.iter().max().copied().unwrap_or(0);
    let filled = (0..sequences)
        .map(|i| {
            let mut cache = model.new_cache();
            model.prefill(ctx, &ids(model, args, "context", i, context), &mut cache)?;
            Ok(cache)
        })
        .collect::<Result<Vec<Cache>>>()?;
    let times = args.batch.iter().map(|&batch| {
        let mut caches = filled[..batch].to_vec();
        let mut steps = 0;
        let mut step = || {
            let new = ids(model, args, "decode", steps, batch);
            let new: Vec<&[u32]> = new.chunks(1).collect();
            let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
            let start = Instant::now();
            black_box(model.decode(ctx, &new, &mut caches))?;
            steps += 1;
            Ok::<f64, Error>(start.elapsed().as_secs_f64())
        };
        (0..WARM_UP).try_for_each(|_| step().map(drop))?;
        let mut seconds = Vec::with_capacity(args.tokens);
        let mut reading = Reading::of(ctx, &weights);
        for i in 0..args.tokens {
            seconds.push(step()?);
            if let Some(reading) = reading.as_mut().filter(|_| i % STEPS_A_ROUND == 0) {
                reading.round(ctx);
            }
        }
        Ok(Decode { batch, context, seconds: Spread::of(seconds), read: reading.map(Reading::rate) })
    });
    times.collect()
}

fn ids(model: &Model, args: &BenchInfer, purpose: &'static str, index: usize, n: usize) -> Vec<u32> {
    let mut rng = Rng::new(args.seed, purpose, index as u64);
    (0..n).map(|_| rng.below(model.config.vocab_size as u64) as u32).collect()
}

/// The experts that each mixture layer chooses for the tokens of a random text.
fn choices(ctx: &Ctx, args: &BenchInfer, model: &Model) -> Vec<Vec<u32>> {
    let longest = args.batch.iter().max().copied().unwrap_or(0).max(TRACED).min(model.config.max_position_embeddings);
    let trace = model.trace(ctx, &ids(model, args, "experts", 0, longest), false);
    trace.routing.into_iter().map(|(_, experts, _)| experts).collect()
}

fn json(
    ctx: &Ctx,
    args: &BenchInfer,
    model: &Model,
    measured: &Measured,
    choices: &[Vec<u32>],
    limits: &Rates,
) -> Value {
    let c = &model.config;
    let (weights, peak) = (work::weights(model), limits.flops(model.params.precision));
    let prefill = measured.prefill.iter().map(|Prefill { tokens, seconds }| {
        let flops = work::prefill_flops(c, *tokens) / seconds.median();
        json!({
            "tokens": tokens,
            "seconds": report::spread(seconds, 1.0),
            "tokens_per_s": report::spread(&seconds.rate_of(*tokens as f64), 1.0),
            "gflop_per_s": flops / GIGA,
            "share_of_flops": flops / peak,
        })
    });
    let decode = measured.decode.iter().map(|Decode { batch, context, seconds, read }| {
        let experts = work::distinct_experts(choices, c.num_experts_per_tok, *batch);
        // The middle of the steps that are timed.
        let context_then = (context + WARM_UP) as f64 + (args.tokens + 1) as f64 / 2.0;
        let least = work::decode(model, &weights, experts, *batch, context_then);
        // Medians of steps beside medians of what was read between them: both have met the same.
        let read = read.as_ref().unwrap_or(&limits.read);
        let (least_s, least) = (least.least_s(read.median(), peak), least.sum());
        let [bytes, flops] = [least.bytes, least.flops].map(|amount| amount / seconds.median());
        json!({
            "batch": batch,
            "context": context,
            "step_s": report::spread(seconds, 1.0),
            "tokens_per_s": report::spread(&seconds.rate_of(*batch as f64), 1.0),
            "experts_per_layer": experts,
            "bytes_per_step": least.bytes,
            "gb_per_s": bytes / GIGA,
            "share_of_read": bytes / read.median(),
            "gflop_per_s": flops / GIGA,
            "share_of_flops": flops / peak,
            // Whoever did as well as both limits allow would take this: for weights the one, for latents the other.
            "least_step_s": least_s,
            "share_of_limit": least_s / seconds.median(),
            "read_gb_per_s": report::spread(read, GIGA),
        })
    });
    json!({
        "model": args.model.display().to_string(),
        "threads": ctx.threads(),
        "level": report::level(ctx.isa.level()),
        "precision": match model.params.precision { Precision::F32 => "f32", Precision::Bf16 => "bf16" },
        "cache": match model.cache_kind { CacheKind::F32 => "f32", CacheKind::Bf16 => "bf16", CacheKind::Fp8 => "fp8" },
        "seed": args.seed,
        "start_s": measured.start_s,
        "memory_at_start": measured.memory_at_start.map(Resident::json),
        "prefill": prefill.collect::<Vec<_>>(),
        "decode": decode.collect::<Vec<_>>(),
        "memory": measured.memory.map(Resident::json),
        "limits": report::rates(limits),
    })
}

/// The report for a person; `report` has what was derived.
fn print(report: &Value, measured: &Measured) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |row: &Value, key: &str| row[key].as_f64().unwrap_or_default();
    let threads = report::threads(report["threads"].as_u64().unwrap_or_default() as usize);
    let [level, precision, cache] = ["level", "precision", "cache"].map(|key| text(&report[key]));
    println!("{threads}, {level}; products in {precision}, cache in {cache}");
    println!("first token of a prompt of {START}: {} s after the start", report::number(measured.start_s));
    for (Prefill { tokens, seconds }, row) in
        measured.prefill.iter().zip(report["prefill"].as_array().into_iter().flatten())
    {
        println!(
            "prefill of {tokens}: {} tokens/s, {:.0} GFLOP/s ({} of the limit)",
            report::text(&seconds.rate_of(*tokens as f64), 1.0),
            of(row, "gflop_per_s"),
            report::percent(of(row, "share_of_flops")),
        );
    }
    for (Decode { batch, context, seconds, .. }, row) in
        measured.decode.iter().zip(report["decode"].as_array().into_iter().flatten())
    {
        println!(
            "decode of {batch} at {context}: {} tokens/s, {} of the limit; {:.1} GB/s ({}), {:.0} GFLOP/s ({})",
            report::text(&seconds.rate_of(*batch as f64), 1.0),
            report::percent(of(row, "share_of_limit")),
            of(row, "gb_per_s"),
            report::percent(of(row, "share_of_read")),
            of(row, "gflop_per_s"),
            report::percent(of(row, "share_of_flops")),
        );
    }
    if let Some(memory) = measured.memory {
        println!("memory: {}", memory.text());
    }
}
