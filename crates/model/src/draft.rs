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
use crate::infer::rows_of;
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

/// New tokens of a prompt, as [`Model::tell_drafts`] takes them.
#[derive(Debug)]
pub struct Told<'a> {
    /// Rows of the streams: those after the tokens.
    pub rows: Range<usize>,
    /// The tokens, one for each row.
    pub ids: &'a [u32],
    /// The position of the first of them.
    pub position: usize,
    /// Who is told.
    pub draft: &'a mut Draft,
}

impl Model {
    /// A draft of an empty sequence, if there is an MTP layer.
    pub fn new_draft(&self) -> Option<Draft> {
        let mtp = self.mtp.first()?;
        Some(Draft { latents: mtp.block.new_cache(self.cache_kind), hidden: None })
    }

    /// Tells the drafts of several prompts of tokens that the main model has run over: `x [T, D]` are the streams after them.
    ///
    /// # Panics
    /// When there is no MTP layer.
    pub fn tell_drafts(&self, ctx: &Ctx, x: &Tensor, told: &mut [Told<'_>]) {
        let hidden = self.hidden(ctx, x);
        let [_, d] = hidden.dims();
        // Each token goes with the hidden state of the one before it, which the first of a prompt does not have.
        let (mut before, mut ids, mut positions, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Told { rows: of, ids: new, position, draft } in &mut *told {
            let first = usize::from(draft.hidden.is_none());
            let start = ids.len();
            before.extend(draft.hidden.take().iter().flat_map(Tensor::data));
            before.extend_from_slice(&hidden.data()[of.start * d..(of.end - 1) * d]);
            ids.extend_from_slice(&new[first..]);
            positions.extend((*position + first..*position + new.len()).map(|i| i as u32));
            rows.push(start..ids.len());
            draft.hidden = Some(rows_of(ctx, &hidden, slice::from_ref(&(of.end - 1..of.end))));
        }
        if ids.is_empty() {
            return;
        }
        let (before, angles) = (Tensor::from_vec(before, [ids.len(), d]), self.table(ctx, &positions));
        let mut caches: Vec<&mut Latents> = told.iter_mut().map(|told| &mut told.draft.latents).collect();
        self.mtp[0].remember(ctx, &self.params, &before, &ids, &angles, &rows, &mut caches);
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
        let last: Vec<Range<usize>> = rows.iter().map(|rows| rows.end - 1..rows.end).collect();
        let logits = head::last_logits(ctx, &self.params, self.head, &rows_of(ctx, &y, &last));
        Ok((0..rows.len()).map(|i| largest(logits.row(i))).collect())
    }
}

impl Draft {
    /// What 64 tokens occupy.
    pub fn block_bytes(&self) -> usize {
        self.latents.block_bytes()
    }
}

/// The first of the largest numbers.
fn largest(logits: &[f32]) -> u32 {
    let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    best as u32
}
