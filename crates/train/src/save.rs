//! Checkpoints of a run: a Hugging Face model directory, with the state of training under `state/`.
//!
//! ```text
//! config.json  model.safetensors  tokenizer.json  tokenizer_config.json  generation_config.json
//! state/state.json              counters, the data loader's position, the loss guard
//! state/optimizer.safetensors   both moments of every parameter: exp_avg.NAME, exp_avg_sq.NAME
//! state/master.safetensors      the f32 weights, where the model itself is stored in bf16
//! ```

use std::path::Path;

use checkpoint::{NamedValues, Precision, Reader, Values, WriteOptions};
use config::recipe::FloatType;
use data::LoaderState;
use model::{Model, Params};
use ops::adamw::Moments;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tensor::bf16;

use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::optimizer::Optimizer;

/// How far a run is: with weights and moments, all that the next step depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Tokens consumed.
    pub tokens: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// Where the data loader stands.
    pub loader: LoaderState,
    /// The losses that the next ones are judged against.
    pub guard: Guard,
}

/// Writes a checkpoint at `path`, whole or not at all; `tokenizer` is the directory whose files it copies.
///
/// # Errors
/// When a file cannot be written.
pub fn save(
    path: &Path,
    model: &Model,
    optimizer: &Optimizer,
    progress: &Progress,
    dtype: FloatType,
    tokenizer: &Path,
) -> Result<()> {
    checkpoint::write_dir_atomically(path, |dir| {
        write_model_dir(dir, model, dtype, tokenizer)?;
        let state = dir.join("state");
        fs_err::create_dir(&state)?;
        let json = serde_json::to_vec_pretty(progress).expect("counters and names are JSON");
        fs_err::write(state.join("state.json"), json)?;
        checkpoint::write_file(state.join("optimizer.safetensors"), &moments(&model.params, optimizer))?;
        if dtype == FloatType::Bf16 {
            let weights: Vec<NamedValues<'_>> = model
                .params
                .named_tensors()
                .into_iter()
                .map(|t| NamedValues { name: t.name, dims: t.dims, values: t.data.into() })
                .collect();
            checkpoint::write_file(state.join("master.safetensors"), &weights)?;
        }
        Ok(())
    })
}

/// Writes what transformers reads: config, weights, tokenizer, generation defaults.
///
/// # Errors
/// When a file cannot be written.
pub fn write_model_dir(dir: &Path, model: &Model, dtype: FloatType, tokenizer: &Path) -> Result<()> {
    let (name, precision) = match dtype {
        FloatType::F32 => ("float32", Precision::F32),
        FloatType::Bf16 => ("bfloat16", Precision::Bf16),
    };
    let changes =
        json!({ "torch_dtype": name, "quantization_config": null, "num_nextn_predict_layers": model.mtp_depth() });
    let serde_json::Value::Object(changes) = changes else { unreachable!("written as an object above") };
    let config = model.config.with_overrides(&changes)?;
    config.write(dir.join("config.json"))?;
    let options = WriteOptions { precision, ..WriteOptions::default() };
    checkpoint::write_model(dir, &model.params.named_tensors(), &options)?;
    copy_files(tokenizer, dir)?;
    let generation = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "do_sample": true,
        "temperature": 0.6,
        "top_p": 0.95,
    });
    let generation = serde_json::to_vec_pretty(&generation).expect("numbers are JSON");
    fs_err::write(dir.join("generation_config.json"), generation)?;
    Ok(())
}

/// Reads the checkpoint at `path`, which was made for `config` with moments of type `storage`.
///
/// # Errors
/// When a file is missing or damaged, or does not fit.
pub fn load(path: &Path, config: &config::ModelConfig, storage: FloatType) -> Result<(Model, Optimizer, Progress)> {
    let state = path.join("state");
    let file = state.join("state.json");
    let json = fs_err::read(&file)?;
    let progress: Progress =
        serde_json::from_slice(&json).map_err(|source| Error::StateSyntax { path: file.clone(), source })?;

    let master = state.join("master.safetensors");
    let weights = if fs_err::exists(&master)? { Reader::open_file(master)? } else { Reader::open(path)? };
    let model = Model::load(config, &weights)?;
    if model.mtp_depth() != config.num_nextn_predict_layers {
        return Err(Error::State {
            path: path.into(),
            what: "the number of MTP layers".into(),
            found: model.mtp_depth().to_string(),
            expected: config.num_nextn_predict_layers.to_string(),
        });
    }
    let reader = Reader::open_file(state.join("optimizer.safetensors"))?;
    let mut optimizer = Optimizer::new(&model.params, storage);
    optimizer.steps = progress.step;
    for (param, moments) in model.params.all.iter().zip(&mut optimizer.moments) {
        let Some(moments) = moments else { continue };
        let mut start = 0;
        for part in &param.parts {
            let range = start..start + part.dims.iter().product::<usize>();
            start = range.end;
            let (m_name, v_name) = (format!("exp_avg.{}", part.name), format!("exp_avg_sq.{}", part.name));
            match moments {
                Moments::F32 { m, v } => {
                    m[range.clone()].copy_from_slice(&reader.values::<f32>(&m_name, &part.dims)?);
                    v[range].copy_from_slice(&reader.values::<f32>(&v_name, &part.dims)?);
                }
                Moments::Bf16 { m, v } => {
                    m[range.clone()].copy_from_slice(&reader.values::<bf16>(&m_name, &part.dims)?);
                    v[range].copy_from_slice(&reader.values::<bf16>(&v_name, &part.dims)?);
                }
            }
        }
    }
    Ok((model, optimizer, progress))
}

/// Both moments of every parameter, under the names of its checkpoint tensors.
fn moments<'a>(params: &'a Params, optimizer: &'a Optimizer) -> Vec<NamedValues<'a>> {
    let mut out = Vec::new();
    for (param, moments) in params.all.iter().zip(&optimizer.moments) {
        let Some(moments) = moments else { continue };
        let mut start = 0;
        for part in &param.parts {
            let range = start..start + part.dims.iter().product::<usize>();
            start = range.end;
            let [m, v] = match moments {
                Moments::F32 { m, v } => [Values::F32(&m[range.clone()]), Values::F32(&v[range])],
                Moments::Bf16 { m, v } => [Values::Bf16(&m[range.clone()]), Values::Bf16(&v[range])],
            };
            for (prefix, values) in [("exp_avg", m), ("exp_avg_sq", v)] {
                out.push(NamedValues { name: format!("{prefix}.{}", part.name), dims: part.dims.clone(), values });
            }
        }
    }
    out
}

/// Copies the plain files of one directory into another.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let mut entries = fs_err::read_dir(from)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_file() {
            fs_err::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
