//! Memory, device, dtype and random numbers: what every crate above `config` stands on.
//!
//! Absent on purpose: any operation. A tensor here is a shape and a buffer; `ops` gives it meaning.

#![allow(
    unsafe_code,
    reason = "threads share jobs and slices, memory and files are mapped, and the allocator is told how to behave"
)]

mod allocator;
mod arena;
mod ctx;
mod experts;
mod mmap;
mod pool;
mod rng;
mod slab;
mod storage;
mod store;
mod tensor;
mod threads;

pub use allocator::{Allocator, give_pages_back_at_once};
pub use arena::{Arena, Place};
pub use ctx::{Ctx, CtxError, Isa, Level};
pub use experts::{ExpertMemory, ExpertReads, ReadError, Streamed};
pub use half::bf16;
pub use mmap::Mmap;
pub use pool::BufferBytes;
pub use rng::Rng;
pub use slab::Slab;
pub use storage::{BLOCK, Codes, CodesRef, E4M3, GROUP, Matrix, MatrixRef, Storage, Stored, int4_row_bytes};
pub use store::{NamedTensor, Slice, TensorSource};
pub use tensor::{Dims, Tensor};
