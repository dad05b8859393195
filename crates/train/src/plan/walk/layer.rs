//! A layer: attention, and a dense FFN or a mixture of experts.

use model::Recompute;
use ops::Precision;

use super::super::ledger::Use;
use super::super::shapes::Sizes;
use super::{Held, Rows, Walk, kept};

/// Heads whose key gradients attention keeps apart, as its backward does.
const HEADS_AT_ONCE: usize = 16;

/// What a layer keeps.
pub(in super::super) struct Saved {
    x: Held,
    norm_x: Held,
    n: Held,
    attention: Attention,
    mid: Held,
    norm_mid: Held,
    m: Held,
    ffn: Ffn,
}

struct Attention {
    q_a: Held,
    norm_q: Held,
    cq: Held,
    q: Held,
    latent_in: Held,
    latent_norm: Held,
    latent: Held,
    rope_key: Held,
    kv: Held,
    o: Held,
    lse: Held,
}

enum Ffn {
    Dense(Dense),
    Moe { weights: Held, scores: Held, gate_up: Held, h: Held, shared: Option<Dense> },
}

struct Dense {
    gate_up: Held,
    h: Held,
}

impl Walk<'_> {
    pub(in super::super) fn block_forward(
        &mut self,
        x: Held,
        moe: bool,
        rows: Rows,
        again: Recompute,
    ) -> (Held, Saved) {
        let Sizes { d, .. } = self.sizes;
        let t = rows.tokens();
        let (n, norm_x) = self.norm_forward(t, d, again.rms_norm);
        let (a, attention) = self.attention_forward(rows, again);
        let mid = self.keep(t * d);
        let (m, norm_mid) = self.norm_forward(t, d, again.rms_norm);
        let (f, ffn) = self.ffn_forward(moe, t, again);
        let y = self.keep(t * d);
        self.drop([f, a]);
        let (n, m) = (self.drop_if(again.rms_norm, n), self.drop_if(again.rms_norm, m));
        (y, Saved { x, norm_x, n, attention, mid, norm_mid, m, ffn })
    }

    pub(super) fn block_backward(&mut self, saved: Saved, rows: Rows) -> Held {
        let Sizes { d, .. } = self.sizes;
        let t = rows.tokens();
        let Saved { x, norm_x, n, attention, mid, norm_mid, m, ffn } = saved;
        let m = m.or_else(|| self.pass(t * d));
        let dm = self.ffn_backward(ffn, t);
        let dmid = self.norm_backward(dm, norm_mid, t, d);
        let n = n.or_else(|| self.pass(t * d));
        let dn = self.attention_backward(attention, rows);
        let dx = self.norm_backward(dn, norm_x, t, d);
        self.drop([n, dmid, m, mid, x]);
        dx
    }

    fn attention_forward(&mut self, rows: Rows, again: Recompute) -> (Held, Attention) {
        let Sizes { d, heads, dr, dv, rq, rk, .. } = self.sizes;
        let t = rows.tokens();
        let (q_a, norm_q, cq) = match rq {
            None => (None, None, None),
            Some(rq) => {
                let q_a = self.product(Use::Kept, t, d, rq);
                let (cq, norm) = self.norm_forward(t, rq, again.rms_norm);
                (q_a, norm, cq)
            }
        };
        let q = self.product(kept(again.mla_up), t, rq.unwrap_or(d), self.sizes.queries());
        let cq = self.drop_if(again.rms_norm, cq);

        let a = self.product(Use::Passing, t, d, rk + dr);
        let (latent_in, rope_key) = (self.keep(t * rk), self.keep(t * dr));
        let (latent, latent_norm) = self.norm_forward(t, rk, again.rms_norm);
        self.drop([a]);
        let kv = self.product(kept(again.mla_up), t, rk, self.sizes.keys_values());
        let (o, lse) = (self.keep(t * heads * dv), self.keep(heads * t));
        let (packed, _) = packed_keys(&self.sizes, rows, false);
        self.packed(packed);
        let y = self.product(Use::Passing, t, heads * dv, d);
        let q = self.drop_if(again.mla_up, q);
        let latent = self.drop_if(again.rms_norm, latent);
        let kv = self.drop_if(again.mla_up, kv);
        (y, Attention { q_a, norm_q, cq, q, latent_in, latent_norm, latent, rope_key, kv, o, lse })
    }

    fn attention_backward(&mut self, saved: Attention, rows: Rows) -> Held {
        let Sizes { d, heads, dr, dv, rq, rk, .. } = self.sizes;
        let t = rows.tokens();
        let (queries, keys_values) = (t * self.sizes.queries(), t * self.sizes.keys_values());
        let Attention { q_a, norm_q, cq, q, latent_in, latent_norm, latent, rope_key, kv, o, lse } = saved;
        let latent = latent.or_else(|| self.pass(t * rk));
        let kv = kv.or_else(|| self.product(Use::Passing, t, rk, self.sizes.keys_values()));
        let cq = cq.or_else(|| rq.and_then(|rq| self.pass(t * rq)));
        let q = q.or_else(|| self.product(Use::Passing, t, rq.unwrap_or(d), self.sizes.queries()));
        self.weight_gradient(d, t);
        let d_o = self.product(Use::Passing, t, d, heads * dv);

        let (dq, dkv) = (self.pass(queries), self.pass(keys_values));
        let drope_key = self.pass(t * dr);
        let (packed, wave) = packed_keys(&self.sizes, rows, true);
        let by_head = self.pass(wave.min(HEADS_AT_ONCE) * t * dr);
        self.packed(packed);
        self.drop([by_head, lse]);
        self.drop([q, kv, o, d_o]);

        self.weight_gradient(self.sizes.keys_values(), t);
        let dlatent = self.product(Use::Passing, t, self.sizes.keys_values(), rk);
        let dlatent_in = self.norm_backward(dlatent, latent_norm, t, rk);
        let da = self.pass(t * (rk + dr));
        self.weight_gradient(rk + dr, t);
        let dx = self.product(Use::Passing, t, rk + dr, d);
        self.weight_gradient(self.sizes.queries(), t);
        let dx_query = match rq {
            None => self.product(Use::Passing, t, self.sizes.queries(), d),
            Some(rq) => {
                let dcq = self.product(Use::Passing, t, self.sizes.queries(), rq);
                let dq_a = self.norm_backward(dcq, norm_q, t, rq);
                self.weight_gradient(rq, t);
                let dx_query = self.product(Use::Passing, t, rq, d);
                self.drop([dq_a, q_a, cq]);
                dx_query
            }
        };
        self.drop([dx_query, da, dlatent_in, dq, dkv, drope_key, latent, latent_in, rope_key]);
        dx
    }

    fn ffn_forward(&mut self, moe: bool, t: usize, again: Recompute) -> (Held, Ffn) {
        if moe {
            return self.moe_forward(t, again);
        }
        let (y, saved) = self.dense_forward(self.sizes.dense, t, again);
        (y, Ffn::Dense(saved))
    }

    fn ffn_backward(&mut self, saved: Ffn, t: usize) -> Held {
        match saved {
            Ffn::Dense(saved) => self.dense_backward(self.sizes.dense, t, saved),
            Ffn::Moe { weights, scores, gate_up, h, shared } => {
                self.moe_backward([weights, scores, gate_up], h, shared, t)
            }
        }
    }

    fn dense_forward(&mut self, width: usize, t: usize, again: Recompute) -> (Held, Dense) {
        let gate_up = self.product(Use::Kept, t, self.sizes.d, 2 * width);
        let h = self.keep_unless(again.swiglu, t * width);
        let y = self.product(Use::Passing, t, width, self.sizes.d);
        (y, Dense { gate_up, h: self.drop_if(again.swiglu, h) })
    }

    fn dense_backward(&mut self, width: usize, t: usize, saved: Dense) -> Held {
        let Dense { gate_up, h } = saved;
        let h = h.or_else(|| self.pass(t * width));
        self.weight_gradient(self.sizes.d, t);
        self.drop([h]);
        let dh = self.product(Use::Passing, t, self.sizes.d, width);
        let dgate_up = self.pass(2 * t * width);
        self.weight_gradient(2 * width, t);
        let dx = self.product(Use::Passing, t, 2 * width, self.sizes.d);
        self.drop([dgate_up, dh, gate_up]);
        dx
    }

    fn moe_forward(&mut self, t: usize, again: Recompute) -> (Held, Ffn) {
        let Sizes { d, expert, shared, experts, top_k, .. } = self.sizes;
        let r = t * top_k;
        let logits = self.product_in(Use::Passing, t, d, experts, Precision::F32);
        let (weights, scores) = (self.keep(t * top_k), self.keep(t * experts));
        let rows = self.pass(r * d);
        let gate_up = self.product(Use::Kept, r, d, 2 * expert);
        let h = self.keep_unless(again.swiglu, r * expert);
        let out = self.product(Use::Passing, r, expert, d);
        let y = self.pass(t * d);
        let shared = (shared > 0).then(|| {
            let (y, saved) = self.dense_forward(shared, t, again);
            self.drop([y]);
            saved
        });
        self.drop([out, rows, logits]);
        let h = self.drop_if(again.swiglu, h);
        (y, Ffn::Moe { weights, scores, gate_up, h, shared })
    }

    fn moe_backward(
        &mut self,
        [weights, scores, gate_up]: [Held; 3],
        h: Held,
        shared: Option<Dense>,
        t: usize,
    ) -> Held {
        let Sizes { d, expert, experts, top_k, .. } = self.sizes;
        let r = t * top_k;
        let sorted = self.pass(r);
        let h = h.or_else(|| self.pass(r * expert));
        let weighted = self.pass(r * expert);
        let rows = self.pass(r * d);
        let dout = self.pass(r * d);
        let dweighted = self.product(Use::Passing, r, d, expert);
        self.grouped_weight_gradient(d, r);
        self.drop([dout, weighted]);
        let (dweights, dh) = (self.pass(r), self.pass(r * expert));
        let dgate_up = self.pass(2 * r * expert);
        let drows = self.product(Use::Passing, r, 2 * expert, d);
        self.grouped_weight_gradient(2 * expert, r);
        self.drop([dgate_up, rows]);
        let dx = self.pass(t * d);
        let dchosen = self.pass(t * top_k);
        let dscores = self.pass(t * experts);
        let dlogits = self.pass(t * experts);
        let dx_gate = self.product_in(Use::Passing, t, experts, d, Precision::F32);
        self.drop([dx_gate]);
        self.packed(experts * t);
        self.drop([dlogits]);
        if let Some(saved) = shared {
            let dx_shared = self.dense_backward(self.sizes.shared, t, saved);
            self.drop([dx_shared]);
        }
        self.drop([dscores, dchosen, drows, dweights, dh, dweighted, h, sorted, gate_up, weights, scores]);
        dx
    }
}

/// What attention in bf16 packs keys and values of a wave of heads into, and the heads of a wave: for each block of 168
/// keys, strips of 32 pairs; as many heads as 2 MiB hold. In f32 nothing is packed, and all heads are one wave.
pub(super) fn packed_keys(sizes: &Sizes, rows: Rows, is_backward: bool) -> (usize, usize) {
    const KEYS: usize = 168;
    const PAIRS: usize = 32;
    const BYTES: usize = 1 << 21;
    let Sizes { heads, dn, dr, dv, precision, .. } = *sizes;
    if precision == Precision::F32 {
        return (0, heads);
    }
    let along_width = |width: usize| width.div_ceil(2 * PAIRS) * KEYS;
    let along_keys = |width: usize| width.div_ceil(PAIRS) * (KEYS / 2);
    let block = along_width(dn + dr) + if is_backward { along_width(dv) + along_keys(dn + dr) } else { along_keys(dv) };
    let head = rows.rows * rows.length.div_ceil(KEYS) * block;
    let most = if is_backward { HEADS_AT_ONCE } else { heads };
    let wave = (BYTES / (4 * PAIRS * head).max(1)).max(1).min(most).min(heads);
    ((wave * head + 1) * PAIRS, wave)
}
