//! What the tests of all operations share: contexts for every kernel, random tensors, comparisons with the reference.

use tensor::{Ctx, Dims, Level, Rng, Tensor};

/// A context for each instruction set of this machine, each with two threads.
pub(crate) fn levels() -> Vec<Ctx> {
    let ctx = Ctx::new(2).unwrap();
    let mut levels =
        vec![ctx.at_most(Level::Portable), ctx.at_most(Level::Avx2), ctx.at_most(Level::Avx512), ctx.clone()];
    levels.dedup_by_key(|ctx| ctx.isa.level());
    levels
}

/// Standard normal numbers; `stream` distinguishes the tensors of a test.
pub(crate) fn random(dims: impl Into<Dims>, stream: u64) -> Tensor {
    let dims = dims.into();
    let mut rng = Rng::new(0, "test", stream);
    Tensor::from_vec((0..dims.len()).map(|_| rng.normal() as f32).collect(), dims)
}

/// The values of a tensor in f64.
pub(crate) fn f64s(t: &Tensor) -> Vec<f64> {
    t.data().iter().map(|&x| f64::from(x)).collect()
}

/// Asserts `|got - want| ≤ tolerance · max(1, largest |want|)` for every element.
#[track_caller]
pub(crate) fn close(name: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{name}: lengths");
    let scale = want.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * scale, "{name}: element {i} is {got} instead of {want}");
    }
}

/// The gradient of `f` at `x` by central differences in f64: what a reference's backward is held against.
pub(crate) fn numeric_gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    // The truncation error of a central difference is of order h², the rounding error of order 2⁻⁵³ / h.
    const H: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + H;
            let above = f(&x);
            x[i] = at - H;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * H)
        })
        .collect()
}

/// Asserts that two f64 gradients agree to the accuracy of central differences.
#[track_caller]
pub(crate) fn close_gradient(name: &str, analytic: &[f64], numeric: &[f64]) {
    assert_eq!(analytic.len(), numeric.len(), "{name}: lengths");
    let scale = numeric.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (a, n)) in analytic.iter().zip(numeric).enumerate() {
        assert!((a - n).abs() <= 1e-7 * scale, "{name}: gradient {i} is {a}, by differences {n}");
    }
}
