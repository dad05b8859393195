//! Arithmetic in bf16, two numbers at a time.
//!
//! Two neighbours along the dimension that a product sums over share a dword, the even one in its lower half. The
//! processor's instruction takes a pair of each operand and adds both products to an f32,
//!
//! ```text
//! (sum + a.odd · b.odd) + a.even · b.even
//! ```
//!
//! with a rounding after each addition. The products themselves are exact in f32, so two fused multiply-adds, the odd
//! one first, give the same bits where there is no such instruction. Only sums below the smallest normal number differ:
//! the instruction makes them 0. Rounding to bf16 takes such inputs for 0 everywhere.

use crate::simd::LANES;

/// What computes with pairs: the processor itself or f32 arithmetic.
pub(super) trait Unit: Copy {
    /// `sum += a · b` in every lane; one pair `a` for all of them.
    fn add_product(self, a: u32, b: &[u32; LANES], sum: &mut [f32; LANES]);

    /// Pair `i` is `x[2i]` and `x[2i + 1]`, rounded.
    fn pair_neighbours(self, x: &[f32; 2 * LANES]) -> [u32; LANES];

    /// Pair `i` is `even[i]` and `odd[i]`, rounded.
    fn pair_rows(self, even: &[f32; LANES], odd: &[f32; LANES]) -> [u32; LANES];

    /// Exchanges `x[i][j]` and `x[j][i]`.
    fn transpose(self, x: &mut [[u32; LANES]; LANES]);

    /// Says that these numbers will be read soon: they come into the level-2 cache.
    fn prefetch(self, x: &[f32]);
}

/// Plain f32 arithmetic, which the compiler vectorises.
#[derive(Clone, Copy)]
pub(super) struct Emulated;

impl Unit for Emulated {
    #[inline(always)]
    fn add_product(self, a: u32, b: &[u32; LANES], sum: &mut [f32; LANES]) {
        let [a_even, a_odd] = halves(a);
        for l in 0..LANES {
            let [even, odd] = halves(b[l]);
            sum[l] = a_even.mul_add(even, a_odd.mul_add(odd, sum[l]));
        }
    }

    #[inline(always)]
    fn pair_neighbours(self, x: &[f32; 2 * LANES]) -> [u32; LANES] {
        let mut pairs = [0; LANES];
        for l in 0..LANES {
            pairs[l] = round(x[2 * l]) >> 16 | round(x[2 * l + 1]);
        }
        pairs
    }

    #[inline(always)]
    fn pair_rows(self, even: &[f32; LANES], odd: &[f32; LANES]) -> [u32; LANES] {
        let mut pairs = [0; LANES];
        for l in 0..LANES {
            pairs[l] = round(even[l]) >> 16 | round(odd[l]);
        }
        pairs
    }

    #[inline(always)]
    fn transpose(self, x: &mut [[u32; LANES]; LANES]) {
        for i in 0..LANES {
            for j in 0..i {
                (x[i][j], x[j][i]) = (x[j][i], x[i][j]);
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: &[f32]) {}
}

/// `[even, odd]` of a pair.
#[inline(always)]
fn halves(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
}

/// The bits of `x` rounded to the nearest bf16, ties to even, in the upper half; the lower half is 0. Numbers below the
/// smallest normal one become 0, NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    let rounded = if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { rounded };
    if x.is_nan() { (bits | 0x0040_0000) & 0xffff_0000 } else { rounded }
}

/// The value of `x` rounded to bf16.
#[inline(always)]
pub(super) fn rounded(x: f32) -> f32 {
    f32::from_bits(round(x))
}

#[cfg(target_arch = "x86_64")]
pub(super) use native::Native;

#[cfg(target_arch = "x86_64")]
mod native {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
        _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    use std::mem::transmute;

    use super::{LANES, Unit};

    /// The instructions of AVX-512 BF16.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Native(());

    impl Native {
        /// # Safety
        /// The processor has AVX-512 F, BW and BF16, for as long as the result is used.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    /// Word `2l` comes from lane `l` of the lower half of a register, word `2l + 1` from that of the upper half.
    const INTERLEAVE: [u16; 32] = {
        let mut words = [0; 32];
        let mut l = 0;
        while l < LANES {
            words[2 * l] = l as u16;
            words[2 * l + 1] = (LANES + l) as u16;
            l += 1;
        }
        words
    };

    // Arrays and registers of 64 bytes have the same size, and every pattern of bits is a value of either.
    impl Unit for Native {
        #[inline(always)]
        fn add_product(self, a: u32, b: &[u32; LANES], sum: &mut [f32; LANES]) {
            // SAFETY: a `Native` exists only on a processor with these instructions, and see above.
            unsafe {
                let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a as i32));
                let b = transmute::<[u32; LANES], __m512bh>(*b);
                *sum =
                    transmute::<__m512, [f32; LANES]>(_mm512_dpbf16_ps(transmute::<[f32; LANES], __m512>(*sum), a, b));
            }
        }

        #[inline(always)]
        fn pair_neighbours(self, x: &[f32; 2 * LANES]) -> [u32; LANES] {
            // SAFETY: as above.
            unsafe {
                let [low, high] = transmute::<[f32; 2 * LANES], [__m512; 2]>(*x);
                transmute::<__m512bh, [u32; LANES]>(_mm512_cvtne2ps_pbh(high, low))
            }
        }

        #[inline(always)]
        fn pair_rows(self, even: &[f32; LANES], odd: &[f32; LANES]) -> [u32; LANES] {
            // SAFETY: as above.
            unsafe {
                let [even, odd] = [even, odd].map(|x| transmute::<[f32; LANES], __m512>(*x));
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
                let interleave = transmute::<[u16; 2 * LANES], __m512i>(INTERLEAVE);
                transmute::<__m512i, [u32; LANES]>(_mm512_permutexvar_epi16(interleave, both))
            }
        }

        #[inline(always)]
        fn transpose(self, rows: &mut [[u32; LANES]; LANES]) {
            // Four rounds; after each, twice as many neighbours of a register come from neighbouring rows. The first
            // two work within the four quarters of registers, the last two exchange quarters.
            // SAFETY: as above.
            unsafe {
                let mut x = rows.map(|row| transmute::<[u32; LANES], __m512i>(row));
                for i in 0..8 {
                    let (a, b) = (x[2 * i], x[2 * i + 1]);
                    (x[2 * i], x[2 * i + 1]) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                }
                for i in [0, 4, 8, 12] {
                    let [a, b, c, d] = [x[i], x[i + 1], x[i + 2], x[i + 3]];
                    (x[i], x[i + 1]) = (_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c));
                    (x[i + 2], x[i + 3]) = (_mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d));
                }
                // Register 4g + c now holds column 4q + c of rows 4g to 4g + 3 in quarter q.
                for i in [0, 1, 2, 3, 8, 9, 10, 11] {
                    let (a, b) = (x[i], x[i + 4]);
                    (x[i], x[i + 4]) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                }
                for i in 0..8 {
                    let (a, b) = (x[i], x[i + 8]);
                    (x[i], x[i + 8]) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                }
                *rows = x.map(|x| transmute::<__m512i, [u32; LANES]>(x));
            }
        }

        #[inline(always)]
        fn prefetch(self, x: &[f32]) {
            for line in x.chunks(LANES) {
                // SAFETY: as above; and a prefetch of any address is harmless.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
            }
        }
    }
}

/// Defines a function over a [`Unit`]: compiled with the processor's own for AVX-512 BF16, and as [`crate::simd::simd`]
/// does with [`Emulated`] for the levels below. The bits are the same.
macro_rules! paired {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($unit:ident; $($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(clippy::allow_attributes, clippy::too_many_arguments)]
        $vis fn $name(isa: tensor::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn generic<U: $crate::mla_attention::bf16::Unit>($unit: U, $($arg: $ty),*) $body

            $crate::simd::simd! {
                fn emulated($($arg: $ty),*) {
                    generic($crate::mla_attention::bf16::Emulated, $($arg),*);
                }
            }

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
                fn native($($arg: $ty),*) {
                    // SAFETY: this function is compiled for these features, so it runs only where they are.
                    generic(unsafe { $crate::mla_attention::bf16::Native::new() }, $($arg),*);
                }
                if isa.level() == tensor::Level::Avx512Bf16 {
                    // SAFETY: an `Isa` of this level exists only on a processor that has these features.
                    return unsafe { native($($arg),*) };
                }
            }
            emulated(isa, $($arg),*);
        }
    };
}
pub(super) use paired;

#[cfg(test)]
mod tests {
    use tensor::{Level, bf16};

    use super::*;
    use crate::check::levels;

    paired! {
        fn neighbours(unit; x: &[f32; 32], out: &mut [u32; 16]) {
            *out = unit.pair_neighbours(x);
        }
    }

    paired! {
        fn rows(unit; x: &[f32; 16], y: &[f32; 16], out: &mut [u32; 16]) {
            *out = unit.pair_rows(x, y);
        }
    }

    paired! {
        fn product(unit; a: u32, b: &[u32; 16], sum: &mut [f32; 16]) {
            unit.add_product(a, b, sum);
        }
    }

    paired! {
        fn transpose(unit; x: &mut [[u32; 16]; 16]) {
            unit.transpose(x);
        }
    }

    #[test]
    fn rows_become_columns() {
        for ctx in levels() {
            let mut x = std::array::from_fn(|i| std::array::from_fn(|j| (100 * i + j) as u32));
            transpose(ctx.isa, &mut x);
            assert_eq!(x, std::array::from_fn(|i| std::array::from_fn(|j| (100 * j + i) as u32)));
        }
    }

    /// Numbers between bf16 numbers, ties, both zeros, the ends of the range.
    fn numbers() -> Vec<f32> {
        let mut numbers =
            vec![0.0, -0.0, f32::INFINITY, -f32::INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::NAN];
        for i in 0..4000_u32 {
            let bits = (i.wrapping_mul(2_654_435_761) & 0x807f_ffff) | (i % 254 + 1) << 23;
            numbers.extend([bits, bits & 0xffff_8000, bits & 0xffff_0000, bits | 0x7fff].map(f32::from_bits));
        }
        numbers.resize(numbers.len().next_multiple_of(32), 1.0);
        numbers
    }

    #[test]
    fn rounding_is_that_of_half() {
        for ctx in levels() {
            for x in numbers().as_chunks::<32>().0 {
                let (mut beside, mut below) = ([0; 16], [0; 16]);
                neighbours(ctx.isa, x, &mut beside);
                rows(ctx.isa, x[..16].first_chunk().unwrap(), x[16..].first_chunk().unwrap(), &mut below);
                let code = |x: f32| u32::from(bf16::from_f32(x).to_bits());
                for i in 0..16 {
                    assert_eq!(beside[i], code(x[2 * i]) | code(x[2 * i + 1]) << 16, "{} {}", x[2 * i], x[2 * i + 1]);
                    assert_eq!(below[i], code(x[i]) | code(x[16 + i]) << 16);
                }
            }
            let mut none = [1; 16];
            neighbours(ctx.isa, &[1e-39; 32], &mut none);
            assert_eq!(none, [0; 16], "what is below the smallest normal number is 0");
        }
    }

    #[test]
    fn products_have_the_same_bits_at_every_level() {
        let numbers: Vec<f32> = numbers().into_iter().filter(|x| (1e-9..1e9).contains(&x.abs())).collect();
        let codes: Vec<u32> = numbers.iter().map(|&x| round(x) >> 16).collect();
        for i in 0..codes.len() - 64 {
            let pair = |i: usize| codes[i] | codes[i + 1] << 16;
            let b = std::array::from_fn(|l| pair(i + 2 * l + 2));
            let sum = std::array::from_fn(|l| numbers[i + l]);
            let want: [f32; 16] = std::array::from_fn(|l| {
                let ([a_even, a_odd], [b_even, b_odd]) = (halves(pair(i)), halves(b[l]));
                let odd = (f64::from(a_odd) * f64::from(b_odd) + f64::from(sum[l])) as f32;
                (f64::from(a_even) * f64::from(b_even) + f64::from(odd)) as f32
            });
            for ctx in levels() {
                let mut got = sum;
                product(ctx.isa, pair(i), &b, &mut got);
                // f64 rounds twice where the terms are far apart; the levels must agree all the same.
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= want.abs() * f32::EPSILON, "{got} {want}");
                }
                let mut plain = sum;
                product(ctx.at_most(Level::Portable).isa, pair(i), &b, &mut plain);
                assert_eq!(got, plain, "{:?}", ctx.isa.level());
            }
        }
    }
}
