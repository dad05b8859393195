use tensor::Tensor;

/// What backward computes again instead of keeping it from forward (`spec/training.md` 2.6). All choices give the same
/// bits; they trade memory for time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recompute {
    /// Outputs of RMSNorm.
    pub rms_norm: bool,
    /// Queries, keys and values per head, from their latents.
    pub mla_up: bool,
    /// The output of SwiGLU.
    pub swiglu: bool,
}

impl Recompute {
    /// Keep everything.
    pub const NOTHING: Self = Self { rms_norm: false, mla_up: false, swiglu: false };
    /// What DeepSeek-V3 computes again.
    pub const ALL: Self = Self { rms_norm: true, mla_up: true, swiglu: true };
}

/// `t`, unless it will be computed again.
pub(crate) fn keep(again: bool, t: &Tensor) -> Option<Tensor> {
    (!again).then(|| t.clone())
}
