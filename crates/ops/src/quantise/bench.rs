use ops::quantise::{cases, fp8, int4, int8};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[rows, cols] in cases::SPEED {
        let w = random([rows, cols]);
        let n = (rows * cols) as u64;
        b.row(&format!("quantise fp8 [{rows}, {cols}]"), 5 * n, 0, |ctx| {
            fp8(ctx, w.data(), rows, cols);
        });
        b.row(&format!("quantise int8 [{rows}, {cols}]"), 5 * n, 0, |ctx| {
            int8(ctx, w.data(), rows, cols);
        });
        b.row(&format!("quantise int4 [{rows}, {cols}]"), 9 * n / 2, 0, |ctx| {
            int4(ctx, w.data(), rows, cols);
        });
    }
}
