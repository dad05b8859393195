use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use config::counts::Counts;
use config::{ModelConfig, presets};

use super::stored::{self, Stored};
use crate::args::Inspect;
use crate::load;

pub(crate) fn run(args: &Inspect) -> Result<ExitCode> {
    let path = Path::new(&args.model);
    // A name with a separator or an extension is meant as a path, and so is one that exists.
    let is_path = path.exists() || path.components().count() > 1 || path.extension().is_some_and(|e| e == "json");
    let config = if is_path { load::config(path)? } else { presets::preset(&args.model)? };
    let counts = Counts::of(&config, args.seq_len);
    let stored = if is_path && path.is_dir() { stored::table(&config, path)? } else { Vec::new() };
    if args.json {
        let mut report = serde_json::to_value(&counts)?;
        if !stored.is_empty() {
            report["stored"] = serde_json::to_value(&stored)?;
        }
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&config, &counts);
        print_stored(&stored);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(config: &ModelConfig, counts: &Counts) {
    let row = |name: &str, value: String| println!("{name:<38} {value:>28}");
    let number = |n: u64| digits(u128::from(n));
    let p = &counts.parameters;
    println!(
        "{} · {} layers · hidden size {}",
        config.model_type.as_str(),
        config.num_hidden_layers,
        config.hidden_size
    );
    println!("\nParameters");
    row("  main model", number(p.main));
    for (name, n) in [
        ("    embedding", p.parts.embedding),
        ("    attention", p.parts.attention),
        ("    dense FFN", p.parts.dense_ffn),
        ("    routed experts", p.parts.routed_experts),
        ("    shared experts", p.parts.shared_experts),
        ("    routers", p.parts.router),
        ("    norms", p.parts.norms),
        ("    head", p.parts.head),
    ] {
        row(name, number(n));
    }
    row("  MTP layers", number(p.mtp));
    row("  MTP layers with their copies", number(p.mtp_with_copies));
    println!("\nUsed by one token");
    row("  with embedding and head", number(p.active.with_embedding_and_head));
    row("  without the embedding table", number(p.active.without_embedding));
    row("  without both", number(p.active.without_embedding_and_head));
    let f = &counts.flops_per_token;
    println!("\nFLOP per token, causal, sequences of {}", f.seq_len);
    row("  forward", digits(f.forward));
    row("  training", digits(f.training));
    row("  training of the MTP layers", digits(f.training_mtp));
    println!("\nCheckpoint bytes (tensors)");
    let c = &counts.checkpoint;
    for (name, s) in [("  block FP8, as released", &c.fp8), ("  bf16", &c.bf16), ("  f32", &c.f32)] {
        row(name, format!("{} ({})", number(s.bytes), number(s.tensors)));
    }
    println!("\nCache bytes per token");
    row("  latent, bf16", number(counts.kv_cache.bytes_bf16));
    row("  latent, f32", number(counts.kv_cache.bytes_f32));
}

fn print_stored(stored: &[Stored]) {
    if stored.is_empty() {
        return;
    }
    println!("\nStored in the directory{:>18}{:>26}{:>16}", "weights", "bytes", "bits a weight");
    let row = |name: &str, format: &str, [weights, parameters, bytes]: [u64; 3]| {
        let bits = 8.0 * bytes as f64 / parameters as f64;
        println!("  {name:<12}{format:<7}{:>20}{:>26}{bits:>16.3}", digits(weights.into()), digits(bytes.into()));
    };
    for s in stored {
        row(s.part, s.format, [s.weights, s.parameters, s.bytes]);
    }
    let sum = |of: fn(&Stored) -> u64| stored.iter().map(of).sum();
    row("together", "", [sum(|s| s.weights), sum(|s| s.parameters), sum(|s| s.bytes)]);
}

/// `671026419200` as `671,026,419,200`.
fn digits(n: u128) -> String {
    let text = n.to_string();
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i > 0 && (text.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_come_in_threes() {
        assert_eq!(super::digits(671_026_419_200), "671,026,419,200");
        assert_eq!(super::digits(12), "12");
    }
}
