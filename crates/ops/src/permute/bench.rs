use ops::permute::{Plan, backward, cases, forward, unpermute};
use tensor::Rng;

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, k, e, d] in cases::SPEED {
        let mut rng = Rng::new(0, "bench", 0);
        let idx: Vec<u32> = (0..t * k).map(|_| rng.below(e as u64) as u32).collect();
        let plan = Plan::new(&idx, t, k, e);
        let (x, y, w) = (random([t, d]), random([t * k, d]), random([t, k]));
        let (tokens, rows, name) = (4 * (t * d) as u64, 4 * (t * k * d) as u64, format!("[{t}, {k}, {e}, {d}]"));
        b.row(&format!("permute plan {name}"), 12 * (t * k) as u64, 0, |_| {
            Plan::new(&idx, t, k, e);
        });
        b.row(&format!("permute forward {name}"), tokens + rows, 0, |ctx| {
            forward(ctx, &x, &plan);
        });
        b.row(&format!("permute backward {name}"), tokens + rows, rows / 4, |ctx| {
            backward(ctx, &y, &plan);
        });
        b.row(&format!("unpermute forward {name}"), tokens + rows, rows / 2, |ctx| {
            unpermute::forward(ctx, &y, &w, &plan);
        });
        b.row(&format!("unpermute backward {name}"), tokens + 2 * rows, 3 * rows / 4, |ctx| {
            unpermute::backward(ctx, &x, &y, &w, &plan);
        });
    }
}
