use super::Layout;
use crate::simd::simd;

simd! {
    /// `x` has rows of `width`, `cos` and `sin` rows of `half`.
    ///
    /// Products are rounded before they are added, as in the published implementations: no fused multiply-add here.
    pub(super) fn forward(x: &mut [f32], width: usize, head_dim: usize, offset: usize, cos: &[f32], sin: &[f32],
                          half: usize, layout: Layout) {
        let mut apart = vec![0.0; 2 * half];
        let table = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(table) {
            for head in row.chunks_exact_mut(head_dim) {
                let values = &mut head[offset..offset + 2 * half];
                if layout == Layout::Interleaved {
                    let (first, second) = apart.split_at_mut(half);
                    for (([x0, x1], first), second) in values.as_chunks::<2>().0.iter().zip(first).zip(second) {
                        (*first, *second) = (*x0, *x1);
                    }
                    values.copy_from_slice(&apart);
                }
                let (x0, x1) = values.split_at_mut(half);
                for (((x0, x1), cos), sin) in x0.iter_mut().zip(x1).zip(cos).zip(sin) {
                    (*x0, *x1) = (*x0 * cos - *x1 * sin, *x1 * cos + *x0 * sin);
                }
            }
        }
    }
}

simd! {
    /// The transposed map, line for line from last to first.
    pub(super) fn backward(dx: &mut [f32], width: usize, head_dim: usize, offset: usize, cos: &[f32], sin: &[f32],
                           half: usize, layout: Layout) {
        let mut apart = vec![0.0; 2 * half];
        let table = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in dx.chunks_exact_mut(width).zip(table) {
            for head in row.chunks_exact_mut(head_dim) {
                let values = &mut head[offset..offset + 2 * half];
                let (d0, d1) = values.split_at_mut(half);
                for (((d0, d1), cos), sin) in d0.iter_mut().zip(d1).zip(cos).zip(sin) {
                    (*d0, *d1) = (*d0 * cos + *d1 * sin, *d1 * cos - *d0 * sin);
                }
                if layout == Layout::Interleaved {
                    apart.copy_from_slice(values);
                    let (first, second) = apart.split_at(half);
                    for (([d0, d1], first), second) in values.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
                        (*d0, *d1) = (*first, *second);
                    }
                }
            }
        }
    }
}
