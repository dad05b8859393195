//! What RMSNorm means: f64, plain loops.

/// `x` is `[T, D]` with `D` the length of `w`; the result is `[T, D]`.
pub fn forward(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let d = w.len();
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(d) {
        let r = rstd(x, eps);
        y.extend(x.iter().zip(w).map(|(x, w)| w * x * r));
    }
    y
}

/// `(dx, dw)`.
pub fn backward(dy: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let d = w.len();
    let (mut dx, mut dw) = (Vec::with_capacity(x.len()), vec![0.0; d]);
    for (dy, x) in dy.chunks_exact(d).zip(x.chunks_exact(d)) {
        let r = rstd(x, eps);
        let mean = (0..d).map(|i| w[i] * dy[i] * x[i]).sum::<f64>() / d as f64;
        for i in 0..d {
            dx.push(r * (w[i] * dy[i] - x[i] * r * r * mean));
            dw[i] += dy[i] * x[i] * r;
        }
    }
    (dx, dw)
}

fn rstd(x: &[f64], eps: f64) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt()
}
