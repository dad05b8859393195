use ops::Precision;
use ops::gemm::{cases, grouped_nt, nn, nt, tn_add};
use tensor::{BLOCK, Codes, GROUP, Matrix, Rng, Slab, Storage, Stored, bf16, int4_row_bytes};

use crate::harness::{Bench, random};

pub(crate) fn bench(b: &mut Bench) {
    for &[t, n, k] in cases::SPEED {
        let (x, w, dy) = (random([t, k]), Storage::F32(random([n, k])), random([t, n]));
        let mut dw = random([n, k]);
        let (bytes, flops) = (4 * (t * k + n * k + t * n) as u64, 2 * (t * n * k) as u64);
        for precision in [Precision::F32, Precision::Bf16] {
            let name = |form| format!("gemm {form} {precision:?} [{t}, {n}, {k}]");
            b.row(&name("nt"), bytes, flops, |ctx| {
                nt(ctx, &x, &w, precision);
            });
            b.row(&name("nn"), bytes, flops, |ctx| {
                nn(ctx, &dy, &w, precision);
            });
            b.row(&name("tn"), bytes, flops, |ctx| tn_add(ctx, &dy, &x, &mut dw, precision));
        }
    }
    for &[t, n, k] in cases::STORED {
        let x = random([t, k]);
        for kind in ["bf16", "fp8", "int8", "int4"] {
            let w = weight(kind, 1, n, k);
            let bytes = 4 * (t * k + t * n) as u64 + w.size_bytes();
            b.row(&format!("gemm nt {kind} Bf16 [{t}, {n}, {k}]"), bytes, 2 * (t * n * k) as u64, |ctx| {
                nt(ctx, &x, &w, Precision::Bf16);
            });
        }
    }
    for &[rows, n, k] in cases::GROUPED {
        let (x, offsets) = (random([rows, k]), cases::ragged(rows));
        for kind in ["bf16", "fp8"] {
            let w = weight(kind, cases::EXPERTS, n, k);
            let bytes = 4 * (rows * k + rows * n) as u64 + w.size_bytes();
            b.row(
                &format!("gemm grouped nt {kind} Bf16 [{rows}, {n}, {k}]"),
                bytes,
                2 * (rows * n * k) as u64,
                |ctx| {
                    grouped_nt(ctx, &x, &offsets, &w, Precision::Bf16);
                },
            );
        }
    }
}

/// Experts of random codes in a type of weights.
fn weight(kind: &str, experts: usize, n: usize, k: usize) -> Storage {
    let mut rng = Rng::new(0, "bench weight", 0);
    // One row of codes below the other, so that making them does not take longer than measuring.
    let row: Vec<u8> = (0..k).map(|_| rng.below(0x70) as u8).collect();
    let bytes = |width: usize| Slab::from_vec(row[..width].repeat(n));
    let scales = || Slab::from_vec(vec![bf16::from_f32(0.01); n * k.div_ceil(GROUP)]);
    let codes = || match kind {
        "bf16" => {
            let row: Vec<bf16> = row.iter().map(|&x| bf16::from_f32(f32::from(x) * 0.01)).collect();
            Codes::Bf16(Slab::from_vec(row.repeat(n)))
        }
        "fp8" => {
            Codes::Fp8 { codes: bytes(k), scales: Slab::from_vec(vec![0.01; n.div_ceil(BLOCK) * k.div_ceil(BLOCK)]) }
        }
        "int8" => Codes::Int8 { codes: bytes(k), scales: scales() },
        _ => Codes::Int4 { codes: bytes(int4_row_bytes(k)), scales: scales() },
    };
    let matrices = (0..experts).map(|_| Matrix::new(n, k, codes())).collect();
    if experts == 1 {
        return Storage::Stored(Stored::new(matrices, [n, k]));
    }
    Storage::Stored(Stored::new(matrices, [experts, n, k]))
}
