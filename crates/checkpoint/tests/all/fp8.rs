//! Block-FP8 weights against the definitions of `spec` 6.5 and 6.6.

use checkpoint::{Load, Reader};
use proptest::prelude::*;
use tensor::{BLOCK, Rng, Storage, TensorSource, bf16};

use crate::files::{Stored, f32s, put, put_index, stored};

/// The value of a code, as defined.
fn decode(code: u8) -> f64 {
    let sign = if code < 128 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => sign * mantissa / 512.0,
        _ => sign * (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    }
}

/// The code nearest to `x`, ties to even, saturating at 448: the integer steps that hardware takes.
fn encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let magnitude = x.to_bits() & 0x7FFF_FFFF;
    if magnitude > 0x7F80_0000 {
        return sign | 0x7F;
    }
    let (biased, fraction) = (magnitude >> 23, u64::from(magnitude & 0x7F_FFFF));
    let exponent = biased.max(1) as i32 - 127;
    let mantissa = if biased == 0 { fraction } else { fraction | 0x80_0000 };
    // The last three of f32's 23 bits stay, fewer below E4M3's normal numbers.
    let drop = (20 + (-6 - exponent).max(0)).min(40);
    let (quotient, rest, half) = (mantissa >> drop, mantissa & ((1 << drop) - 1), 1 << (drop - 1));
    let rounded = quotient + u64::from(rest > half || (rest == half && quotient % 2 == 1));
    // The leading bit of the mantissa, and a carry, add themselves to the exponent.
    let code = if exponent > -6 { ((exponent + 6) as u64 * 8) + rounded } else { rounded };
    sign | code.min(0x7E) as u8
}

/// Codes and scales of a matrix, the scale of a block being its largest magnitude over 448.
fn quantise(w: &[f32], rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
    let [grid_rows, grid_cols] = [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)];
    let mut scales = vec![0f32; grid_rows * grid_cols];
    for i in 0..rows {
        for j in 0..cols {
            let scale = &mut scales[i / BLOCK * grid_cols + j / BLOCK];
            *scale = scale.max(w[i * cols + j].abs() / 448.0);
        }
    }
    let codes = (0..rows * cols).map(|at| {
        let (i, j) = (at / cols, at % cols);
        encode(w[at] / scales[i / BLOCK * grid_cols + j / BLOCK])
    });
    (codes.collect(), scales)
}

fn codes(name: &str, shape: &[usize], codes: Vec<u8>) -> Stored {
    stored(name, "F8_E4M3", shape, codes)
}

/// Loads `w` of shape `[rows, cols]` from a file of these tensors.
fn load(tensors: &[Stored], rows: usize, cols: usize, load: Load) -> checkpoint::Result<Storage> {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors", tensors);
    Reader::open(dir.path()).unwrap().with_dtype(load).load("w", &[rows, cols])
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_code_decodes_to_its_definition() {
    let all: Vec<u8> = (0..=255).collect();
    // Two blocks side by side: the first 128 codes times 1, the others times -0.375.
    let file = [codes("w", &[1, 256], all.clone()), f32s("w_scale_inv", &[1, 2], &[1.0, -0.375])];
    let w = load(&file, 1, 256, Load::F32).unwrap();
    for (code, &found) in all.iter().zip(w.f32().data()) {
        let expected = decode(*code) * if *code < 128 { 1.0 } else { -0.375 };
        assert!(f64::from(found) == expected || (found.is_nan() && expected.is_nan()), "code {code}: {found}");
    }
}

#[test]
fn encoding_inverts_decoding() {
    for code in 0..=255 {
        let x = decode(code) as f32;
        assert_eq!(if x.is_nan() { 0x7F } else { encode(x) & 0x7F }, code & 0x7F);
        assert!(x.is_nan() || encode(x) == code, "code {code}");
    }
}

#[test]
fn ties_go_to_the_even_code_and_their_neighbours_do_not() {
    for code in 0..0x7E_u8 {
        let middle = (decode(code) + decode(code + 1)) as f32 / 2.0;
        assert_eq!(encode(middle), code + code % 2, "between {code} and the next");
        assert_eq!(encode(middle.next_down()), code);
        assert_eq!(encode(middle.next_up()), code + 1);
        assert_eq!(encode(-middle), 0x80 | (code + code % 2));
    }
}

#[test]
fn encoding_saturates_and_keeps_nan() {
    for x in [448.1, 464.0, 480.0, 1e9, f32::MAX, f32::INFINITY] {
        assert_eq!([encode(x), encode(-x)], [0x7E, 0xFE]);
    }
    for x in [0.0, f32::MIN_POSITIVE, 1e-40, 2f32.powi(-10)] {
        assert_eq!([encode(x), encode(-x)], [0, 0x80]);
    }
    assert_eq!(encode(2f32.powi(-10).next_up()), 1);
    assert_eq!(encode(f32::NAN) & 0x7F, 0x7F);
}

proptest! {
    #[test]
    fn encoding_finds_the_nearest_code(x in any::<f32>().prop_filter("a number", |x| !x.is_nan())) {
        let x = f64::from(x);
        let found = (x - decode(encode(x as f32))).abs();
        let best = (0..=255).map(|code| (x - decode(code)).abs()).filter(|d| !d.is_nan()).fold(f64::INFINITY, f64::min);
        prop_assert!(x.is_infinite() || found == best);
    }

    /// Element (i, j) is its code times the scale of block (i div 128, j div 128), whatever the shape.
    #[test]
    fn awkward_matrices_use_the_scale_of_their_block(rows in 1_usize..300, cols in 1_usize..300, seed: u64) {
        let mut rng = Rng::new(seed, "fp8", 0);
        let w: Vec<f32> = (0..rows * cols).map(|_| rng.normal() as f32).collect();
        let (c, scales) = quantise(&w, rows, cols);
        let grid = [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)];
        let expected: Vec<f32> = (0..rows * cols)
            .map(|at| decode(c[at]) as f32 * scales[at / cols / BLOCK * grid[1] + at % cols / BLOCK])
            .collect();
        let file = [codes("w", &[rows, cols], c), f32s("w_scale_inv", &grid, &scales)];

        let exact = load(&file, rows, cols, Load::F32).unwrap();
        prop_assert_eq!(bits(exact.f32().data()), bits(&expected));
        // Three bits of mantissa leave at most a sixteenth; below the normal numbers, half a step of the block.
        for (at, (x, y)) in w.iter().zip(&expected).enumerate() {
            let scale = scales[at / cols / BLOCK * grid[1] + at % cols / BLOCK];
            prop_assert!((x - y).abs() <= (x.abs() / 16.0).max(scale / 1024.0) * 1.000_001);
        }

        let stored = load(&file, rows, cols, Load::AsStored).unwrap();
        prop_assert_eq!(stored.size_bytes() as usize, rows * cols + 4 * grid[0] * grid[1]);
        prop_assert_eq!(bits(&stored.to_f32()), bits(&expected));
    }
}

#[test]
fn a_scale_may_lie_in_another_file() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.safetensors", &[codes("w", &[1, 2], vec![encode(1.5), encode(-2.0)])]);
    put(dir.path(), "b.safetensors", &[f32s("w_scale_inv", &[1, 1], &[0.1])]);
    put_index(dir.path(), &[("w", "a.safetensors"), ("w_scale_inv", "b.safetensors")]);
    let w = Reader::open(dir.path()).unwrap().load("w", &[1, 2]).unwrap();
    assert_eq!(w.f32().data(), [1.5 * 0.1, -2.0 * 0.1_f32]);
}

#[test]
fn scales_may_be_f32_bf16_or_one_byte() {
    let half = [
        f32s("w_scale_inv", &[1, 1], &[0.5]),
        stored("w_scale_inv", "BF16", &[1, 1], bf16::from_f32(0.5).to_le_bytes().into()),
        stored("w_scale_inv", "F8_E8M0", &[1, 1], vec![126]),
        stored("w_scale_inv", "U8", &[1, 1], vec![126]),
    ];
    for scale in half {
        let w = load(&[codes("w", &[1, 1], vec![encode(3.0)]), scale], 1, 1, Load::F32).unwrap();
        assert_eq!(w.f32().data(), [1.5]);
    }
    for wrong in [stored("w_scale_inv", "F16", &[1, 1], vec![0; 2]), stored("w_scale_inv", "I64", &[1, 1], vec![0; 8])]
    {
        let name = wrong.dtype;
        let error = load(&[codes("w", &[1, 1], vec![0]), wrong], 1, 1, Load::F32).unwrap_err().to_string();
        assert!(error.contains("w_scale_inv") && error.contains(name), "{error}");
    }
}

#[test]
fn empty_matrices_load() {
    for [rows, cols] in [[0_usize, 5], [5, 0], [0, 0]] {
        let grid = [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)];
        for as_stored in [Load::F32, Load::AsStored] {
            let file = [codes("w", &[rows, cols], vec![]), f32s("w_scale_inv", &grid, &[])];
            assert_eq!(load(&file, rows, cols, as_stored).unwrap().dims(), [rows, cols]);
        }
    }
}

/// 192 rows with two rows of scales are blocks of 128 and 64. A grid of another block size is refused, not guessed at.
#[test]
fn the_block_size_is_not_inferred() {
    let ones = vec![encode(1.0); 192];
    let file = [codes("w", &[192, 1], ones.clone()), f32s("w_scale_inv", &[2, 1], &[1.0, 2.0])];
    let w = load(&file, 192, 1, Load::F32).unwrap();
    assert_eq!([w.f32().data()[127], w.f32().data()[128]], [1.0, 2.0]);

    for grid in [[1, 1], [3, 1], [2, 2]] {
        let scales = f32s("w_scale_inv", &grid, &vec![1.0; grid[0] * grid[1]]);
        let error = load(&[codes("w", &[192, 1], ones.clone()), scales], 192, 1, Load::F32).unwrap_err().to_string();
        assert!(error.contains("w_scale_inv") && error.contains("[2, 1]") && error.contains(&format!("{grid:?}")));
    }
}

#[test]
fn codes_without_scales_and_scales_without_codes_are_refused() {
    let error = load(&[codes("w", &[1, 1], vec![0])], 1, 1, Load::F32).unwrap_err().to_string();
    assert!(error.contains("`w`") && error.contains("`w_scale_inv`"), "{error}");

    let file = [f32s("w", &[1, 1], &[1.0]), f32s("w_scale_inv", &[1, 1], &[1.0])];
    let error = load(&file, 1, 1, Load::F32).unwrap_err().to_string();
    assert!(error.contains("`w`") && error.contains("`w_scale_inv`") && error.contains("F32"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors", &[codes("w", &[4], vec![0; 4]), f32s("w_scale_inv", &[1, 1], &[1.0])]);
    let error = Reader::open(dir.path()).unwrap().load("w", &[4]).unwrap_err().to_string();
    assert!(error.contains("matrices only") && error.contains("[4]"), "{error}");
}
