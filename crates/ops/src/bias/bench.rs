use ops::bias::{add, backward, cases};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, n] in cases::SPEED {
        let (mut y, bias, mut db) = (random([t, n]), random([n]), random([n]));
        let elements = (t * n) as u64;
        b.row(&format!("bias add [{t}, {n}]"), 8 * elements, elements, |ctx| add(ctx, &mut y, &bias));
        b.row(&format!("bias backward [{t}, {n}]"), 4 * elements, elements, |ctx| backward(ctx, &y, &mut db));
    }
}
