use ops::Precision;
use ops::mla_decode::{CacheKind, Dims, Latents, Query, absorb, cases, expand, forward};
use tensor::Storage;

use crate::harness::{Bench, random};

/// Caches of as many layers as exceed the caches of the processor: a token meets each layer's once.
const CACHES_BYTES: usize = 96 << 20;

pub(crate) fn bench(b: &mut Bench) {
    for case in cases::SPEED {
        let (Dims { heads, dn, dr, dv }, rk) = (case.dims, case.rk);
        let t: usize = case.queries.iter().map(|q| q.1).sum();
        let (q, q_latent) = (random([t, heads * (dn + dr)]), random([t, heads * rk]));
        let scale = 1.0 / ((dn + dr) as f32).sqrt();
        let keys: usize = case.queries.iter().map(|(at, rows)| at + rows).sum();
        let pairs: usize = case.queries.iter().map(|(at, rows)| rows * at + rows * (rows + 1) / 2).sum();
        let shape =
            format!("[{} x {} at {}] H {heads}, {rk}+{dr}", case.queries.len(), case.queries[0].1, case.queries[0].0);
        let kinds =
            [(CacheKind::F32, Precision::F32), (CacheKind::Bf16, Precision::Bf16), (CacheKind::Fp8, Precision::Bf16)];
        for (kind, precision) in kinds {
            let name = format!("mla_decode forward {kind:?} {shape}");
            let layer_bytes = keys * Latents::new(kind, rk, dr).bytes_per_token();
            let layers: Vec<Vec<Latents>> =
                (0..CACHES_BYTES.div_ceil(layer_bytes).min(100)).map(|_| caches(b, case, kind)).collect();
            let mut layer = layers.iter().cycle();
            let (bytes, flops) = (layer_bytes + 8 * t * heads * rk, 2 * heads * pairs * (2 * rk + dr));
            b.row(&name, bytes as u64, flops as u64, |ctx| {
                let queries = queries(case, layer.next().expect("a cycle"));
                forward(ctx, &q_latent, &q, &queries, case.dims, scale, precision);
            });
        }
        let kv_b = Storage::F32(random([heads * (dn + dv), rk]));
        let bytes = kv_b.size_bytes() / (dn + dv) as u64;
        let flops = (2 * t * heads * rk) as u64;
        b.row(&format!("mla_decode absorb {shape}"), bytes * dn as u64, flops * dn as u64, |ctx| {
            absorb(ctx, &q, &kv_b, case.dims, Precision::F32);
        });
        b.row(&format!("mla_decode expand {shape}"), bytes * dv as u64, flops * dv as u64, |ctx| {
            expand(ctx, &q_latent, &kv_b, case.dims, Precision::F32);
        });
    }
}

fn caches(b: &Bench, case: &cases::Case, kind: CacheKind) -> Vec<Latents> {
    let fill = |(at, rows): &(usize, usize)| {
        let (c, r) = (random([at + rows, case.rk]), random([at + rows, case.dims.dr]));
        let mut cache = Latents::new(kind, case.rk, case.dims.dr);
        cache.append(b.ctx, c.data(), r.data());
        cache
    };
    case.queries.iter().map(fill).collect()
}

fn queries<'a>(case: &cases::Case, caches: &'a [Latents]) -> Vec<Query<'a>> {
    let mut queries: Vec<Query<'_>> = Vec::new();
    for (&(first_position, rows), cache) in case.queries.iter().zip(caches) {
        let start = queries.last().map_or(0, |q| q.rows.end);
        queries.push(Query { cache, rows: start..start + rows, first_position });
    }
    queries
}
