//! Where weights come from: a random start, or a checkpoint.

use config::ModelConfig;
use ops::Precision;
use tensor::{Dims, Matrix, Rng, Storage, Stored, Tensor, TensorSource};

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
        Self::build(config, depth, &mut |_, parts: &[Part], dims, _| match parts {
            [part] => source.load(&part.name, &part.dims),
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
        Ok(Self::assemble(
            config.clone(),
            Params { all: b.params, precision: Precision::F32 },
            embed,
            blocks,
            norm,
            head,
            mtp,
        ))
    }
}

/// Several matrices, one below the other: where they lie if all are as they are stored, or else in one f32 tensor.
fn join<E>(parts: impl Iterator<Item = Result<Storage, E>>, dims: Dims) -> Result<Storage, E> {
    let parts = parts.collect::<Result<Vec<_>, E>>()?;
    let stored: Option<Vec<Matrix>> = parts
        .iter()
        .map(|part| match part {
            Storage::Stored(stored) => Some(stored.matrices()[0].clone()),
            Storage::F32(_) | Storage::Streamed(_) => None,
        })
        .collect();
    Ok(match stored {
        Some(matrices) => Storage::Stored(Stored::new(matrices, dims)),
        None => Storage::F32(Tensor::from_vec(parts.iter().flat_map(Storage::to_f32).collect(), dims)),
    })
}
