//! What quantisation means: f64, plain loops.

use tensor::bf16;

/// The codes of one group of int8 and its scale: the largest magnitude becomes 127.
pub fn int8(w: &[f64]) -> (Vec<f64>, f64) {
    let amax = w.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let scale = bf16::from_f64(amax / 127.0).to_f64();
    (w.iter().map(|x| nearest(*x, scale, -127.0, 127.0)).collect(), scale)
}

/// The least squared error of a group of int4 over a fine grid of scales, and that of the plain choice, in which the
/// largest magnitude becomes 7.
pub fn int4_errors(w: &[f64]) -> [f64; 2] {
    let amax = w.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let error = |extreme: f64| {
        let scale = bf16::from_f64(amax / extreme).to_f64();
        w.iter().map(|x| (x - nearest(*x, scale, -8.0, 7.0) * scale).powi(2)).sum::<f64>()
    };
    let grid = (400..=900).flat_map(|i| [f64::from(i) / 100.0, -f64::from(i) / 100.0]);
    [grid.map(error).fold(f64::INFINITY, f64::min), error(7.0)]
}

/// The values of one block in E4M3 and its scale: the largest magnitude becomes 448.
pub fn fp8(w: &[f64]) -> (Vec<f64>, f64) {
    let amax = w.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let scale = if amax == 0.0 { 1.0 } else { amax / 448.0 };
    (w.iter().map(|x| nearest_e4m3(x / scale)).collect(), scale)
}

/// The number nearest to `x` that E4M3 has, ties to even.
pub fn nearest_e4m3(x: f64) -> f64 {
    // Four significant bits, but none below 2⁻⁹.
    let exponent = x.abs().log2().floor().max(-6.0);
    let step = f64::powf(2.0, exponent - 3.0);
    ((x / step).round_ties_even() * step).clamp(-448.0, 448.0)
}

fn nearest(x: f64, scale: f64, low: f64, high: f64) -> f64 {
    if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even().clamp(low, high) }
}
