use tensor::{Codes, Ctx, Level, Matrix, Rng, Slab, Storage, Stored, Tensor, bf16, int4_row_bytes};

use super::{cases, grouped_nt, heads_nn, heads_nt, many_nt, nt, reference};
use crate::Precision;
use crate::check::{levels, random};
use crate::mla_attention::Dims;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    Bf16,
    Fp8,
    Int8,
    Int4,
}

const KINDS: [Kind; 5] = [Kind::F32, Kind::Bf16, Kind::Fp8, Kind::Int8, Kind::Int4];
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// A matrix of random codes, the whole range of them, with random scales.
fn matrix(kind: Kind, rows: usize, cols: usize, stream: u64) -> Matrix {
    let mut rng = Rng::new(1, "test", stream);
    let normals = |n: usize, rng: &mut Rng| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>();
    let bytes = |n: usize, rng: &mut Rng| (0..n).map(|_| rng.below(256) as u8).collect::<Vec<_>>();
    let groups = |rng: &mut Rng| normals(rows * cols.div_ceil(32), rng).into_iter().map(bf16::from_f32).collect();
    let codes = match kind {
        Kind::F32 => Codes::F32(Slab::from_vec(normals(rows * cols, &mut rng))),
        Kind::Bf16 => {
            Codes::Bf16(Slab::from_vec(normals(rows * cols, &mut rng).into_iter().map(bf16::from_f32).collect()))
        }
        Kind::Fp8 => {
            let codes = bytes(rows * cols, &mut rng).into_iter().map(|c| if c & 0x7F == 0x7F { c - 1 } else { c });
            Codes::Fp8 {
                codes: Slab::from_vec(codes.collect()),
                scales: Slab::from_vec(normals(rows.div_ceil(128) * cols.div_ceil(128), &mut rng)),
            }
        }
        Kind::Int8 => Codes::Int8 {
            codes: Slab::from_vec(bytes(rows * cols, &mut rng)),
            scales: Slab::from_vec(groups(&mut rng)),
        },
        Kind::Int4 => {
            let mut codes = bytes(rows * int4_row_bytes(cols), &mut rng);
            for row in codes.chunks_exact_mut(int4_row_bytes(cols).max(1)) {
                for column in cols..cols.next_multiple_of(128) {
                    row[column / 128 * 64 + column % 64] &= if column % 128 < 64 { 0xF0 } else { 0x0F };
                }
            }
            Codes::Int4 { codes: Slab::from_vec(codes), scales: Slab::from_vec(groups(&mut rng)) }
        }
    };
    Matrix::new(rows, cols, codes)
}

/// The operands in f64 as `precision` sees them.
fn operands(x: &Tensor, w: &Storage, precision: Precision) -> [Vec<f64>; 2] {
    let seen = |x: &f32| match precision {
        Precision::F32 => f64::from(*x),
        Precision::Bf16 => bf16::from_f32(*x).to_f64(),
    };
    // Of stored weights only f32 ones are rounded.
    let w64 = match w {
        Storage::F32(w) => w.data().iter().map(seen).collect(),
        _ => match w.group(0).next().expect("a matrix").codes {
            tensor::CodesRef::F32(values) => values.iter().map(seen).collect(),
            _ => w.to_f32().into_iter().map(f64::from).collect(),
        },
    };
    [x.data().iter().map(seen).collect(), w64]
}

/// Asserts `|got - want| ≤ tolerance · bound`, element by element.
#[track_caller]
fn within(name: &str, got: &[f32], want: &[f64], bound: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{name}: lengths");
    for (i, ((&got, want), bound)) in got.iter().zip(want).zip(bound).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * bound, "{name}: element {i} is {got} instead of {want}, bound {bound}");
    }
}

fn absolute(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.abs()).collect()
}

#[test]
fn every_level_agrees_with_the_reference_and_with_the_others() {
    let levels = levels();
    for precision in PRECISIONS {
        for kind in KINDS {
            for (stream, &[t, n, k]) in (0..).zip(cases::EXACT) {
                let (x, w) = (random([t, k], stream), Storage::matrix(matrix(kind, n, k, stream)));
                let [x64, w64] = operands(&x, &w, precision);
                let want = reference::nt(&x64, &w64, k);
                let bound = reference::nt(&absolute(&x64), &absolute(&w64), k);
                let first = nt(&levels[0], &x, &w, precision);
                let name = format!("{kind:?} {precision:?} [{t}, {n}, {k}]");
                within(&name, first.data(), &want, &bound, cases::tolerance(k, precision));
                for ctx in &levels[1..] {
                    let same = nt(ctx, &x, &w, precision);
                    assert_eq!(same.data(), first.data(), "{name} at {:?}", ctx.isa.level());
                }
            }
        }
    }
}

#[test]
fn all_codes_are_decoded_as_they_are_defined() {
    // Each product picks one column.
    for ctx in levels() {
        for kind in [Kind::Fp8, Kind::Int8] {
            let codes = Slab::from_vec((0..=255).collect());
            let codes = match kind {
                Kind::Fp8 => Codes::Fp8 { codes, scales: Slab::from_vec(vec![1.0; 2]) },
                _ => Codes::Int8 { codes, scales: Slab::from_vec(vec![bf16::ONE; 8]) },
            };
            let w = Storage::matrix(Matrix::new(1, 256, codes));
            let values = w.to_f32();
            for precision in PRECISIONS {
                for (code, value) in values.iter().enumerate().filter(|(_, v)| !v.is_nan()) {
                    let finite = Matrix::new(1, 1, one_code(kind, code as u8));
                    let x = Tensor::from_vec(vec![1.0], [1, 1]);
                    assert_eq!(nt(&ctx, &x, &Storage::matrix(finite), precision).data(), [*value], "{kind:?} {code}");
                }
                let x = Tensor::from_vec(vec![1.0; 256], [1, 256]);
                let sum = nt(&ctx, &x, &w, precision).data()[0];
                assert_eq!(sum.is_nan(), kind == Kind::Fp8, "a NaN among the weights is seen in the result");
            }
        }
    }
}

fn one_code(kind: Kind, code: u8) -> Codes {
    let codes = Slab::from_vec(vec![code]);
    match kind {
        Kind::Fp8 => Codes::Fp8 { codes, scales: Slab::from_vec(vec![1.0]) },
        _ => Codes::Int8 { codes, scales: Slab::from_vec(vec![bf16::ONE]) },
    }
}

#[test]
fn threads_and_batches_give_the_same_bits() {
    let [t, n, k] = [37, 600, 1300];
    let x = random([t, k], 1);
    for precision in PRECISIONS {
        for kind in KINDS {
            let w = Storage::matrix(matrix(kind, n, k, 2));
            let want = nt(&Ctx::new(1).unwrap(), &x, &w, precision);
            let ctx = Ctx::new(3).unwrap();
            assert_eq!(nt(&ctx, &x, &w, precision).data(), want.data(), "{kind:?} {precision:?}");
            for rows in 1..=t {
                let first = (7 * rows) % (t - rows + 1);
                let part = Tensor::from_vec(x.data()[first * k..(first + rows) * k].to_vec(), [rows, k]);
                let alone = nt(&ctx, &part, &w, precision);
                assert_eq!(alone.data(), &want.data()[first * n..(first + rows) * n], "{kind:?}, {rows} from {first}");
            }
        }
    }
}

#[test]
fn groups_and_many_products_equal_separate_ones() {
    let (n, k) = (150, 200);
    // Groups without rows at the front, in the middle and at the end; experts of two matrices each, of several types.
    let offsets = [0, 0, 5, 5, 26, 27, 27];
    let (x, y) = (random([27, k], 1), random([3, k], 2));
    let matrices: Vec<Matrix> = (0..6)
        .flat_map(|e| [matrix(KINDS[e % 5], 20, k, e as u64), matrix(KINDS[(e + 2) % 5], n - 20, k, 10 + e as u64)])
        .collect();
    let experts = Storage::Stored(Stored::new(matrices.clone(), [6, n, k]));
    let dense = Storage::matrix(matrix(Kind::Bf16, 33, k, 20));
    for ctx in levels() {
        for precision in PRECISIONS {
            let grouped = grouped_nt(&ctx, &x, &offsets, &experts, precision);
            let products = [(&x, &offsets[..], &experts), (&y, &[0, 3][..], &dense), (&x, &[0, 27][..], &dense)];
            let many = many_nt(&ctx, &products, precision);
            assert_eq!(many[0].data(), grouped.data());
            assert_eq!(many[1].data(), nt(&ctx, &y, &dense, precision).data());
            assert_eq!(many[2].data(), nt(&ctx, &x, &dense, precision).data());
            for e in 0..6 {
                for row in offsets[e]..offsets[e + 1] {
                    let x = Tensor::from_vec(x.row(row).to_vec(), [1, k]);
                    let [a, b] = [0, 1].map(|i| nt(&ctx, &x, &Storage::matrix(matrices[2 * e + i].clone()), precision));
                    assert_eq!(&grouped.row(row)[..20], a.data(), "row {row}");
                    assert_eq!(&grouped.row(row)[20..], b.data(), "row {row}");
                }
            }
        }
    }
}

#[test]
fn heads_agree_with_the_reference_and_with_products_of_one_head() {
    let levels = levels();
    for (dims, rk, t) in [
        (Dims { heads: 1, dn: 1, dr: 2, dv: 1 }, 1, 1),
        (Dims { heads: 3, dn: 12, dr: 6, dv: 10 }, 63, 2),
        (Dims { heads: 2, dn: 128, dr: 64, dv: 128 }, 512, 5),
        (Dims { heads: 5, dn: 31, dr: 4, dv: 33 }, 600, 17),
    ] {
        let Dims { heads, dn, dr, dv } = dims;
        for precision in PRECISIONS {
            for kind in KINDS {
                let kv_b = Storage::matrix(matrix(kind, heads * (dn + dv), rk, 1));
                let (q, u) = (random([t, heads * (dn + dr)], 2), random([t, heads * rk], 3));
                let [q64, _] = operands(&q, &kv_b, precision);
                let [u64, w64] = operands(&u, &kv_b, precision);
                // Rows of W are only added up, which f32 does as well as bf16.
                let w = match kind {
                    Kind::F32 => kv_b.to_f32().into_iter().map(f64::from).collect(),
                    _ => w64.clone(),
                };
                let nn = |q: &[f64], w: &[f64]| reference::heads_nn(q, w, dims, rk);
                let nt = |u: &[f64], w: &[f64]| reference::heads_nt(u, w, dims, rk);
                let name = format!("{kind:?} {precision:?} {dims:?} {t} x {rk}");
                let first = [
                    heads_nn(&levels[0], &q, &kv_b, dims, precision),
                    heads_nt(&levels[0], &u, &kv_b, dims, precision),
                ];
                let bound = nn(&absolute(&q64), &absolute(&w));
                within(&name, first[0].data(), &nn(&q64, &w), &bound, cases::heads_tolerance(dn));
                let bound = nt(&absolute(&u64), &absolute(&w64));
                within(&name, first[1].data(), &nt(&u64, &w64), &bound, cases::tolerance(rk, precision));
                for ctx in &levels[1..] {
                    let level = ctx.isa.level();
                    assert_eq!(heads_nn(ctx, &q, &kv_b, dims, precision).data(), first[0].data(), "{name} {level:?}");
                    assert_eq!(heads_nt(ctx, &u, &kv_b, dims, precision).data(), first[1].data(), "{name} {level:?}");
                }
                for row in 0..t {
                    let one = |x: &Tensor| Tensor::from_vec(x.row(row).to_vec(), [1, x.len() / t]);
                    let alone = heads_nn(&levels[0], &one(&q), &kv_b, dims, precision);
                    assert_eq!(alone.data(), first[0].row(row), "{name}, row {row} alone");
                    let alone = heads_nt(&levels[0], &one(&u), &kv_b, dims, precision);
                    assert_eq!(alone.data(), first[1].row(row), "{name}, row {row} alone");
                }
            }
        }
    }
}

#[test]
fn tiny_numbers_become_zero_at_every_level() {
    let tiny = f32::from_bits(0x0040_0000);
    let x = Tensor::from_vec(vec![1.0, tiny, 3.0], [1, 3]);
    let values = [tiny, 1.0, 2.0];
    let stored =
        [Codes::F32(Slab::from_vec(values.to_vec())), Codes::Bf16(Slab::from_vec(values.map(bf16::from_f32).to_vec()))];
    for ctx in levels().into_iter().chain([Ctx::new(1).unwrap().at_most(Level::Portable)]) {
        for codes in stored.clone() {
            let w = Storage::matrix(Matrix::new(1, 3, codes));
            assert_eq!(nt(&ctx, &x, &w, Precision::Bf16).data(), [6.0], "{:?}", ctx.isa.level());
        }
    }
}

#[test]
fn empty_sizes_give_empty_or_zero_results() {
    let ctx = Ctx::new(2).unwrap();
    for precision in PRECISIONS {
        for kind in KINDS {
            let w = Storage::matrix(matrix(kind, 4, 3, 1));
            assert_eq!(nt(&ctx, &Tensor::from_vec(vec![], [0, 3]), &w, precision).dims(), [0, 4]);
            let w = Storage::matrix(matrix(kind, 4, 0, 1));
            assert_eq!(nt(&ctx, &Tensor::from_vec(vec![], [2, 0]), &w, precision).data(), [0.0; 8]);
            let w = Storage::matrix(matrix(kind, 0, 3, 1));
            assert!(nt(&ctx, &random([2, 3], 1), &w, precision).is_empty());
        }
    }
}
