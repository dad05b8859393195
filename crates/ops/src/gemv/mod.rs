#![doc = include_str!("README.md")]

#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod cases;
mod cpu;
mod decode;
mod heads;
mod pack;
pub mod reference;
mod tasks;
#[cfg(test)]
mod tests;

use tasks::{Job, Jobs, Rows};
use tensor::{Ctx, MatrixRef, Storage, Tensor};

use crate::Precision;
use crate::mla_attention::Dims;

/// Rows `x [R, K]`, where they are cut into groups (as in [`grouped_nt`]), and the weight that they meet.
pub type Product<'a> = (&'a Tensor, &'a [usize], &'a Storage);

/// `y = x Wᵀ`: `x` is `[T, K]`, `w` is `[N, K]`, the result `[T, N]`.
pub fn nt(ctx: &Ctx, x: &Tensor, w: &Storage, precision: Precision) -> Tensor {
    let ([t, _], [_, _]) = (x.dims(), w.dims());
    one(many_nt(ctx, &[(x, &[0, t], w)], precision))
}

/// `y = x Wᵀ` with a matrix per group of rows: rows `offsets[e]..offsets[e + 1]` of `x [R, K]` meet `w[e]` of
/// `w [E, N, K]`. The result is `[R, N]`. The weights of a group without rows are not touched.
pub fn grouped_nt(ctx: &Ctx, x: &Tensor, offsets: &[usize], w: &Storage, precision: Precision) -> Tensor {
    let [_, _, _] = w.dims();
    one(many_nt(ctx, &[(x, offsets, w)], precision))
}

/// Several independent products at once: the threads start a single time for all of them. A weight `[N, K]` has the
/// offsets `[0, T]`, a weight `[E, N, K]` one more than `E`; the results are as of [`nt`] and [`grouped_nt`].
pub fn many_nt(ctx: &Ctx, products: &[Product<'_>], precision: Precision) -> Vec<Tensor> {
    let mut results: Vec<Tensor> = products
        .iter()
        .map(|(x, offsets, w)| {
            let [rows, n, k] = check(x, offsets, w);
            if k == 0 { ctx.zeros([rows, n]) } else { ctx.empty([rows, n]) }
        })
        .collect();
    let mut jobs = Jobs::new(ctx, precision);
    for ((x, offsets, w), y) in products.iter().zip(&mut results) {
        let [n, k] = shape(w);
        let y = jobs.output(y);
        for (e, o) in offsets.windows(2).enumerate().filter(|(_, o)| o[1] > o[0] && n * k > 0) {
            let rows = Rows { data: &x.data()[o[0] * k..], stride: k, count: o[1] - o[0], width: k };
            let rows = jobs.rows_again(rows);
            let mut first = o[0] * n;
            for matrix in w.group(e) {
                jobs.add(Job { x: rows, matrix, rows: 0..matrix.rows, y, first, stride: n });
                first += matrix.rows;
            }
        }
    }
    jobs.run();
    drop(jobs);
    results
}

/// `y[t, h] = x[t, h] W_UV[h]ᵀ`: values out of weighted latents, the second half of absorbed attention. `x` is
/// `[T, H·rk]`, `w` is `kv_b`, `[H·(dn+dv), rk]` in one matrix, of which each head's last `dv` rows are used; the result is
/// `[T, H·dv]`.
pub fn heads_nt(ctx: &Ctx, x: &Tensor, w: &Storage, dims: Dims, precision: Precision) -> Tensor {
    let Dims { heads, dn, dv, .. } = dims;
    let ([t, width], (matrix, rk)) = (x.dims(), kv_b(w, dims));
    assert_eq!(width, heads * rk, "gemv: x {x:?} does not fit kv_b {:?} and {dims:?}", w.shape());
    let mut y = if rk == 0 { ctx.zeros([t, heads * dv]) } else { ctx.empty([t, heads * dv]) };
    let mut jobs = Jobs::new(ctx, precision);
    let out = jobs.output(&mut y);
    for h in (0..heads).filter(|_| t * rk * dv > 0) {
        let rows = jobs.rows(Rows { data: &x.data()[h * rk..], stride: width, count: t, width: rk });
        let first = h * (dn + dv) + dn;
        jobs.add(Job { x: rows, matrix, rows: first..first + dv, y: out, first: h * dv, stride: heads * dv });
    }
    jobs.run();
    drop(jobs);
    y
}

/// `y[t, h] = q[t, h] W_UK[h]`: queries in latent space, the first half of absorbed attention. `q` is `[T, H·(dn+dr)]`, of
/// which each head's first `dn` numbers are used; `w` is `kv_b`, `[H·(dn+dv), rk]` in one matrix, of which each head's
/// first `dn` rows are used; the result is `[T, H·rk]`.
pub fn heads_nn(ctx: &Ctx, q: &Tensor, w: &Storage, dims: Dims, precision: Precision) -> Tensor {
    let ([t, width], (matrix, rk)) = (q.dims(), kv_b(w, dims));
    assert_eq!(width, dims.heads * (dims.dn + dims.dr), "gemv: q {q:?} does not fit {dims:?}");
    let mut y = ctx.empty([t, dims.heads * rk]);
    heads::nn(ctx, q.data(), matrix, dims, precision, y.data_mut());
    y
}

fn one(mut results: Vec<Tensor>) -> Tensor {
    results.pop().expect("one product gives one result")
}

/// `[N, K]` of a weight with or without groups.
fn shape(w: &Storage) -> [usize; 2] {
    let [.., n, k] = *w.shape().as_slice() else { panic!("gemv: a weight {:?} is no matrix", w.shape()) };
    [n, k]
}

/// `[R, N, K]`.
fn check(x: &Tensor, offsets: &[usize], w: &Storage) -> [usize; 3] {
    let ([rows, width], [n, k]) = (x.dims(), shape(w));
    let groups = match *w.shape().as_slice() {
        [groups, _, _] => groups,
        _ => 1,
    };
    assert_eq!(width, k, "gemv: x {x:?} does not fit w {:?}", w.shape());
    assert!(
        offsets.len() == groups + 1 && offsets[0] == 0 && offsets[groups] == rows && offsets.is_sorted(),
        "gemv: offsets do not cut {rows} rows into {groups} groups"
    );
    [rows, n, k]
}

/// `kv_b` and its columns.
fn kv_b(w: &Storage, Dims { heads, dn, dv, .. }: Dims) -> (MatrixRef<'_>, usize) {
    let [rows, rk] = w.dims();
    let mut matrices = w.group(0);
    let (Some(matrix), None) = (matrices.next(), matrices.next()) else { panic!("gemv: kv_b is one matrix") };
    assert_eq!(rows, heads * (dn + dv), "gemv: kv_b {:?} does not fit {heads} heads of {dn} + {dv} rows", w.shape());
    (matrix, rk)
}
