use ops::router::{Method, backward, cases, forward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for (t, config) in cases::SPEED {
        let (e, k) = (config.n_routed_experts, config.num_experts_per_tok);
        let (logits, bias, dw) = (random([*t, e]), random([e]), random([*t, k]));
        let bias = (config.method == Method::NoauxTc).then_some(bias.data());
        let routing = forward(b.ctx, &logits, bias, config);
        let (bytes, name) = ((4 * t * e) as u64, format!("{:?} [{t}, {e}, {k}]", config.method));
        b.row(&format!("router forward {name}"), 2 * bytes, 5 * bytes, |ctx| {
            forward(ctx, &logits, bias, config);
        });
        b.row(&format!("router backward {name}"), 2 * bytes, bytes, |ctx| {
            backward(ctx, &dw, None, &routing, config);
        });
    }
}
