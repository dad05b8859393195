use tensor::{Ctx, Tensor, bf16};

use super::{Chunks, Dims, backward, cases, forward, forward_chunks, reference};
use crate::Precision;
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

struct Inputs {
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    d_o: Tensor,
}

fn inputs(t: usize, dims: Dims) -> Inputs {
    let Dims { heads, dn, dr, dv } = dims;
    Inputs {
        q: random([t, heads * (dn + dr)], 1),
        kv: random([t, heads * (dn + dv)], 2),
        k_rope: random([t, dr], 3),
        d_o: random([t, heads * dv], 4),
    }
}

impl Inputs {
    /// What products see of them, in f64: `[q, kv, k_rope, d_o]`.
    fn as_seen(&self, precision: Precision) -> [Vec<f64>; 4] {
        [&self.q, &self.kv, &self.k_rope, &self.d_o].map(|t| match precision {
            Precision::F32 => f64s(t),
            Precision::Bf16 => t.data().iter().map(|&x| bf16::from_f32(x).to_f64()).collect(),
        })
    }

    /// The rows of some ranges, one after the other.
    fn rows(&self, ranges: &[std::ops::Range<usize>]) -> Self {
        let [q, kv, k_rope, d_o] = [&self.q, &self.kv, &self.k_rope, &self.d_o].map(|t| rows(t, ranges));
        Self { q, kv, k_rope, d_o }
    }
}

fn rows(t: &Tensor, ranges: &[std::ops::Range<usize>]) -> Tensor {
    let data: Vec<f32> = ranges.iter().flat_map(|range| range.clone().flat_map(|i| t.row(i).to_vec())).collect();
    let [_, width] = t.dims();
    Tensor::from_vec(data, [ranges.iter().map(ExactSizeIterator::len).sum(), width])
}

fn columns(t: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let [rows, _] = t.dims();
    let data: Vec<f32> = (0..rows).flat_map(|i| t.row(i)[range.clone()].to_vec()).collect();
    Tensor::from_vec(data, [rows, range.len()])
}

fn scale(dims: Dims) -> f32 {
    1.3 / ((dims.dn + dims.dr) as f32).sqrt()
}

/// `[o, dq, dkv, dk_rope]`.
fn run(ctx: &Ctx, x: &Inputs, cu_seqlens: &[usize], dims: Dims, precision: Precision) -> [Tensor; 4] {
    let Inputs { q, kv, k_rope, d_o } = x;
    let (o, saved) = forward(ctx, q, kv, k_rope, cu_seqlens, dims, scale(dims), precision);
    let (dq, dkv, dk_rope) = backward(ctx, d_o, q, kv, k_rope, &o, saved, cu_seqlens, dims, scale(dims), precision);
    [o, dq, dkv, dk_rope]
}

#[test]
fn reference_gradients_are_those_of_the_reference() {
    let dims = Dims { heads: 2, dn: 3, dr: 2, dv: 4 };
    let cu_seqlens = [0, 5, 5, 7];
    let x = inputs(7, dims);
    let (q, kv, k_rope, d_o) = (f64s(&x.q), f64s(&x.kv), f64s(&x.k_rope), f64s(&x.d_o));
    let loss = |q: &[f64], kv: &[f64], k_rope: &[f64]| {
        let (o, _) = reference::forward(q, kv, k_rope, &cu_seqlens, dims, 0.7);
        o.iter().zip(&d_o).map(|(o, d_o)| o * d_o).sum()
    };
    let (dq, dkv, dk_rope) = reference::backward(&d_o, &q, &kv, &k_rope, &cu_seqlens, dims, 0.7);
    close_gradient("dq", &dq, &numeric_gradient(&q, |q| loss(q, &kv, &k_rope)));
    close_gradient("dkv", &dkv, &numeric_gradient(&kv, |kv| loss(&q, kv, &k_rope)));
    close_gradient("dk_rope", &dk_rope, &numeric_gradient(&k_rope, |k_rope| loss(&q, &kv, k_rope)));
}

#[test]
fn every_level_agrees_with_the_reference() {
    for (case, precision) in cases::EXACT.iter().flat_map(|case| PRECISIONS.map(|precision| (case, precision))) {
        let (dims, cu_seqlens) = (case.dims, case.cu_seqlens());
        let x = inputs(cu_seqlens[case.lengths.len()], dims);
        let [q, kv, k_rope, d_o] = x.as_seen(precision);
        let exact = f64::from(scale(dims));
        let (want_o, want_lse) = reference::forward(&q, &kv, &k_rope, &cu_seqlens, dims, exact);
        let want_lse: Vec<f64> = want_lse.iter().map(|x| x * std::f64::consts::LOG2_E).collect();
        let (dq, dkv, dk_rope) = reference::backward(&d_o, &q, &kv, &k_rope, &cu_seqlens, dims, exact);
        let (tolerance, gradient_tolerance) = match precision {
            Precision::F32 => (cases::TOLERANCE, cases::TOLERANCE),
            Precision::Bf16 => (cases::TOLERANCE_BF16, cases::GRADIENT_TOLERANCE_BF16),
        };
        for ctx in levels() {
            let (_, saved) = forward(&ctx, &x.q, &x.kv, &x.k_rope, &cu_seqlens, dims, scale(dims), precision);
            // Products of rounded numbers are exact, so scores are as good in bf16.
            close("lse", saved.lse.data(), &want_lse, cases::TOLERANCE);
            let got = run(&ctx, &x, &cu_seqlens, dims, precision);
            close("o", got[0].data(), &want_o, tolerance);
            close("dq", got[1].data(), &dq, gradient_tolerance);
            close("dkv", got[2].data(), &dkv, gradient_tolerance);
            close("dk_rope", got[3].data(), &dk_rope, gradient_tolerance);
        }
    }
}

#[test]
fn levels_and_threads_give_the_same_bits() {
    for (case, precision) in cases::EXACT.iter().flat_map(|case| PRECISIONS.map(|precision| (case, precision))) {
        let (dims, cu_seqlens) = (case.dims, case.cu_seqlens());
        let x = inputs(cu_seqlens[case.lengths.len()], dims);
        let want = run(&Ctx::new(1).unwrap(), &x, &cu_seqlens, dims, precision);
        for ctx in levels().into_iter().chain([Ctx::new(3).unwrap()]) {
            for (got, want) in run(&ctx, &x, &cu_seqlens, dims, precision).iter().zip(&want) {
                assert_eq!(got.data(), want.data(), "{precision:?} {:?} {dims:?}", ctx.isa);
            }
        }
    }
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "one range of rows, not the numbers in it")]
fn a_row_knows_nothing_of_later_rows_nor_of_other_sequences() {
    let dims = Dims { heads: 2, dn: 20, dr: 14, dv: 40 };
    let x = inputs(300, dims);
    let ctx = Ctx::new(2).unwrap();
    for precision in PRECISIONS {
        let [o, ..] = run(&ctx, &x, &[0, 300], dims, precision);
        for len in [1, 17, 64, 168, 169, 257] {
            let [prefix, ..] = run(&ctx, &x.rows(&[0..len]), &[0, len], dims, precision);
            assert_eq!(prefix.data(), rows(&o, &[0..len]).data(), "the first {len} rows");
        }
        let together = run(&ctx, &x, &[0, 130, 300], dims, precision);
        for (start, end) in [(0, 130), (130, 300)] {
            let alone = run(&ctx, &x.rows(&[start..end]), &[0, end - start], dims, precision);
            for (alone, together) in alone.iter().zip(&together) {
                assert_eq!(alone.data(), rows(together, &[start..end]).data(), "rows {start}..{end}");
            }
        }
    }
}

#[test]
fn a_prompt_in_chunks_has_the_bits_of_a_prompt_in_one_piece() {
    let dims = Dims { heads: 2, dn: 20, dr: 14, dv: 40 };
    let x = inputs(700, dims);
    // Two prompts, rows 0..400 and 400..700. A call takes each from one of these lengths to the next.
    let lengths = [[0, 0], [1, 37], [1, 38], [130, 168], [167, 300], [337, 300], [400, 300]];
    for precision in PRECISIONS {
        let [want, ..] = run(&Ctx::new(1).unwrap(), &x, &[0, 400, 700], dims, precision);
        for ctx in levels() {
            for step in lengths.windows(2) {
                let (before, after) = (step[0], step[1]);
                let queries = [before[0]..after[0], 400 + before[1]..400 + after[1]];
                let keys = [0..after[0], 400..400 + after[1]];
                let offsets =
                    |ranges: &[std::ops::Range<usize>]| [0, ranges[0].len(), ranges[0].len() + ranges[1].len()];
                let chunks = Chunks { q_offsets: &offsets(&queries), k_offsets: &offsets(&keys) };
                let Inputs { kv, k_rope, .. } = x.rows(&keys);
                let q = rows(&x.q, &queries);
                let want = rows(&want, &queries);
                let width = dims.dn + dims.dv;
                for waves in [&[(0, 2)][..], &[(1, 2), (0, 1)]] {
                    let mut got = ctx.empty(want.shape());
                    for &(first, end) in waves {
                        let kv = columns(&kv, first * width..end * width);
                        let (heads, scale) = (first..end, scale(dims));
                        forward_chunks(&ctx, &q, &kv, &k_rope, chunks, heads, dims, scale, precision, &mut got);
                    }
                    let level = ctx.isa.level();
                    assert_eq!(got.data(), want.data(), "{precision:?} {level:?} {step:?} {waves:?}");
                }
            }
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    let dims = Dims { heads: 1, dn: 4, dr: 2, dv: 3 };
    let mut x = inputs(200, dims);
    for q in x.q.data_mut() {
        *q *= 1e3;
    }
    for precision in PRECISIONS {
        let got = run(&Ctx::new(1).unwrap(), &x, &[0, 200], dims, precision);
        for t in &got {
            assert!(t.data().iter().all(|x| x.is_finite()));
        }
        // Scores of ±1000 choose one key, so the result is close to one of the values.
        let [q, kv, k_rope, _] = x.as_seen(precision);
        let (want, _) = reference::forward(&q, &kv, &k_rope, &[0, 200], dims, f64::from(scale(dims)));
        // A score of 1000 has an error of 1000 · 2⁻²⁴ or a few of them, and so has a weight.
        let tolerance = if precision == Precision::F32 { 1e-3 } else { 1e-3 + cases::TOLERANCE_BF16 };
        close("o", got[0].data(), &want, tolerance);
    }
}
