use crate::simd::{exp, sigmoid, simd};

simd! {
    /// Rows of `[gate | up]`, each half of width `i`.
    pub(super) fn forward(gate_up: &[f32], i: usize, h: &mut [f32]) {
        for (row, h) in gate_up.chunks_exact(2 * i).zip(h.chunks_exact_mut(i)) {
            let (gate, up) = row.split_at(i);
            for ((h, &g), u) in h.iter_mut().zip(gate).zip(up) {
                // One rounding fewer than g · sigmoid(g), and the form that PyTorch has.
                *h = g / (1.0 + exp(-g)) * u;
            }
        }
    }
}

simd! {
    pub(super) fn backward(dh: &[f32], gate_up: &[f32], i: usize, dgate_up: &mut [f32]) {
        let rows = dh.chunks_exact(i).zip(gate_up.chunks_exact(2 * i)).zip(dgate_up.chunks_exact_mut(2 * i));
        for ((dh, row), drow) in rows {
            let (gate, up) = row.split_at(i);
            let (dgate, dup) = drow.split_at_mut(i);
            for ((((dgate, dup), dh), &g), u) in dgate.iter_mut().zip(dup).zip(dh).zip(gate).zip(up) {
                let s = sigmoid(g);
                *dup = dh * (g * s);
                *dgate = dh * u * s * g.mul_add(1.0 - s, 1.0);
            }
        }
    }
}
