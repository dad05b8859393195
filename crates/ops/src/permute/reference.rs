//! What permute and unpermute mean: f64, plain loops over the choices `idx [T, K]`, without a plan.

/// `(expert, token, k)` of every sorted row.
pub fn order(idx: &[u32], k: usize) -> Vec<(u32, usize, usize)> {
    let mut rows: Vec<_> = idx.iter().enumerate().map(|(i, &e)| (e, i / k, i % k)).collect();
    rows.sort_unstable();
    rows
}

/// `x` is `[T, D]`; the result is `[T · K, D]`.
pub fn permute(x: &[f64], d: usize, idx: &[u32], k: usize) -> Vec<f64> {
    order(idx, k).iter().flat_map(|&(_, t, _)| x[t * d..][..d].to_vec()).collect()
}

/// `dx [T, D]`.
pub fn permute_backward(dy: &[f64], d: usize, idx: &[u32], k: usize) -> Vec<f64> {
    let mut dx = vec![0.0; idx.len() / k * d];
    for (dy, (_, t, _)) in dy.chunks_exact(d).zip(order(idx, k)) {
        for i in 0..d {
            dx[t * d + i] += dy[i];
        }
    }
    dx
}

/// `y` is `[T · K, D]`, `w` is `[T, K]`; the result is `[T, D]`.
pub fn unpermute(y: &[f64], d: usize, w: &[f64], idx: &[u32], k: usize) -> Vec<f64> {
    let mut out = vec![0.0; idx.len() / k * d];
    for (y, (_, t, j)) in y.chunks_exact(d).zip(order(idx, k)) {
        for i in 0..d {
            out[t * d + i] += w[t * k + j] * y[i];
        }
    }
    out
}

/// `(dy, dw)`.
pub fn unpermute_backward(dout: &[f64], y: &[f64], d: usize, w: &[f64], idx: &[u32], k: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut dy, mut dw) = (Vec::with_capacity(y.len()), vec![0.0; w.len()]);
    for (y, (_, t, j)) in y.chunks_exact(d).zip(order(idx, k)) {
        for i in 0..d {
            dy.push(w[t * k + j] * dout[t * d + i]);
            dw[t * k + j] += dout[t * d + i] * y[i];
        }
    }
    (dy, dw)
}
