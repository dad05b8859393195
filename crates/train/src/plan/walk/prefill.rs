//! A prompt, in the chunks in which inference runs over it.

use ops::Precision;

use super::super::ledger::Use;
use super::super::shapes::Sizes;
use super::layer::packed_keys;
use super::{Held, Rows, Walk};

impl Walk<'_> {
    /// A chunk of `tokens` of a prompt against `keys` tokens, itself included, by stored weights that have gate and up
    /// projections apart.
    pub(in super::super) fn prefill(&mut self, tokens: usize, keys: usize) {
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
}
