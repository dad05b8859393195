//! What cross-entropy means: f64, plain loops.

use super::IGNORE;

/// The loss of each row of `logits [T, V]`.
pub fn losses(logits: &[f64], v: usize, labels: &[u32]) -> Vec<f64> {
    let row = |(x, &label): (&[f64], &u32)| if label == IGNORE { 0.0 } else { log_sum_exp(x) - x[label as usize] };
    logits.chunks_exact(v).zip(labels).map(row).collect()
}

/// The gradient of `scale · Σ losses`.
pub fn backward(logits: &[f64], v: usize, labels: &[u32], scale: f64) -> Vec<f64> {
    let mut dx = Vec::with_capacity(logits.len());
    for (x, &label) in logits.chunks_exact(v).zip(labels) {
        let log_sum = log_sum_exp(x);
        for (i, x) in x.iter().enumerate() {
            let one = if i == label as usize { 1.0 } else { 0.0 };
            dx.push(if label == IGNORE { 0.0 } else { scale * ((x - log_sum).exp() - one) });
        }
    }
    dx
}

fn log_sum_exp(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}
