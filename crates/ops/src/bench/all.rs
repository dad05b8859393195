use super::Bench;

#[path = "../adamw/bench.rs"]
mod adamw;
#[path = "../balance/bench.rs"]
mod balance;
#[path = "../bias/bench.rs"]
mod bias;
#[path = "../columns/bench.rs"]
mod columns;
#[path = "../cross_entropy/bench.rs"]
mod cross_entropy;
#[path = "../embedding/bench.rs"]
mod embedding;
#[path = "../gemm/bench.rs"]
mod gemm;
#[path = "../gemv/bench.rs"]
mod gemv;
#[path = "../mla_attention/bench.rs"]
mod mla_attention;
#[path = "../mla_decode/bench.rs"]
mod mla_decode;
#[path = "../permute/bench.rs"]
mod permute;
#[path = "../quantise/bench.rs"]
mod quantise;
#[path = "../residual/bench.rs"]
mod residual;
#[path = "../rms_norm/bench.rs"]
mod rms_norm;
#[path = "../rope/bench.rs"]
mod rope;
#[path = "../router/bench.rs"]
mod router;
#[path = "../row_scale/bench.rs"]
mod row_scale;
#[path = "../sampling/bench.rs"]
mod sampling;
#[path = "../swiglu/bench.rs"]
mod swiglu;

type Rows = fn(&mut Bench<'_>);

/// Every operation: its folder, and what times its rows.
pub(super) const OPERATIONS: &[(&str, Rows)] = &[
    ("adamw", adamw::bench),
    ("balance", balance::bench),
    ("bias", bias::bench),
    ("columns", columns::bench),
    ("cross_entropy", cross_entropy::bench),
    ("embedding", embedding::bench),
    ("gemm", gemm::bench),
    ("gemv", gemv::bench),
    ("mla_attention", mla_attention::bench),
    ("mla_decode", mla_decode::bench),
    ("permute", permute::bench),
    ("quantise", quantise::bench),
    ("residual", residual::bench),
    ("rms_norm", rms_norm::bench),
    ("rope", rope::bench),
    ("router", router::bench),
    ("row_scale", row_scale::bench),
    ("sampling", sampling::bench),
    ("swiglu", swiglu::bench),
];
