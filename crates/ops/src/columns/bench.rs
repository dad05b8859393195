use ops::columns::{cases, concat, split};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, wa, wb] in cases::SPEED {
        let x = random([t, wa + wb]);
        let (left, right) = split(b.ctx, &x, wa);
        let bytes = 8 * (t * (wa + wb)) as u64;
        b.row(&format!("columns split [{t}, {wa} + {wb}]"), bytes, 0, |ctx| {
            split(ctx, &x, wa);
        });
        b.row(&format!("columns concat [{t}, {wa} + {wb}]"), bytes, 0, |ctx| {
            concat(ctx, &left, &right);
        });
    }
}
