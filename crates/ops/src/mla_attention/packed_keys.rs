//! Keys and values of a wave of heads in pairs, packed once for all tiles of queries.

use std::ops::Range;

use tensor::{Ctx, Tensor};

use super::pairs::{
    PairRow, PairStrips, first_aligned, pack_neighbours, pack_two_rows, pair_rows, pair_rows_mut, strips_of,
};
use super::schedule::Sequence;
use super::strips::{Rows, WIDTH};
use super::{Dims, Inputs, KEYS};

/// Bytes of packed keys for each thread: what stays in its level-2 cache until it is used.
const BYTES_A_THREAD: usize = 1 << 20;

/// Bytes that packed keys may take in all; more than that if a single head needs more.
const BYTES: usize = 1 << 28;

/// Which matrices a pass needs of a block of keys.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pass {
    /// K in pairs along the width, V in pairs along the keys.
    Forward,
    /// K and V in pairs along the width, K in pairs along the keys.
    Backward,
}

/// How packed keys lie: `[head, block, matrix, strip, row]`.
pub(super) struct Layout {
    pass: Pass,
    /// Sequence and first key of each block.
    blocks: Vec<(usize, usize)>,
    /// The first block of each sequence.
    starts: Vec<usize>,
    /// Where the matrices of a block begin, and where the block ends.
    matrices: Vec<usize>,
    /// Rows of each matrix's strips.
    rows: Vec<usize>,
}

impl Layout {
    pub(super) fn new(pass: Pass, Dims { dn, dr, dv, .. }: Dims, sequences: &[Sequence]) -> Self {
        let (mut blocks, mut starts) = (Vec::new(), Vec::new());
        for (i, sequence) in sequences.iter().enumerate() {
            starts.push(blocks.len());
            blocks.extend((0..sequence.len).step_by(KEYS).map(|first| (i, first)));
        }
        let along_width = |width: usize| (strips_of(width.div_ceil(2)), KEYS);
        let along_keys = |width: usize| (strips_of(width), KEYS / 2);
        let sizes = match pass {
            Pass::Forward => vec![along_width(dn + dr), along_keys(dv)],
            Pass::Backward => vec![along_width(dn + dr), along_width(dv), along_keys(dn + dr)],
        };
        let mut matrices = vec![0];
        for (strips, rows) in &sizes {
            matrices.push(matrices[matrices.len() - 1] + strips * rows);
        }
        Self { pass, blocks, starts, matrices, rows: sizes.into_iter().map(|(_, rows)| rows).collect() }
    }

    /// Rows of a block.
    fn block(&self) -> usize {
        self.matrices[self.rows.len()]
    }

    /// How many heads are packed together: as many as their keys stay in the caches, but enough of them to keep all
    /// threads busy.
    pub(super) fn heads_at_once(&self, threads: usize) -> usize {
        let bytes = (self.blocks.len() * self.block() * size_of::<PairRow>()).max(1);
        let least = match self.pass {
            // A head has many tiles.
            Pass::Forward => 1,
            // Of a head there may be one part in a step.
            Pass::Backward => 2 * threads,
        };
        (threads * BYTES_A_THREAD / bytes).max(least).min(BYTES / bytes).max(1)
    }
}

/// The packed keys of some heads.
pub(super) struct PackedKeys<'a> {
    pub(super) heads: Range<usize>,
    layout: &'a Layout,
    buffer: Tensor,
    /// Where the first row is in the buffer.
    start: usize,
}

impl<'a> PackedKeys<'a> {
    pub(super) fn new(
        ctx: &Ctx,
        inputs: &Inputs<'_>,
        layout: &'a Layout,
        sequences: &[Sequence],
        heads: Range<usize>,
    ) -> Self {
        let blocks = layout.blocks.len();
        let rows = heads.len() * blocks * layout.block();
        let mut buffer = ctx.empty([(rows + 1) * WIDTH]);
        let start = first_aligned(buffer.data());
        let packed = &mut pair_rows_mut(&mut buffer.data_mut()[start..])[..rows];
        ctx.for_each_chunk(packed, layout.block().max(1), |i, to| {
            let ((number, first), head) = (layout.blocks[i % blocks], heads.start + i / blocks);
            let sequence = &sequences[number];
            let count = KEYS.min(sequence.len - first);
            let [nope, rope] = inputs.keys(sequence, head, first, count);
            let values = inputs.values(sequence, head, first, count);
            let nothing = Rows { width: 0, ..values };
            let (k, rest) = to.split_at_mut(layout.matrices[1]);
            pack_neighbours(ctx.isa, nope, rope, KEYS, k);
            match layout.pass {
                Pass::Forward => pack_two_rows(ctx.isa, values, nothing, KEYS / 2, rest),
                Pass::Backward => {
                    let (v, k) = rest.split_at_mut(layout.matrices[2] - layout.matrices[1]);
                    pack_neighbours(ctx.isa, values, nothing, KEYS, v);
                    pack_two_rows(ctx.isa, nope, rope, KEYS / 2, k);
                }
            }
        });
        Self { heads, layout, buffer, start }
    }

    /// One of the matrices of the block that begins with key `first` of a sequence.
    pub(super) fn block(&self, head: usize, sequence: usize, first: usize, matrix: usize) -> PairStrips<'_> {
        let Layout { blocks, starts, matrices, rows, .. } = self.layout;
        let block = (head - self.heads.start) * blocks.len() + starts[sequence] + first / KEYS;
        let start = block * self.layout.block();
        let data = pair_rows(&self.buffer.data()[self.start..]);
        PairStrips { data: &data[start + matrices[matrix]..start + matrices[matrix + 1]], rows: rows[matrix] }
    }
}
