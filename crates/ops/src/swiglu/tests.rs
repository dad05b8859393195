use tensor::{Ctx, Tensor};

use super::{backward, cases, forward, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

#[test]
fn reference_gradient_is_that_of_the_reference() {
    let (gate_up, dh) = (f64s(&random([3, 10], 1)), f64s(&random([3, 5], 2)));
    let loss = |x: &[f64]| reference::forward(x, 5).iter().zip(&dh).map(|(h, dh)| h * dh).sum();
    close_gradient("dgate_up", &reference::backward(&dh, &gate_up, 5), &numeric_gradient(&gate_up, loss));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &[t, i] in cases::EXACT {
            let (gate_up, dh) = (random([t, 2 * i], 1), random([t, i], 2));
            let (h, dgate_up) = (forward(&ctx, &gate_up), backward(&ctx, &dh, &gate_up));
            close("h", h.data(), &reference::forward(&f64s(&gate_up), i), cases::TOLERANCE);
            let want = reference::backward(&f64s(&dh), &f64s(&gate_up), i);
            close("dgate_up", dgate_up.data(), &want, cases::TOLERANCE);
            assert_eq!(h.data(), forward(&one, &gate_up).data());
            assert_eq!(dgate_up.data(), backward(&one, &dh, &gate_up).data());
        }
    }
}

#[test]
fn a_closed_gate_is_zero_and_an_open_one_passes() {
    let ctx = Ctx::new(1).unwrap();
    let gate_up = Tensor::from_vec(vec![-200.0, 200.0, 3.0, 3.0], [1, 4]);
    assert_eq!(forward(&ctx, &gate_up).data(), [0.0, 600.0]);
    let dh = Tensor::from_vec(vec![1.0, 1.0], [1, 2]);
    assert_eq!(backward(&ctx, &dh, &gate_up).data(), [0.0, 3.0, 0.0, 200.0]);
}

#[test]
fn no_rows_give_no_rows() {
    let ctx = Ctx::new(2).unwrap();
    let none = Tensor::from_vec(vec![], [0, 8]);
    assert_eq!(forward(&ctx, &none).dims(), [0, 4]);
    assert_eq!(backward(&ctx, &Tensor::from_vec(vec![], [0, 4]), &none).dims(), [0, 8]);
}
