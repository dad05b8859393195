//! Kernels. One operation is one folder: its mathematics (`README.md`), its meaning (`reference.rs`, f64), its fast form
//! (`cpu.rs`), the shapes that matter (`cases.rs`) and the tests and benchmarks that run over them.
//!
//! An operation knows nothing of models, files or text. Shapes that do not fit are bugs of the caller and panic with the
//! operation's name and the shapes.
#![allow(unsafe_code, reason = "kernels use SIMD intrinsics and write disjoint parts of one buffer from many threads")]
#![expect(clippy::needless_range_loop, reason = "formulas over several arrays read best with their indices")]

pub mod adamw;
pub mod balance;
pub mod bias;
pub mod columns;
pub mod cross_entropy;
pub mod embedding;
pub mod gemm;
pub mod mla_attention;
pub mod mla_decode;
pub mod peak;
pub mod permute;
pub mod residual;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod row_scale;
pub mod sampling;
pub mod swiglu;

#[cfg(test)]
mod check;
mod simd;
