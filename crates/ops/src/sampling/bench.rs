use ops::sampling::{History, cases, sample};
use tensor::Rng;

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    let v = 129_280;
    let logits = random([v]);
    let mut row = logits.data().to_vec();
    let history = History::new(&[]);
    let mut rng = Rng::new(0, "bench", 1);
    for (name, params) in cases::SPEED {
        b.row(&format!("sampling {name} [{v}]"), 4 * v as u64, 16 * v as u64, |ctx| {
            // Without penalties the row is left as it is.
            sample(ctx, &mut row, v, &history, params, &mut rng).expect("finite logits");
        });
    }
}
