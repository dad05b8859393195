//! What the balance loss means: f64, plain loops.

use crate::router::reference::top_k;

/// `f [E]` of one sequence: the share of the tokens that choose each expert, as a multiple of its share at balance.
pub fn frequencies(scores: &[f64], e: usize, k: usize) -> Vec<f64> {
    let tokens = scores.len() / e;
    let mut f = vec![0.0; e];
    for s in scores.chunks_exact(e) {
        for i in top_k(s, k) {
            f[i] += e as f64 / (k * tokens) as f64;
        }
    }
    f
}

/// `Σ_i f_i P_i` of one sequence with given frequencies.
pub fn forward(scores: &[f64], f: &[f64]) -> f64 {
    let tokens = scores.len() / f.len();
    let mut loss = 0.0;
    for s in scores.chunks_exact(f.len()) {
        let total = s.iter().sum::<f64>() + 1e-20;
        loss += f.iter().zip(s).map(|(f, s)| f * s / total).sum::<f64>() / tokens as f64;
    }
    loss
}

/// The gradient of `forward`.
pub fn backward(scores: &[f64], f: &[f64]) -> Vec<f64> {
    let tokens = scores.len() / f.len();
    let mut ds = Vec::with_capacity(scores.len());
    for s in scores.chunks_exact(f.len()) {
        let total = s.iter().sum::<f64>() + 1e-20;
        let mean = f.iter().zip(s).map(|(f, s)| f * s / total).sum::<f64>();
        ds.extend(f.iter().map(|f| (f - mean) / total / tokens as f64));
    }
    ds
}
