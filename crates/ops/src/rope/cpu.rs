use super::Layout;
use crate::simd::simd;

simd! {
    /// `x` has rows of `width`, `cos` and `sin` rows of `half`; `direction` is 1, or −1 for the opposite angle.
    ///
    /// Products are rounded before they are added, as in the published implementations: no fused multiply-add here.
    pub(super) fn rotate(x: &mut [f32], width: usize, head_dim: usize, offset: usize, cos: &[f32], sin: &[f32],
                         half: usize, layout: Layout, direction: f32) {
        let table = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(table) {
            for head in row.chunks_exact_mut(head_dim) {
                let values = &mut head[offset..offset + 2 * half];
                match layout {
                    Layout::Interleaved => {
                        for (([x0, x1], cos), sin) in values.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                            (*x0, *x1) = pair(*x0, *x1, *cos, direction * sin);
                        }
                    }
                    Layout::Half => {
                        let (x0, x1) = values.split_at_mut(half);
                        for (((x0, x1), cos), sin) in x0.iter_mut().zip(x1).zip(cos).zip(sin) {
                            (*x0, *x1) = pair(*x0, *x1, *cos, direction * sin);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pair(x0: f32, x1: f32, cos: f32, sin: f32) -> (f32, f32) {
    (x0 * cos - x1 * sin, x1 * cos + x0 * sin)
}
