use std::process::ExitCode;

use anyhow::{Context, Result};
use checkpoint::{NamedValues, Values};
use tensor::{Ctx, Tensor};

use crate::args::{Compute, Logits};
use crate::failure::Usage;
use crate::load;

/// Writes the tensors of `testdata/golden/README.md` under the names given there.
pub(crate) fn run(ctx: &Ctx, args: &Logits) -> Result<ExitCode> {
    let model = load::weights(&args.model, Compute { dtype: Some(args.dtype), ..Compute::default() })?;
    let (vocab_size, limit) = (model.config.vocab_size, model.config.max_position_embeddings);
    if let Some(id) = args.ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(Usage(format!("--ids holds {id}, but the model's vocab_size is {vocab_size}")).into());
    }
    if args.ids.len() > limit {
        let message = format!("--ids holds {} tokens, but the model has {limit} positions", args.ids.len());
        return Err(Usage(message).into());
    }
    if args.mtp && model.mtp_depth() == 0 {
        let message = format!("--mtp: the checkpoint in {} has no MTP layers", args.model.display());
        return Err(Usage(message).into());
    }
    let trace = model.trace(ctx, &args.ids, args.mtp);

    let ids: Vec<i32> = args.ids.iter().map(|&id| id as i32).collect();
    let k = model.config.num_experts_per_tok;
    let choices: Vec<(usize, Vec<i32>)> =
        trace.routing.iter().map(|(layer, idx, _)| (*layer, idx.iter().map(|&e| e as i32).collect())).collect();
    let floats = |name: String, t: &Tensor| (name, t.shape().as_slice().to_vec(), t.data().to_vec());
    let mut tensors = vec![floats("logits".into(), &trace.logits), floats("final_norm".into(), &trace.final_norm)];
    tensors.extend(trace.hidden.iter().enumerate().map(|(i, t)| floats(format!("hidden.{i}"), t)));
    tensors.extend(trace.routing.iter().map(|(layer, _, w)| floats(format!("topk_w.{layer}"), w)));
    for (depth, (hidden, logits)) in trace.mtp.iter().enumerate() {
        tensors.push(floats(format!("mtp.{depth}.hidden"), hidden));
        tensors.push(floats(format!("mtp.{depth}.logits"), logits));
    }
    let mut arrays: Vec<NamedValues<'_>> = tensors
        .iter()
        .map(|(name, dims, data)| NamedValues { name: name.clone(), dims: dims.clone(), values: Values::F32(data) })
        .collect();
    arrays.push(NamedValues { name: "input_ids".into(), dims: vec![ids.len()], values: Values::I32(&ids) });
    arrays.extend(choices.iter().map(|(layer, idx)| NamedValues {
        name: format!("topk_idx.{layer}"),
        dims: vec![idx.len() / k, k],
        values: Values::I32(idx),
    }));
    checkpoint::write_file(&args.out, &arrays).with_context(|| format!("writing {}", args.out.display()))?;
    eprintln!("{} tensors in {}", arrays.len(), args.out.display());
    Ok(ExitCode::SUCCESS)
}
