//! What the rotation means: f64, plain loops.

use super::Layout;

/// Rotates the `2 · half` values from `offset` on in each head of `x [T, heads · head_dim]`; `angle` is `[T, half]`.
pub fn forward(x: &[f64], width: usize, head_dim: usize, offset: usize, angle: &[f64], layout: Layout) -> Vec<f64> {
    let half = angle.len() * width / x.len();
    let mut y = x.to_vec();
    for (row, angle) in y.chunks_exact_mut(width).zip(angle.chunks_exact(half)) {
        for head in row.chunks_exact_mut(head_dim) {
            for (i, angle) in angle.iter().enumerate() {
                let (first, second) = match layout {
                    Layout::Interleaved => (offset + 2 * i, offset + 2 * i + 1),
                    Layout::Half => (offset + i, offset + i + half),
                };
                let (x0, x1) = (head[first], head[second]);
                head[first] = x0 * angle.cos() - x1 * angle.sin();
                head[second] = x1 * angle.cos() + x0 * angle.sin();
            }
        }
    }
    y
}

/// The gradient of the input: a rotation is orthogonal, so this is the rotation by the opposite angle.
pub fn backward(dy: &[f64], width: usize, head_dim: usize, offset: usize, angle: &[f64], layout: Layout) -> Vec<f64> {
    let opposite: Vec<f64> = angle.iter().map(|a| -a).collect();
    forward(dy, width, head_dim, offset, &opposite, layout)
}
