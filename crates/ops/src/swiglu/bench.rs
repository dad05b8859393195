use ops::swiglu::{backward, cases, forward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, i] in cases::SPEED {
        let (gate_up, dh) = (random([t, 2 * i]), random([t, i]));
        let n = (t * i) as u64;
        b.row(&format!("swiglu forward [{t}, {i}]"), 12 * n, 20 * n, |ctx| {
            forward(ctx, &gate_up);
        });
        b.row(&format!("swiglu backward [{t}, {i}]"), 20 * n, 26 * n, |ctx| {
            backward(ctx, &dh, &gate_up);
        });
    }
}
