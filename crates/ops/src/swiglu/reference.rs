//! What SwiGLU means: f64, plain loops.

/// `gate_up` is `[T, 2 I]`; the result is `[T, I]`.
pub fn forward(gate_up: &[f64], i: usize) -> Vec<f64> {
    let mut h = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks_exact(2 * i) {
        let (gate, up) = row.split_at(i);
        h.extend(gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u));
    }
    h
}

/// `dgate_up [T, 2 I]`.
pub fn backward(dh: &[f64], gate_up: &[f64], i: usize) -> Vec<f64> {
    let mut dgate_up = Vec::with_capacity(gate_up.len());
    for (dh, row) in dh.chunks_exact(i).zip(gate_up.chunks_exact(2 * i)) {
        let (gate, up) = row.split_at(i);
        for j in 0..i {
            let s = sigmoid(gate[j]);
            dgate_up.push(dh[j] * up[j] * s * (1.0 + gate[j] * (1.0 - s)));
        }
        dgate_up.extend(dh.iter().zip(gate).map(|(dh, g)| dh * g * sigmoid(*g)));
    }
    dgate_up
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}
