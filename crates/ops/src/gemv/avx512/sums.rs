//! Sums across lanes, in the order of [`crate::simd::reduce`].

use std::arch::x86_64::{
    __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castps512_ps256, _mm512_extractf32x8_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_unpackhi_pd,
    _mm512_unpacklo_pd,
};

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn sum(v: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The same of sixteen vectors at once: lane `i` is the sum of `v[SLOTS[i]]`. Two vectors become one that holds the sums
/// of their halves, four times over.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn sums(v: &[__m512; 16]) -> __m512 {
    let mut eights = [v[0]; 8];
    for i in 0..8 {
        // Vectors i and 8 + i: eight lanes of each.
        let (a, b) = (v[i], v[8 + i]);
        eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
    }
    let mut fours = [v[0]; 4];
    for i in 0..4 {
        // Quarters: vectors i, 4 + i, 8 + i, 12 + i.
        let (a, b) = (eights[i], eights[4 + i]);
        fours[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
    }
    let mut twos = [v[0]; 2];
    for i in 0..2 {
        let (a, b) = (_mm512_castps_pd(fours[i]), _mm512_castps_pd(fours[2 + i]));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        twos[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    let [a, b] = twos;
    _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xDD>(a, b))
}

/// Where [`sums`] wants the vectors.
pub(super) const SLOTS: [usize; 16] = [0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15];
