use tensor::{Ctx, Rng, Tensor};

use super::{IGNORE, cases, forward_backward, losses, reference, sum};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

/// Logits of a few units, and labels of which about one in four is ignored.
fn inputs(t: usize, v: usize) -> (Tensor, Vec<u32>) {
    let mut rng = Rng::new(0, "test", 9);
    let labels = (0..t).map(|i| if i % 4 == 2 { IGNORE } else { rng.below(v as u64) as u32 }).collect();
    (Tensor::from_vec(random([t, v], 1).data().iter().map(|x| 4.0 * x).collect(), [t, v]), labels)
}

#[test]
fn reference_gradient_is_that_of_the_reference() {
    let (logits, labels) = inputs(4, 7);
    let loss = |x: &[f64]| 0.3 * reference::losses(x, 7, &labels).iter().sum::<f64>();
    let analytic = reference::backward(&f64s(&logits), 7, &labels, 0.3);
    close_gradient("dlogits", &analytic, &numeric_gradient(&f64s(&logits), loss));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &[t, v] in cases::EXACT {
            let (logits, labels) = inputs(t, v);
            let copy = || Tensor::from_vec(logits.data().to_vec(), [t, v]);
            let (mut x, mut again) = (copy(), copy());
            let got = forward_backward(&ctx, &mut x, &labels, 1.0);
            close("losses", &got, &reference::losses(&f64s(&logits), v, &labels), cases::TOLERANCE);
            let dx = reference::backward(&f64s(&logits), v, &labels, 1.0);
            close("dlogits", x.data(), &dx, cases::TOLERANCE);
            assert_eq!(losses(&ctx, &logits, &labels), got);
            assert_eq!(forward_backward(&one, &mut again, &labels, 1.0), got);
            assert_eq!(again.data(), x.data());
        }
    }
}

#[test]
fn a_scale_scales_the_gradient_and_not_the_loss() {
    let ctx = Ctx::new(1).unwrap();
    let (logits, labels) = inputs(3, 50);
    let mut x = Tensor::from_vec(logits.data().to_vec(), [3, 50]);
    let got = forward_backward(&ctx, &mut x, &labels, 1.0 / 1024.0);
    assert_eq!(got, losses(&ctx, &logits, &labels));
    let dx = reference::backward(&f64s(&logits), 50, &labels, 1.0);
    close("dlogits", &x.data().iter().map(|x| 1024.0 * x).collect::<Vec<_>>(), &dx, cases::TOLERANCE);
}

#[test]
fn ignored_rows_have_neither_loss_nor_gradient() {
    let ctx = Ctx::new(1).unwrap();
    let mut x = Tensor::from_vec(vec![f32::NAN, 1.0, 0.0, 0.0], [2, 2]);
    assert_eq!(forward_backward(&ctx, &mut x, &[IGNORE, 1], 1.0), [0.0, std::f32::consts::LN_2]);
    assert_eq!(x.data(), [0.0, 0.0, 0.5, -0.5]);
}

#[test]
fn huge_logits_do_not_overflow() {
    let ctx = Ctx::new(1).unwrap();
    let x = Tensor::from_vec(vec![3e38, -3e38, 1e4, 1e4], [2, 2]);
    assert_eq!(losses(&ctx, &x, &[0, 1]), [0.0, std::f32::consts::LN_2]);
}

#[test]
fn nan_reaches_the_loss() {
    let ctx = Ctx::new(1).unwrap();
    let mut x = Tensor::from_vec(vec![0.0, f32::NAN, 1.0], [1, 3]);
    assert!(losses(&ctx, &x, &[0])[0].is_nan());
    assert!(forward_backward(&ctx, &mut x, &[0], 1.0)[0].is_nan());
}

#[test]
fn sums_are_in_f64() {
    let many = vec![0.1; 1 << 20];
    assert!((sum(&many) - f64::from(0.1_f32) * f64::from(1 << 20)).abs() < 1e-6);
}

#[test]
#[should_panic(expected = "cross_entropy: label Some(5) is not below the 5 logits")]
fn a_label_beyond_the_logits_is_a_bug() {
    losses(&Ctx::new(1).unwrap(), &random([2, 5], 1), &[0, 5]);
}
