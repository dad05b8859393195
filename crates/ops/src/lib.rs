//! Kernels. One operation is one folder: its mathematics (`README.md`), its meaning (`reference.rs`, f64), its fast form
//! (`cpu.rs`), the shapes that matter (`cases.rs`) and the tests and benchmarks that run over them.
//!
//! An operation knows nothing of models, files or text. Shapes that do not fit are bugs of the caller and panic with the
//! operation's name and the shapes.
#![allow(unsafe_code, reason = "kernels use SIMD intrinsics and write disjoint parts of one buffer from many threads")]
#![expect(clippy::needless_range_loop, reason = "formulas over several arrays read best with their indices")]

// Benches stand in the folders of operations and name things as a user of this crate does.
extern crate self as ops;
use self::bench as harness;

pub mod adamw;
pub mod balance;
pub mod bench;
pub mod bias;
pub mod columns;
pub mod cross_entropy;
pub mod embedding;
pub mod gemm;
pub mod gemv;
pub mod machine;
pub mod mla_attention;
pub mod mla_decode;
pub mod permute;
pub mod quantise;
pub mod residual;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod row_scale;
pub mod sampling;
pub mod swiglu;

/// What the operands of a product are rounded to before they are multiplied. Sums are f32 either way, and so are the
/// tensors that go in and come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, nearest, ties to even: twice the speed where the processor multiplies pairs of bf16.
    Bf16,
}

#[cfg(test)]
mod check;
mod simd;
