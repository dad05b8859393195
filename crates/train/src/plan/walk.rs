//! A step as the model takes it, in buffers alone: each function here follows the one of the same name in `model`, line by
//! line, and takes and returns what that takes and returns. A test holds the two together to the byte.

use model::Recompute;
use ops::Precision;

use super::ledger::{Buffer, Ledger, Use};
use super::shapes::Sizes;

/// Logits in a slab, as the model's head cuts them.
const SLAB: usize = 1 << 24;

/// Heads whose key gradients attention keeps apart, as its backward does.
const HEADS_AT_ONCE: usize = 16;

type Held = Option<Buffer>;

/// A step being walked through.
pub(super) struct Walk<'a> {
    pub(super) sizes: Sizes,
    pub(super) again: Recompute,
    /// Whether each main layer has a mixture of experts.
    pub(super) moe: Vec<bool>,
    pub(super) mtp: usize,
    /// Whether operands that are rounded to bf16 are packed two to a slot, as they are where the processor multiplies pairs.
    pub(super) pairs: bool,
    pub(super) ledger: &'a mut Ledger,
}

/// Rows of a batch.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) rows: usize,
    pub(super) length: usize,
}

impl Rows {
    pub(super) fn tokens(self) -> usize {
        self.rows * self.length
    }
}

/// What a layer keeps.
pub(super) struct Saved {
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

struct Mtp {
    e: Held,
    norm_e: Held,
    h: Held,
    norm_h: Held,
    z: Held,
    block: Saved,
    x: Held,
    norm_x: Held,
}

impl Walk<'_> {
    fn take(&mut self, purpose: Use, len: usize) -> Held {
        self.ledger.take(purpose, len)
    }

    fn pass(&mut self, len: usize) -> Held {
        self.take(Use::Passing, len)
    }

    fn keep(&mut self, len: usize) -> Held {
        self.take(Use::Kept, len)
    }

    /// A result that backward needs, kept unless it is computed again.
    fn keep_unless(&mut self, again: bool, len: usize) -> Held {
        self.take(kept(again), len)
    }

    /// `y = x Wᵀ` or `dx = dy W` over `inner`, and what the rows are packed to meanwhile.
    fn product(&mut self, purpose: Use, rows: usize, inner: usize, outer: usize) -> Held {
        self.product_in(purpose, rows, inner, outer, self.sizes.precision)
    }

    fn product_in(&mut self, purpose: Use, rows: usize, inner: usize, outer: usize, precision: Precision) -> Held {
        let y = self.take(purpose, rows * outer);
        let panels = rows * self.slots(inner, precision);
        self.packed(panels);
        y
    }

    /// `dW += dyᵀ x`: the columns of dy are packed.
    fn weight_gradient(&mut self, outer: usize, rows: usize) {
        let panels = outer * self.slots(rows, self.sizes.precision);
        self.packed(panels);
    }

    /// The same by experts, each of which may end in half a pair.
    fn grouped_weight_gradient(&mut self, outer: usize, rows: usize) {
        let odd = if self.pairs && self.sizes.precision == Precision::Bf16 { self.sizes.experts.min(rows) } else { 0 };
        self.weight_gradient(outer, rows + odd);
    }

    fn packed(&mut self, len: usize) {
        let packed = self.take(Use::Packed, len);
        self.drop([packed]);
    }

    /// What a row of operands with `inner` numbers is packed to.
    fn slots(&self, inner: usize, precision: Precision) -> usize {
        if self.pairs && precision == Precision::Bf16 { inner.div_ceil(2) } else { inner }
    }

    fn drop<const N: usize>(&mut self, buffers: [Held; N]) {
        self.ledger.give_back(buffers);
    }

    /// Returns the buffer if it is computed again, and hands it on otherwise.
    fn drop_if(&mut self, again: bool, buffer: Held) -> Held {
        if again {
            self.drop([buffer]);
            return None;
        }
        buffer
    }

    pub(super) fn forward_backward(&mut self, batch: Rows) {
        let Sizes { d, .. } = self.sizes;
        let t = batch.tokens();
        let again = self.again;
        let angles = self.angles(batch);
        let mut x = self.keep(t * d);
        let mut saved = Vec::new();
        for moe in self.moe.clone() {
            let (y, s) = self.block_forward(x, moe, batch, again);
            saved.push(s);
            x = y;
        }
        let (h, norm_x) = self.norm_forward(t, d, false);
        let mut hidden = vec![h];
        let mut saved_mtp = Vec::new();
        for depth in 1..=self.mtp {
            let Some(length) = batch.length.checked_sub(depth).filter(|length| *length > 0) else { break };
            let part = Rows { length, ..batch };
            let angles = self.angles(part);
            let previous = self.keep(part.tokens() * d);
            let rest = self.pass(batch.rows * d);
            self.drop([rest]);
            let (h, s) = self.mtp_forward(previous, part, again);
            hidden.push(h);
            saved_mtp.push((s, angles, part));
        }

        let mut later = None;
        while let Some((saved, angles, part)) = saved_mtp.pop() {
            let h = hidden.pop().expect("one hidden state per module");
            let dh = self.loss_backward(part.tokens());
            self.add_first_rows(later, part);
            later = self.mtp_backward(dh, saved, part);
            self.drop([h]);
            self.drop(angles);
        }
        let h = hidden.pop().expect("the main model's hidden state");
        let dh = self.loss_backward(t);
        self.add_first_rows(later, batch);
        let mut dx = self.norm_backward(dh, norm_x, t, d);
        self.drop([h, x]);
        for saved in saved.into_iter().rev() {
            let d = self.block_backward(saved, batch);
            self.drop([std::mem::replace(&mut dx, d)]);
        }
        self.drop([dx]);
        self.drop(angles);
    }

    /// Cosines and sines.
    pub(super) fn angles(&mut self, rows: Rows) -> [Held; 2] {
        let len = rows.tokens() * (self.sizes.dr / 2);
        [self.keep(len), self.keep(len)]
    }

    fn norm_forward(&mut self, t: usize, width: usize, again: bool) -> (Held, Held) {
        let rstd = self.keep(t);
        (self.keep_unless(again, t * width), rstd)
    }

    fn norm_backward(&mut self, dy: Held, rstd: Held, t: usize, width: usize) -> Held {
        let dx = self.pass(t * width);
        self.drop([dy, rstd]);
        dx
    }

    /// A chunk of `tokens` of a prompt against `keys` tokens, itself included, by stored weights that have gate and up
    /// projections apart.
    pub(super) fn prefill(&mut self, tokens: usize, keys: usize) {
        let Sizes { d, vocab, .. } = self.sizes;
        let angles = self.angles(Rows { rows: 1, length: tokens });
        let mut x = self.pass(tokens * d);
        for moe in self.moe.clone() {
            let y = self.block_prefill(moe, tokens, keys);
            self.drop([std::mem::replace(&mut x, y)]);
        }
        self.drop(angles);
        let (last, h) = (self.pass(d), self.pass(d));
        let logits = self.take(Use::Logits, vocab);
        self.drop([last, h, logits, x]);
    }

    fn block_prefill(&mut self, moe: bool, t: usize, keys: usize) -> Held {
        let Sizes { d, heads, dv, dr, rk, rq, .. } = self.sizes;
        let (n, norm_x) = self.norm_forward(t, d, true);
        self.drop([norm_x]);
        let q = match rq {
            None => self.product(Use::Passing, t, d, self.sizes.queries()),
            Some(rq) => {
                let q_a = self.product(Use::Passing, t, d, rq);
                let (cq, norm) = self.norm_forward(t, rq, true);
                let q = self.product(Use::Passing, t, rq, self.sizes.queries());
                self.drop([cq, q_a, norm]);
                q
            }
        };
        let a = self.product(Use::Passing, t, d, rk + dr);
        let (latent_in, new_rope_key) = (self.pass(t * rk), self.pass(t * dr));
        let (new_latent, norm) = self.norm_forward(t, rk, true);
        self.drop([a, latent_in, norm]);
        let (latent, rope_key) = (self.pass(keys * rk), self.pass(keys * dr));
        let kv = self.product(Use::Passing, keys, rk, self.sizes.keys_values());
        let (o, lse) = (self.pass(t * heads * dv), self.pass(heads * t));
        let (packed, _) = packed_keys(&self.sizes, Rows { rows: 1, length: keys }, false);
        self.packed(packed);
        self.drop([lse, kv, latent, rope_key]);
        let y = self.product(Use::Passing, t, heads * dv, d);
        self.drop([o, q, new_latent, new_rope_key, n]);

        let (m, norm_mid) = self.norm_forward(t, d, true);
        self.drop([norm_mid]);
        let f = if moe { self.moe_prefill(t) } else { self.dense_prefill(self.sizes.dense, t) };
        self.drop([m, f]);
        y
    }

    fn dense_prefill(&mut self, width: usize, t: usize) -> Held {
        let Sizes { d, .. } = self.sizes;
        let gate_up = self.take(Use::Passing, 2 * t * width);
        let panels = 2 * t * self.slots(d, self.sizes.precision);
        self.packed(panels);
        let h = self.pass(t * width);
        let y = self.product(Use::Passing, t, width, d);
        self.drop([gate_up, h]);
        y
    }

    fn moe_prefill(&mut self, t: usize) -> Held {
        let Sizes { d, expert, shared, experts, top_k, .. } = self.sizes;
        let logits = self.product_in(Use::Passing, t, d, experts, Precision::F32);
        let (weights, scores) = (self.pass(t * top_k), self.pass(t * experts));
        let rows = self.pass(t * top_k * d);
        let out = self.dense_prefill(expert, t * top_k);
        let y = self.pass(t * d);
        let shared = if shared > 0 { self.dense_prefill(shared, t) } else { None };
        self.drop([shared, out, rows, logits, weights, scores]);
        y
    }

    pub(super) fn block_forward(&mut self, x: Held, moe: bool, rows: Rows, again: Recompute) -> (Held, Saved) {
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

    fn block_backward(&mut self, saved: Saved, rows: Rows) -> Held {
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

    fn mtp_forward(&mut self, h: Held, rows: Rows, again: Recompute) -> (Held, Mtp) {
        let Sizes { d, .. } = self.sizes;
        let t = rows.tokens();
        let e = self.keep(t * d);
        let (e_normed, norm_e) = self.norm_forward(t, d, true);
        let (h_normed, norm_h) = self.norm_forward(t, d, true);
        let z = self.keep(2 * t * d);
        let x = self.product(Use::Kept, t, 2 * d, d);
        let (x, block) = self.block_forward(x, true, rows, again);
        let (y, norm_x) = self.norm_forward(t, d, false);
        self.drop([e_normed, h_normed]);
        (y, Mtp { e, norm_e, h, norm_h, z, block, x, norm_x })
    }

    fn mtp_backward(&mut self, dy: Held, saved: Mtp, rows: Rows) -> Held {
        let Sizes { d, .. } = self.sizes;
        let t = rows.tokens();
        let Mtp { e, norm_e, h, norm_h, z, block, x, norm_x } = saved;
        let dx_after = self.norm_backward(dy, norm_x, t, d);
        let dx = self.block_backward(block, rows);
        self.weight_gradient(d, t);
        let dz = self.product(Use::Passing, t, d, 2 * d);
        let (de, dh) = (self.pass(t * d), self.pass(t * d));
        let de = self.norm_backward(de, norm_e, t, d);
        self.drop([de]);
        let dh = self.norm_backward(dh, norm_h, t, d);
        self.drop([dz, dx, dx_after, x, z, h, e]);
        dh
    }

    /// The head, a slab of rows at a time.
    fn loss_backward(&mut self, t: usize) -> Held {
        let Sizes { d, vocab, .. } = self.sizes;
        let dh = self.take(Use::Logits, t * d);
        let rows = (SLAB / vocab).max(1);
        for first in (0..t).step_by(rows) {
            let rows = rows.min(t - first);
            let part = self.take(Use::Logits, rows * d);
            let dlogits = self.product(Use::Logits, rows, d, vocab);
            let dpart = self.product(Use::Logits, rows, vocab, d);
            self.weight_gradient(vocab, rows);
            self.drop([dlogits, part, dpart]);
        }
        dh
    }

    /// What the module behind adds to the gradient of `rows`, a token shorter each.
    fn add_first_rows(&mut self, later: Held, rows: Rows) {
        if later.is_none() {
            return;
        }
        let Sizes { d, .. } = self.sizes;
        let rest = self.pass(rows.rows * d);
        let padded = self.pass(rows.tokens() * d);
        self.drop([later, padded, rest]);
    }
}

/// A result that backward needs is kept, or made again.
fn kept(again: bool) -> Use {
    if again { Use::Passing } else { Use::Kept }
}

/// What attention in bf16 packs keys and values of a wave of heads into, and the heads of a wave: for each block of 168
/// keys, strips of 32 pairs; as many heads as 2 MiB hold. In f32 nothing is packed, and all heads are one wave.
fn packed_keys(sizes: &Sizes, rows: Rows, is_backward: bool) -> (usize, usize) {
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
