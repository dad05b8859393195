use ops::adamw::{Moments, cases, step, sum_of_squares};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &len in cases::SPEED {
        let (mut w, g) = (random([len]), random([len]));
        let n = len as u64;
        for (name, mut moments, bytes) in [("f32", Moments::f32(len), 28 * n), ("bf16", Moments::bf16(len), 20 * n)] {
            b.row(&format!("adamw step, {name} moments [{len}]"), bytes, 15 * n, |ctx| {
                step(ctx, &mut w, &g, &mut moments, &cases::V3);
            });
        }
        b.row(&format!("adamw sum_of_squares [{len}]"), 4 * n, 2 * n, |ctx| {
            sum_of_squares(ctx, &g);
        });
    }
}
