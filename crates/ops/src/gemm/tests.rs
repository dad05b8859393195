use tensor::{BLOCK, Codes, Ctx, Dims, GROUP, Level, Matrix, Rng, Slab, Storage, Stored, Tensor, bf16, int4_row_bytes};

use super::{cases, decode, grouped_nn, grouped_nt, grouped_tn_add, nn, nt, nt_rows, reference, tn_add};
use crate::Precision;
use crate::check::{f64s, levels, random};

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// The types in which a matrix can be stored.
const TYPES: [&str; 5] = ["f32", "bf16", "fp8", "int8", "int4"];

/// A matrix of random codes, every finite one of which occurs, and random scales.
fn matrix(kind: &str, rows: usize, cols: usize, stream: u64) -> Matrix {
    let mut rng = Rng::new(0, "matrix", stream);
    let values = random([rows, cols], stream);
    let byte = |rng: &mut Rng| (rng.normal() * 1e3) as i64 as u8;
    let scale = |rng: &mut Rng| bf16::from_f32((0.5 + rng.normal().abs()) as f32 * 0.01);
    let groups = rows * cols.div_ceil(GROUP);
    let codes = match kind {
        "f32" => Codes::F32(Slab::from_vec(values.data().to_vec())),
        "bf16" => Codes::Bf16(Slab::from_vec(values.data().iter().map(|&x| bf16::from_f32(x)).collect())),
        "fp8" => Codes::Fp8 {
            codes: Slab::from_vec(
                (0..rows * cols).map(|_| byte(&mut rng)).map(|c| if c & 0x7F == 0x7F { 0 } else { c }).collect(),
            ),
            scales: Slab::from_vec(
                (0..rows.div_ceil(BLOCK) * cols.div_ceil(BLOCK)).map(|_| rng.normal() as f32 * 0.01).collect(),
            ),
        },
        "int8" => Codes::Int8 {
            codes: Slab::from_vec((0..rows * cols).map(|_| byte(&mut rng)).collect()),
            scales: Slab::from_vec((0..groups).map(|_| scale(&mut rng)).collect()),
        },
        "int4" => Codes::Int4 {
            codes: Slab::from_vec((0..rows * int4_row_bytes(cols)).map(|_| byte(&mut rng)).collect()),
            scales: Slab::from_vec((0..groups).map(|_| scale(&mut rng)).collect()),
        },
        _ => unreachable!("{kind} is not in TYPES"),
    };
    Matrix::new(rows, cols, codes)
}

fn rounded(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(bf16::from_f32(x as f32))).collect()
}

/// The operand as `precision` sees it.
fn seen(precision: Precision, x: &[f64]) -> Vec<f64> {
    if precision == Precision::Bf16 { rounded(x) } else { x.to_vec() }
}

/// Compares with the f64 product, within the bound of `cases::tolerance`.
fn check(name: &str, got: &[f32], m: usize, n: usize, k: usize, a: &[f64], b: &[f64]) {
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let want = reference::product(m, n, k, a, b);
    let bound = reference::product(m, n, k, &abs(a), &abs(b));
    for (i, ((&got, want), bound)) in got.iter().zip(want).zip(bound).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= cases::tolerance(k, bound), "{name} [{m}, {n}, {k}] element {i}: {got} instead of {want}");
    }
}

#[test]
fn every_kernel_agrees_with_the_reference() {
    for ctx in levels() {
        for &[t, n, k] in cases::EXACT {
            let (x, dy) = (random([t, k], 1), random([t, n], 3));
            for precision in BOTH {
                let (x64, dy64) = (seen(precision, &f64s(&x)), seen(precision, &f64s(&dy)));
                for kind in TYPES {
                    let w = Storage::matrix(matrix(kind, n, k, 2));
                    let w64: Vec<f64> = w.to_f32().iter().map(|&x| f64::from(x)).collect();
                    let name = format!("{kind} {precision:?} {:?}", ctx.isa.level());
                    // Codes times scales as they are for y = x Wᵀ, whose scales stand outside; rounded for dx = dy W.
                    let exact = if kind == "f32" { seen(precision, &w64) } else { w64.clone() };
                    let y = nt(&ctx, &x, &w, precision);
                    check(&format!("nt {name}"), y.data(), t, n, k, &x64, &reference::transpose(n, k, &exact));
                    let dx = nn(&ctx, &dy, &w, precision);
                    check(&format!("nn {name}"), dx.data(), t, k, n, &dy64, &seen(precision, &w64));
                }
                let mut dw = ctx.zeros([n, k]);
                tn_add(&ctx, &dy, &x, &mut dw, precision);
                check("tn", dw.data(), n, k, t, &reference::transpose(t, n, &dy64), &x64);
            }
        }
    }
}

#[test]
fn levels_threads_and_batches_give_the_same_bits() {
    let [t, n, k] = [71, 129, 301];
    let x = random([t, k], 1);
    let dy = random([t, n], 2);
    for (precision, kind) in BOTH.into_iter().flat_map(|p| TYPES.map(|kind| (p, kind))) {
        let w = Storage::matrix(matrix(kind, n, k, 3));
        let wgrad = |ctx: &Ctx| {
            let mut dw = random([n, k], 4);
            tn_add(ctx, &dy, &x, &mut dw, precision);
            dw
        };
        let one = Ctx::new(1).unwrap();
        let want = [nt(&one, &x, &w, precision), nn(&one, &dy, &w, precision), wgrad(&one)];
        for threads in [1, 2, 3] {
            for level in [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16] {
                let ctx = Ctx::new(threads).unwrap().at_most(level);
                let got = [nt(&ctx, &x, &w, precision), nn(&ctx, &dy, &w, precision), wgrad(&ctx)];
                for (form, (got, want)) in ["nt", "nn", "tn"].into_iter().zip(got.iter().zip(&want)) {
                    assert!(got.data() == want.data(), "{form} {kind} {precision:?}: {threads} threads, {level:?}");
                }
            }
        }
        let ctx = Ctx::new(2).unwrap();
        for row in 0..t {
            let alone = nt(&ctx, &Tensor::from_vec(x.row(row).to_vec(), [1, k]), &w, precision);
            assert_eq!(alone.data(), want[0].row(row), "{kind} {precision:?}: row {row} alone");
        }
    }
}

#[test]
fn groups_equal_separate_products() {
    let (n, k) = (33, 40);
    // An empty group at the front, in the middle and at the end.
    let offsets = [0, 0, 5, 5, 26, 27, 27];
    let (x, dy) = (random([27, k], 1), random([27, n], 2));
    let w = random([6, n, k], 3);
    let w_storage = Storage::F32(w.clone());
    for (ctx, precision) in levels().iter().flat_map(|ctx| BOTH.map(|precision| (ctx, precision))) {
        let y = grouped_nt(ctx, &x, &offsets, &w_storage, precision);
        let dx = grouped_nn(ctx, &dy, &offsets, &w_storage, precision);
        let mut dw = random([6, n, k], 4);
        let before = dw.data().to_vec();
        grouped_tn_add(ctx, &dy, &x, &offsets, &mut dw, precision);
        for e in 0..6 {
            let rows = offsets[e]..offsets[e + 1];
            let part = |t: &Tensor, width: usize| t.data()[rows.start * width..rows.end * width].to_vec();
            let we = w.data()[e * n * k..(e + 1) * n * k].to_vec();
            if rows.is_empty() {
                assert_eq!(&dw.data()[e * n * k..(e + 1) * n * k], &before[e * n * k..(e + 1) * n * k]);
                continue;
            }
            let xe = Tensor::from_vec(part(&x, k), [rows.len(), k]);
            let dye = Tensor::from_vec(part(&dy, n), [rows.len(), n]);
            let we = Storage::F32(Tensor::from_vec(we, [n, k]));
            assert_eq!(part(&y, n), nt(ctx, &xe, &we, precision).data());
            assert_eq!(part(&dx, k), nn(ctx, &dye, &we, precision).data());
            let mut dwe = Tensor::from_vec(before[e * n * k..(e + 1) * n * k].to_vec(), [n, k]);
            tn_add(ctx, &dye, &xe, &mut dwe, precision);
            assert_eq!(&dw.data()[e * n * k..(e + 1) * n * k], dwe.data());
        }
    }
}

#[test]
fn matrices_of_a_group_stand_one_below_the_other() {
    let (k, offsets) = (150, [0, 7, 20]);
    let x = random([20, k], 1);
    let parts: Vec<Matrix> = (0..4).map(|i| matrix("fp8", [140, 35][i % 2], k, i as u64)).collect();
    let w = Storage::Stored(Stored::new(parts.clone(), [2, 175, k]));
    for (ctx, precision) in levels().iter().flat_map(|ctx| BOTH.map(|precision| (ctx, precision))) {
        let y = grouped_nt(ctx, &x, &offsets, &w, precision);
        for (i, part) in parts.iter().enumerate() {
            let [rows, first] = [part.shape()[0], i % 2 * 140];
            let range = offsets[i / 2]..offsets[i / 2 + 1];
            let xe = Tensor::from_vec(x.data()[range.start * k..range.end * k].to_vec(), [range.len(), k]);
            let alone = nt(ctx, &xe, &Storage::matrix(part.clone()), precision);
            for row in range.clone() {
                assert_eq!(y.row(row)[first..first + rows], *alone.row(row - range.start), "matrix {i}, row {row}");
            }
        }
    }
}

#[test]
fn stored_weights_equal_their_f32_values() {
    let (x, dy) = (random([9, 170], 1), random([9, 35], 3));
    for kind in ["bf16", "fp8", "int8", "int4"] {
        let narrow = Storage::matrix(matrix(kind, 35, 170, 2));
        let wide = Storage::F32(Tensor::from_vec(narrow.to_f32(), [35, 170]));
        for ctx in levels() {
            for p in BOTH {
                assert_eq!(nn(&ctx, &dy, &narrow, p).data(), nn(&ctx, &dy, &wide, p).data(), "{kind} {p:?}");
                if p == Precision::F32 || kind == "bf16" {
                    assert_eq!(nt(&ctx, &x, &narrow, p).data(), nt(&ctx, &x, &wide, p).data(), "{kind} {p:?}");
                }
            }
        }
    }
}

#[test]
fn rows_are_decoded_as_their_layout_says() {
    for kind in TYPES {
        let matrix = matrix(kind, 131, 300, 1);
        for ctx in levels() {
            for (row, start, len) in [(0, 0, 300), (130, 1, 299), (7, 63, 2), (128, 127, 130), (5, 299, 1), (5, 300, 0)]
            {
                let (mut got, mut want) = (vec![f32::NAN; len], vec![f32::NAN; len]);
                decode::values(ctx.isa, matrix.view(), row, start, &mut got);
                matrix.view().read_f32(row, start, &mut want);
                assert_eq!(got, want, "{kind} row {row} from {start}");
            }
        }
    }
    for (code, value) in tensor::E4M3.into_iter().enumerate() {
        let mut got = [0.0];
        let codes = Codes::Fp8 { codes: Slab::from_vec(vec![code as u8]), scales: Slab::from_vec(vec![1.0]) };
        decode::codes(Ctx::new(1).unwrap().isa, Matrix::new(1, 1, codes).view(), 0, 0, &mut got);
        assert!(
            got[0] == value && got[0].is_sign_negative() == value.is_sign_negative()
                || value.is_nan() && got[0].is_nan()
        );
        assert_eq!(f32::from_bits(u32::from(decode::E4M3_BF16[code]) << 16).to_bits(), value.to_bits());
    }
}

#[test]
fn rounding_is_to_the_nearest_even_bf16() {
    for bits in (0..=u32::MAX).step_by(65_521).chain([0x3F80_8000, 0x3F81_8000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001])
    {
        let x = f32::from_bits(bits);
        let (got, want) = (decode::round(x), bf16::from_f32(x).to_f32());
        let flushed = if x.is_subnormal() { 0.0 } else { want };
        assert!(got == flushed || got.is_nan() && want.is_nan(), "{x:e} to {got:e} instead of {flushed:e}");
    }
}

#[test]
fn no_rows_give_no_rows() {
    let ctx = Ctx::new(1).unwrap();
    let w = Storage::F32(random([4, 3], 1));
    for precision in BOTH {
        assert_eq!(nt(&ctx, &Tensor::from_vec(vec![], [0, 3]), &w, precision).shape(), Dims::from([0, 4]));
    }
}

#[test]
fn some_rows_of_a_weight_give_the_bits_of_all() {
    let ctx = Ctx::new(2).unwrap();
    let (n, k) = (300, 200);
    let x = random([37, k], 1);
    for kind in TYPES {
        let stacked = Stored::new(vec![matrix(kind, 130, k, 2), matrix(kind, n - 130, k, 3)], [n, k]);
        for w in [Storage::matrix(matrix(kind, n, k, 2)), Storage::Stored(stacked)] {
            for precision in BOTH {
                let all = nt(&ctx, &x, &w, precision);
                for rows in [0..n, 0..1, 5..64, 100..290, 130..131, 40..40] {
                    let some = nt_rows(&ctx, &x, &w, rows.clone(), precision);
                    let want: Vec<f32> = (0..37).flat_map(|i| all.row(i)[rows.clone()].to_vec()).collect();
                    assert!(some.data() == want, "{kind} {precision:?}, rows {rows:?}");
                }
            }
        }
    }
}
