use ops::cross_entropy::{cases, forward_backward, losses};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, v] in cases::SPEED {
        let mut logits = random([t, v]);
        let labels: Vec<u32> = (0..t as u32).collect();
        let n = (t * v) as u64;
        // The gradient of one run is the logits of the next: the work does not depend on the values.
        b.row(&format!("cross_entropy forward_backward [{t}, {v}]"), 8 * n, 20 * n, |ctx| {
            forward_backward(ctx, &mut logits, &labels, 1.0);
        });
        b.row(&format!("cross_entropy losses [{t}, {v}]"), 4 * n, 19 * n, |ctx| {
            losses(ctx, &logits, &labels);
        });
    }
}
