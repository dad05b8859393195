//! The sizes that a layer's buffers and parameters follow from.

use config::{ModelConfig, TopkMethod};
use ops::Precision;

/// A model's sizes, with the letters of the layers' shape comments.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) d: usize,
    pub(super) vocab: usize,
    pub(super) heads: usize,
    pub(super) dn: usize,
    pub(super) dr: usize,
    pub(super) dv: usize,
    /// None where queries are not compressed.
    pub(super) rq: Option<usize>,
    pub(super) rk: usize,
    /// Width of the dense layers' FFNs.
    pub(super) dense: usize,
    /// Width of a routed expert.
    pub(super) expert: usize,
    /// Width of the shared experts together; 0 without them.
    pub(super) shared: usize,
    pub(super) experts: usize,
    pub(super) top_k: usize,
    pub(super) precision: Precision,
}

impl Sizes {
    pub(super) fn of(c: &ModelConfig, precision: Precision) -> Self {
        Self {
            d: c.hidden_size,
            vocab: c.vocab_size,
            heads: c.num_attention_heads,
            dn: c.qk_nope_head_dim,
            dr: c.qk_rope_head_dim,
            dv: c.v_head_dim,
            rq: c.q_lora_rank,
            rk: c.kv_lora_rank,
            dense: c.intermediate_size,
            expert: c.moe_intermediate_size,
            shared: c.shared_intermediate_size(),
            experts: c.n_routed_experts,
            top_k: c.num_experts_per_tok,
            precision,
        }
    }

    /// Width of the queries, `H (dn + dr)`.
    pub(super) fn queries(&self) -> usize {
        self.heads * (self.dn + self.dr)
    }

    /// Width of keys and values, `H (dn + dv)`.
    pub(super) fn keys_values(&self) -> usize {
        self.heads * (self.dn + self.dv)
    }
}

/// The length of every trained parameter, in the order in which a model has them, and of all routing biases together.
pub(super) fn parameters(c: &ModelConfig) -> (Vec<usize>, usize) {
    let Sizes { d, vocab, heads, dr, dv, rq, rk, dense, expert, shared, experts, .. } = Sizes::of(c, Precision::F32);
    let s = Sizes::of(c, Precision::F32);
    let bias = |n: usize| if c.attention_bias { n } else { 0 };
    let block = |moe: bool| {
        let query = match rq {
            None => vec![s.queries() * d],
            Some(rq) => vec![rq * d, bias(rq), rq, s.queries() * rq],
        };
        let latent = [(rk + dr) * d, bias(rk + dr), rk, s.keys_values() * rk, d * heads * dv, bias(d)];
        let ffn = if moe {
            vec![experts * d, 2 * experts * expert * d, experts * d * expert, 2 * shared * d, d * shared]
        } else {
            vec![2 * dense * d, d * dense]
        };
        [query, latent.into(), ffn, vec![d, d]].concat()
    };
    let layers = c.num_hidden_layers;
    let mut all = vec![vocab * d];
    all.extend((0..layers).flat_map(|layer| block(c.is_moe(layer))));
    all.push(d);
    all.push(if c.tie_word_embeddings { 0 } else { vocab * d });
    for _ in 0..c.num_nextn_predict_layers {
        all.extend([d, d, 2 * d * d]);
        all.extend(block(true));
        all.push(d);
    }
    all.retain(|len| *len > 0);
    let moe = (0..layers).filter(|&layer| c.is_moe(layer)).count() + c.num_nextn_predict_layers;
    (all, if c.topk_method == TopkMethod::NoauxTc { moe * experts } else { 0 })
}
