//! One body, compiled for each instruction set, chosen at run time.

/// Defines a function whose body is compiled for the baseline, for AVX2 + FMA and for AVX-512; the caller passes the
/// [`tensor::Isa`] as first argument.
///
/// The body is plain Rust, written so that the compiler vectorises it: loops over equal-length slices, `mul_add` where a
/// fused multiply-add is meant, sums in arrays of [`LANES`] partial sums. Such a body gives the same bits at every level.
/// (On x86-64 processors without FMA, `mul_add` is a library call: exact, and slow.)
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::allow_attributes, clippy::too_many_arguments)]
        $vis fn $name(isa: tensor::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match isa.level() {
                    // SAFETY: an `Isa` of this level exists only on a processor that has these features.
                    tensor::Level::Avx512Bf16 | tensor::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    tensor::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    tensor::Level::Portable => {}
                }
            }
            let _ = isa;
            body($($arg),*)
        }
    };
}
pub(crate) use simd;

/// How many partial sums a vectorised reduction keeps: one AVX-512 register of f32.
pub(crate) const LANES: usize = 16;

/// The sum of the partial sums, pairwise, in a fixed order.
#[inline(always)]
pub(crate) fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// `Σ a[i] · b[i]` in [`LANES`] partial sums, the tail going to the first lanes.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_tail) = a.as_chunks::<LANES>();
    let (b_blocks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane = a.mul_add(*b, *lane);
    }
    reduce(lanes)
}

/// `e^x` to about one unit in the last place, branch-free so that loops over it vectorise.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2`; a polynomial gives `e^r`, and `2^n` is put together from bits in two halves.
/// Results below the smallest normal number are 0; above 88.7 the result is infinity. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 · 2²³ rounds to an integer in the current (nearest, ties to even) mode.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.336_54 { -87.336_54 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    // Taylor's series to r⁷/7!: its remainder at |r| = 0.347 is below 2⁻²⁷ of the result.
    let mut p = 1.0 / 5040.0;
    p = r.mul_add(p, 1.0 / 720.0);
    p = r.mul_add(p, 1.0 / 120.0);
    p = r.mul_add(p, 1.0 / 24.0);
    p = r.mul_add(p, 1.0 / 6.0);
    p = r.mul_add(p, 0.5);
    p = r.mul_add(p, 1.0);
    p = r.mul_add(p, 1.0);
    // The low bits of `shifted` are n: reading them off vectorises, where a saturating cast would not. n is at most 128,
    // where one power of two would overflow the exponent field: 2^n = 2^⌊n/2⌋ · 2^⌈n/2⌉.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(n - half);
    if x < -87.336_54 { 0.0 } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps() {
        let mut worst: f64 = 0.0;
        for i in -873_000..=887_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let ulp = f64::from(f32::EPSILON) * exact / 2.0;
            worst = worst.max((f64::from(exp(x)) - exact).abs() / ulp);
        }
        // One half unit is rounding; the products with powers of two are exact.
        assert!(worst < 4.0, "{worst} half-ulps");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn dot_counts_every_element_once() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(dot(&a, &vec![1.0; n]), (0..n).sum::<usize>() as f32);
        }
    }
}
