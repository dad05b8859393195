use std::process::ExitCode;

use anyhow::{Context, Result};
use checkpoint::{Precision, WriteOptions};
use config::{Counts, ModelConfig, presets};
use model::Model;
use serde_json::{Map, Value, json};

use crate::args::{Dtype, Init};
use crate::failure::Usage;

pub(crate) fn run(args: &Init) -> Result<ExitCode> {
    let (name, precision) = match args.dtype {
        Dtype::F32 => ("float32", Precision::F32),
        Dtype::Bf16 => ("bfloat16", Precision::Bf16),
    };
    let mut changes: Map<String, Value> = args.sets.iter().map(|s| change(s)).collect::<Result<_>>()?;
    changes.insert("torch_dtype".into(), json!(name));
    changes.insert("quantization_config".into(), Value::Null);
    let config: ModelConfig = presets::preset(&args.preset)?.with_overrides(&changes)?;
    refuse_too_large(&config)?;

    let std = args.std.unwrap_or_else(|| 0.006 * (7168.0 / config.hidden_size as f64).sqrt());
    let model = Model::random(&config, std, args.seed);
    fs_err::create_dir_all(&args.out)?;
    let options = WriteOptions { precision, ..WriteOptions::default() };
    checkpoint::write_model(&args.out, &model.params.named_tensors(), &options)?;
    config.write(args.out.join("config.json"))?;
    eprintln!("{} parameters, N(0, {std:.4}²), as {name} in {}", model.params.count(), args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// `key=value`, the value JSON if it can be read as such, else text.
fn change(set: &str) -> Result<(String, Value)> {
    let (key, value) = set.split_once('=').ok_or_else(|| Usage(format!("--set takes KEY=VALUE, not {set:?}")))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((key.trim().to_owned(), value))
}

/// Weights are drawn in memory: a model that does not fit is refused before the machine begins to swap.
fn refuse_too_large(config: &ModelConfig) -> Result<()> {
    let parameters = Counts::of(config, 1).parameters;
    let bytes = 4 * (parameters.main + parameters.mtp);
    let Some(free) = available_bytes() else { return Ok(()) };
    if bytes > free {
        let io = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        return Err(io).with_context(|| {
            format!(
                "{} GB of f32 weights do not fit the {} GB of free memory; choose a smaller preset, or fewer layers with \
                 --set num_hidden_layers=N",
                bytes / 1_000_000_000,
                free / 1_000_000_000
            )
        });
    }
    Ok(())
}

/// Free memory as Linux tells it; other systems are not asked.
fn available_bytes() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
