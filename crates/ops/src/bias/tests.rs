use tensor::{Ctx, Tensor};

use super::{add, backward, cases, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

#[test]
fn reference_gradient_is_that_of_the_reference() {
    let (y, b, dy) = (f64s(&random([3, 5], 1)), f64s(&random([5], 2)), f64s(&random([3, 5], 3)));
    let loss = |b: &[f64]| reference::add(&y, b).iter().zip(&dy).map(|(y, dy)| y * dy).sum();
    close_gradient("db", &reference::backward(&dy, 5), &numeric_gradient(&b, loss));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &[t, n] in cases::EXACT {
            let (y, b) = (random([t, n], 1), random([n], 2));
            let mut sum = Tensor::from_vec(y.data().to_vec(), [t, n]);
            add(&ctx, &mut sum, &b);
            close("y", sum.data(), &reference::add(&f64s(&y), &f64s(&b)), cases::TOLERANCE);
            let (mut db, mut again) = (ctx.zeros([n]), one.zeros([n]));
            backward(&ctx, &y, &mut db);
            backward(&one, &y, &mut again);
            close("db", db.data(), &reference::backward(&f64s(&y), n), cases::TOLERANCE);
            assert_eq!(db.data(), again.data());
        }
    }
}

#[test]
fn backward_adds_to_what_is_there() {
    let ctx = Ctx::new(2).unwrap();
    let mut db = Tensor::from_vec(vec![1.0, 2.0], [2]);
    backward(&ctx, &Tensor::from_vec(vec![10.0, 20.0, 30.0, 40.0], [2, 2]), &mut db);
    assert_eq!(db.data(), [41.0, 62.0]);
}
