use tensor::Ctx;

use super::{backward, cases, forward, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

#[test]
fn reference_gradients_are_those_of_the_reference() {
    let (x, w, dy) = (f64s(&random([3, 5], 1)), f64s(&random([3], 2)), f64s(&random([3, 5], 3)));
    let loss = |x: &[f64], w: &[f64]| reference::forward(x, w).iter().zip(&dy).map(|(y, dy)| y * dy).sum();
    let (dx, dw) = reference::backward(&dy, &x, &w);
    close_gradient("dx", &dx, &numeric_gradient(&x, |x| loss(x, &w)));
    close_gradient("dw", &dw, &numeric_gradient(&w, |w| loss(&x, w)));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &[r, i] in cases::EXACT {
            let (x, w, dy) = (random([r, i], 1), random([r], 2), random([r, i], 3));
            let y = forward(&ctx, &x, &w);
            close("y", y.data(), &reference::forward(&f64s(&x), &f64s(&w)), cases::TOLERANCE);
            assert_eq!(y.data(), forward(&one, &x, &w).data());
            let (dx, dw) = backward(&ctx, &dy, &x, &w);
            let (want_dx, want_dw) = reference::backward(&f64s(&dy), &f64s(&x), &f64s(&w));
            close("dx", dx.data(), &want_dx, cases::TOLERANCE);
            close("dw", dw.data(), &want_dw, cases::TOLERANCE);
            assert_eq!(dw.data(), backward(&one, &dy, &x, &w).1.data());
        }
    }
}
