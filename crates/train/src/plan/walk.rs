//! A step as the model takes it, in buffers alone: each function here follows the one of the same name in `model`, line by
//! line, and takes and returns what that takes and returns. A test holds the two together to the byte.

mod layer;
mod prefill;

use model::Recompute;
use ops::Precision;

use super::ledger::{Buffer, Ledger, Use};
use super::shapes::Sizes;
pub(super) use layer::Saved;

/// Logits in a slab, as the model's head cuts them.
const SLAB: usize = 1 << 24;

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
