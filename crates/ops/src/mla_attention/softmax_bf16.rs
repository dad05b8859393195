//! What follows scores in backward, with results in bf16.

use super::bf16::paired;
use super::pairs::PairRow;
use super::softmax::{part, two_to};
use super::strips::{Row, WIDTH};
use crate::simd::LANES;

/// What is known of 32 queries side by side, and of all.
pub(super) struct Gradient<'a> {
    /// How many of the keys each query sees.
    pub(super) limits: &'a [u32; WIDTH],
    /// The logarithm, to base 2, of the sum of exponentials.
    pub(super) lse: &'a Row,
    /// `Σ_d dO · o`.
    pub(super) delta: &'a Row,
    /// `scale · log2 e`.
    pub(super) unit: f32,
    pub(super) scale: f32,
}

paired! {
    /// Weights and the gradients of scores, from products of unscaled queries and keys, and from the gradients of
    /// weights; a row of each for a key:
    ///
    /// ```text
    /// p = 2^(scores · unit − lse),  ds = p · (d_p − delta) · scale          both 0 where a query does not see the key
    /// ```
    ///
    /// Queries in pairs go into half `half` of the rows of `p_out` and `ds_out`, keys in pairs into `ds_two_rows`.
    pub(super) fn backward(
        unit;
        scores: &[Row],
        d_p: &[Row],
        g: &Gradient<'_>,
        half: usize,
        p_out: &mut [PairRow],
        ds_out: &mut [PairRow],
        ds_two_rows: &mut [PairRow],
    ) {
        let place = half * LANES..(half + 1) * LANES;
        for i in (0..scores.len()).step_by(2) {
            let mut ds_both = [[0.0; WIDTH]; 2];
            for (row, ds_row) in (i..scores.len().min(i + 2)).zip(&mut ds_both) {
                let mut p_row = [0.0; WIDTH];
                for start in [0, LANES] {
                    let columns = start..start + LANES;
                    let limits: [u32; LANES] = part(&g.limits[columns.clone()]);
                    let [lse, delta, s, d_p] =
                        [g.lse, g.delta, &scores[row], &d_p[row]].map(|x| part::<f32>(&x[columns.clone()]));
                    let (mut p, mut ds) = ([0.0; LANES], [0.0; LANES]);
                    for l in 0..LANES {
                        let visible = (row as u32) < limits[l];
                        let weight = two_to(s[l].mul_add(g.unit, -lse[l]));
                        p[l] = if visible { weight } else { 0.0 };
                        ds[l] = if visible { weight * (d_p[l] - delta[l]) * g.scale } else { 0.0 };
                    }
                    p_row[columns.clone()].copy_from_slice(&p);
                    ds_row[columns].copy_from_slice(&ds);
                }
                p_out[row][place.clone()].copy_from_slice(&unit.pair_neighbours(&p_row));
                ds_out[row][place.clone()].copy_from_slice(&unit.pair_neighbours(ds_row));
            }
            for start in [0, LANES] {
                let columns = start..start + LANES;
                let [even, odd] = [0, 1].map(|row: usize| part(&ds_both[row][columns.clone()]));
                ds_two_rows[i / 2][columns].copy_from_slice(&unit.pair_rows(&even, &odd));
            }
        }
    }
}
