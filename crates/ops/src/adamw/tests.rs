use tensor::{Ctx, Tensor, bf16};

use super::cpu::round;
use super::{Hyper, Moments, cases, reference, step, sum_of_squares};
use crate::check::{close, f64s, levels, random};

/// A gradient that depends on the weight, so that the order of decay and step shows.
fn gradient(w: &[f64]) -> Vec<f64> {
    (0..).zip(w).map(|(i, w)| w * w - f64::from(i)).collect()
}

const SETTINGS: Hyper =
    Hyper { lr: 0.05, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 0.5 };
const START: [f64; 4] = [1.0, -2.0, 0.5, 3.0];

/// Ten steps of torch.optim.AdamW 2.15 in f64 from `START` with these settings; torch was given half of `gradient`.
const AFTER_TEN_STEPS: [f64; 4] =
    [0.484_915_650_328_089_1, -2.393_263_545_193_699, 0.959_841_956_246_588_5, 2.374_879_128_805_599];

#[test]
fn the_reference_follows_torch() {
    let (mut w, mut m, mut v) = (START, [0.0; 4], [0.0; 4]);
    for t in 1..=10 {
        let g = gradient(&w);
        reference::step(&mut w, &g, &mut m, &mut v, &Hyper { step: t, ..SETTINGS });
    }
    for (w, want) in w.iter().zip(AFTER_TEN_STEPS) {
        assert!((w - want).abs() < 1e-12, "{w} instead of {want}");
    }
}

#[test]
fn every_level_follows_torch() {
    for ctx in levels() {
        for (mut moments, tolerance) in [
            (Moments::f32(4), cases::TOLERANCE),
            // A rounding of bf16 is at most 2⁻⁹ of a moment, and a moment carries those of the steps before on: some five on
            // average over ten steps of 0.05.
            (Moments::bf16(4), 5.0 * 10.0 * 0.05 / 512.0),
        ] {
            let mut w = Tensor::from_vec(START.map(|x| x as f32).to_vec(), [4]);
            for t in 1..=10 {
                let g = gradient(&f64s(&w)).iter().map(|&x| x as f32).collect();
                step(&ctx, &mut w, &Tensor::from_vec(g, [4]), &mut moments, &Hyper { step: t, ..SETTINGS });
            }
            close("w", w.data(), &AFTER_TEN_STEPS, tolerance);
        }
    }
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &n in cases::EXACT {
            let (start, g) = (random([n], 1), random([n], 2));
            let copy = || Tensor::from_vec(start.data().to_vec(), [n]);
            let (mut w64, mut m64, mut v64) = (f64s(&start), vec![0.0; n], vec![0.0; n]);
            let (mut w, mut again) = (copy(), copy());
            let (mut moments, mut moments_again) = (Moments::f32(n), Moments::f32(n));
            for t in 1..=10 {
                let hyper = Hyper { step: t, grad_scale: 1.0 / t as f64, ..cases::V3 };
                reference::step(&mut w64, &f64s(&g), &mut m64, &mut v64, &hyper);
                step(&ctx, &mut w, &g, &mut moments, &hyper);
                step(&one, &mut again, &g, &mut moments_again, &hyper);
            }
            let Moments::F32 { m, v } = &moments else { panic!("moments are f32") };
            close("w", w.data(), &w64, cases::TOLERANCE);
            close("m", m, &m64, cases::TOLERANCE);
            close("v", v, &v64, cases::TOLERANCE);
            assert_eq!(w.data(), again.data());
        }
    }
}

#[test]
fn bf16_moments_are_the_f32_update_rounded() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        let n = 20_000;
        let g = random([n], 2);
        let start = || Tensor::from_vec(random([n], 1).data().to_vec(), [n]);
        let (mut narrow, mut again, mut wide) = (start(), start(), start());
        let mut moments = [Moments::bf16(n), Moments::bf16(n), Moments::f32(n)];
        step(&ctx, &mut narrow, &g, &mut moments[0], &cases::V3);
        step(&one, &mut again, &g, &mut moments[1], &cases::V3);
        step(&ctx, &mut wide, &g, &mut moments[2], &cases::V3);
        assert_eq!(narrow.data(), again.data());
        let [Moments::Bf16 { m, v }, _, Moments::F32 { m: wide_m, v: wide_v }] = &moments else { unreachable!() };
        let rounded = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        assert_eq!((m, v), (&rounded(wide_m), &rounded(wide_v)));
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    for high in [0, 1, 2, 0x0080, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x8000, 0xBF81, 0xFF80] {
        for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
            let x = f32::from_bits(high << 16 | low);
            let (got, want) = (round(x), bf16::from_f32(x));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{x}: {got} instead of {want}");
        }
    }
}

#[test]
fn decay_is_exact_on_average_at_the_last_learning_rate() {
    let ctx = Ctx::new(1).unwrap();
    // lr · weight_decay is 7.3e-7, twelve units in the last place below 1: the factor 1 − 7.3e-7 in f32 is 2 % wrong for
    // every weight, where a single rounding of each weight is wrong by chance in either direction.
    let (before, n) = (random([4096], 1), 4096);
    let (mut w, g) = (Tensor::from_vec(before.data().to_vec(), [n]), ctx.zeros([n]));
    step(&ctx, &mut w, &g, &mut Moments::f32(n), &Hyper { lr: 7.3e-6, ..cases::V3 });
    let decay = |(w, before): (f64, f64)| (before - w) / before;
    let mean = f64s(&w).into_iter().zip(f64s(&before)).map(decay).sum::<f64>() / n as f64;
    assert!((mean / 7.3e-7 - 1.0).abs() < 5e-3, "{mean} instead of 7.3e-7");
}

#[test]
fn sums_of_squares_do_not_depend_on_threads_or_levels() {
    for &n in cases::EXACT {
        let x = random([n], 1);
        let want: f64 = f64s(&x).iter().map(|x| x * x).sum();
        let one = sum_of_squares(&Ctx::new(1).unwrap(), &x);
        assert!((one / want - 1.0).abs() < 1e-12, "{one} instead of {want}");
        for ctx in levels() {
            assert_eq!(sum_of_squares(&ctx, &x), one);
        }
    }
    let ctx = Ctx::new(1).unwrap();
    let huge = Tensor::from_vec(vec![1e30, 1e30], [2]);
    assert!((sum_of_squares(&ctx, &huge) / 2e60 - 1.0).abs() < 1e-6);
    assert!(sum_of_squares(&ctx, &Tensor::from_vec(vec![f32::NAN], [1])).is_nan());
}
