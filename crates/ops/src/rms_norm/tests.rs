use tensor::Ctx;

use super::{backward_input, backward_weight, cases, forward, recompute, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

const EPS: f32 = 1e-6;

#[test]
fn reference_gradients_are_those_of_the_reference() {
    let (x, w, dy) = (f64s(&random([3, 7], 1)), f64s(&random([7], 2)), f64s(&random([3, 7], 3)));
    let loss = |x: &[f64], w: &[f64]| reference::forward(x, w, 1e-6).iter().zip(&dy).map(|(y, dy)| y * dy).sum();
    let (dx, dw) = reference::backward(&dy, &x, &w, 1e-6);
    close_gradient("dx", &dx, &numeric_gradient(&x, |x| loss(x, &w)));
    close_gradient("dw", &dw, &numeric_gradient(&w, |w| loss(&x, w)));
}

#[test]
fn every_level_agrees_with_the_reference() {
    for ctx in levels() {
        for &[t, d] in cases::EXACT {
            let (x, w, dy) = (random([t, d], 1), random([d], 2), random([t, d], 3));
            let (y, saved) = forward(&ctx, &x, &w, EPS);
            close("y", y.data(), &reference::forward(&f64s(&x), &f64s(&w), EPS.into()), cases::TOLERANCE);
            let (dx, dw) = reference::backward(&f64s(&dy), &f64s(&x), &f64s(&w), EPS.into());
            close("dx", backward_input(&ctx, &dy, &x, &w, &saved).data(), &dx, cases::TOLERANCE);
            let mut got = ctx.zeros([d]);
            backward_weight(&ctx, &dy, &x, &saved, &mut got);
            close("dw", got.data(), &dw, cases::TOLERANCE);
        }
    }
}

#[test]
fn levels_threads_and_recomputation_give_the_same_bits() {
    let [t, d] = [70, 129];
    let (x, w, dy) = (random([t, d], 1), random([d], 2), random([t, d], 3));
    let one = Ctx::new(1).unwrap();
    let (y, saved) = forward(&one, &x, &w, EPS);
    let mut dw = one.zeros([d]);
    backward_weight(&one, &dy, &x, &saved, &mut dw);
    assert_eq!(recompute(&one, &x, &w, &saved).data(), y.data());
    for ctx in levels() {
        let (again, saved) = forward(&ctx, &x, &w, EPS);
        assert_eq!(again.data(), y.data());
        let dx = backward_input(&ctx, &dy, &x, &w, &saved);
        assert_eq!(dx.data(), backward_input(&one, &dy, &x, &w, &saved).data());
        let mut again = ctx.zeros([d]);
        backward_weight(&ctx, &dy, &x, &saved, &mut again);
        assert_eq!(again.data(), dw.data());
    }
}
