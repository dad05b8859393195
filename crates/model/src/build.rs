//! Where weights come from: a random start, or a checkpoint.

use std::sync::Arc;

use config::ModelConfig;
use tensor::{Dims, Rng, Storage, Tensor, TensorSource};

use crate::block::Block;
use crate::linear::Norm;
use crate::model::Model;
use crate::mtp::Mtp;
use crate::names;
use crate::params::{Builder, Kind, Make, ParamId, Params, Part};

impl Model {
    /// Random weights (`spec/training.md` 1.5): matrices from N(0, `std`²), gains 1, biases 0. Each parameter has a
    /// random stream of its own.
    pub fn random(config: &ModelConfig, std: f64, seed: u64) -> Self {
        let made = Self::build(config, config.num_nextn_predict_layers, &mut |id: ParamId, _, dims, kind| {
            let mut rng = Rng::new(seed, "init", id.0 as u64);
            let values = match kind {
                Kind::Matrix => (0..dims.len()).map(|_| (std * rng.normal()) as f32).collect(),
                Kind::Gain => vec![1.0; dims.len()],
                Kind::Bias | Kind::RoutingBias => vec![0.0; dims.len()],
            };
            Ok::<_, std::convert::Infallible>(Storage::F32(Tensor::from_vec(values, dims)))
        });
        match made {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// The weights of a checkpoint. It has MTP layers if its tensors are there: re-saved checkpoints keep the config
    /// key and drop the tensors (`spec/model.md` 1.1). Copies of embedding and head in MTP layers are not read.
    ///
    /// # Errors
    /// What `source` says of a tensor that is missing, has another shape or cannot be read.
    pub fn load<S: TensorSource>(config: &ModelConfig, source: &S) -> Result<Self, S::Error> {
        let has = |k: usize| source.contains(&names::layer(config.num_hidden_layers + k, "eh_proj.weight"));
        let depth = if has(0) { config.num_nextn_predict_layers } else { 0 };
        Self::build(config, depth, &mut |_, parts: &[Part], dims, kind| match parts {
            [part] => Ok(settle(source.load(&part.name, &part.dims)?, kind)),
            parts => join(parts.iter().map(|part| source.load(&part.name, &part.dims)), dims),
        })
    }

    fn build<E>(config: &ModelConfig, mtp_depth: usize, make: &mut Make<'_, E>) -> Result<Self, E> {
        let c = config;
        let mut b = Builder { params: Vec::new(), make };
        let embed = b.one(names::EMBED_TOKENS.into(), &[c.vocab_size, c.hidden_size], Kind::Matrix)?;
        let blocks = (0..c.num_hidden_layers)
            .map(|layer| Block::build(&mut b, layer, c.is_moe(layer), c))
            .collect::<Result<Vec<_>, E>>()?;
        let norm = Norm::build(&mut b, names::NORM.into(), c.hidden_size, c.rms_norm_eps)?;
        let head = if c.tie_word_embeddings {
            embed
        } else {
            b.one(names::LM_HEAD.into(), &[c.vocab_size, c.hidden_size], Kind::Matrix)?
        };
        let mtp = (0..mtp_depth)
            .map(|k| Mtp::build(&mut b, c.num_hidden_layers + k, embed, c))
            .collect::<Result<Vec<_>, E>>()?;
        Ok(Self::assemble(config.clone(), Params(b.params), embed, blocks, norm, head, mtp))
    }
}

/// One-dimensional weights are few and used in f32: gains, biases and the routing bias, which must be (`spec` 6.3).
fn settle(value: Storage, kind: Kind) -> Storage {
    if kind == Kind::Matrix {
        return value;
    }
    let dims = value.shape();
    let mut values = vec![0.0; dims.len()];
    value.read_f32(0, &mut values);
    Storage::F32(Tensor::from_vec(values, dims))
}

/// Several tensors, one after the other. They stay bf16 if all are.
fn join<E>(parts: impl Iterator<Item = Result<Storage, E>>, dims: Dims) -> Result<Storage, E> {
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    for part in parts {
        match part? {
            Storage::Bf16(values, _) if wide.is_empty() => {
                narrow.reserve_exact(if narrow.is_empty() { dims.len() } else { 0 });
                narrow.extend_from_slice(&values);
            }
            part => {
                wide.reserve_exact(dims.len() - wide.len());
                wide.extend(narrow.drain(..).map(tensor::bf16::to_f32));
                let start = wide.len();
                wide.resize(start + part.shape().len(), 0.0);
                part.read_f32(0, &mut wide[start..]);
            }
        }
    }
    Ok(if wide.is_empty() { Storage::Bf16(Arc::new(narrow), dims) } else { Storage::F32(Tensor::from_vec(wide, dims)) })
}
