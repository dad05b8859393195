use tensor::{BLOCK, Codes, Ctx, E4M3, GROUP, Matrix, Storage};

use super::{cases, cpu, fp8, int4, int8, reference};
use crate::check::{levels, random};

/// The values that codes stand for.
fn values(rows: usize, cols: usize, codes: &Codes) -> Vec<f32> {
    Storage::matrix(Matrix::new(rows, cols, codes.clone())).to_f32()
}

fn f64s(w: &[f32]) -> Vec<f64> {
    w.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn int8_takes_the_nearest_code() {
    for ctx in levels() {
        for &[rows, cols] in cases::EXACT {
            let w = random([rows, cols], 1);
            let got = values(rows, cols, &int8(&ctx, w.data(), rows, cols));
            for (w, got) in w.data().chunks(cols).zip(got.chunks(cols)) {
                for (w, got) in w.chunks(GROUP).zip(got.chunks(GROUP)) {
                    let (w, (want, scale)) = (f64s(w), reference::int8(&f64s(w)));
                    for ((w, got), want) in w.iter().zip(f64s(got)).zip(want) {
                        let tie = (w / scale - want).abs() > 0.5 - cases::STEP_TOLERANCE;
                        assert!(got == want * scale || (tie && (got - want * scale).abs() == scale), "{w} is {got}");
                    }
                }
            }
        }
    }
}

#[test]
fn int4_is_near_the_best_there_is() {
    let [rows, cols] = [64, 512];
    let w = random([rows, cols], 1);
    for ctx in levels() {
        let got = values(rows, cols, &int4(&ctx, w.data(), rows, cols));
        let [mut ours, mut best, mut plain] = [0.0; 3];
        for (w, got) in w.data().chunks(GROUP).zip(got.chunks(GROUP)) {
            let w = f64s(w);
            let [group_best, group_plain] = reference::int4_errors(&w);
            let error: f64 = w.iter().zip(f64s(got)).map(|(w, got)| (w - got).powi(2)).sum();
            assert!(error <= group_plain * 1.000_1, "the plain scale is one of the candidates");
            (ours, best, plain) = (ours + error, best + group_best, plain + group_plain);
        }
        // What normal numbers give; the README states it.
        assert!(ours <= 0.8 * plain && ours <= 1.15 * best, "{ours} of {plain}, and {best} at best");
    }
}

#[test]
fn int4_of_all_shapes_is_within_half_a_step() {
    for ctx in levels() {
        for &[rows, cols] in cases::EXACT {
            let w = random([rows, cols], 1);
            let codes = int4(&ctx, w.data(), rows, cols);
            let Codes::Int4 { scales, .. } = &codes else { panic!("codes of int4") };
            let got = values(rows, cols, &codes);
            for (i, (w, got)) in w.data().iter().zip(got).enumerate() {
                let scale = scales[i / cols * cols.div_ceil(GROUP) + i % cols / GROUP].to_f32();
                // What is beyond the last integer is cut off; the largest candidate loses two steps.
                let cut = if (got / scale).abs() >= 7.0 { 2.5 } else { 0.500_001 };
                assert!((w - got).abs() <= cut * scale.abs(), "{w} is {got} with scale {scale}");
            }
        }
    }
}

#[test]
fn fp8_takes_the_nearest_code() {
    for ctx in levels() {
        for &[rows, cols] in cases::EXACT {
            let w = random([rows, cols], 1);
            let codes = fp8(&ctx, w.data(), rows, cols);
            let Codes::Fp8 { codes, scales } = &codes else { panic!("codes of fp8") };
            let width = cols.div_ceil(BLOCK);
            for (block, &scale) in scales.iter().enumerate() {
                let (first_row, first) = (block / width * BLOCK, block % width * BLOCK);
                let places = (first_row..rows.min(first_row + BLOCK))
                    .flat_map(|row| (first..cols.min(first + BLOCK)).map(move |column| row * cols + column));
                let block: Vec<f64> = places.clone().map(|i| f64::from(w.data()[i])).collect();
                let (want, want_scale) = reference::fp8(&block);
                assert_eq!(scale, want_scale as f32);
                for ((place, want), w) in places.zip(want).zip(block) {
                    let got = f64::from(E4M3[codes[place] as usize]);
                    let exact = w / want_scale;
                    let tie = ((got - exact).abs() - (want - exact).abs()).abs() < 1e-6 * exact.abs();
                    assert!(got == want || tie, "{w} / {scale} is {got} instead of {want}");
                }
            }
        }
    }
}

#[test]
fn e4m3_encodes_what_it_decodes_and_rounds_to_the_nearest() {
    for code in 0..=255_u8 {
        let value = E4M3[code as usize];
        let expected = if value.is_nan() { code & 0x80 | 0x7F } else { code };
        assert_eq!(cpu::encode_e4m3(value), expected, "code {code}");
    }
    // Between neighbours: below the middle, the middle itself, above it.
    for code in 0..0x7E_u8 {
        let [low, high] = [code, code + 1].map(|code| E4M3[code as usize]);
        let middle = f32::midpoint(low, high);
        let even = if code % 2 == 0 { code } else { code + 1 };
        for sign in [1.0, -1.0] {
            let minus = if sign < 0.0 { 0x80 } else { 0 };
            let encode = |x: f32| cpu::encode_e4m3(sign * x) - minus;
            assert_eq!([encode(middle.next_down()), encode(middle), encode(middle.next_up())], [code, even, code + 1]);
        }
        assert_eq!(reference::nearest_e4m3(f64::from(middle)), f64::from(E4M3[even as usize]));
    }
    assert_eq!([449.0, 1e9, f32::INFINITY, -480.0].map(cpu::encode_e4m3), [0x7E, 0x7E, 0x7E, 0xFE]);
}

#[test]
fn what_is_not_finite_is_seen() {
    let ctx = Ctx::new(1).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = vec![1.0; 300];
        w[40] = bad;
        for (quantise, shared) in [(int8 as fn(&_, &_, _, _) -> _, GROUP), (int4, GROUP), (fp8, BLOCK)] {
            let got = values(1, 300, &quantise(&ctx, &w, 1, 300));
            for (i, got) in got.iter().enumerate() {
                assert_eq!(got.is_nan(), i / shared == 40 / shared, "{bad} at 40: element {i} is {got}");
            }
        }
    }
}

#[test]
fn extremes_neither_overflow_nor_vanish() {
    let ctx = Ctx::new(1).unwrap();
    for size in [1e-30, 1.0, 1e30] {
        for fill in [-1.0, 1.0] {
            let w = vec![fill * size; 64];
            for quantise in [int8 as fn(&_, &_, _, _) -> _, int4, fp8] {
                for got in values(2, 32, &quantise(&ctx, &w, 2, 32)) {
                    assert!((got - w[0]).abs() <= 0.004 * size, "{} is {got}", w[0]);
                }
            }
        }
    }
    for quantise in [int8 as fn(&_, &_, _, _) -> _, int4, fp8] {
        assert_eq!(values(3, 5, &quantise(&ctx, &[0.0; 15], 3, 5)), [0.0; 15]);
        assert!(values(0, 5, &quantise(&ctx, &[], 0, 5)).is_empty());
        assert!(values(5, 0, &quantise(&ctx, &[], 5, 0)).is_empty());
    }
}

#[test]
fn levels_and_threads_give_the_same_codes() {
    let [rows, cols] = [150, 300];
    let w = random([rows, cols], 1);
    for quantise in [int8 as fn(&_, &_, _, _) -> _, int4, fp8] {
        let want = values(rows, cols, &quantise(&Ctx::new(1).unwrap(), w.data(), rows, cols));
        for ctx in levels() {
            assert_eq!(values(rows, cols, &quantise(&ctx, w.data(), rows, cols)), want);
        }
    }
}
