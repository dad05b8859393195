use std::ops::Range;

use tensor::{Ctx, Dims as Shape, Storage, Tensor, bf16};

use super::{CacheKind, Dims, Latents, Query, absorb, cases, expand, forward, in_waves, reference};
use crate::check::{close, f64s, levels, random};
use crate::mla_attention;
use crate::{Precision, gemm};

const KINDS: [CacheKind; 3] = [CacheKind::F32, CacheKind::Bf16, CacheKind::Fp8];

/// A batch of sequences with their caches.
struct Batch {
    dims: Dims,
    rk: usize,
    q: Tensor,
    q_latent: Tensor,
    sequences: Vec<Sequence>,
}

struct Sequence {
    cache: Latents,
    rows: Range<usize>,
    first_position: usize,
}

impl Batch {
    fn new(case: &cases::Case, kind: CacheKind) -> Self {
        let ctx = Ctx::new(1).unwrap();
        let Dims { heads, dn, dr, .. } = case.dims;
        let mut rows = 0;
        let sequences: Vec<Sequence> = case
            .queries
            .iter()
            .enumerate()
            .map(|(i, &(first_position, count))| {
                rows += count;
                // One key more than the rows see: it must not matter.
                let len = first_position + count + 1;
                let (c, r) = (random([len, case.rk], 10 + i as u64), random([len, dr], 20 + i as u64));
                let cache = filled(&ctx, kind, &c, &r);
                Sequence { cache, rows: rows - count..rows, first_position }
            })
            .collect();
        let (q, q_latent) = (random([rows, heads * (dn + dr)], 1), random([rows, heads * case.rk], 2));
        Self { dims: case.dims, rk: case.rk, q, q_latent, sequences }
    }

    /// A batch for each case, kind of cache and precision.
    fn all() -> impl Iterator<Item = (&'static cases::Case, Self, Precision)> {
        cases::EXACT.iter().flat_map(|case| {
            let variants = KINDS.into_iter().flat_map(|kind| [(kind, Precision::F32), (kind, Precision::Bf16)]);
            variants.map(move |(kind, precision)| (case, Self::new(case, kind), precision))
        })
    }

    fn queries(&self) -> Vec<Query<'_>> {
        self.sequences
            .iter()
            .map(|s| Query { cache: &s.cache, rows: s.rows.clone(), first_position: s.first_position })
            .collect()
    }

    fn run(&self, ctx: &Ctx, precision: Precision) -> Tensor {
        let scale = scale(self.dims, self.rk);
        forward(ctx, &self.q_latent, &self.q, &self.queries(), self.dims, scale, precision)
    }

    /// The reference over what the caches hold, with operands as `round` leaves them.
    fn exact(&self, round: impl Fn(&Tensor) -> Vec<f64>) -> Vec<f64> {
        let ctx = Ctx::new(1).unwrap();
        let caches: Vec<(Vec<f64>, Vec<f64>)> =
            self.sequences.iter().map(|s| read(&ctx, &s.cache)).map(|(c, r)| (round(&c), round(&r))).collect();
        let queries: Vec<reference::Query<'_>> = self
            .sequences
            .iter()
            .zip(&caches)
            .map(|(s, (c, r))| reference::Query { c, r, rows: s.rows.clone(), first_position: s.first_position })
            .collect();
        let scale = f64::from(scale(self.dims, self.rk));
        reference::forward(&round(&self.q_latent), &round(&self.q), &queries, self.dims, self.rk, scale)
    }
}

fn filled(ctx: &Ctx, kind: CacheKind, c: &Tensor, r: &Tensor) -> Latents {
    let ([_, rk], [_, dr]) = (c.dims(), r.dims());
    let mut cache = Latents::new(kind, rk, dr);
    cache.append(ctx, c.data(), r.data());
    cache
}

/// All that a cache holds, `c` and `r`.
fn read(ctx: &Ctx, cache: &Latents) -> (Tensor, Tensor) {
    let super::block::Shape { rk, dr, .. } = cache.shape();
    let (mut c, mut r) = (ctx.empty([cache.len(), rk]), ctx.empty([cache.len(), dr]));
    cache.read(ctx, 0..cache.len(), c.data_mut(), r.data_mut());
    (c, r)
}

fn rounded(t: &Tensor) -> Vec<f64> {
    t.data().iter().map(|&x| bf16::from_f32(x).to_f64()).collect()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.data().iter().map(|x| x.to_bits()).collect()
}

fn scale(dims: Dims, rk: usize) -> f32 {
    1.5 / ((rk + dims.dr) as f32).sqrt()
}

fn rows(t: &Tensor, rows: Range<usize>) -> Tensor {
    let [_, width] = t.dims();
    Tensor::from_vec(t.data()[rows.start * width..rows.end * width].to_vec(), [rows.len(), width])
}

#[test]
fn every_level_agrees_with_the_reference() {
    for (case, batch, precision) in Batch::all() {
        let (want, tolerance) = match precision {
            Precision::F32 => (batch.exact(f64s), cases::TOLERANCE),
            Precision::Bf16 => (batch.exact(rounded), cases::BF16_TOLERANCE),
        };
        for ctx in levels() {
            let name = format!("u of {:?}, {:?}, {precision:?}", case.dims, batch.sequences[0].cache);
            close(&name, batch.run(&ctx, precision).data(), &want, tolerance);
        }
    }
}

#[test]
fn levels_and_threads_give_the_same_bits() {
    for (case, batch, precision) in Batch::all() {
        let want = batch.run(&Ctx::new(1).unwrap(), precision);
        for ctx in levels().into_iter().chain([Ctx::new(3).unwrap()]) {
            assert_eq!(batch.run(&ctx, precision).data(), want.data(), "{:?} {:?} {precision:?}", ctx.isa, case.dims);
        }
    }
}

#[test]
fn waves_of_few_parts_give_the_same_bits() {
    for (case, batch, precision) in Batch::all() {
        for threads in [1, 2] {
            let ctx = Ctx::new(threads).unwrap();
            let scale = scale(case.dims, case.rk);
            let (q_latent, q, queries) = (&batch.q_latent, &batch.q, batch.queries());
            let waves = in_waves(&ctx, q_latent, q, &queries, case.dims, scale, precision, 1);
            assert_eq!(waves.data(), batch.run(&ctx, precision).data(), "{threads} threads, {:?}", case.dims);
        }
    }
}

#[test]
fn each_row_alone_gives_the_bits_of_the_batch() {
    let ctx = Ctx::new(2).unwrap();
    for (case, batch, precision) in Batch::all() {
        let together = batch.run(&ctx, precision);
        for s in &batch.sequences {
            for (i, row) in s.rows.clone().enumerate() {
                // Its cache ends with the row itself.
                let mut cache = s.cache.clone();
                cache.truncate(s.first_position + i + 1);
                let query = Query { cache: &cache, rows: 0..1, first_position: s.first_position + i };
                let (q_latent, q) = (rows(&batch.q_latent, row..row + 1), rows(&batch.q, row..row + 1));
                let scale = scale(case.dims, case.rk);
                let alone = forward(&ctx, &q_latent, &q, &[query], case.dims, scale, precision);
                assert_eq!(alone.data(), together.row(row), "row {row} of {:?}, {precision:?}", case.dims);
            }
        }
    }
}

#[test]
fn a_kind_is_where_numbers_are_rounded_and_nothing_else() {
    let ctx = Ctx::new(2).unwrap();
    for case in cases::EXACT {
        for kind in KINDS {
            let batch = Batch::new(case, kind);
            let mut plain = Batch::new(case, CacheKind::F32);
            for (s, from) in plain.sequences.iter_mut().zip(&batch.sequences) {
                let (c, r) = read(&ctx, &from.cache);
                s.cache = filled(&ctx, CacheKind::F32, &c, &r);
            }
            for precision in [Precision::F32, Precision::Bf16] {
                let (got, want) = (batch.run(&ctx, precision), plain.run(&ctx, precision));
                assert_eq!(bits(&got), bits(&want), "{kind:?} {precision:?} {:?}", case.dims);
            }
        }
        // Where operands are rounded anyway, a cache may hold them rounded.
        let [f32, bf16] =
            [CacheKind::F32, CacheKind::Bf16].map(|kind| Batch::new(case, kind).run(&ctx, Precision::Bf16));
        assert_eq!(bits(&f32), bits(&bf16), "{:?}", case.dims);
    }
}

#[test]
fn what_rounding_costs() {
    let ctx = Ctx::new(2).unwrap();
    for case in cases::EXACT {
        let exact = Batch::new(case, CacheKind::F32).exact(f64s);
        for (kind, tolerance) in [(CacheKind::Bf16, cases::BF16_COST), (CacheKind::Fp8, cases::FP8_COST)] {
            let u = Batch::new(case, kind).run(&ctx, Precision::Bf16);
            let error: f64 = u.data().iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
            let size: f64 = exact.iter().map(|x| x * x).sum();
            assert!(error <= tolerance * tolerance * size, "{kind:?} {:?}: {}", case.dims, (error / size).sqrt());
        }
    }
}

#[test]
fn absorbed_equals_direct() {
    let (dims, rk, t) = (Dims { heads: 3, dn: 20, dr: 8, dv: 12 }, 24, 140);
    let Dims { heads, dn, dr, dv } = dims;
    let (q, c, r) = (random([t, heads * (dn + dr)], 1), random([t, rk], 2), random([t, dr], 3));
    let mut kv_b = random([heads * (dn + dv), rk], 4);
    // Keys and values of unit size, as norms and initialisation make them.
    for w in kv_b.data_mut() {
        *w /= (rk as f32).sqrt();
    }
    let kv_b = Storage::F32(kv_b);
    let scale = 1.0 / ((dn + dr) as f32).sqrt();
    for ctx in levels() {
        let kv = gemm::nt(&ctx, &c, &kv_b, Precision::F32);
        let (direct, _) = mla_attention::forward(&ctx, &q, &kv, &r, &[0, t], dims, scale, Precision::F32);
        let cache = filled(&ctx, CacheKind::F32, &c, &r);
        let query = Query { cache: &cache, rows: 0..t, first_position: 0 };
        let q_latent = absorb(&ctx, &q, &kv_b, dims, Precision::F32);
        let u = forward(&ctx, &q_latent, &q, &[query], dims, scale, Precision::F32);
        let absorbed = expand(&ctx, &u, &kv_b, dims, Precision::F32);
        // The same sum in another order: two more chains of roundings, of rk and of dn steps, on either side.
        close("o", absorbed.data(), &f64s(&direct), 5e-6);
    }
}

#[test]
fn products_with_the_weight_agree_with_the_reference() {
    for case in cases::EXACT {
        let (Dims { heads, dn, dr, dv }, rk) = (case.dims, case.rk);
        let (q, u) = (random([5, heads * (dn + dr)], 1), random([5, heads * rk], 2));
        let values: Vec<bf16> = random([heads * (dn + dv), rk], 3).data().iter().map(|&x| bf16::from_f32(x)).collect();
        let wide = Tensor::from_vec(values.iter().map(|x| x.to_f32()).collect(), [heads * (dn + dv), rk]);
        let narrow = Storage::bf16(values, [heads * (dn + dv), rk]);
        let exact = f64s(&wide);
        for ctx in levels() {
            for kv_b in [&narrow, &Storage::F32(wide.clone())] {
                let q_latent = reference::absorb(&f64s(&q), &exact, case.dims, rk);
                close(
                    "q_latent",
                    absorb(&ctx, &q, kv_b, case.dims, Precision::F32).data(),
                    &q_latent,
                    cases::TOLERANCE,
                );
                let o = reference::expand(&f64s(&u), &exact, case.dims, rk);
                close("o", expand(&ctx, &u, kv_b, case.dims, Precision::F32).data(), &o, cases::TOLERANCE);
            }
        }
    }
}

#[test]
fn no_queries_give_no_rows() {
    let ctx = Ctx::new(1).unwrap();
    let dims = Dims { heads: 2, dn: 4, dr: 2, dv: 4 };
    let (q_latent, q) = (Tensor::from_vec(vec![], [0, 16]), Tensor::from_vec(vec![], [0, 12]));
    assert_eq!(forward(&ctx, &q_latent, &q, &[], dims, 1.0, Precision::Bf16).shape(), Shape::from([0, 16]));
}
