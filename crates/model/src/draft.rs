//! Proposals for the token after next, by the first MTP layer.
//!
//! A proposal changes nothing but speed: whoever takes one runs the main model over it and keeps it only if it is the token
//! that would have been drawn anyway. So what a draft knows may have gaps, as where a prompt was in a cache already: it then
//! guesses worse.

use std::ops::Range;
use std::slice;

use ops::mla_decode::Latents;
use tensor::{Ctx, ReadError, Tensor};

use crate::head;
use crate::infer::{Cache, Form, rows_of};
use crate::model::Model;

/// What the first MTP layer knows of one sequence.
#[derive(Clone, Debug)]
pub struct Draft {
    latents: Latents,
    /// The hidden state `[1, D]` of the last token that the main model has seen, after its norm.
    hidden: Option<Tensor>,
}

/// New tokens of one sequence, as [`Model::propose`] takes them.
#[derive(Clone, Debug)]
pub struct Following {
    /// Rows of the hidden states: those of the tokens before the new ones.
    pub rows: Range<usize>,
    /// The position of the first new token.
    pub position: usize,
}

impl Model {
    /// A draft of an empty sequence, if there is an MTP layer.
    pub fn new_draft(&self) -> Option<Draft> {
        let mtp = self.mtp.first()?;
        Some(Draft { latents: mtp.block.new_cache(self.cache_kind), hidden: None })
    }

    /// [`Model::extend`] that tells a draft of the tokens.
    ///
    /// # Errors
    /// When an expert cannot be read; the cache is then as it was, and the draft of no use.
    ///
    /// # Panics
    /// When there are no tokens, or no MTP layer.
    pub fn extend_with_draft(
        &self,
        ctx: &Ctx,
        ids: &[u32],
        cache: &mut Cache,
        form: Form,
        draft: &mut Draft,
    ) -> Result<Tensor, ReadError> {
        let (mut last, mut position, mut rest) = (None, cache.len(), ids);
        self.extend_each(ctx, ids, cache, form, |x| {
            let [t, d] = x.dims();
            let hidden = self.hidden(ctx, &x);
            // Each token goes with the hidden state of the one before it, which the first may not have.
            let (known, first) = match draft.hidden.take() {
                Some(before) => (stack(ctx, &before, &hidden, t - 1), 0),
                None => (rows_of(ctx, &hidden, slice::from_ref(&(0..t - 1)), d), 1),
            };
            if first < t {
                let positions: Vec<u32> = (position + first..position + t).map(|i| i as u32).collect();
                let angles = self.table(ctx, &positions);
                self.mtp[0].prefill(ctx, &self.params, &known, &rest[first..t], &angles, &mut draft.latents, form)?;
            }
            draft.hidden = Some(rows_of(ctx, &hidden, slice::from_ref(&(t - 1..t)), d));
            last = Some(rows_of(ctx, &x, slice::from_ref(&(t - 1..t)), d));
            (position, rest) = (position + t, &rest[t..]);
            Ok(())
        })?;
        Ok(last.expect("there is a token"))
    }

    /// Hidden states `[T, D]` of streams `[T, D]`: what drafts and logits are made of.
    pub fn hidden(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        self.norm.forward(ctx, &self.params, x).0
    }

    /// Proposals for the token after the last new one of each sequence. `hidden [T, D]` are the hidden states of the tokens
    /// before the new tokens `ids [T]`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    ///
    /// # Panics
    /// When there is no MTP layer.
    pub fn propose(
        &self,
        ctx: &Ctx,
        hidden: &Tensor,
        ids: &[u32],
        following: &[Following],
        drafts: &mut [&mut Draft],
    ) -> Result<Vec<u32>, ReadError> {
        let rows: Vec<Range<usize>> = following.iter().map(|f| f.rows.clone()).collect();
        let positions: Vec<u32> =
            following.iter().flat_map(|f| (f.position..f.position + f.rows.len()).map(|i| i as u32)).collect();
        let angles = self.table(ctx, &positions);
        let mut caches: Vec<&mut Latents> = drafts.iter_mut().map(|draft| &mut draft.latents).collect();
        let y = self.mtp[0].decode(ctx, &self.params, hidden, ids, &angles, &rows, &mut caches)?;
        let [_, d] = y.dims();
        let last: Vec<Range<usize>> = rows.iter().map(|rows| rows.end - 1..rows.end).collect();
        let logits = head::last_logits(ctx, &self.params, self.head, &rows_of(ctx, &y, &last, d));
        Ok((0..rows.len()).map(|i| largest(logits.row(i))).collect())
    }
}

impl Draft {
    /// What 64 tokens occupy.
    pub fn block_bytes(&self) -> usize {
        self.latents.block_bytes()
    }
}

/// `a [1, D]` above the first `n` rows of `b`.
fn stack(ctx: &Ctx, a: &Tensor, b: &Tensor, n: usize) -> Tensor {
    let [_, d] = b.dims();
    let mut both = ctx.empty([1 + n, d]);
    both.data_mut()[..d].copy_from_slice(a.data());
    both.data_mut()[d..].copy_from_slice(&b.data()[..n * d]);
    both
}

/// The first of the largest numbers.
fn largest(logits: &[f32]) -> u32 {
    let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    best as u32
}
