//! Attention variants, one file each with all its faces: parameters, forward, backward, decode, cache.

pub mod mla;
