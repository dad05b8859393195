#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor, bf16};

/// What a step depends on besides the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// What keeps the division from zero.
    pub eps: f64,
    /// Decoupled decay; 0 for parameters that do not decay.
    pub weight_decay: f64,
    /// The number of this step, from 1.
    pub step: u64,
    /// Multiplies the gradient.
    pub grad_scale: f64,
}

/// The running means of a parameter's gradient and of its square.
#[derive(Clone, Debug)]
pub enum Moments {
    /// Held in f32.
    F32 {
        /// First moment.
        m: Vec<f32>,
        /// Second moment.
        v: Vec<f32>,
    },
    /// Held in bf16.
    Bf16 {
        /// First moment.
        m: Vec<bf16>,
        /// Second moment.
        v: Vec<bf16>,
    },
}

impl Moments {
    /// Of a parameter of `len` elements before its first step, in f32.
    pub fn f32(len: usize) -> Self {
        Self::F32 { m: vec![0.0; len], v: vec![0.0; len] }
    }

    /// Of a parameter of `len` elements before its first step, in bf16.
    pub fn bf16(len: usize) -> Self {
        Self::Bf16 { m: vec![bf16::ZERO; len], v: vec![bf16::ZERO; len] }
    }
}

/// One update of `w` and of its moments by the gradient `g`, all of one length.
pub fn step(ctx: &Ctx, w: &mut Tensor, g: &Tensor, moments: &mut Moments, hyper: &Hyper) {
    assert_eq!(w.shape(), g.shape(), "adamw: w {w:?} and g {g:?} differ");
    let lens = match moments {
        Moments::F32 { m, v } => [m.len(), v.len()],
        Moments::Bf16 { m, v } => [m.len(), v.len()],
    };
    assert_eq!(lens, [w.len(); 2], "adamw: moments do not fit w {w:?}");
    let factors = cpu::Factors::new(hyper);
    let w = w.data_mut().chunks_mut(CHUNK).zip(g.data().chunks(CHUNK));
    match moments {
        Moments::F32 { m, v } => {
            let mut tasks: Vec<_> = w.zip(m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK))).collect();
            ctx.for_each_chunk(&mut tasks, 1, |_, tasks| {
                for ((w, g), (m, v)) in tasks {
                    cpu::step_f32(ctx.isa, w, g, m, v, factors);
                }
            });
        }
        Moments::Bf16 { m, v } => {
            let mut tasks: Vec<_> = w.zip(m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK))).collect();
            ctx.for_each_chunk(&mut tasks, 1, |_, tasks| {
                for ((w, g), (m, v)) in tasks {
                    cpu::step_bf16(ctx.isa, w, g, m, v, factors);
                }
            });
        }
    }
}

/// `Σ x²`, in f64: what the global norm of a gradient is made of.
pub fn sum_of_squares(ctx: &Ctx, x: &Tensor) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(CHUNK)];
    ctx.for_each_chunk(&mut sums, 1, |task, sum| {
        let start = task * CHUNK;
        sum[0] = cpu::sum_of_squares(ctx.isa, &x.data()[start..x.len().min(start + CHUNK)]);
    });
    sums.iter().sum()
}

/// Elements per task.
const CHUNK: usize = 1 << 14;
