use ops::Precision;
use ops::mla_attention::{Dims, backward, cases, forward};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for case in cases::SPEED {
        let (dims, cu_seqlens) = (case.dims, case.cu_seqlens());
        let Dims { heads, dn, dr, dv } = dims;
        let t: usize = case.lengths.iter().sum();
        let (q, kv, k_rope) = (random([t, heads * (dn + dr)]), random([t, heads * (dn + dv)]), random([t, dr]));
        let d_o = random([t, heads * dv]);
        let scale = 1.0 / ((dn + dr) as f32).sqrt();
        // Only what causality asks for: a query meets half of the keys on average.
        let pairs: usize = heads * case.lengths.iter().map(|n| n * (n + 1) / 2).sum::<usize>();
        let bytes = 4 * (q.len() + kv.len() + k_rope.len() + d_o.len()) as u64;
        let shape = format!("[{} x {}] H {heads}, {dn}+{dr}, {dv}", case.lengths.len(), case.lengths[0]);
        for precision in [Precision::F32, Precision::Bf16] {
            let name = format!("{precision:?} {shape}");
            b.row(&format!("mla forward {name}"), bytes, 2 * (pairs * (dn + dr + dv)) as u64, |ctx| {
                forward(ctx, &q, &kv, &k_rope, &cu_seqlens, dims, scale, precision);
            });
            let (o, saved) = forward(b.ctx, &q, &kv, &k_rope, &cu_seqlens, dims, scale, precision);
            b.row(&format!("mla backward {name}"), 2 * bytes, 2 * (pairs * (3 * (dn + dr) + 2 * dv)) as u64, |ctx| {
                backward(ctx, &d_o, &q, &kv, &k_rope, &o, saved.clone(), &cu_seqlens, dims, scale, precision);
            });
        }
    }
}
