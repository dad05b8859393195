use std::hint::black_box;
use std::time::Instant;

use tensor::{Ctx, Dims, Rng, Tensor};

/// Runs rows whose name contains the filter and prints them beside the machine's peaks.
pub(crate) struct Bench<'a> {
    pub(crate) ctx: &'a Ctx,
    filter: &'a str,
    peak: ops::peak::Peak,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(ctx: &'a Ctx, filter: &'a str) -> Self {
        let peak = ops::peak::measure(ctx);
        println!(
            "\n{} thread(s), {:?}: peak {:.0} GFLOP/s f32, {:.1} GB/s read",
            ctx.threads(),
            ctx.isa.level(),
            peak.flops / 1e9,
            peak.bytes / 1e9
        );
        Self { ctx, filter, peak }
    }

    /// The median of repeated runs; `bytes` and `flops` are the least the operation must move and compute.
    pub(crate) fn row(&mut self, name: &str, bytes: u64, flops: u64, mut run: impl FnMut(&Ctx)) {
        if !name.contains(self.filter) {
            return;
        }
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 5 || begin.elapsed().as_secs_f64() < 0.5 {
            let start = Instant::now();
            run(black_box(self.ctx));
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let (gflops, gbytes) = (flops as f64 / median / 1e9, bytes as f64 / median / 1e9);
        println!(
            "{name:<48} {:>9.1} us  {gflops:>7.1} GFLOP/s {:>3.0} %  {gbytes:>6.1} GB/s {:>3.0} %",
            median * 1e6,
            100.0 * gflops * 1e9 / self.peak.flops,
            100.0 * gbytes * 1e9 / self.peak.bytes
        );
    }
}

pub(crate) fn random(dims: impl Into<Dims>) -> Tensor {
    let dims = dims.into();
    let mut rng = Rng::new(0, "bench", dims.len() as u64);
    Tensor::from_vec((0..dims.len()).map(|_| rng.normal() as f32).collect(), dims)
}
