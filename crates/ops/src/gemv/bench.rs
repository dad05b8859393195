use std::cell::LazyCell;

use ops::Precision;
use ops::gemv::{cases, heads_nn, heads_nt, nt};
use ops::mla_attention::Dims;
use tensor::{BLOCK, Codes, GROUP, Matrix, Slab, Storage, bf16, int4_row_bytes};

use crate::harness::{Bench, random};

/// Weights that are read in turn: far more than caches hold, as in decoding, where each weight is met once a token.
const TOTAL_BYTES: usize = 256 << 20;

const KINDS: [&str; 5] = ["fp8", "bf16", "int8", "int4", "f32"];

pub(crate) fn bench(b: &mut Bench) {
    for kind in KINDS {
        let precision = if kind == "f32" { Precision::F32 } else { Precision::Bf16 };
        for &[n, k] in cases::SPEED {
            // Made when a row is wanted; the first of its runs takes that time, which the median does not show.
            let weights = LazyCell::new(|| weights(kind, n, k));
            for &t in cases::SPEED_ROWS {
                let (x, mut turn) = (random([t, k]), 0);
                let (name, flops) = (format!("gemv {kind} nt [{t}, {n}, {k}]"), 2 * t * n * k);
                b.row(&name, size_bytes(kind, n, k) as u64, flops as u64, |ctx| {
                    nt(ctx, &x, &weights[turn % weights.len()], precision);
                    turn += 1;
                });
            }
        }
        let (heads, rk) = (16, 512);
        let dims = Dims { heads, dn: 128, dr: 64, dv: 128 };
        let weights = LazyCell::new(|| weights(kind, heads * (dims.dn + dims.dv), rk));
        for &t in cases::SPEED_ROWS {
            let (q, u, mut turn) = (random([t, heads * (dims.dn + dims.dr)]), random([t, heads * rk]), 0);
            let (bytes, flops) = (size_bytes(kind, heads * 128, rk) as u64, (2 * t * heads * 128 * rk) as u64);
            b.row(&format!("gemv {kind} heads_nn [{t}, {heads} x 128, {rk}]"), bytes, flops, |ctx| {
                heads_nn(ctx, &q, &weights[turn % weights.len()], dims, precision);
                turn += 1;
            });
            b.row(&format!("gemv {kind} heads_nt [{t}, {heads} x 128, {rk}]"), bytes, flops, |ctx| {
                heads_nt(ctx, &u, &weights[turn % weights.len()], dims, precision);
                turn += 1;
            });
        }
    }
}

/// Several matrices. What is in them does not matter, only that it is in memory.
fn weights(kind: &str, n: usize, k: usize) -> Vec<Storage> {
    let scales = || Slab::from_vec(vec![bf16::ONE; n * k.div_ceil(GROUP)]);
    let matrix = || match kind {
        "f32" => Codes::F32(Slab::from_vec(vec![1.5; n * k])),
        "bf16" => Codes::Bf16(Slab::from_vec(vec![bf16::ONE; n * k])),
        "fp8" => Codes::Fp8 {
            codes: Slab::from_vec(vec![0x35; n * k]),
            scales: Slab::from_vec(vec![0.5; n.div_ceil(BLOCK) * k.div_ceil(BLOCK)]),
        },
        "int8" => Codes::Int8 { codes: Slab::from_vec(vec![0x35; n * k]), scales: scales() },
        "int4" => Codes::Int4 { codes: Slab::from_vec(vec![0x35; n * int4_row_bytes(k)]), scales: scales() },
        _ => panic!("there are no weights of {kind}"),
    };
    let count = TOTAL_BYTES.div_ceil(size_bytes(kind, n, k));
    (0..count).map(|_| Storage::matrix(Matrix::new(n, k, matrix()))).collect()
}

/// The bytes of a matrix with its scales.
fn size_bytes(kind: &str, n: usize, k: usize) -> usize {
    match kind {
        "f32" => 4 * n * k,
        "bf16" => 2 * n * k,
        "fp8" => n * k + 4 * n.div_ceil(BLOCK) * k.div_ceil(BLOCK),
        "int8" => n * k + 2 * n * k.div_ceil(GROUP),
        _ => n * int4_row_bytes(k) + 2 * n * k.div_ceil(GROUP),
    }
}
