use ops::balance::{cases, forward_backward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, e, k] in cases::SPEED {
        let scores = random([t, e]);
        let n = (t * e) as u64;
        b.row(&format!("balance forward_backward [{t}, {e}, {k}]"), 12 * n, 5 * n, |ctx| {
            forward_backward(ctx, &scores, &[0, t / 2, t], k, 1e-4);
        });
    }
}
