//! Feed-forward networks: dense, and a mixture of experts.

pub mod dense;
pub mod moe;
