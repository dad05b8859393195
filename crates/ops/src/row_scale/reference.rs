//! What row scaling means: f64, plain loops.

/// `x` is `[R, I]` with R the length of `w`.
pub fn forward(x: &[f64], w: &[f64]) -> Vec<f64> {
    let i = x.len() / w.len();
    x.iter().enumerate().map(|(at, x)| x * w[at / i]).collect()
}

/// `(dx, dw)`.
pub fn backward(dy: &[f64], x: &[f64], w: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let i = x.len() / w.len();
    let dots = dy.chunks_exact(i).zip(x.chunks_exact(i)).map(|(dy, x)| dy.iter().zip(x).map(|(a, b)| a * b).sum());
    (forward(dy, w), dots.collect())
}
