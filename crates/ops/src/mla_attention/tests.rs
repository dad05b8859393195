use tensor::{Ctx, Tensor};

use super::{Dims, backward, cases, forward, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

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

fn scale(dims: Dims) -> f32 {
    1.3 / ((dims.dn + dims.dr) as f32).sqrt()
}

/// `[o, dq, dkv, dk_rope]`.
fn run(ctx: &Ctx, x: &Inputs, cu_seqlens: &[usize], dims: Dims) -> [Tensor; 4] {
    let (o, saved) = forward(ctx, &x.q, &x.kv, &x.k_rope, cu_seqlens, dims, scale(dims));
    let (dq, dkv, dk_rope) = backward(ctx, &x.d_o, &x.q, &x.kv, &x.k_rope, &o, saved, cu_seqlens, dims, scale(dims));
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
    for case in cases::EXACT {
        let (dims, cu_seqlens) = (case.dims, case.cu_seqlens());
        let x = inputs(cu_seqlens[case.lengths.len()], dims);
        let (q, kv, k_rope, d_o) = (f64s(&x.q), f64s(&x.kv), f64s(&x.k_rope), f64s(&x.d_o));
        let exact = f64::from(scale(dims));
        let (want_o, want_lse) = reference::forward(&q, &kv, &k_rope, &cu_seqlens, dims, exact);
        let want = reference::backward(&d_o, &q, &kv, &k_rope, &cu_seqlens, dims, exact);
        for ctx in levels() {
            let (_, saved) = forward(&ctx, &x.q, &x.kv, &x.k_rope, &cu_seqlens, dims, scale(dims));
            let want_lse: Vec<f64> = want_lse.iter().map(|x| x * std::f64::consts::LOG2_E).collect();
            close("lse", saved.lse.data(), &want_lse, cases::TOLERANCE);
            let [o, dq, dkv, dk_rope] = run(&ctx, &x, &cu_seqlens, dims);
            close("o", o.data(), &want_o, cases::TOLERANCE);
            close("dq", dq.data(), &want.0, cases::TOLERANCE);
            close("dkv", dkv.data(), &want.1, cases::TOLERANCE);
            close("dk_rope", dk_rope.data(), &want.2, cases::TOLERANCE);
        }
    }
}

#[test]
fn levels_and_threads_give_the_same_bits() {
    for case in cases::EXACT {
        let (dims, cu_seqlens) = (case.dims, case.cu_seqlens());
        let x = inputs(cu_seqlens[case.lengths.len()], dims);
        let want = run(&Ctx::new(1).unwrap(), &x, &cu_seqlens, dims);
        for ctx in levels().into_iter().chain([Ctx::new(3).unwrap()]) {
            for (got, want) in run(&ctx, &x, &cu_seqlens, dims).iter().zip(&want) {
                assert_eq!(got.data(), want.data(), "{:?} {dims:?}", ctx.isa);
            }
        }
    }
}

#[test]
fn a_row_knows_nothing_of_later_rows_nor_of_other_sequences() {
    let dims = Dims { heads: 2, dn: 20, dr: 14, dv: 40 };
    let x = inputs(300, dims);
    let ctx = Ctx::new(2).unwrap();
    let (o, _) = forward(&ctx, &x.q, &x.kv, &x.k_rope, &[0, 300], dims, scale(dims));
    let rows = |t: &Tensor, start: usize, end: usize| {
        let [_, width] = t.dims();
        Tensor::from_vec(t.data()[start * width..end * width].to_vec(), [end - start, width])
    };
    for len in [1, 17, 64, 168, 169, 257] {
        let (q, kv, k_rope) = (rows(&x.q, 0, len), rows(&x.kv, 0, len), rows(&x.k_rope, 0, len));
        let (prefix, _) = forward(&ctx, &q, &kv, &k_rope, &[0, len], dims, scale(dims));
        assert_eq!(prefix.data(), rows(&o, 0, len).data(), "the first {len} rows");
    }
    let together = run(&ctx, &x, &[0, 130, 300], dims);
    for (start, end) in [(0, 130), (130, 300)] {
        let part = Inputs {
            q: rows(&x.q, start, end),
            kv: rows(&x.kv, start, end),
            k_rope: rows(&x.k_rope, start, end),
            d_o: rows(&x.d_o, start, end),
        };
        let alone = run(&ctx, &part, &[0, end - start], dims);
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone.data(), rows(together, start, end).data(), "rows {start}..{end}");
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
    let [o, dq, dkv, dk_rope] = run(&Ctx::new(1).unwrap(), &x, &[0, 200], dims);
    for t in [&o, &dq, &dkv, &dk_rope] {
        assert!(t.data().iter().all(|x| x.is_finite()));
    }
    // Scores of ±1000 choose one key, so the result is close to one of the values.
    let (want, _) =
        reference::forward(&f64s(&x.q), &f64s(&x.kv), &f64s(&x.k_rope), &[0, 200], dims, f64::from(scale(dims)));
    // A score of 1000 has an error of 1000 · 2⁻²⁴ or a few of them, and so has a weight.
    close("o", o.data(), &want, 1e-3);
}
