//! What a run, or answering, needs before it starts.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use checkpoint::{Format, Reader};
use config::counts::PartBytes;
use config::{Dtype, ModelConfig, Recipe, presets};
use model::CacheKind;
use ops::Precision;
use serde_json::json;
use tensor::Ctx;
use train::plan::inference::{Inference, Question};
use train::plan::{self, Available, Plan};
use train::report::units::{count, scaled};

use super::Threads;
use crate::args::{self, CacheType};
use crate::failure::{NO_ROOM, Usage};
use crate::load;

pub(crate) fn run(args: &args::Plan, threads: Threads) -> Result<ExitCode> {
    match (&args.recipe, &args.model) {
        (_, Some(model)) => answering(args, model, threads),
        (Some(recipe), None) => training(args, recipe, threads),
        (None, None) => unreachable!("one of the two is required"),
    }
}

fn training(args: &args::Plan, recipe: &Path, threads: Threads) -> Result<ExitCode> {
    if recipe.is_dir() {
        let path = recipe.display();
        return Err(
            Usage(format!("{path} is a directory, not a recipe; a model is planned with --model {path}")).into()
        );
    }
    let mut recipe = Recipe::load(recipe, &args.sets)?;
    recipe.threads = threads.with(recipe.threads);
    let threads = or_all_cores(recipe.threads);
    let plan = Plan::of(&recipe, threads)?;
    let remedies = plan::remedies(&recipe, threads)?;
    let available = plan::available();
    if args.json {
        let mut report = serde_json::to_value(&plan)?;
        report["remedies"] = serde_json::to_value(&remedies)?;
        report["available"] = available.as_ref().map(|a| json!({ "bytes": a.bytes, "limit": a.limit })).into();
        report["fits"] = fits(plan.memory.total, available.as_ref()).into();
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(code(plan.memory.total, available.as_ref()));
    }
    print_training(&plan, threads);
    if !remedies.is_empty() {
        println!();
        head("What would need less memory, each change alone");
        for remedy in &remedies {
            row(1, &format!("--set {}", remedy.set), "", remedy.saves);
        }
    }
    if let Some(Available { bytes, limit }) = &available {
        let answer = if *bytes < plan.memory.total { "that is not enough" } else { "that is enough" };
        println!("\n{}B needed, {}B {limit}: {answer}", scaled(plan.memory.total as f64), scaled(*bytes as f64));
    }
    Ok(code(plan.memory.total, available.as_ref()))
}

fn print_training(plan: &Plan, threads: usize) {
    let (m, a) = (&plan.memory, &plan.memory.activations);
    let trained = m.gradients / 4;
    head(&format!("Memory, while {} tokens are in a micro-batch", count(a.tokens)));
    row(1, "weights", &format!("{} × 4", count(m.parameters)), m.weights);
    row(1, "gradients", &format!("{} × 4", count(trained)), m.gradients);
    row(1, "moments", &format!("{} × 2 × {}", count(trained), m.moments / (2 * trained.max(1))), m.moments);
    row(1, "activations", "", a.total);
    row(2, "kept for backward, at the largest moment", "", a.kept);
    for layer in &a.layers {
        row(3, &format!("each {} layer", layer.kind), &format!("{} of them", layer.layers), layer.kept);
    }
    row(2, "logits and hidden states of a loss", "", a.logits);
    row(2, "operands packed for products", "", a.packed);
    row(2, "on their way between operations", "", a.passing);
    row(2, "where rows went", "", a.routing);
    row(2, "holes between buffers", "", a.holes);
    row(1, "packing of the threads", &format!("{threads} × {}", count(m.threads / threads.max(1) as u64)), m.threads);
    row(1, "tokens and loader", "", m.data);
    row(1, "names of tensors while saving", "", m.saving);
    row(1, "program and tokenizer", "", m.program);
    row(1, "together", "", m.total);

    let d = &plan.disk;
    println!();
    head(&format!("Disk, after {} steps", count(plan.steps)));
    match (d.shards, d.shards_exist) {
        (Some(bytes), true) => row(1, "token shards", "as they are", bytes),
        (Some(bytes), false) => row(1, "token shards", "guessed from the sources", bytes),
        (None, _) => println!("  token shards: unknown, because the sources cannot be listed"),
    }
    row(
        1,
        "checkpoints",
        &format!("({} + 1) × {}", d.checkpoints, count(d.checkpoint)),
        (d.checkpoints + 1) * d.checkpoint,
    );
    row(1, "metrics and report", "about", d.logs);
    row(1, "together", "", d.total);
}

fn answering(args: &args::Plan, name: &str, threads: Threads) -> Result<ExitCode> {
    let (config, weights, is_narrow) = model(name)?;
    let threads = or_all_cores(threads.with(0));
    let precision = if is_narrow { Precision::Bf16 } else { Precision::F32 };
    let cache = match args.cache {
        Some(CacheType::Fp8) => CacheKind::Fp8,
        Some(CacheType::Bf16) => CacheKind::Bf16,
        None if is_narrow => CacheKind::Bf16,
        Some(CacheType::F32) | None => CacheKind::F32,
    };
    let longest = config.max_position_embeddings as u64;
    if args.context > longest {
        return Err(Usage(format!("--context {}: the model's positions end at {longest}", args.context)).into());
    }
    let bytes_per_s = match args.gbs {
        Some(gbs) if gbs > 0.0 && gbs.is_finite() => gbs * 1e9,
        Some(gbs) => return Err(Usage(format!("--gbs {gbs}: a bandwidth is above 0")).into()),
        None => ops::machine::quick(&Ctx::new(threads)?).bytes(),
    };
    let question = Question { context: args.context, batch: args.batch, cache, precision, threads };
    let plan = Inference::of(&config, weights, question);
    let available = plan::available();
    if args.json {
        let mut report = serde_json::to_value(&plan)?;
        report["bytes_per_s"] = bytes_per_s.into();
        report["tokens_per_s"] = plan.tokens_per_s(bytes_per_s).into();
        report["available"] = available.as_ref().map(|a| json!({ "bytes": a.bytes, "limit": a.limit })).into();
        report["fits"] = fits(plan.memory, available.as_ref()).into();
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(code(plan.memory, available.as_ref()));
    }
    print_answering(&plan, &config, threads);
    let from = if args.gbs.is_some() { "given" } else { "measured" };
    println!(
        "\nAt {:.1} GB/s, as {from}, decoding is at most {:.2} tokens/s",
        bytes_per_s / 1e9,
        plan.tokens_per_s(bytes_per_s)
    );
    if let Some(Available { bytes, limit }) = &available {
        let all = plan.memory + plan.weights_total;
        let answer = if *bytes < plan.memory {
            "not enough for what is no weight"
        } else if *bytes < all {
            "weights will be read from disk again and again; --expert-memory gives experts a fixed room"
        } else {
            "enough to keep all weights in memory"
        };
        println!("\n{}B, {}B {limit}: {answer}", scaled(all as f64), scaled(*bytes as f64));
    }
    Ok(code(plan.memory, available.as_ref()))
}

/// Whether `needed` bytes of memory are available; `None` where nobody knows. Mapped weights are not among them: what does
/// not fit is read again.
fn fits(needed: u64, available: Option<&Available>) -> Option<bool> {
    available.map(|available| needed <= available.bytes)
}

/// How the program ends after a plan: the one that cannot fit is a failure, for scripts.
fn code(needed: u64, available: Option<&Available>) -> ExitCode {
    if fits(needed, available) == Some(false) { ExitCode::from(NO_ROOM) } else { ExitCode::SUCCESS }
}

/// The config, the bytes of its weights by part, and whether nearly all are stored in 16 bits or fewer.
fn model(name: &str) -> Result<(ModelConfig, PartBytes, bool)> {
    let path = Path::new(name);
    let is_path = path.exists() || path.components().count() > 1 || path.extension().is_some_and(|e| e == "json");
    if !is_path || !path.is_dir() {
        let config = if is_path { load::config(path)? } else { presets::preset(name)? };
        let weights = PartBytes::of(&config);
        let is_narrow = config.dtype != Some(Dtype::Float32);
        return Ok((config, weights, is_narrow));
    }
    let config = load::config(path)?;
    let context = || format!("reading the weights in {}", path.display());
    let reader = Reader::open(path).with_context(context)?;
    let (mut weights, mut wide) = (PartBytes::default(), 0);
    for info in reader.weights() {
        let info = info.with_context(context)?;
        weights.add(&config, info.name, info.bytes);
        wide += if info.format == Format::F32 { info.bytes } else { 0 };
    }
    let is_narrow = 2 * wide < weights.total();
    Ok((config, weights, is_narrow))
}

fn print_answering(plan: &Inference, config: &ModelConfig, threads: usize) {
    let w = &plan.weights;
    head("Weights, in mapped files");
    for (name, bytes) in [
        ("embedding", w.embedding),
        ("attention", w.attention),
        ("dense FFN", w.dense_ffn),
        ("routed experts", w.routed_experts),
        ("shared experts", w.shared_experts),
        ("routers", w.router),
        ("norms and biases", w.norms),
        ("head", w.head),
        ("MTP layers", w.mtp),
    ] {
        row(1, name, "", bytes);
    }
    row(1, "together", "", plan.weights_total);

    println!();
    head(&format!("Memory besides, at {} sequences of {} tokens", count(plan.batch), count(plan.context)));
    let of_token = format!("{} layers × {}", config.num_hidden_layers, count(plan.cache_per_token_layer));
    row(1, "latents of a token", &of_token, plan.cache_per_token);
    row(1, "latents of all", &format!("{} × blocks of 64", count(plan.batch)), plan.cache);
    row(1, "workspace of prefill", "", plan.workspace);
    row(
        1,
        "packing of the threads",
        &format!("{threads} × {}", count(plan.threads / threads.max(1) as u64)),
        plan.threads,
    );
    row(1, "program and tokenizer", "", plan.program);
    row(1, "together", "", plan.memory);

    let d = &plan.decode;
    println!();
    head("Read to decode a token of each sequence");
    row(1, "attention, dense and shared FFNs, routers, head", "", d.always);
    row(1, "rows of the embedding", "", d.embedding);
    let experts = format!("{:.1} of {} in a layer", d.distinct_experts, config.n_routed_experts);
    row(1, "different experts, as is to be expected", &experts, d.experts);
    let latents = format!("{} × {} × {}", count(plan.batch), count(plan.context), count(plan.cache_per_token));
    row(1, "latents", &latents, plan.decode_cache);
    row(1, "together", "", plan.decode_total);
}

/// `  name        how it is made up      1,234`.
fn row(depth: usize, name: &str, how: &str, bytes: u64) {
    let name = format!("{:indent$}{name}", "", indent = 2 * depth);
    println!("{name:<52}{how:>14} {:>18}", count(bytes));
}

/// The line above rows.
fn head(title: &str) {
    println!("{title:<52}{:>14} {:>18}", "", "bytes");
}

/// The number of compute threads that 0 stands for.
fn or_all_cores(threads: usize) -> usize {
    if threads > 0 { threads } else { std::thread::available_parallelism().map_or(1, std::num::NonZero::get) }
}
