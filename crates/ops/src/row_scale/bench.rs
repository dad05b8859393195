use ops::row_scale::{backward, cases, forward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[r, i] in cases::SPEED {
        let (x, w, dy) = (random([r, i]), random([r]), random([r, i]));
        let n = (r * i) as u64;
        b.row(&format!("row_scale forward [{r}, {i}]"), 8 * n, n, |ctx| {
            forward(ctx, &x, &w);
        });
        b.row(&format!("row_scale backward [{r}, {i}]"), 12 * n, 3 * n, |ctx| {
            backward(ctx, &dy, &x, &w);
        });
    }
}
