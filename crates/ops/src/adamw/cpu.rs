use tensor::bf16;

use super::Hyper;
use crate::simd::simd;

/// The numbers of a step, each rounded once from f64.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    lr: f32,
    beta1: f32,
    beta2: f32,
    /// `1 − beta1`.
    rest1: f32,
    /// `1 − beta2`.
    rest2: f32,
    /// `1 / (1 − beta1ᵗ)`.
    correction1: f32,
    /// `1 / (1 − beta2ᵗ)`.
    correction2: f32,
    eps: f32,
    weight_decay: f32,
    grad_scale: f32,
}

impl Factors {
    pub(super) fn new(hyper: &Hyper) -> Self {
        let &Hyper { lr, beta1, beta2, eps, weight_decay, step, grad_scale } = hyper;
        assert!(step >= 1, "adamw: steps are counted from 1");
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(step as f64))) as f32;
        Self {
            lr: lr as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            rest1: (1.0 - beta1) as f32,
            rest2: (1.0 - beta2) as f32,
            correction1: correction(beta1),
            correction2: correction(beta2),
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            grad_scale: grad_scale as f32,
        }
    }

    #[inline(always)]
    fn moments(&self, g: f32, m: f32, v: f32) -> (f32, f32) {
        let g = g * self.grad_scale;
        (self.beta1.mul_add(m, self.rest1 * g), self.beta2.mul_add(v, self.rest2 * (g * g)))
    }

    #[inline(always)]
    fn weight(&self, w: f32, m: f32, v: f32) -> f32 {
        let u = m * self.correction1 / ((v * self.correction2).sqrt() + self.eps);
        (-self.lr).mul_add(self.weight_decay.mul_add(w, u), w)
    }
}

simd! {
    pub(super) fn step_f32(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], factors: Factors) {
        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            (*m, *v) = factors.moments(g, *m, *v);
            *w = factors.weight(*w, *m, *v);
        }
    }
}

simd! {
    pub(super) fn step_bf16(w: &mut [f32], g: &[f32], m: &mut [bf16], v: &mut [bf16], factors: Factors) {
        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let (wide_m, wide_v) = factors.moments(g, widen(*m), widen(*v));
            (*m, *v) = (round(wide_m), round(wide_v));
            *w = factors.weight(*w, widen(*m), widen(*v));
        }
    }
}

simd! {
    /// The square of an f32 is exact in f64, so only the additions round.
    pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
        const LANES: usize = 32;
        let mut lanes = [0.0; LANES];
        let (blocks, tail) = x.as_chunks::<LANES>();
        for block in blocks {
            for i in 0..LANES {
                let x = f64::from(block[i]);
                lanes[i] = x.mul_add(x, lanes[i]);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane = f64::from(x).mul_add(x.into(), *lane);
        }
        lanes.iter().sum()
    }
}

#[inline(always)]
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// To nearest, ties to even, without a branch; NaN stays NaN, which plain rounding of its bits could turn into infinity.
#[inline(always)]
pub(super) fn round(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { 0x7FC0 } else { rounded as u16 })
}
