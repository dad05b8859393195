use std::ops::Range;
use std::sync::Arc;

use tensor::Ctx;

pub use super::block::CacheKind;
use super::block::{Line, Shape, TOKENS};
use crate::mla_attention::disjoint::Disjoint;

/// The latent cache of one sequence in one layer: for each token its normalised latent `c [rk]` and its rotated key
/// `r [dr]`.
///
/// It grows by blocks of 64 tokens, so nothing is moved. A clone shares the blocks; whoever writes into a shared one first
/// makes a copy of it.
#[derive(Clone)]
pub struct Latents {
    shape: Shape,
    blocks: Vec<Arc<[Line]>>,
    len: usize,
}

/// A whole block of a cache: 64 tokens. A clone is the same memory.
#[derive(Clone)]
pub struct SharedBlock {
    shape: Shape,
    lines: Arc<[Line]>,
}

/// The tokens of a block.
pub const BLOCK_TOKENS: usize = TOKENS;

impl Latents {
    /// An empty cache for latents of `rk` and keys of `dr` numbers.
    ///
    /// # Panics
    /// When either is 0.
    pub fn new(kind: CacheKind, rk: usize, dr: usize) -> Self {
        assert!(rk > 0 && dr > 0, "mla_decode: a cache of {rk} + {dr} numbers a token");
        Self { shape: Shape { kind, rk, dr }, blocks: Vec::new(), len: 0 }
    }

    /// How it holds its numbers.
    pub fn kind(&self) -> CacheKind {
        self.shape.kind
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What a token occupies: `4 (rk + dr)`, `2 (rk + dr)` or `rk + 2 dr + rk / 128` bytes, where `rk` and `dr` fill whole
    /// lines of 64 bytes.
    pub fn bytes_per_token(&self) -> usize {
        self.shape.lines() * size_of::<Line>() / TOKENS
    }

    /// Adds tokens at the end: `c` is `[n, rk]`, `r` is `[n, dr]`.
    ///
    /// # Panics
    /// When the two have different numbers of rows.
    pub fn append(&mut self, ctx: &Ctx, c: &[f32], r: &[f32]) {
        let Shape { rk, dr, .. } = self.shape;
        let (shape, start, end) = (self.shape, self.len, self.len + c.len() / rk);
        assert!(
            c.len() == (end - start) * rk && r.len() == (end - start) * dr,
            "mla_decode: {} and {} values are no rows of {rk} and {dr}",
            c.len(),
            r.len()
        );
        while self.blocks.len() * TOKENS < end {
            self.blocks.push(std::iter::repeat_n(Line::ZERO, shape.lines()).collect());
        }
        let pieces: Vec<Piece> = pieces(start..end).collect();
        let first = pieces.first().map_or(0, |piece| piece.block);
        ctx.for_each_chunk(&mut self.blocks[first..first + pieces.len()], 1, |i, block| {
            let Piece { tokens, row, .. } = pieces[i].clone();
            let (c, r) = (&c[row * rk..][..tokens.len() * rk], &r[row * dr..][..tokens.len() * dr]);
            shape.write(ctx.isa, Arc::make_mut(&mut block[0]), tokens.start, c, r);
        });
        self.len = end;
    }

    /// Forgets all tokens from the `len`th on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.blocks.truncate(self.len.div_ceil(TOKENS));
    }

    /// What a block of [`BLOCK_TOKENS`] tokens occupies.
    pub fn block_bytes(&self) -> usize {
        self.shape.lines() * size_of::<Line>()
    }

    /// Block `i`, shared with this cache.
    ///
    /// # Panics
    /// When it is not full.
    pub fn share(&self, i: usize) -> SharedBlock {
        assert!((i + 1) * TOKENS <= self.len, "mla_decode: block {i} of {self:?} is not full");
        SharedBlock { shape: self.shape, lines: self.blocks[i].clone() }
    }

    /// Adds a block that a cache of the same kind has shared.
    ///
    /// # Panics
    /// When the cache ends within a block, or is of another kind.
    pub fn push(&mut self, block: &SharedBlock) {
        assert!(
            self.len.is_multiple_of(TOKENS) && block.shape == self.shape,
            "mla_decode: {self:?} does not take a block of {:?}",
            block.shape
        );
        self.blocks.push(block.lines.clone());
        self.len += TOKENS;
    }

    /// Takes the memory of `block`, which holds the same numbers, for block `i`.
    ///
    /// # Panics
    /// When there is no such block, or it is of another kind.
    pub fn replace(&mut self, i: usize, block: &SharedBlock) {
        assert!(
            (i + 1) * TOKENS <= self.len && block.shape == self.shape,
            "mla_decode: {self:?} has no such block {i}"
        );
        self.blocks[i] = block.lines.clone();
    }

    /// A block of this kind of cache from the bytes that [`SharedBlock::write_to`] gave; none when they are not as many as a
    /// block has. Whether the bytes are those that were written is for the caller to know.
    pub fn restore(&self, bytes: &[u8]) -> Option<SharedBlock> {
        if bytes.len() != self.block_bytes() {
            return None;
        }
        let mut lines: Arc<[Line]> = std::iter::repeat_n(Line::ZERO, self.shape.lines()).collect();
        let fresh = Arc::get_mut(&mut lines).expect("nobody else has it yet");
        for (line, bytes) in fresh.iter_mut().zip(bytes.as_chunks::<{ size_of::<Line>() }>().0) {
            for (word, bytes) in line.0.iter_mut().zip(bytes.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes);
            }
        }
        Some(SharedBlock { shape: self.shape, lines })
    }

    /// The values of some tokens: `c` is `[n, rk]`, `r` is `[n, dr]`.
    ///
    /// # Panics
    /// When there are no such tokens, or the slices have another length.
    pub fn read(&self, ctx: &Ctx, rows: Range<usize>, c: &mut [f32], r: &mut [f32]) {
        let Shape { rk, dr, .. } = self.shape;
        assert!(
            rows.end <= self.len && c.len() == rows.len() * rk && r.len() == rows.len() * dr,
            "mla_decode: rows {rows:?} of a cache of {} tokens of {rk} + {dr} are not {} and {} values",
            self.len,
            c.len(),
            r.len()
        );
        let pieces: Vec<Piece> = pieces(rows.clone()).collect();
        let (all_c, all_r) = (Disjoint::new(c), Disjoint::new(r));
        ctx.for_each(pieces.len(), |i| {
            let Piece { block, tokens, row } = pieces[i].clone();
            let n = tokens.len();
            // SAFETY: each piece has its own rows.
            let (c, r) = unsafe { (all_c.part(row * rk, n * rk), all_r.part(row * dr, n * dr)) };
            self.shape.read(ctx.isa, &self.blocks[block], tokens.start, c, r);
        });
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Tokens `64 i` to `64 i + 63`.
    pub(super) fn block(&self, i: usize) -> &[Line] {
        &self.blocks[i]
    }
}

/// Some tokens of one block.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) block: usize,
    /// Which of the block.
    pub(super) tokens: Range<usize>,
    /// The first of them, counted from the start of the whole range.
    pub(super) row: usize,
}

/// A range of tokens, block by block.
pub(super) fn pieces(rows: Range<usize>) -> impl Iterator<Item = Piece> {
    let Range { start, end } = rows;
    let blocks = if start < end { start / TOKENS..end.div_ceil(TOKENS) } else { 0..0 };
    blocks.map(move |block| {
        let (from, to) = (start.max(block * TOKENS), end.min((block + 1) * TOKENS));
        Piece { block, tokens: from - block * TOKENS..to - block * TOKENS, row: from - start }
    })
}

impl SharedBlock {
    /// Appends the block as it lies in memory, [`Latents::block_bytes`] of them; words are little-endian everywhere.
    pub fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(size_of_val(&*self.lines));
        for line in &*self.lines {
            bytes.extend_from_slice(line.0.map(u32::to_le_bytes).as_flattened());
        }
    }
}

impl std::fmt::Debug for SharedBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBlock[{:?}]", self.shape)
    }
}

impl std::fmt::Debug for Latents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { kind, rk, dr } = self.shape;
        write!(f, "Latents[{}, {rk} + {dr}, {kind:?}]", self.len)
    }
}
