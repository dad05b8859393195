//! Memory, device, dtype and random numbers: what every crate above `config` stands on.
//!
//! Absent on purpose: any operation. A tensor here is a shape and a buffer; `ops` gives it meaning.

mod ctx;
mod pool;
mod rng;
mod store;
#[expect(clippy::module_inception, reason = "the type the crate is named for; re-exported below")]
mod tensor;

pub use ctx::{Ctx, CtxError, Isa};
pub use half::bf16;
pub use rng::Rng;
pub use store::{NamedTensor, Slice, TensorSource};
pub use tensor::{Dims, Storage, Tensor};
