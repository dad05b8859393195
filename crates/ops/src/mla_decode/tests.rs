use std::ops::Range;

use tensor::{Ctx, Dims as Shape, Storage, Tensor, bf16};

use super::{CacheView, Dims, Query, absorb, cases, expand, forward, in_waves, reference};
use crate::check::{close, f64s, levels, random};
use crate::gemm;
use crate::mla_attention;

/// A batch of sequences with their caches.
struct Batch {
    dims: Dims,
    rk: usize,
    q: Tensor,
    q_latent: Tensor,
    sequences: Vec<Sequence>,
}

struct Sequence {
    c: Tensor,
    r: Tensor,
    rows: Range<usize>,
    first_position: usize,
}

impl Batch {
    fn new(case: &cases::Case) -> Self {
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
                Sequence {
                    c: random([len, case.rk], 10 + i as u64),
                    r: random([len, dr], 20 + i as u64),
                    rows: rows - count..rows,
                    first_position,
                }
            })
            .collect();
        let (q, q_latent) = (random([rows, heads * (dn + dr)], 1), random([rows, heads * case.rk], 2));
        Self { dims: case.dims, rk: case.rk, q, q_latent, sequences }
    }

    fn queries(&self) -> Vec<Query<'_>> {
        self.sequences
            .iter()
            .map(|s| Query {
                cache: CacheView { c: s.c.data(), r: s.r.data() },
                rows: s.rows.clone(),
                first_position: s.first_position,
            })
            .collect()
    }

    fn run(&self, ctx: &Ctx) -> Tensor {
        forward(ctx, &self.q_latent, &self.q, &self.queries(), self.dims, scale(self.dims, self.rk))
    }
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
    for case in cases::EXACT {
        let batch = Batch::new(case);
        let caches: Vec<(Vec<f64>, Vec<f64>)> = batch.sequences.iter().map(|s| (f64s(&s.c), f64s(&s.r))).collect();
        let queries: Vec<reference::Query<'_>> = batch
            .sequences
            .iter()
            .zip(&caches)
            .map(|(s, (c, r))| reference::Query { c, r, rows: s.rows.clone(), first_position: s.first_position })
            .collect();
        let exact = f64::from(scale(case.dims, case.rk));
        let want = reference::forward(&f64s(&batch.q_latent), &f64s(&batch.q), &queries, case.dims, case.rk, exact);
        for ctx in levels() {
            close("u", batch.run(&ctx).data(), &want, cases::TOLERANCE);
        }
    }
}

#[test]
fn levels_and_threads_give_the_same_bits() {
    for case in cases::EXACT {
        let batch = Batch::new(case);
        let want = batch.run(&Ctx::new(1).unwrap());
        for ctx in levels().into_iter().chain([Ctx::new(3).unwrap()]) {
            assert_eq!(batch.run(&ctx).data(), want.data(), "{:?} {:?}", ctx.isa, case.dims);
        }
    }
}

#[test]
fn a_wave_of_one_part_gives_the_same_bits() {
    for case in cases::EXACT {
        let batch = Batch::new(case);
        for threads in [1, 2] {
            let ctx = Ctx::new(threads).unwrap();
            let scale = scale(case.dims, case.rk);
            let waves = in_waves(&ctx, &batch.q_latent, &batch.q, &batch.queries(), case.dims, scale, 1);
            assert_eq!(waves.data(), batch.run(&ctx).data(), "{threads} threads, {:?}", case.dims);
        }
    }
}

#[test]
fn each_row_alone_gives_the_bits_of_the_batch() {
    let ctx = Ctx::new(2).unwrap();
    for case in cases::EXACT {
        let batch = Batch::new(case);
        let together = batch.run(&ctx);
        for s in &batch.sequences {
            for (i, row) in s.rows.clone().enumerate() {
                let position = s.first_position + i;
                // Its cache ends with the row itself.
                let cache = CacheView {
                    c: &s.c.data()[..(position + 1) * case.rk],
                    r: &s.r.data()[..(position + 1) * case.dims.dr],
                };
                let query = Query { cache, rows: 0..1, first_position: position };
                let (q_latent, q) = (rows(&batch.q_latent, row..row + 1), rows(&batch.q, row..row + 1));
                let alone = forward(&ctx, &q_latent, &q, &[query], case.dims, scale(case.dims, case.rk));
                assert_eq!(alone.data(), together.row(row), "row {row} of {:?}", case.dims);
            }
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
        let kv = gemm::nt(&ctx, &c, &kv_b);
        let (direct, _) = mla_attention::forward(&ctx, &q, &kv, &r, &[0, t], dims, scale);
        let cache = CacheView { c: c.data(), r: r.data() };
        let query = Query { cache, rows: 0..t, first_position: 0 };
        let u = forward(&ctx, &absorb(&ctx, &q, &kv_b, dims), &q, &[query], dims, scale);
        let absorbed = expand(&ctx, &u, &kv_b, dims);
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
                close("q_latent", absorb(&ctx, &q, kv_b, case.dims).data(), &q_latent, cases::TOLERANCE);
                let o = reference::expand(&f64s(&u), &exact, case.dims, rk);
                close("o", expand(&ctx, &u, kv_b, case.dims).data(), &o, cases::TOLERANCE);
            }
        }
    }
}

#[test]
fn no_queries_give_no_rows() {
    let ctx = Ctx::new(1).unwrap();
    let dims = Dims { heads: 2, dn: 4, dr: 2, dv: 4 };
    let (q_latent, q) = (Tensor::from_vec(vec![], [0, 16]), Tensor::from_vec(vec![], [0, 12]));
    assert_eq!(forward(&ctx, &q_latent, &q, &[], dims, 1.0).shape(), Shape::from([0, 16]));
}
