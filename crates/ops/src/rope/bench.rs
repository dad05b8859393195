use ops::rope::{Angles, Layout, cases, forward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, heads, head_dim, offset, dr] in cases::SPEED {
        let mut x = random([t, heads * head_dim]);
        let positions: Vec<u32> = (0..t as u32).collect();
        let angles = Angles::new(dr, 10_000.0, None);
        let table = angles.table(b.ctx, &positions);
        let rotated = (t * heads * dr) as u64;
        for layout in [Layout::Interleaved, Layout::Half] {
            let name = format!("rope forward {layout:?} [{t}, {heads} x {head_dim}] {dr}");
            b.row(&name, 8 * rotated, 3 * rotated, |ctx| forward(ctx, &mut x, head_dim, offset, &table, layout));
        }
        b.row(&format!("rope table [{t}, {dr}]"), 4 * (t * dr) as u64, (t * dr) as u64, |ctx| {
            angles.table(ctx, &positions);
        });
    }
}
