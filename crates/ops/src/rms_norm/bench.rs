use ops::rms_norm::{backward_input, cases, forward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, d] in cases::SPEED {
        let (x, w, dy) = (random([t, d]), random([d]), random([t, d]));
        let bytes = 4 * (t * d) as u64;
        let (_, saved) = forward(b.ctx, &x, &w, 1e-6);
        b.row(&format!("rms_norm forward [{t}, {d}]"), 2 * bytes, 4 * (t * d) as u64, |ctx| {
            forward(ctx, &x, &w, 1e-6);
        });
        b.row(&format!("rms_norm backward_input [{t}, {d}]"), 3 * bytes, 7 * (t * d) as u64, |ctx| {
            backward_input(ctx, &dy, &x, &w, &saved);
        });
    }
}
