//! What decoding in absorbed form means: f64, plain loops.

use std::ops::Range;

use super::Dims;

/// One sequence: its cache `c [len, rk]` and `r [len, dr]`, its rows of the batch, and the position of the first.
pub struct Query<'a> {
    /// Normalised latents.
    pub c: &'a [f64],
    /// Rotated shared keys.
    pub r: &'a [f64],
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Row `i` sees keys `0..=first_position + i`.
    pub first_position: usize,
}

/// `u [T, H·rk]`; arguments as in [`super::forward`].
pub fn forward(q_latent: &[f64], q: &[f64], queries: &[Query<'_>], dims: Dims, rk: usize, scale: f64) -> Vec<f64> {
    let Dims { heads, dn, dr, .. } = dims;
    let mut u = vec![0.0; q_latent.len()];
    for Query { c, r, rows, first_position } in queries {
        for (i, t) in rows.clone().enumerate() {
            for h in 0..heads {
                let latent = &q_latent[(t * heads + h) * rk..][..rk];
                let rope = &q[(t * heads + h) * (dn + dr) + dn..][..dr];
                let scores: Vec<f64> = (0..=first_position + i)
                    .map(|s| (dot(latent, &c[s * rk..][..rk]) + dot(rope, &r[s * dr..][..dr])) * scale)
                    .collect();
                let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for (s, score) in scores.iter().enumerate() {
                    for d in 0..rk {
                        u[(t * heads + h) * rk + d] += (score - max).exp() / sum * c[s * rk + d];
                    }
                }
            }
        }
    }
    u
}

/// `q_latent [T, H·rk]`; arguments as in [`super::absorb`].
pub fn absorb(q: &[f64], kv_b: &[f64], dims: Dims, rk: usize) -> Vec<f64> {
    let Dims { heads, dn, dr, dv } = dims;
    let rows = q.len() / (heads * (dn + dr));
    let mut q_latent = vec![0.0; rows * heads * rk];
    for (head, out) in q_latent.chunks_exact_mut(rk).enumerate() {
        for i in 0..dn {
            let weight = &kv_b[((head % heads) * (dn + dv) + i) * rk..][..rk];
            for (out, w) in out.iter_mut().zip(weight) {
                *out += q[head * (dn + dr) + i] * w;
            }
        }
    }
    q_latent
}

/// `o [T, H·dv]`; arguments as in [`super::expand`].
pub fn expand(u: &[f64], kv_b: &[f64], dims: Dims, rk: usize) -> Vec<f64> {
    let Dims { heads, dn, dv, .. } = dims;
    let value = |h: usize, i: usize| &kv_b[(h * (dn + dv) + dn + i) * rk..][..rk];
    u.chunks_exact(rk).enumerate().flat_map(|(head, u)| (0..dv).map(move |i| dot(u, value(head % heads, i)))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
