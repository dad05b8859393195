//! How fast a processor multiplies and adds: chains of one instruction, as many side by side as hide its latency, all in
//! registers.

use std::hint::black_box;
use std::time::Instant;

use tensor::Ctx;

use crate::bench::Spread;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    Bf16,
    Int8,
}

/// A loop of `steps` rounds over its chains, and the operations of one round.
struct Loop {
    run: fn(usize),
    operations: f64,
}

/// Seconds that a round of measuring takes at least: the start of a job is a thousandth of it.
const ROUND_SECONDS: f64 = 4e-3;

/// Operations a second of the calling thread alone, or of all; none if the processor has no instruction for them.
pub(super) fn measure(ctx: &Ctx, threads: usize, kind: Kind, rounds: usize) -> Option<Spread> {
    let Loop { run, operations } = find(kind)?;
    let round = |steps: usize| {
        if threads == 1 { run(steps) } else { ctx.for_each(threads, |_| run(steps)) }
    };
    let mut steps = 1000;
    loop {
        let start = Instant::now();
        round(steps);
        let seconds = start.elapsed().as_secs_f64();
        if seconds >= ROUND_SECONDS {
            break;
        }
        steps *= if seconds < ROUND_SECONDS / 16.0 { 8 } else { 2 };
    }
    let seconds = Spread::of_seconds(rounds, 0.0, || round(steps));
    Some(seconds.rate_of(operations * (steps * threads) as f64))
}

/// The widest loop that this processor has for `kind`.
fn find(kind: Kind) -> Option<Loop> {
    #[cfg(target_arch = "x86_64")]
    if let Some(found) = x86::find(kind) {
        return Some(found);
    }
    (kind == Kind::F32).then_some(Loop { run: plain, operations: (2 * PLAIN_CHAINS * PLAIN_LANES) as f64 })
}

const PLAIN_CHAINS: usize = 8;
const PLAIN_LANES: usize = 4;

/// What the compiler makes of it for the baseline of the target. Without an instruction for both at once, a product and
/// a sum: `mul_add` would be a call.
fn plain(steps: usize) {
    let [factor, summand] = black_box([0.999_999_f32, 1e-7]);
    let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    let step = |x: f32| if fused { x.mul_add(factor, summand) } else { x * factor + summand };
    let [mut a, mut b, mut c, mut d] = [[1.0_f32; PLAIN_LANES]; 4];
    let [mut e, mut f, mut g, mut h] = [[2.0_f32; PLAIN_LANES]; 4];
    for _ in 0..steps {
        for i in 0..PLAIN_LANES {
            (a[i], b[i], c[i], d[i]) = (step(a[i]), step(b[i]), step(c[i]), step(d[i]));
            (e[i], f[i], g[i], h[i]) = (step(e[i]), step(f[i]), step(g[i]), step(h[i]));
        }
    }
    black_box([a, b, c, d, e, f, g, h]);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, __m512bh, __m512i, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    };
    use std::hint::black_box;
    use std::is_x86_feature_detected as has;

    use super::{Kind, Loop};

    /// Two instructions a cycle of a latency of up to six cycles.
    const CHAINS: usize = 12;

    pub(super) fn find(kind: Kind) -> Option<Loop> {
        let (run, operations): (fn(usize), usize) = match kind {
            // SAFETY: the processor has the feature that the function is compiled for; so in each arm.
            Kind::F32 if has!("avx512f") => (|steps| unsafe { f32_512(steps) }, 32),
            // SAFETY: as above.
            Kind::F32 if has!("avx2") && has!("fma") => (|steps| unsafe { f32_256(steps) }, 16),
            // SAFETY: as above.
            Kind::Bf16 if has!("avx512f") && has!("avx512bf16") => (|steps| unsafe { bf16_512(steps) }, 64),
            // SAFETY: as above.
            Kind::Int8 if has!("avx512f") && has!("avx512vnni") => (|steps| unsafe { int8_512(steps) }, 128),
            Kind::F32 | Kind::Bf16 | Kind::Int8 => return None,
        };
        Some(Loop { run, operations: (CHAINS * operations) as f64 })
    }

    #[target_feature(enable = "avx512f")]
    fn f32_512(steps: usize) {
        let [factor, summand] = black_box([_mm512_set1_ps(0.999_999), _mm512_set1_ps(1e-7)]);
        let mut chains: [__m512; CHAINS] = black_box([summand; CHAINS]);
        for _ in 0..steps {
            for x in &mut chains {
                *x = _mm512_fmadd_ps(*x, factor, summand);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_256(steps: usize) {
        let [factor, summand] = black_box([_mm256_set1_ps(0.999_999), _mm256_set1_ps(1e-7)]);
        let mut chains: [__m256; CHAINS] = black_box([summand; CHAINS]);
        for _ in 0..steps {
            for x in &mut chains {
                *x = _mm256_fmadd_ps(*x, factor, summand);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_512(steps: usize) {
        // 0x3C00 is 2⁻⁷ as bf16.
        let pairs = black_box(_mm512_set1_epi32(0x3C00_3C00));
        // SAFETY: 32 bf16 are 64 bytes of any value.
        let pairs: __m512bh = unsafe { std::mem::transmute(pairs) };
        let mut chains: [__m512; CHAINS] = black_box([_mm512_set1_ps(1.0); CHAINS]);
        for _ in 0..steps {
            for x in &mut chains {
                *x = _mm512_dpbf16_ps(*x, pairs, pairs);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_512(steps: usize) {
        let bytes = black_box(_mm512_set1_epi8(1));
        let mut chains: [__m512i; CHAINS] = black_box([bytes; CHAINS]);
        for _ in 0..steps {
            for x in &mut chains {
                *x = _mm512_dpbusd_epi32(*x, bytes, bytes);
            }
        }
        black_box(chains);
    }
}
