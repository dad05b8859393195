use ops::mla_decode::{CacheView, Dims, Query, absorb, cases, expand, forward};
use tensor::{Storage, Tensor};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for case in cases::SPEED {
        let (Dims { heads, dn, dr, dv }, rk) = (case.dims, case.rk);
        let t: usize = case.queries.iter().map(|q| q.1).sum();
        let (q, q_latent) = (random([t, heads * (dn + dr)]), random([t, heads * rk]));
        let kv_b = Storage::F32(random([heads * (dn + dv), rk]));
        let caches: Vec<(Tensor, Tensor)> =
            case.queries.iter().map(|(at, rows)| (random([at + rows, rk]), random([at + rows, dr]))).collect();
        let mut queries: Vec<Query<'_>> = Vec::new();
        for (&(first_position, rows), (c, r)) in case.queries.iter().zip(&caches) {
            let start = queries.last().map_or(0, |q| q.rows.end);
            let cache = CacheView { c: c.data(), r: r.data() };
            queries.push(Query { cache, rows: start..start + rows, first_position });
        }
        let scale = 1.0 / ((dn + dr) as f32).sqrt();
        let keys: usize = case.queries.iter().map(|(at, rows)| at + rows).sum();
        let pairs: usize = case.queries.iter().map(|(at, rows)| rows * at + rows * (rows + 1) / 2).sum();
        let name = format!("[{} x {} at {}] H {heads}, {rk}+{dr}", queries.len(), case.queries[0].1, case.queries[0].0);
        let (bytes, flops) = (4 * keys * (rk + dr) + 8 * t * heads * rk, 2 * heads * pairs * (2 * rk + dr));
        b.row(&format!("mla_decode forward {name}"), bytes as u64, flops as u64, |ctx| {
            forward(ctx, &q_latent, &q, &queries, case.dims, scale);
        });
        let weight_bytes = kv_b.size_bytes() / (dn + dv) as u64;
        b.row(
            &format!("mla_decode absorb {name}"),
            weight_bytes * dn as u64,
            (2 * t * heads * dn * rk) as u64,
            |ctx| {
                absorb(ctx, &q, &kv_b, case.dims);
            },
        );
        b.row(
            &format!("mla_decode expand {name}"),
            weight_bytes * dv as u64,
            (2 * t * heads * dv * rk) as u64,
            |ctx| {
                expand(ctx, &q_latent, &kv_b, case.dims);
            },
        );
    }
}
