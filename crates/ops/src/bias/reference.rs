//! What a bias means: f64, plain loops.

/// `y [T, N] + b [N]`.
pub fn add(y: &[f64], b: &[f64]) -> Vec<f64> {
    y.iter().enumerate().map(|(i, y)| y + b[i % b.len()]).collect()
}

/// `db [N]`, from zero.
pub fn backward(dy: &[f64], n: usize) -> Vec<f64> {
    (0..n).map(|i| dy.iter().skip(i).step_by(n).sum()).collect()
}
