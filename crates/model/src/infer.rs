//! Running a model without gradients: a trace of everything for parity checks, prefill, decode.

use std::ops::Range;
use std::slice;

use ops::embedding;
use ops::mla_decode::{BLOCK_TOKENS, Latents, SharedBlock};
use ops::rope::CosSin;
use tensor::{Ctx, ReadError, Tensor};

use crate::block::Block;
use crate::head;
use crate::model::{Model, first_rows};
use crate::recompute::Recompute;

/// Tokens that prefill runs over at once, so that activations do not grow with the text.
pub const PREFILL_CHUNK: usize = 2048;

/// The cache of one sequence, over all main layers.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<Latents>,
    len: usize,
}

/// A whole block of a cache, [`BLOCK_TOKENS`] tokens in all main layers. A clone is the same memory.
#[derive(Clone, Debug)]
pub struct CacheBlock {
    layers: Vec<SharedBlock>,
}

/// Which form attention takes over the tokens of a prompt (`spec/model.md` 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whichever needs fewer multiplications: a few tokens after many take the absorbed form, others the direct one.
    Cheapest,
    /// Always the direct one: then the bits of a token do not depend on how a text is cut into calls.
    Direct,
}

/// Everything that a run over one text computes; `golden/README.md` has the names.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The input of each layer and the output of the last, before the final norm: `[T, D]` each.
    pub hidden: Vec<Tensor>,
    /// After the final norm, `[T, D]`.
    pub final_norm: Tensor,
    /// `[T, V]`.
    pub logits: Tensor,
    /// For each mixture layer: its number, the experts chosen (ascending, `[T K]`) and their weights `[T, K]`.
    pub routing: Vec<(usize, Vec<u32>, Tensor)>,
    /// For each MTP depth k: hidden states after `shared_head.norm` and logits, `[T - k, D]` and `[T - k, V]`.
    pub mtp: Vec<(Tensor, Tensor)>,
}

impl Model {
    /// Runs over one text in direct form and keeps everything.
    pub fn trace(&self, ctx: &Ctx, ids: &[u32], with_mtp: bool) -> Trace {
        let p = &self.params;
        let seqs = self.sequences(ctx, 1, ids.len(), 0);
        let mut x = embedding::forward(ctx, ids, &p[self.embed]);
        let (mut hidden, mut routing) = (Vec::new(), Vec::new());
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden.push(x.clone());
            let (y, saved) = block.forward(ctx, p, x, &seqs, Recompute::ALL);
            routing.extend(saved.routing().map(|r| {
                let (idx, weights) = r.choices();
                (layer, idx.to_vec(), weights.clone())
            }));
            x = y;
        }
        let (final_norm, _) = self.norm.forward(ctx, p, &x);
        hidden.push(x);
        let logits = head::logits(ctx, p, self.head, &final_norm);

        let mut mtp = Vec::new();
        let mut previous = final_norm.clone();
        for (depth, module) in (1..).zip(&self.mtp).take_while(|(depth, _)| with_mtp && *depth < ids.len()) {
            let length = ids.len() - depth;
            let h = first_rows(ctx, &previous, 1, length);
            let seqs = self.sequences(ctx, 1, length, depth);
            (previous, _) = module.forward(ctx, p, h, ids[depth..].to_vec(), &seqs, Recompute::ALL);
            mtp.push((previous.clone(), head::logits(ctx, p, self.head, &previous)));
        }
        Trace { hidden, final_norm, logits, routing, mtp }
    }

    /// An empty cache.
    pub fn new_cache(&self) -> Cache {
        let layers = self.blocks.iter().map(|block| block.new_cache(self.cache_kind)).collect();
        Cache { layers, len: 0 }
    }

    /// The bytes of a [`CacheBlock`].
    pub fn cache_block_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.new_cache(self.cache_kind).block_bytes()).sum()
    }

    /// A block from the bytes that [`CacheBlock::write_to`] gave; none when they are not [`Model::cache_block_bytes`].
    pub fn restore_block(&self, mut bytes: &[u8]) -> Option<CacheBlock> {
        let mut layers = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let empty = block.new_cache(self.cache_kind);
            let (of_layer, rest) = bytes.split_at_checked(empty.block_bytes())?;
            layers.push(empty.restore(of_layer)?);
            bytes = rest;
        }
        bytes.is_empty().then_some(CacheBlock { layers })
    }

    /// Appends `ids`, which must not be empty, to one sequence. The result is the logits after the last of them, `[1, V]`.
    ///
    /// # Errors
    /// When an expert cannot be read; the cache is then as it was.
    ///
    /// # Panics
    /// When there are no tokens.
    pub fn prefill(&self, ctx: &Ctx, ids: &[u32], cache: &mut Cache) -> Result<Tensor, ReadError> {
        let x = self.extend(ctx, ids, cache, Form::Cheapest)?;
        Ok(self.next_logits(ctx, &x))
    }

    /// The same, up to the stream after the last token, `[1, D]`, which [`Model::next_logits`] takes: where more of a prompt
    /// follows, nobody asks for logits.
    ///
    /// Long texts go in chunks of [`PREFILL_CHUNK`], counted from the start of the call.
    ///
    /// # Errors
    /// When an expert cannot be read; the cache is then as it was.
    ///
    /// # Panics
    /// When there are no tokens.
    pub fn extend(&self, ctx: &Ctx, ids: &[u32], cache: &mut Cache, form: Form) -> Result<Tensor, ReadError> {
        let mut last = None;
        self.extend_each(ctx, ids, cache, form, |x| {
            let [t, _] = x.dims();
            last = Some(rows_of(ctx, &x, slice::from_ref(&(t - 1..t))));
            Ok(())
        })?;
        Ok(last.expect("there is a token"))
    }

    /// The same, where `each` gets the stream of all tokens, `[T, D]`, chunk by chunk.
    ///
    /// # Errors
    /// Also those of `each`.
    ///
    /// # Panics
    /// When there are no tokens.
    pub fn extend_each(
        &self,
        ctx: &Ctx,
        ids: &[u32],
        cache: &mut Cache,
        form: Form,
        mut each: impl FnMut(Tensor) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        assert!(!ids.is_empty(), "prefill needs at least one token");
        let before = cache.len;
        for ids in ids.chunks(PREFILL_CHUNK) {
            let done = self.prefill_streams(ctx, &[ids], &mut [&mut *cache], form).and_then(|(x, _)| each(x));
            done.inspect_err(|_| cache.truncate(before))?;
        }
        Ok(())
    }

    /// Appends the next tokens of several prompts, in direct form: one run over all of them, in which each expert gets the rows
    /// of all. The result is the streams after all new tokens, `[T, D]`, and which rows of them are of each sequence; they do
    /// not depend on which other sequences are there, nor on how a sequence's tokens are cut into calls. Activations grow with
    /// the tokens: [`PREFILL_CHUNK`] at once are enough.
    ///
    /// # Errors
    /// When an expert cannot be read; the caches are then as they were.
    ///
    /// # Panics
    /// When a sequence has no new token.
    pub fn extend_streams(
        &self,
        ctx: &Ctx,
        tokens: &[&[u32]],
        caches: &mut [&mut Cache],
    ) -> Result<(Tensor, Vec<Range<usize>>), ReadError> {
        self.prefill_streams(ctx, tokens, caches, Form::Direct)
    }

    /// Logits `[S, V]` of the stream `[S, D]`.
    pub fn next_logits(&self, ctx: &Ctx, x: &Tensor) -> Tensor {
        let (h, _) = self.norm.forward(ctx, &self.params, x);
        head::last_logits(ctx, &self.params, self.head, &h)
    }

    /// Appends new tokens to several sequences, in absorbed form. The result is the logits after each one's last new
    /// token, `[S, V]`; they do not depend on which other sequences are there, nor on how a sequence's tokens are cut
    /// into calls.
    ///
    /// # Errors
    /// When an expert cannot be read; the caches are then as they were.
    ///
    /// # Panics
    /// When a sequence has no new token.
    pub fn decode(&self, ctx: &Ctx, tokens: &[&[u32]], caches: &mut [&mut Cache]) -> Result<Tensor, ReadError> {
        let (x, rows) = self.decode_streams(ctx, tokens, caches)?;
        let last: Vec<Range<usize>> = rows.iter().map(|rows| rows.end - 1..rows.end).collect();
        Ok(self.next_logits(ctx, &rows_of(ctx, &x, &last)))
    }

    /// The same, up to the streams after all new tokens, `[T, D]`, and which rows of them are of each sequence.
    ///
    /// # Errors
    /// As [`Model::decode`].
    ///
    /// # Panics
    /// As [`Model::decode`].
    pub fn decode_streams(
        &self,
        ctx: &Ctx,
        tokens: &[&[u32]],
        caches: &mut [&mut Cache],
    ) -> Result<(Tensor, Vec<Range<usize>>), ReadError> {
        self.streams(ctx, tokens, caches, |block, x, angles, rows, caches| {
            block.decode(ctx, &self.params, x, angles, rows, caches)
        })
    }

    fn prefill_streams(
        &self,
        ctx: &Ctx,
        tokens: &[&[u32]],
        caches: &mut [&mut Cache],
        form: Form,
    ) -> Result<(Tensor, Vec<Range<usize>>), ReadError> {
        self.streams(ctx, tokens, caches, |block, x, angles, rows, caches| {
            block.prefill(ctx, &self.params, x, angles, rows, caches, form)
        })
    }

    /// Appends new tokens to several sequences; `run(layer, x, angles, rows, caches)` is what each layer makes of the stream.
    fn streams(
        &self,
        ctx: &Ctx,
        tokens: &[&[u32]],
        caches: &mut [&mut Cache],
        run: impl Fn(&Block, &Tensor, &CosSin, &[Range<usize>], &mut [&mut Latents]) -> Result<Tensor, ReadError>,
    ) -> Result<(Tensor, Vec<Range<usize>>), ReadError> {
        assert!(
            tokens.len() == caches.len() && tokens.iter().all(|t| !t.is_empty()),
            "every sequence needs a new token"
        );
        let mut rows: Vec<Range<usize>> = Vec::with_capacity(tokens.len());
        let mut positions: Vec<u32> = Vec::new();
        for (tokens, cache) in tokens.iter().zip(caches.iter()) {
            rows.push(positions.len()..positions.len() + tokens.len());
            positions.extend((cache.len..cache.len + tokens.len()).map(|i| i as u32));
        }
        let angles = self.table(ctx, &positions);
        let mut x = embedding::forward(ctx, &tokens.concat(), &self.params[self.embed]);
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut layer_caches: Vec<&mut Latents> = caches.iter_mut().map(|c| &mut c.layers[layer]).collect();
            let result = run(block, &x, &angles, &rows, &mut layer_caches);
            x = result.inspect_err(|_| caches.iter_mut().for_each(|cache| cache.truncate(cache.len)))?;
        }
        for (tokens, cache) in tokens.iter().zip(caches.iter_mut()) {
            cache.len += tokens.len();
        }
        Ok((x, rows))
    }
}

/// Some rows of `x [T, D]`, one below the other.
///
/// # Panics
/// When there are no such rows.
pub fn rows_of(ctx: &Ctx, x: &Tensor, ranges: &[Range<usize>]) -> Tensor {
    let [_, d] = x.dims();
    let mut rows = ctx.empty([ranges.iter().map(ExactSizeIterator::len).sum(), d]);
    let mut rest = rows.data_mut();
    for range in ranges {
        let (to, after) = rest.split_at_mut(range.len() * d);
        to.copy_from_slice(&x.data()[range.start * d..range.end * d]);
        rest = after;
    }
    rows
}

impl CacheBlock {
    /// Appends its bytes, layer by layer, as [`Model::restore_block`] takes them: what a cache of the same model and kind
    /// reads from them is the same, bit for bit.
    pub fn write_to(&self, bytes: &mut Vec<u8>) {
        self.layers.iter().for_each(|layer| layer.write_to(bytes));
    }
}

impl Cache {
    /// The number of tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens `64 i` to `64 i + 63`, shared with this cache.
    ///
    /// # Panics
    /// When it does not hold them all.
    pub fn block(&self, i: usize) -> CacheBlock {
        CacheBlock { layers: self.layers.iter().map(|layer| layer.share(i)).collect() }
    }

    /// Appends a block that a cache of the same model has shared.
    ///
    /// # Panics
    /// When the cache ends within a block, or belongs to another model.
    pub fn push_block(&mut self, block: &CacheBlock) {
        assert_eq!(self.layers.len(), block.layers.len(), "a block of another model");
        for (layer, block) in self.layers.iter_mut().zip(&block.layers) {
            layer.push(block);
        }
        self.len += BLOCK_TOKENS;
    }

    /// Takes the memory of `block`, which holds the same numbers, for block `i`.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn replace_block(&mut self, i: usize, block: &CacheBlock) {
        for (layer, block) in self.layers.iter_mut().zip(&block.layers) {
            layer.replace(i, block);
        }
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.layers.iter_mut().for_each(|layer| layer.truncate(len));
        self.len = self.len.min(len);
    }
}
