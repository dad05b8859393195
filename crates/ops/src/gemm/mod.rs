#![doc = include_str!("README.md")]

pub mod cases;
#[cfg(target_arch = "x86_64")]
mod codes_avx512;
pub(crate) mod cpu;
pub(crate) mod decode;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod kernel_avx512;
pub(crate) mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod plan;
pub mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use cpu::{Output, Product};
use pack::View;
use tensor::{Ctx, Storage, Tensor};

use crate::Precision;

/// `y = x Wᵀ`: `x` is `[T, K]`, `w` is `[N, K]`, the result `[T, N]`. Fprop of a linear layer.
pub fn nt(ctx: &Ctx, x: &Tensor, w: &Storage, precision: Precision) -> Tensor {
    let [t, _] = x.dims();
    let [n, k] = w.dims();
    grouped(ctx, x, &[0, t], w, n, k, Side::Forward, precision)
}

/// [`nt`] with rows `rows` of `w` alone: the result is `[T, rows.len()]`, and has the bits of those columns of `nt`.
pub fn nt_rows(ctx: &Ctx, x: &Tensor, w: &Storage, rows: Range<usize>, precision: Precision) -> Tensor {
    let ([t, width], [n, k]) = (x.dims(), w.dims());
    assert_eq!(width, k, "gemm: x {x:?} does not fit w {:?}", w.shape());
    assert!(rows.start <= rows.end && rows.end <= n, "gemm: w {:?} has no rows {rows:?}", w.shape());
    let mut y = ctx.empty([t, rows.len()]);
    let c = y.data_mut().as_mut_ptr();
    let mut products = Vec::new();
    let mut first = 0;
    for matrix in w.group(0) {
        let part = rows.start.max(first)..rows.end.min(first + matrix.rows);
        if part.start < part.end {
            products.push(Product {
                m: t,
                n: part.len(),
                k,
                a: View::rows(x.data(), k),
                b: View::of(matrix).at(part.start - first, 0).transposed(),
                c: Output { c: c.wrapping_add(part.start - rows.start), ldc: rows.len(), accumulate: false },
            });
        }
        first += matrix.rows;
    }
    // SAFETY: the matrices are disjoint ranges of the columns of `y`, which this function owns.
    unsafe { cpu::run(ctx, &products, precision) };
    y
}

/// `dx = dy W`: `dy` is `[T, N]`, `w` is `[N, K]`, the result `[T, K]`. Dgrad of a linear layer.
pub fn nn(ctx: &Ctx, dy: &Tensor, w: &Storage, precision: Precision) -> Tensor {
    let [t, _] = dy.dims();
    let [n, k] = w.dims();
    grouped(ctx, dy, &[0, t], w, n, k, Side::Input, precision)
}

/// `dW += dyᵀ x`: `dy` is `[T, N]`, `x` is `[T, K]`, `dw` is `[N, K]`. Wgrad of a linear layer.
pub fn tn_add(ctx: &Ctx, dy: &Tensor, x: &Tensor, dw: &mut Tensor, precision: Precision) {
    let [t, _] = dy.dims();
    let [_, _] = dw.dims();
    wgrad(ctx, dy, x, &[0, t], dw, precision);
}

/// `y = x Wᵀ` with a matrix per group of rows: rows `offsets[e]..offsets[e + 1]` of `x [R, K]` meet `w[e]` of
/// `w [E, N, K]`. The result is `[R, N]`. Fprop of routed experts.
pub fn grouped_nt(ctx: &Ctx, x: &Tensor, offsets: &[usize], w: &Storage, precision: Precision) -> Tensor {
    let [_, n, k] = w.dims();
    grouped(ctx, x, offsets, w, n, k, Side::Forward, precision)
}

/// `dx = dy W` with a matrix per group of rows: `dy` is `[R, N]`, `w` is `[E, N, K]`, the result `[R, K]`.
pub fn grouped_nn(ctx: &Ctx, dy: &Tensor, offsets: &[usize], w: &Storage, precision: Precision) -> Tensor {
    let [_, n, k] = w.dims();
    grouped(ctx, dy, offsets, w, n, k, Side::Input, precision)
}

/// `dW[e] += dyᵀ x` over the rows of group `e`: `dy` is `[R, N]`, `x` is `[R, K]`, `dw` is `[E, N, K]`.
pub fn grouped_tn_add(ctx: &Ctx, dy: &Tensor, x: &Tensor, offsets: &[usize], dw: &mut Tensor, precision: Precision) {
    let [_, _, _] = dw.dims();
    wgrad(ctx, dy, x, offsets, dw, precision);
}

/// Whether rows meet `Wᵀ` or `W`.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Forward,
    Input,
}

fn grouped(
    ctx: &Ctx,
    x: &Tensor,
    offsets: &[usize],
    w: &Storage,
    n: usize,
    k: usize,
    side: Side,
    precision: Precision,
) -> Tensor {
    let [rows, width] = x.dims();
    let (inner, outer) = if side == Side::Forward { (k, n) } else { (n, k) };
    assert_eq!(width, inner, "gemm: x {x:?} does not fit w {:?}", w.shape());
    check_offsets(offsets, rows, w.shape().len() / (n * k));
    let mut y = ctx.empty([rows, outer]);
    let c = y.data_mut().as_mut_ptr();
    let products: Vec<Product<'_>> = offsets
        .windows(2)
        .enumerate()
        .filter(|(_, o)| o[1] > o[0])
        .flat_map(|(e, o)| {
            let mut column = 0;
            w.group(e).map(move |matrix| {
                let first = column;
                column += matrix.rows;
                assert!(side == Side::Forward || matrix.rows == n, "gemm: dx = dy W needs W in one piece");
                let weight = View::of(matrix);
                Product {
                    m: o[1] - o[0],
                    n: if side == Side::Forward { matrix.rows } else { outer },
                    k: inner,
                    a: View::rows(x.data(), inner).at(o[0], 0),
                    b: if side == Side::Forward { weight.transposed() } else { weight },
                    c: Output { c: c.wrapping_add(o[0] * outer + first), ldc: outer, accumulate: false },
                }
            })
        })
        .collect();
    // SAFETY: the groups are disjoint ranges of the rows of `y` (`check_offsets`), the matrices of a group disjoint ranges
    // of its columns, and this function owns `y`.
    unsafe { cpu::run(ctx, &products, precision) };
    y
}

fn wgrad(ctx: &Ctx, dy: &Tensor, x: &Tensor, offsets: &[usize], dw: &mut Tensor, precision: Precision) {
    let ([rows, n], [x_rows, k]) = (dy.dims(), x.dims());
    assert_eq!(rows, x_rows, "gemm: dy {dy:?} and x {x:?} have different rows");
    assert_eq!(dw.len(), (offsets.len() - 1) * n * k, "gemm: dw {dw:?} does not fit dy {dy:?} and x {x:?}");
    check_offsets(offsets, rows, offsets.len() - 1);
    let c = dw.data_mut().as_mut_ptr();
    let products: Vec<Product<'_>> = offsets
        .windows(2)
        .enumerate()
        .filter(|(_, o)| o[1] > o[0])
        .map(|(e, o)| Product {
            m: n,
            n: k,
            k: o[1] - o[0],
            a: View::rows(dy.data(), n).at(o[0], 0).transposed(),
            b: View::rows(x.data(), k).at(o[0], 0),
            c: Output { c: c.wrapping_add(e * n * k), ldc: k, accumulate: true },
        })
        .collect();
    // SAFETY: each group has its own `[n, k]` part of `dw`, which is borrowed mutably.
    unsafe { cpu::run(ctx, &products, precision) };
}

fn check_offsets(offsets: &[usize], rows: usize, groups: usize) {
    assert!(
        offsets.len() == groups + 1 && offsets[0] == 0 && offsets[groups] == rows && offsets.is_sorted(),
        "gemm: offsets do not cut {rows} rows into {groups} groups"
    );
}
