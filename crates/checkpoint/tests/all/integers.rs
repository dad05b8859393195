//! Integer weights against the layout of `docs/quantised.md`.

use checkpoint::{Format, Load, Reader};
use proptest::prelude::*;
use tensor::{CodesRef, Rng, Storage, TensorSource, bf16};

use crate::files::{Stored, f32s, put, stored};

/// A matrix as it is stored, and its values by definition.
struct Made {
    tensors: [Stored; 2],
    values: Vec<f32>,
    bytes: u64,
}

fn make(format: Format, rows: usize, cols: usize, seed: u64) -> Made {
    let mut rng = Rng::new(seed, "integers", 0);
    let groups = cols.div_ceil(32);
    let scales: Vec<bf16> = (0..rows * groups).map(|_| bf16::from_f32(rng.normal() as f32)).collect();
    let width = if format == Format::Int4 { cols.div_ceil(128) * 64 } else { cols };
    let mut codes = vec![0_u8; rows * width];
    let mut values = Vec::new();
    for row in 0..rows {
        for col in 0..cols {
            let integer = if format == Format::Int8 {
                let code = rng.below(256) as u8;
                codes[row * width + col] = code;
                let magnitude = f64::from(code % 128);
                if code < 128 { magnitude } else { -magnitude }
            } else {
                let nibble = rng.below(16) as u8;
                let shift = if col % 128 < 64 { 0 } else { 4 };
                codes[row * width + col / 128 * 64 + col % 64] |= nibble << shift;
                f64::from(nibble) - 8.0
            };
            values.push((integer * scales[row * groups + col / 32].to_f64()) as f32);
        }
    }
    let scale_bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    let bytes = (codes.len() + scale_bytes.len()) as u64;
    let suffix = if format == Format::Int4 { "int4" } else { "int8" };
    let scales = stored(&format!("w_scale_{suffix}"), "BF16", &[rows, groups], scale_bytes);
    Made { tensors: [scales, stored("w", "U8", &[rows, width], codes)], values, bytes }
}

fn open(tensors: &[Stored]) -> (tempfile::TempDir, Reader) {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors", tensors);
    let reader = Reader::open(dir.path()).unwrap();
    (dir, reader)
}

/// The refusal to load `w [rows, cols]`, which must have all of `words`; checking it without reading refuses it alike.
#[track_caller]
fn refused(tensors: &[Stored], dims: &[usize], words: &[&str]) {
    let (_dir, reader) = open(tensors);
    let Err(error) = reader.load("w", dims) else { panic!("loaded") };
    assert!(error.is_damage() || matches!(error, checkpoint::Error::Dtype { .. }));
    let message = error.to_string();
    for word in ["model.safetensors", "`w"].iter().chain(words) {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    assert_eq!(reader.check("w", dims).unwrap_err().to_string(), message);
}

proptest! {
    /// Every code, whatever the shape, is the integer times the scale of its group.
    #[test]
    fn awkward_matrices_are_what_the_layout_says(
        rows in 0_usize..40, cols in 0_usize..400, four in any::<bool>(), seed: u64,
    ) {
        let format = if four { Format::Int4 } else { Format::Int8 };
        let made = make(format, rows, cols, seed);
        let (_dir, reader) = open(&made.tensors);
        prop_assert_eq!(reader.format("w").unwrap(), format);
        prop_assert_eq!(reader.check("w", &[rows, cols]).unwrap(), format);
        let exact = reader.load("w", &[rows, cols]).unwrap();
        prop_assert_eq!(exact.f32().data(), &made.values[..]);

        let reader = reader.with_dtype(Load::AsStored);
        let weight = reader.load("w", &[rows, cols]).unwrap();
        prop_assert_eq!(weight.size_bytes(), made.bytes);
        prop_assert_eq!(weight.to_f32(), made.values);
        let table: Vec<_> = reader.weights().map(|w| w.map(|w| (w.name, w.format, w.bytes)).unwrap()).collect();
        prop_assert_eq!(table, [("w", format, made.bytes)]);
    }
}

/// With 64 columns both formats take as many bytes and scales: only the name of the scales tells them apart.
#[test]
fn the_name_of_the_scales_is_the_format() {
    let made = make(Format::Int8, 3, 64, 1);
    let [mut scales, codes] = made.tensors;
    scales.name = "w_scale_int4".into();
    let (_dir, reader) = open(&[scales, codes]);
    assert_eq!(reader.format("w").unwrap(), Format::Int4);
    assert_ne!(reader.load("w", &[3, 64]).unwrap().to_f32(), made.values);
}

#[test]
fn aligned_numbers_and_scales_stay_in_the_file() {
    for format in [Format::Int8, Format::Int4, Format::Fp8] {
        let dir = tempfile::tempdir().unwrap();
        let unit: Vec<_> = [
            ("w", format.dtype(), format.stored_shape(3, 130)),
            (&*format!("w{}", format.scale_suffix().unwrap()), format.scale_dtype(), format.scale_shape(3, 130)),
        ]
        .into_iter()
        .map(|(name, dtype, dims)| checkpoint::TensorSpec { name: name.into(), dtype, dims: dims.into() })
        .collect();
        checkpoint::stream_model(dir.path(), std::slice::from_ref(&unit), 1000, |_, sink| {
            unit.iter().enumerate().try_for_each(|(i, spec)| sink.append(i, &vec![1; spec.size_bytes() as usize]))
        })
        .unwrap();
        let reader = Reader::open(dir.path()).unwrap().with_dtype(Load::AsStored);
        let Storage::Stored(weight) = reader.load("w", &[3, 130]).unwrap() else { panic!("as stored") };
        let (codes, scales) = match weight.matrices()[0].view().codes {
            CodesRef::Int8 { codes, scales } | CodesRef::Int4 { codes, scales } => (codes, scales.as_ptr().cast()),
            CodesRef::Fp8 { codes, scales } => (codes, scales.as_ptr().cast()),
            codes => panic!("{codes:?}"),
        };
        assert_eq!(codes.as_ptr(), reader.raw(&unit[0].name).unwrap().bytes.as_ptr());
        assert_eq!(scales, reader.raw(&unit[1].name).unwrap().bytes.as_ptr());
    }
}

#[test]
fn contradictions_are_refused_with_both_sides_named() {
    for (format, other) in [(Format::Int8, Format::Int4), (Format::Int4, Format::Int8)] {
        let parts = || {
            let [scales, codes] = make(format, 5, 200, 1).tensors;
            (scales, codes)
        };
        let own = format!("w{}", format.scale_suffix().unwrap());
        let foreign = format!("w{}", other.scale_suffix().unwrap());
        let (groups, width) = (7, format.stored_shape(5, 200)[1]);

        let (scales, codes) = parts();
        refused(&[codes], &[5, 200], &["U8", "group scales"]);
        let (mut second, codes) = parts();
        second.name = foreign;
        refused(&[scales, second, codes], &[5, 200], &["two sets of scales", "`w_scale_int8`", "`w_scale_int4`"]);

        let (scales, codes) = parts();
        refused(&[scales, codes, f32s("w_scale_inv", &[1, 2], &[1.0; 2])], &[5, 200], &["two sets", "`w_scale_inv`"]);

        let (scales, _) = parts();
        refused(&[scales, f32s("w", &[5, 200], &[0.0; 1000])], &[5, 200], &["F32", &own, "U8"]);
        let (scales, _) = parts();
        refused(&[scales, stored("w", "F8_E4M3", &[5, 200], vec![0; 1000])], &[5, 200], &["F8_E4M3", &own, "U8"]);
        let (_, codes) = parts();
        refused(&[codes, f32s("w_scale_inv", &[1, 2], &[1.0; 2])], &[5, 200], &["U8", "`w_scale_inv`", "F8_E4M3"]);

        let (_, codes) = parts();
        let wide = f32s(&own, &[5, groups], &[1.0; 35]);
        refused(&[wide, codes], &[5, 200], &[&own, "F32", "BF16"]);
        for shape in [[5, groups + 1], [6, groups], [1, 5 * groups]] {
            let (_, codes) = parts();
            let scales = stored(&own, "BF16", &shape, vec![0; 2 * shape[0] * shape[1]]);
            refused(&[scales, codes], &[5, 200], &[&own, &format!("{shape:?}"), "[5, 7]"]);
        }
        for (dims, expected) in [([4, 200], 4), ([6, 200], 6)] {
            refused(
                &make(format, 5, 200, 1).tensors,
                &dims,
                &[&format!("[5, {width}]"), &format!("[{expected}, {width}]")],
            );
        }
        refused(&make(format, 5, 200, 1).tensors, &[5, 300], &[&format!("[5, {width}]")]);
        refused(&make(format, 5, 200, 1).tensors, &[1000], &[&format!("[5, {width}]")]);
        let flat = [stored(&own, "BF16", &[1, 4], vec![0; 8]), stored("w", "U8", &[128], vec![0; 128])];
        refused(&flat, &[128], &["matrices only", "U8", "[128]"]);
    }
}

#[test]
fn scales_without_a_weight_are_found() {
    for suffix in ["_scale_inv", "_scale_int8", "_scale_int4"] {
        let (_dir, reader) =
            open(&[f32s("a", &[1], &[1.0]), stored(&format!("w{suffix}"), "BF16", &[1, 1], vec![0; 2])]);
        let errors: Vec<String> = reader.weights().filter_map(|w| w.err().map(|e| e.to_string())).collect();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains(&format!("`w{suffix}`")) && errors[0].contains("`w` is nowhere"), "{errors:?}");
    }
}

/// No byte of the header can be changed so that a weight loads with other values.
#[test]
fn a_changed_header_loads_no_other_values() {
    let made = make(Format::Int4, 3, 70, 1);
    let bytes = crate::files::file(&made.tensors);
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let dir = tempfile::tempdir().unwrap();
    for at in 0..head {
        for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            let path = dir.path().join("model.safetensors");
            if fs_err::exists(&path).unwrap() {
                fs_err::remove_file(&path).unwrap();
            }
            fs_err::write(&path, &damaged).unwrap();
            let Ok(reader) = Reader::open(dir.path()) else { continue };
            if let Ok(weight) = reader.load("w", &[3, 70]) {
                assert_eq!(weight.to_f32(), made.values, "byte {at} ^ {change}");
            }
        }
    }
}
