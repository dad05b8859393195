//! What splitting and joining mean: element by element.

/// `([T, A], [T, B])` of `x [T, A + B]`.
pub fn split(x: &[f64], a: usize, b: usize) -> (Vec<f64>, Vec<f64>) {
    let part = |range: std::ops::Range<usize>| {
        x.iter().enumerate().filter(|(i, _)| range.contains(&(i % (a + b)))).map(|(_, x)| *x).collect()
    };
    (part(0..a), part(a..a + b))
}

/// `[T, A + B]`.
pub fn concat(xa: &[f64], xb: &[f64], a: usize, b: usize) -> Vec<f64> {
    let t = xa.len() / a;
    let at = |t: usize, i: usize| if i < a { xa[t * a + i] } else { xb[t * b + i - a] };
    (0..t).flat_map(|t| (0..a + b).map(move |i| at(t, i))).collect()
}
