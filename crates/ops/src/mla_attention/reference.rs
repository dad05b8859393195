//! What MLA attention means: f64, plain loops, one score at a time.

use super::Dims;

/// `(o [T, H·dv], lse [H, T])`; arguments as in [`super::forward`].
pub fn forward(
    q: &[f64],
    kv: &[f64],
    k_rope: &[f64],
    cu_seqlens: &[usize],
    dims: Dims,
    scale: f64,
) -> (Vec<f64>, Vec<f64>) {
    let Dims { heads, dn, dv, .. } = dims;
    let rows = *cu_seqlens.last().unwrap_or(&0);
    let (mut o, mut lse) = (vec![0.0; rows * heads * dv], vec![0.0; heads * rows]);
    each_query(cu_seqlens, heads, |h, t, keys| {
        let p = weights(q, kv, k_rope, h, t, keys.clone(), dims, scale);
        lse[h * rows + t] = p.lse;
        for (p, s) in p.weights.iter().zip(keys) {
            for i in 0..dv {
                o[(t * heads + h) * dv + i] += p * kv[(s * heads + h) * (dn + dv) + dn + i];
            }
        }
    });
    (o, lse)
}

/// `(dq, dkv, dk_rope)`; arguments as in [`super::backward`].
pub fn backward(
    d_o: &[f64],
    q: &[f64],
    kv: &[f64],
    k_rope: &[f64],
    cu_seqlens: &[usize],
    dims: Dims,
    scale: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let Dims { heads, dn, dr, dv } = dims;
    let (mut dq, mut dkv, mut dk_rope) = (vec![0.0; q.len()], vec![0.0; kv.len()], vec![0.0; k_rope.len()]);
    each_query(cu_seqlens, heads, |h, t, keys| {
        let p = weights(q, kv, k_rope, h, t, keys.clone(), dims, scale).weights;
        let d_o = &d_o[(t * heads + h) * dv..][..dv];
        let values = |s: usize| (s * heads + h) * (dn + dv) + dn;
        let dp: Vec<f64> = keys.clone().map(|s| (0..dv).map(|i| d_o[i] * kv[values(s) + i]).sum()).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for ((p, dp), s) in p.iter().zip(dp).zip(keys) {
            let ds = p * (dp - mean) * scale;
            let (query, key) = ((t * heads + h) * (dn + dr), (s * heads + h) * (dn + dv));
            for i in 0..dn {
                dq[query + i] += ds * kv[key + i];
                dkv[key + i] += ds * q[query + i];
            }
            for i in 0..dr {
                dq[query + dn + i] += ds * k_rope[s * dr + i];
                dk_rope[s * dr + i] += ds * q[query + dn + i];
            }
            for i in 0..dv {
                dkv[values(s) + i] += p * d_o[i];
            }
        }
    });
    (dq, dkv, dk_rope)
}

/// Calls `f(head, query, keys that it sees)` for all queries.
fn each_query(cu_seqlens: &[usize], heads: usize, mut f: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    for ends in cu_seqlens.windows(2) {
        for h in 0..heads {
            for t in ends[0]..ends[1] {
                f(h, t, ends[0]..t + 1);
            }
        }
    }
}

struct Softmax {
    weights: Vec<f64>,
    lse: f64,
}

fn weights(
    q: &[f64],
    kv: &[f64],
    k_rope: &[f64],
    h: usize,
    t: usize,
    keys: std::ops::Range<usize>,
    dims: Dims,
    scale: f64,
) -> Softmax {
    let Dims { heads, dn, dr, dv } = dims;
    let q = &q[(t * heads + h) * (dn + dr)..][..dn + dr];
    let score = |s: usize| {
        let nope: f64 = (0..dn).map(|i| q[i] * kv[(s * heads + h) * (dn + dv) + i]).sum();
        let rope: f64 = (0..dr).map(|i| q[dn + i] * k_rope[s * dr + i]).sum();
        (nope + rope) * scale
    };
    let scores: Vec<f64> = keys.map(score).collect();
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    Softmax { weights: scores.iter().map(|s| (s - max).exp() / sum).collect(), lse: max + sum.ln() }
}
