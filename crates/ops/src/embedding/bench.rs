use ops::embedding::{backward_weight, cases, forward};
use tensor::{Rng, Storage};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, v, d] in cases::SPEED {
        let mut rng = Rng::new(0, "bench", 0);
        let ids: Vec<u32> = (0..t).map(|_| rng.below(v as u64) as u32).collect();
        let (w, dy, mut dw) = (Storage::F32(random([v, d])), random([t, d]), random([v, d]));
        let n = (t * d) as u64;
        b.row(&format!("embedding forward [{t}, {v}, {d}]"), 8 * n, 0, |ctx| {
            forward(ctx, &ids, &w);
        });
        b.row(&format!("embedding backward_weight [{t}, {v}, {d}]"), 12 * n, n, |ctx| {
            backward_weight(ctx, &ids, &dy, &mut dw);
        });
    }
}
