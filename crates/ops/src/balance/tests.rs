use tensor::{Ctx, Tensor};

use super::{cases, forward_backward, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

/// Scores in (0, 1), as a sigmoid gives them.
fn scores(t: usize, e: usize) -> Tensor {
    Tensor::from_vec(random([t, e], 1).data().iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(), [t, e])
}

#[test]
fn reference_gradient_is_that_of_the_reference_for_fixed_frequencies() {
    let s = f64s(&scores(5, 6));
    let f = reference::frequencies(&s, 6, 2);
    close_gradient("dscores", &reference::backward(&s, &f), &numeric_gradient(&s, |s| reference::forward(s, &f)));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &(cu_seqlens, e, k) in cases::EXACT {
            let s = scores(*cu_seqlens.last().unwrap(), e);
            let (mut want_loss, mut want) = (0.0, Vec::new());
            for range in cu_seqlens.windows(2).filter(|range| range[0] < range[1]) {
                let s = f64s(&s)[range[0] * e..range[1] * e].to_vec();
                let f = reference::frequencies(&s, e, k);
                want_loss += 0.5 * reference::forward(&s, &f);
                want.extend(reference::backward(&s, &f).iter().map(|d| 0.5 * d));
            }
            let (loss, dscores) = forward_backward(&ctx, &s, cu_seqlens, k, 0.5);
            assert!((loss - want_loss).abs() <= cases::TOLERANCE * want_loss, "{loss} instead of {want_loss}");
            close("dscores", dscores.data(), &want, cases::TOLERANCE);
            let (again, dscores_again) = forward_backward(&one, &s, cu_seqlens, k, 0.5);
            assert_eq!((loss, dscores.data()), (again, dscores_again.data()));
        }
    }
}

#[test]
fn the_loss_is_alpha_at_balance_and_e_over_k_times_that_at_collapse() {
    let ctx = Ctx::new(1).unwrap();
    let (e, k, alpha) = (8, 2, 1e-4);
    // Token t prefers experts 2t and 2t + 1 (modulo 8), and gives the others nothing.
    let choosing = |first: &dyn Fn(usize) -> usize| {
        let row =
            |t: usize| (0..e).map(move |i| (i, first(t))).map(|(i, at)| f32::from(u8::from(i == at || i == at + 1)));
        Tensor::from_vec((0..4).flat_map(row).collect(), [4, e])
    };
    let (balanced, _) = forward_backward(&ctx, &choosing(&|t| 2 * t), &[0, 4], k, alpha);
    let (collapsed, _) = forward_backward(&ctx, &choosing(&|_| 4), &[0, 4], k, alpha);
    assert!((balanced / f64::from(alpha) - 1.0).abs() < 1e-6, "{balanced}");
    assert!((collapsed / f64::from(alpha) - 4.0).abs() < 1e-6, "{collapsed}");
}

#[test]
fn sequences_are_not_pooled() {
    let ctx = Ctx::new(2).unwrap();
    let s = scores(12, 6);
    let part = |from: usize, to: usize| Tensor::from_vec(s.data()[from * 6..to * 6].to_vec(), [to - from, 6]);
    let (loss, dscores) = forward_backward(&ctx, &s, &[0, 5, 12], 2, 1.0);
    let (first, dfirst) = forward_backward(&ctx, &part(0, 5), &[0, 5], 2, 1.0);
    let (second, dsecond) = forward_backward(&ctx, &part(5, 12), &[0, 7], 2, 1.0);
    assert!((loss - first - second).abs() < 1e-12);
    assert_eq!(dscores.data(), [dfirst.data(), dsecond.data()].concat());
}

#[test]
fn underflowed_scores_give_a_finite_loss() {
    let ctx = Ctx::new(1).unwrap();
    let (loss, dscores) = forward_backward(&ctx, &ctx.zeros([3, 4]), &[0, 3], 2, 1.0);
    assert!(loss == 0.0 && dscores.data().iter().all(|d| d.is_finite()));
}
