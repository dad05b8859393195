use tensor::{Ctx, Dims, Level, Storage, Tensor, bf16};

use super::{cases, grouped_nn, grouped_nt, grouped_tn_add, nn, nt, reference, tn_add};
use crate::check::{f64s, levels, random};

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
            let (x, w, dy) = (random([t, k], 1), random([n, k], 2), random([t, n], 3));
            let (x64, w64, dy64) = (f64s(&x), f64s(&w), f64s(&dy));
            let w_storage = Storage::F32(w);
            let y = nt(&ctx, &x, &w_storage);
            check("nt", y.data(), t, n, k, &x64, &reference::transpose(n, k, &w64));
            check("nn", nn(&ctx, &dy, &w_storage).data(), t, k, n, &dy64, &w64);
            let mut dw = ctx.zeros([n, k]);
            tn_add(&ctx, &dy, &x, &mut dw);
            check("tn", dw.data(), n, k, t, &reference::transpose(t, n, &dy64), &x64);
        }
    }
}

#[test]
fn levels_threads_and_batches_give_the_same_bits() {
    let [t, n, k] = [71, 129, 300];
    let (x, w) = (random([t, k], 1), Storage::F32(random([n, k], 2)));
    let want = nt(&Ctx::new(1).unwrap(), &x, &w);
    for threads in [1, 2, 3] {
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            let ctx = Ctx::new(threads).unwrap().at_most(level);
            assert_eq!(nt(&ctx, &x, &w).data(), want.data(), "{threads} threads, {level:?}");
        }
    }
    let ctx = Ctx::new(2).unwrap();
    for row in 0..t {
        let alone = nt(&ctx, &Tensor::from_vec(x.row(row).to_vec(), [1, k]), &w);
        assert_eq!(alone.data(), want.row(row), "row {row} alone");
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
    for ctx in levels() {
        let y = grouped_nt(&ctx, &x, &offsets, &w_storage);
        let dx = grouped_nn(&ctx, &dy, &offsets, &w_storage);
        let mut dw = random([6, n, k], 4);
        let before = dw.data().to_vec();
        grouped_tn_add(&ctx, &dy, &x, &offsets, &mut dw);
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
            assert_eq!(part(&y, n), nt(&ctx, &xe, &we).data());
            assert_eq!(part(&dx, k), nn(&ctx, &dye, &we).data());
            let mut dwe = Tensor::from_vec(before[e * n * k..(e + 1) * n * k].to_vec(), [n, k]);
            tn_add(&ctx, &dye, &xe, &mut dwe);
            assert_eq!(&dw.data()[e * n * k..(e + 1) * n * k], dwe.data());
        }
    }
}

#[test]
fn bf16_weights_equal_their_f32_values() {
    let (x, w) = (random([9, 70], 1), random([35, 70], 2));
    let narrow: Vec<bf16> = w.data().iter().map(|&x| bf16::from_f32(x)).collect();
    let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
    let narrow = Storage::bf16(narrow, [35, 70]);
    let wide = Storage::F32(Tensor::from_vec(wide, [35, 70]));
    for ctx in levels() {
        assert_eq!(nt(&ctx, &x, &narrow).data(), nt(&ctx, &x, &wide).data());
        let dy = random([9, 35], 3);
        assert_eq!(nn(&ctx, &dy, &narrow).data(), nn(&ctx, &dy, &wide).data());
    }
}

#[test]
fn no_rows_give_no_rows() {
    let ctx = Ctx::new(1).unwrap();
    let w = Storage::F32(random([4, 3], 1));
    assert_eq!(nt(&ctx, &Tensor::from_vec(vec![], [0, 3]), &w).shape(), Dims::from([0, 4]));
}
