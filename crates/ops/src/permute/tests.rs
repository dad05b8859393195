use tensor::{Ctx, Rng, Tensor};

use super::{Plan, backward, cases, forward, reference, unpermute};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

/// `k` different experts of `e` for each token, ascending.
fn choices(t: usize, k: usize, e: usize) -> Vec<u32> {
    let mut rng = Rng::new(0, "test", 9);
    let mut idx = Vec::new();
    for _ in 0..t {
        let mut experts: Vec<u32> = (0..e as u32).collect();
        for i in 0..k {
            experts.swap(i, i + rng.below((e - i) as u64) as usize);
        }
        experts.truncate(k);
        experts.sort_unstable();
        idx.extend(experts);
    }
    idx
}

#[test]
fn a_plan_is_a_stable_sort() {
    for &[t, k, e, _] in cases::EXACT {
        let idx = choices(t, k, e);
        let plan = Plan::new(&idx, t, k, e);
        let order = reference::order(&idx, k);
        assert_eq!((plan.tokens(), plan.rows(), plan.offsets[e]), (t, t * k, t * k));
        for (row, &(expert, token, j)) in order.iter().enumerate() {
            assert_eq!((plan.token[row] as usize, plan.position[token * k + j] as usize), (token, row));
            assert!((plan.offsets[expert as usize]..plan.offsets[expert as usize + 1]).contains(&row));
        }
    }
    let plan = Plan::new(&[3, 1, 3], 3, 1, 5);
    assert_eq!(plan.offsets, [0, 0, 1, 1, 3, 3]);
    assert_eq!((plan.token, plan.position), (vec![1, 0, 2], vec![1, 0, 2]));
}

#[test]
fn reference_gradients_are_those_of_the_references() {
    let ([t, k, e, d], idx) = ([4, 2, 3, 3], choices(4, 2, 3));
    assert!(e > k, "some expert is left out");
    let (x, y, w) = (f64s(&random([t, d], 1)), f64s(&random([t * k, d], 2)), f64s(&random([t, k], 3)));
    let weighted = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let dx = reference::permute_backward(&y, d, &idx, k);
    close_gradient("dx", &dx, &numeric_gradient(&x, |x| weighted(&reference::permute(x, d, &idx, k), &y)));
    let loss = |y: &[f64], w: &[f64]| weighted(&reference::unpermute(y, d, w, &idx, k), &x);
    let (dy, dw) = reference::unpermute_backward(&x, &y, d, &w, &idx, k);
    close_gradient("dy", &dy, &numeric_gradient(&y, |y| loss(y, &w)));
    close_gradient("dw", &dw, &numeric_gradient(&w, |w| loss(&y, w)));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &[t, k, e, d] in cases::EXACT {
            let idx = choices(t, k, e);
            let plan = Plan::new(&idx, t, k, e);
            let (x, y, w) = (random([t, d], 1), random([t * k, d], 2), random([t, k], 3));
            let (x64, y64, w64) = (f64s(&x), f64s(&y), f64s(&w));
            assert_eq!(f64s(&forward(&ctx, &x, &plan)), reference::permute(&x64, d, &idx, k));
            let dx = backward(&ctx, &y, &plan);
            close("dx", dx.data(), &reference::permute_backward(&y64, d, &idx, k), cases::TOLERANCE);
            assert_eq!(dx.data(), backward(&one, &y, &plan).data());

            let out = unpermute::forward(&ctx, &y, &w, &plan);
            close("out", out.data(), &reference::unpermute(&y64, d, &w64, &idx, k), cases::TOLERANCE);
            assert_eq!(out.data(), unpermute::forward(&one, &y, &w, &plan).data());
            let (dy, dw) = unpermute::backward(&ctx, &x, &y, &w, &plan);
            let (want_dy, want_dw) = reference::unpermute_backward(&x64, &y64, d, &w64, &idx, k);
            close("dy", dy.data(), &want_dy, cases::TOLERANCE);
            close("dw", dw.data(), &want_dw, cases::TOLERANCE);
            let (dy_one, dw_one) = unpermute::backward(&one, &x, &y, &w, &plan);
            assert_eq!((dy.data(), dw.data()), (dy_one.data(), dw_one.data()));
        }
    }
}

#[test]
fn unpermuting_with_weights_that_sum_to_one_undoes_permuting() {
    let ctx = Ctx::new(2).unwrap();
    let idx = choices(20, 4, 8);
    let plan = Plan::new(&idx, 20, 4, 8);
    let x = random([20, 7], 1);
    let weights = Tensor::from_vec(vec![0.25; 80], [20, 4]);
    assert_eq!(unpermute::forward(&ctx, &forward(&ctx, &x, &plan), &weights, &plan).data(), x.data());
}

#[test]
fn no_tokens_give_no_rows() {
    let ctx = Ctx::new(2).unwrap();
    let plan = Plan::new(&[], 0, 2, 3);
    assert_eq!(plan.offsets, [0; 4]);
    let none = |width: usize| Tensor::from_vec(vec![], [0, width]);
    assert_eq!(forward(&ctx, &none(5), &plan).dims(), [0, 5]);
    assert_eq!(backward(&ctx, &none(5), &plan).dims(), [0, 5]);
    assert_eq!(unpermute::forward(&ctx, &none(5), &none(2), &plan).dims(), [0, 5]);
    let (dy, dw) = unpermute::backward(&ctx, &none(5), &none(5), &none(2), &plan);
    assert_eq!((dy.dims(), dw.dims()), ([0, 5], [0, 2]));
}
