//! `cargo bench -p ops [-- NAME]`: every operation over its speed cases, as time, GB/s, GFLOP/s and share of the peaks
//! that this machine showed in the same run.

mod harness;

#[path = "../src/adamw/bench.rs"]
mod adamw;
#[path = "../src/balance/bench.rs"]
mod balance;
#[path = "../src/bias/bench.rs"]
mod bias;
#[path = "../src/columns/bench.rs"]
mod columns;
#[path = "../src/cross_entropy/bench.rs"]
mod cross_entropy;
#[path = "../src/embedding/bench.rs"]
mod embedding;
#[path = "../src/gemm/bench.rs"]
mod gemm;
#[path = "../src/mla_attention/bench.rs"]
mod mla_attention;
#[path = "../src/mla_decode/bench.rs"]
mod mla_decode;
#[path = "../src/permute/bench.rs"]
mod permute;
#[path = "../src/residual/bench.rs"]
mod residual;
#[path = "../src/rms_norm/bench.rs"]
mod rms_norm;
#[path = "../src/rope/bench.rs"]
mod rope;
#[path = "../src/router/bench.rs"]
mod router;
#[path = "../src/row_scale/bench.rs"]
mod row_scale;
#[path = "../src/sampling/bench.rs"]
mod sampling;
#[path = "../src/swiglu/bench.rs"]
mod swiglu;

use harness::Bench;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for threads in [1, 0] {
        let ctx = tensor::Ctx::new(threads).expect("compute threads");
        let mut b = Bench::new(&ctx, &filter);
        adamw::bench(&mut b);
        balance::bench(&mut b);
        bias::bench(&mut b);
        columns::bench(&mut b);
        cross_entropy::bench(&mut b);
        embedding::bench(&mut b);
        gemm::bench(&mut b);
        mla_attention::bench(&mut b);
        mla_decode::bench(&mut b);
        permute::bench(&mut b);
        residual::bench(&mut b);
        rms_norm::bench(&mut b);
        rope::bench(&mut b);
        router::bench(&mut b);
        row_scale::bench(&mut b);
        sampling::bench(&mut b);
        swiglu::bench(&mut b);
    }
}
