//! What the rotation means: f64, plain loops.

use super::Layout;

/// Rotates the `2 · half` values from `offset` on in each head of `x [T, heads · head_dim]`; `angle` is `[T, half]`. The
/// first values of all pairs come before the second ones in the result.
pub fn forward(x: &[f64], width: usize, head_dim: usize, offset: usize, angle: &[f64], layout: Layout) -> Vec<f64> {
    let half = angle.len() * width / x.len();
    let mut y = x.to_vec();
    each_pair(x.len(), width, head_dim, offset, half, layout, |token, pair, [first, second], [to_first, to_second]| {
        let angle = angle[token * half + pair];
        y[to_first] = x[first] * angle.cos() - x[second] * angle.sin();
        y[to_second] = x[second] * angle.cos() + x[first] * angle.sin();
    });
    y
}

/// The gradient of the input: the transposed map.
pub fn backward(dy: &[f64], width: usize, head_dim: usize, offset: usize, angle: &[f64], layout: Layout) -> Vec<f64> {
    let half = angle.len() * width / dy.len();
    let mut dx = dy.to_vec();
    each_pair(
        dy.len(),
        width,
        head_dim,
        offset,
        half,
        layout,
        |token, pair, [first, second], [to_first, to_second]| {
            let angle = angle[token * half + pair];
            dx[first] = dy[to_first] * angle.cos() + dy[to_second] * angle.sin();
            dx[second] = dy[to_second] * angle.cos() - dy[to_first] * angle.sin();
        },
    );
    dx
}

/// Calls `f(token, pair, places in the input, places in the result)` for every pair.
fn each_pair(
    len: usize,
    width: usize,
    head_dim: usize,
    offset: usize,
    half: usize,
    layout: Layout,
    mut f: impl FnMut(usize, usize, [usize; 2], [usize; 2]),
) {
    for start in (0..len).step_by(head_dim) {
        for pair in 0..half {
            let at = start + offset;
            let places = match layout {
                Layout::Interleaved => [at + 2 * pair, at + 2 * pair + 1],
                Layout::Half => [at + pair, at + pair + half],
            };
            f(start / width, pair, places, [at + pair, at + pair + half]);
        }
    }
}
