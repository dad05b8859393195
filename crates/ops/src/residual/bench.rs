use ops::residual::{add, cases};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, d] in cases::SPEED {
        let (mut x, y) = (random([t, d]), random([t, d]));
        let n = (t * d) as u64;
        b.row(&format!("residual add [{t}, {d}]"), 12 * n, n, |ctx| add(ctx, &mut x, &y));
    }
}
