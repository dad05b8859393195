//! How the work is cut: into tiles of queries, blocks of keys, and an order in which gradients are added.

use std::cmp::Reverse;
use std::ops::Range;

use super::{Chunks, KEYS};

/// A sequence, and which of its positions are queries: those from `offset` on.
pub(super) struct Sequence {
    pub(super) first_query_row: usize,
    pub(super) first_key_row: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Sequence {
    /// The row of a position in q, and in all that goes with it.
    pub(super) fn query_row(&self, position: usize) -> usize {
        self.first_query_row + position - self.offset
    }
}

pub(super) fn sequences(Chunks { q_offsets, k_offsets }: Chunks<'_>) -> Vec<Sequence> {
    let sequence = |(q, k): (&[usize], &[usize])| {
        let (queries, len) = (q[1] - q[0], k[1] - k[0]);
        Sequence { first_query_row: q[0], first_key_row: k[0], offset: len - queries, len }
    };
    q_offsets.windows(2).zip(k_offsets.windows(2)).map(sequence).collect()
}

/// Tiles of `queries` queries, as numbers of sequences and first positions. Those with most keys come first, so that
/// what threads end with is short.
pub(super) fn longest_first(sequences: &[Sequence], queries: usize) -> Vec<(usize, usize)> {
    let tiles = |(i, sequence): (usize, &Sequence)| {
        (sequence.offset..sequence.len).step_by(queries).map(move |first| (i, first)).collect::<Vec<_>>()
    };
    let mut tiles: Vec<_> = sequences.iter().enumerate().flat_map(tiles).collect();
    tiles.sort_by_key(|&(_, first)| Reverse(first));
    tiles
}

/// A tile of queries and some of the keys that it sees.
pub(super) struct Part {
    pub(super) sequence: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) keys: Range<usize>,
}

/// Keys of a part: so many that fetching the queries for them alone does not count.
const SPAN: usize = 4 * KEYS;

/// The parts of whole sequences in steps: those of one step share neither queries nor keys, so they may run at the same
/// time, and a later step finds the sums of all earlier ones.
///
/// Tile `i` meets span `j` in step `i + j`, after the spans before `j` and after the tiles before `i`. So gradients of
/// queries are sums over keys, and those of keys sums over queries, in increasing order, whatever the number of
/// threads:
///
/// ```text
/// tile 0 | 0                steps of a sequence of 4 tiles, whose spans are as long as its tiles
/// tile 1 | 1 2
/// tile 2 | 2 3 4
/// tile 3 | 3 4 5 6
/// ```
pub(super) fn steps(sequences: &[Sequence], queries: usize) -> Vec<Vec<Part>> {
    let mut steps = Vec::new();
    for (number, sequence) in sequences.iter().enumerate() {
        for (i, first) in (0..sequence.len).step_by(queries).enumerate() {
            let count = queries.min(sequence.len - first);
            for (j, start) in (0..first + count).step_by(SPAN).enumerate() {
                let keys = start..(first + count).min(start + SPAN);
                if steps.len() <= i + j {
                    steps.resize_with(i + j + 1, Vec::new);
                }
                steps[i + j].push(Part { sequence: number, first, count, keys });
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_everything_once_and_in_order() {
        let queries = 32;
        let sequences = sequences(Chunks { q_offsets: &[0, 0, 1, 1500, 1800], k_offsets: &[0, 0, 1, 1500, 1800] });
        let mut keys_seen = vec![vec![0; 1500]; 4];
        let mut queries_seen = vec![vec![0; 1500]; 4];
        for step in steps(&sequences, queries) {
            for (i, a) in step.iter().enumerate() {
                for b in &step[i + 1..] {
                    let apart = a.keys.end <= b.keys.start || b.keys.end <= a.keys.start;
                    assert!(a.sequence != b.sequence || a.first != b.first && apart, "parts of a step share rows");
                }
            }
            for Part { sequence, first, count, keys } in step {
                // Where the keys of this tile's earlier spans end, and where the tiles before this one did.
                let keys_seen = &mut keys_seen[sequence][first];
                assert_eq!(*keys_seen, keys.start, "spans of keys come in order");
                *keys_seen = keys.end;
                for key in keys.clone() {
                    let expected = if key < first { first } else { 0 };
                    assert_eq!(queries_seen[sequence][key], expected, "tiles of queries come in order");
                    queries_seen[sequence][key] = first + count;
                }
            }
        }
        for (i, sequence) in sequences.iter().enumerate() {
            for first in (0..sequence.len).step_by(queries) {
                assert_eq!(keys_seen[i][first], sequence.len.min(first + queries), "a tile sees all its keys");
            }
            assert!(queries_seen[i][..sequence.len].iter().all(|&end| end == sequence.len));
        }
    }

    #[test]
    fn long_tiles_come_first() {
        let sequences = sequences(Chunks { q_offsets: &[0, 70, 80], k_offsets: &[0, 70, 280] });
        assert_eq!(longest_first(&sequences, 32), [(1, 200), (0, 64), (0, 32), (0, 0)]);
    }
}
