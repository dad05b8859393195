//! Sums over cache lines: loads, and as little else as keeps them from being left out.

use std::hint::black_box;

/// A cache line of 64-bit words.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [u64; 8]);

/// Lines that one round of a loop adds up, each to a sum of its own.
const BLOCK: usize = 4;

/// Places that are read side by side.
const STREAMS: usize = 4;

/// How far ahead memory is asked for, in lines: the processor's own prefetching ends at pages of 4 KiB.
const AHEAD: usize = 4096 / size_of::<Line>();

/// The sum of lines that come from memory; the last ones, fewer than a block, are left out.
pub(super) fn sum_memory(data: &[Line]) -> u64 {
    sum::<true>(data, 1)
}

/// The same lines, a quarter from each of four places that are gone through side by side, without asking ahead: some
/// processors' own prefetching reads more that way.
pub(super) fn sum_memory_streams(data: &[Line]) -> u64 {
    let (part, rest) = (data.len() / STREAMS / BLOCK * BLOCK, data.len() / BLOCK * BLOCK);
    let parts: [&[Line]; STREAMS] = std::array::from_fn(|i| &data[i * part..(i + 1) * part]);
    let rest = &data[STREAMS * part..rest];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the feature that the function is compiled for.
        return unsafe { x86::sum_512_streams(parts) }.wrapping_add(sum_cached(rest, 1));
    }
    parts.into_iter().fold(sum_cached(rest, 1), |total, part| total.wrapping_add(sum_cached(part, 1)))
}

/// The sum of lines that lie in a cache, `times` over. Asking ahead would take the place of loads.
pub(super) fn sum_cached(data: &[Line], times: usize) -> u64 {
    sum::<false>(data, times)
}

fn sum<const ASK_AHEAD: bool>(data: &[Line], times: usize) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature that the function is compiled for.
            return unsafe { x86::sum_512::<ASK_AHEAD>(data, times) };
        }
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { x86::sum_256::<ASK_AHEAD>(data, times) };
        }
    }
    plain(data, times)
}

fn plain(data: &[Line], times: usize) -> u64 {
    let [mut a, mut b, mut c, mut d] = [[0_u64; 8]; BLOCK];
    for _ in 0..times {
        for [p, q, r, s] in black_box(data).as_chunks::<BLOCK>().0 {
            for i in 0..8 {
                (a[i], b[i]) = (a[i].wrapping_add(p.0[i]), b[i].wrapping_add(q.0[i]));
                (c[i], d[i]) = (c[i].wrapping_add(r.0[i]), d[i].wrapping_add(s.0[i]));
            }
        }
    }
    [a, b, c, d].as_flattened().iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi64, _mm256_setzero_si256, _mm512_add_epi64,
        _mm512_reduce_add_epi64, _mm512_setzero_si512,
    };
    use std::hint::black_box;

    use super::{AHEAD, BLOCK, Line, STREAMS};

    /// The parts have as many lines, whole blocks.
    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_512_streams(parts: [&[Line]; STREAMS]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); STREAMS];
        let parts = parts.map(|part| part.as_chunks::<BLOCK>().0);
        for i in 0..parts[0].len() {
            for (sum, part) in sums.iter_mut().zip(parts) {
                for line in &part[i] {
                    // SAFETY: a line is 64 bytes, aligned to 64, of any value.
                    *sum = _mm512_add_epi64(*sum, unsafe { *(&raw const *line).cast::<__m512i>() });
                }
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm512_add_epi64(a, b)).expect("several sums");
        _mm512_reduce_add_epi64(total) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_512<const ASK_AHEAD: bool>(data: &[Line], times: usize) -> u64 {
        let mut sums = [_mm512_setzero_si512(); BLOCK];
        for _ in 0..times {
            for block in black_box(data).as_chunks::<BLOCK>().0 {
                if ASK_AHEAD {
                    ask(block);
                }
                for (sum, line) in sums.iter_mut().zip(block) {
                    // SAFETY: a line is 64 bytes, aligned to 64, of any value.
                    *sum = _mm512_add_epi64(*sum, unsafe { *(&raw const *line).cast::<__m512i>() });
                }
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm512_add_epi64(a, b)).expect("several sums");
        _mm512_reduce_add_epi64(total) as u64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_256<const ASK_AHEAD: bool>(data: &[Line], times: usize) -> u64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; BLOCK];
        for _ in 0..times {
            for block in black_box(data).as_chunks::<BLOCK>().0 {
                if ASK_AHEAD {
                    ask(block);
                }
                for (sums, line) in sums.iter_mut().zip(block) {
                    // SAFETY: a line is twice 32 bytes, aligned to 32, of any value.
                    let [low, high] = unsafe { *(&raw const *line).cast::<[__m256i; 2]>() };
                    *sums = [_mm256_add_epi64(sums[0], low), _mm256_add_epi64(sums[1], high)];
                }
            }
        }
        let total = sums.into_iter().flatten().reduce(|a, b| _mm256_add_epi64(a, b)).expect("several sums");
        // SAFETY: four words are 32 bytes of any value.
        let words: [u64; 4] = unsafe { std::mem::transmute(total) };
        words.iter().fold(0, |total, word| total.wrapping_add(*word))
    }

    /// Asks for the lines that lie [`AHEAD`] of `block`.
    #[inline(always)]
    fn ask(block: &[Line; BLOCK]) {
        for line in block {
            let ahead = (&raw const *line).wrapping_add(AHEAD);
            // SAFETY: a prefetch is a hint; the processor ignores it for an address that cannot be read.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, plain, sum_cached, sum_memory, sum_memory_streams};

    #[test]
    fn every_word_of_whole_blocks_is_counted_once() {
        for lines in [0, 3, 4, 5, 12, 16, 39] {
            let data: Vec<Line> = (0..lines).map(|i| Line(std::array::from_fn(|j| 8 * i + j as u64))).collect();
            let words = 8 * (lines / 4 * 4);
            let want = words * words.saturating_sub(1) / 2;
            assert_eq!(
                [sum_memory(&data), sum_memory_streams(&data), sum_cached(&data, 3), plain(&data, 2)],
                [want, want, 3 * want, 2 * want],
                "{lines}"
            );
        }
    }
}
