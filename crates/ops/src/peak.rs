//! What this machine can do at most: the bounds that kernels and whole training steps are measured against.

use std::hint::black_box;
use std::time::Instant;

use tensor::Ctx;

use crate::simd::{LANES, reduce, simd};

/// Peaks of all threads of a context together.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// f32 operations per second; a fused multiply-add counts as two.
    pub flops: f64,
    /// Bytes read per second from memory far larger than the caches.
    pub bytes: f64,
}

/// Measures both, in about half a second. The best of several rounds, since a peak is a maximum.
pub fn measure(ctx: &Ctx) -> Peak {
    Peak { flops: flops(ctx), bytes: bytes(ctx) }
}

/// Only the arithmetic peak, in about a quarter of a second.
pub fn flops(ctx: &Ctx) -> f64 {
    const STEPS: usize = 2_000_000;
    best(5, || {
        ctx.for_each(ctx.threads(), |_| {
            black_box(multiply_add(ctx.isa, black_box(STEPS)));
        });
        (2 * CHAINS * LANES * STEPS * ctx.threads()) as f64
    })
}

fn bytes(ctx: &Ctx) -> f64 {
    const PART: usize = 1 << 24;
    let data = vec![1.0_f32; PART * ctx.threads()];
    best(5, || {
        ctx.for_each(ctx.threads(), |i| {
            let part = &data[i * PART..(i + 1) * PART];
            black_box(sum(ctx.isa, part));
        });
        4.0 * data.len() as f64
    })
}

/// The best rate of `rounds` runs of `work`, which returns how much it did.
fn best(rounds: usize, work: impl Fn() -> f64) -> f64 {
    (0..rounds).fold(0.0, |best, _| {
        let start = Instant::now();
        let amount = work();
        f64::max(best, amount / start.elapsed().as_secs_f64())
    })
}

/// Independent chains of multiply-adds: enough to hide a latency of four cycles at two a cycle.
const CHAINS: usize = 10;

simd! {
    /// One named array per chain: the compiler keeps each in a register, which it does not do for an array of arrays.
    fn multiply_add(steps: usize) -> f32 {
        let [mut a, mut b, mut c, mut d, mut e] = [[1.0_f32; LANES]; 5];
        let [mut f, mut g, mut h, mut j, mut k] = [[2.0_f32; LANES]; 5];
        let step = |x: f32| x.mul_add(0.999_999, 1e-7);
        for _ in 0..steps {
            for i in 0..LANES {
                (a[i], b[i], c[i], d[i], e[i]) = (step(a[i]), step(b[i]), step(c[i]), step(d[i]), step(e[i]));
                (f[i], g[i], h[i], j[i], k[i]) = (step(f[i]), step(g[i]), step(h[i]), step(j[i]), step(k[i]));
            }
        }
        [a, b, c, d, e, f, g, h, j, k].map(reduce).iter().sum()
    }
}

simd! {
    /// Four streams at once, so that additions do not wait for one another.
    fn sum(data: &[f32]) -> f32 {
        let [mut a, mut b, mut c, mut d] = [[0.0_f32; LANES]; 4];
        for block in data.as_chunks::<{ 4 * LANES }>().0 {
            for i in 0..LANES {
                a[i] += block[i];
                b[i] += block[i + LANES];
                c[i] += block[i + 2 * LANES];
                d[i] += block[i + 3 * LANES];
            }
        }
        [a, b, c, d].map(reduce).iter().sum()
    }
}
