//! Memory, device, dtype and random numbers: what every crate above `config` stands on.
//!
//! Absent on purpose: any operation. A tensor here is a shape and a buffer; `ops` gives it meaning.

mod ctx;
mod mmap;
mod pool;
mod rng;
mod store;
mod tensor;

pub use ctx::{Ctx, CtxError, Isa, Level};
pub use half::bf16;
pub use mmap::Mmap;
pub use rng::Rng;
pub use store::{NamedTensor, Slice, TensorSource};
pub use tensor::{Dims, Storage, Tensor};
