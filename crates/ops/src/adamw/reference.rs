//! What AdamW means: f64, plain loops, in the order of torch.optim.AdamW.

use super::Hyper;

/// One step of `w`, `m` and `v` by the gradient `g`.
pub fn step(w: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], hyper: &Hyper) {
    let &Hyper { lr, beta1, beta2, eps, weight_decay, step, grad_scale } = hyper;
    for i in 0..w.len() {
        let g = g[i] * grad_scale;
        w[i] *= 1.0 - lr * weight_decay;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let m_hat = m[i] / (1.0 - beta1.powf(step as f64));
        let v_hat = v[i] / (1.0 - beta2.powf(step as f64));
        w[i] -= lr * m_hat / (v_hat.sqrt() + eps);
    }
}
