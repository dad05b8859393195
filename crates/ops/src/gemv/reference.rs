//! What the products mean: f64, plain loops.

use crate::mla_attention::Dims;

/// `y [T, N] = x [T, K] · w [N, K]ᵀ`.
pub fn nt(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(|w| dot(x, w))).collect()
}

/// `y [T, H·dv]` of `x [T, H·rk]` and `kv_b`; arguments as in [`super::heads_nt`].
pub fn heads_nt(x: &[f64], kv_b: &[f64], dims: Dims, rk: usize) -> Vec<f64> {
    let Dims { heads, dn, dv, .. } = dims;
    let values = |h: usize| &kv_b[(h * (dn + dv) + dn) * rk..][..dv * rk];
    x.chunks_exact(rk).enumerate().flat_map(|(i, x)| nt(x, values(i % heads), rk)).collect()
}

/// `y [T, H·rk]` of `q [T, H·(dn+dr)]` and `kv_b`; arguments as in [`super::heads_nn`].
pub fn heads_nn(q: &[f64], kv_b: &[f64], dims: Dims, rk: usize) -> Vec<f64> {
    let Dims { heads, dn, dr, dv } = dims;
    let mut y = Vec::new();
    for (i, q) in q.chunks_exact(dn + dr).enumerate() {
        let keys = &kv_b[i % heads * (dn + dv) * rk..][..dn * rk];
        y.extend((0..rk).map(|j| (0..dn).map(|i| q[i] * keys[i * rk + j]).sum::<f64>()));
    }
    y
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
