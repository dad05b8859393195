use ops::gemm::{cases, nn, nt, tn_add};
use tensor::Storage;

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, n, k] in cases::SPEED {
        let (x, w, dy) = (random([t, k]), Storage::F32(random([n, k])), random([t, n]));
        let mut dw = random([n, k]);
        let (bytes, flops) = (4 * (t * k + n * k + t * n) as u64, 2 * (t * n * k) as u64);
        b.row(&format!("gemm nt [{t}, {n}, {k}]"), bytes, flops, |ctx| {
            nt(ctx, &x, &w);
        });
        b.row(&format!("gemm nn [{t}, {n}, {k}]"), bytes, flops, |ctx| {
            nn(ctx, &dy, &w);
        });
        b.row(&format!("gemm tn [{t}, {n}, {k}]"), bytes, flops, |ctx| tn_add(ctx, &dy, &x, &mut dw));
    }
}
