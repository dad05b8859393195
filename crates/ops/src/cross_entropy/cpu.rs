use crate::simd::{self, LANES, simd};

/// Elements whose sum is kept in f32: 256 additions to each partial sum.
const BLOCK: usize = 4096;

simd! {
    /// The largest element; NaN is passed over.
    pub(crate) fn largest(x: &[f32]) -> f32 {
        // Four registers, because each comparison waits for the one before it. The order does not matter to the result.
        let mut lanes = [f32::NEG_INFINITY; 4 * LANES];
        let (blocks, tail) = x.as_chunks::<{ 4 * LANES }>();
        for block in blocks {
            for i in 0..4 * LANES {
                lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
            }
        }
        lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

simd! {
    /// `x = exp(x − largest)`; the sum of the result.
    pub(crate) fn exp(x: &mut [f32], largest: f32) -> f64 {
        let mut sum = 0.0;
        for block in x.chunks_mut(BLOCK) {
            let mut lanes = [0.0; LANES];
            let (rows, tail) = block.as_chunks_mut::<LANES>();
            for row in rows {
                for i in 0..LANES {
                    row[i] = simd::exp(row[i] - largest);
                    lanes[i] += row[i];
                }
            }
            for (lane, x) in lanes.iter_mut().zip(tail) {
                *x = simd::exp(*x - largest);
                *lane += *x;
            }
            sum += f64::from(simd::reduce(lanes));
        }
        sum
    }
}

simd! {
    /// The sum that `exp` gives, bit for bit, without the result.
    pub(super) fn sum_exp(x: &[f32], largest: f32) -> f64 {
        let mut sum = 0.0;
        for block in x.chunks(BLOCK) {
            let mut lanes = [0.0; LANES];
            let (rows, tail) = block.as_chunks::<LANES>();
            for row in rows {
                for i in 0..LANES {
                    lanes[i] += simd::exp(row[i] - largest);
                }
            }
            for (lane, x) in lanes.iter_mut().zip(tail) {
                *lane += simd::exp(*x - largest);
            }
            sum += f64::from(simd::reduce(lanes));
        }
        sum
    }
}

simd! {
    pub(super) fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}
