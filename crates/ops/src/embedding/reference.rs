//! What an embedding means: f64, plain loops.

/// `w` is `[V, D]`; the result is `[T, D]`.
pub fn forward(ids: &[u32], w: &[f64], d: usize) -> Vec<f64> {
    ids.iter().flat_map(|&id| w[id as usize * d..][..d].to_vec()).collect()
}

/// `dw [V, D]`, from zero.
pub fn backward_weight(ids: &[u32], dy: &[f64], v: usize, d: usize) -> Vec<f64> {
    let mut dw = vec![0.0; v * d];
    for (&id, dy) in ids.iter().zip(dy.chunks_exact(d)) {
        for i in 0..d {
            dw[id as usize * d + i] += dy[i];
        }
    }
    dw
}
