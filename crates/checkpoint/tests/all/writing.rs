//! What is written: the format's bytes, the layout of published models, nothing twice in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use checkpoint::{Error, Load, NamedValues, Precision, Reader, Values, WriteOptions, write_file, write_model};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use tensor::{NamedTensor, Rng, Slice, TensorSource, bf16};

fn named<'a>(name: &str, dims: &[usize], data: &'a [f32]) -> NamedTensor<'a> {
    NamedTensor { name: name.into(), dims: dims.into(), data: Slice::F32(data), keep_f32: false }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn options(precision: Precision, max_shard_bytes: u64) -> WriteOptions {
    WriteOptions { precision, max_shard_bytes }
}

#[test]
fn one_shard_is_one_file_and_the_formats_own_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (w, bias, b) = ([0.1, -2.0, 3.5, 4.0], [0.1, 0.2, 0.3], [1.0, 2.0].map(bf16::from_f32));
    let tensors = [
        named("z", &[2, 2], &w),
        NamedTensor { keep_f32: true, ..named("bias", &[3], &bias) },
        NamedTensor { data: Slice::Bf16(&b), ..named("b", &[2], &[]) },
    ];
    write_model(dir.path(), &tensors, &WriteOptions::default()).unwrap();
    assert_eq!(names(dir.path()), ["model.safetensors"]);

    let rounded = w.map(|x| bf16::from_f32(x).to_le_bytes()).concat();
    let bias = bias.map(f32::to_le_bytes).concat();
    let b = b.map(bf16::to_le_bytes).concat();
    let views = [
        ("z", TensorView::new(safetensors::Dtype::BF16, vec![2, 2], &rounded).unwrap()),
        ("bias", TensorView::new(safetensors::Dtype::F32, vec![3], &bias).unwrap()),
        ("b", TensorView::new(safetensors::Dtype::BF16, vec![2], &b).unwrap()),
    ];
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let expected = safetensors::serialize(views, Some(metadata)).unwrap();
    assert_eq!(fs_err::read(dir.path().join("model.safetensors")).unwrap(), expected);
}

#[test]
fn every_type_is_written_as_the_formats_library_writes_it() {
    use safetensors::Dtype as D;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let b = [1.5].map(bf16::from_f32);
    let arrays: Vec<_> = [
        ("quote\" \\ \u{e9}", Values::U8(&[1, 2, 3])),
        ("i32", Values::I32(&[-1])),
        ("u64", Values::U64(&[u64::MAX])),
        ("i64", Values::I64(&[i64::MIN, 3])),
        ("bf16", Values::Bf16(&b)),
        ("f32", Values::F32(&[f32::NAN, 1.0])),
        ("another f32", Values::F32(&[])),
    ]
    .into_iter()
    .map(|(name, values)| NamedValues { name: name.into(), dims: vec![values.len()], values })
    .collect();
    write_file(&path, &arrays).unwrap();

    let bytes: [(D, Vec<u8>); 7] = [
        (D::U8, vec![1, 2, 3]),
        (D::I32, (-1_i32).to_le_bytes().into()),
        (D::U64, u64::MAX.to_le_bytes().into()),
        (D::I64, [i64::MIN, 3].map(i64::to_le_bytes).concat()),
        (D::BF16, b.map(bf16::to_le_bytes).concat()),
        (D::F32, [f32::NAN, 1.0].map(f32::to_le_bytes).concat()),
        (D::F32, vec![]),
    ];
    let views = arrays
        .iter()
        .zip(&bytes)
        .map(|(a, (dtype, bytes))| (a.name.as_str(), TensorView::new(*dtype, a.dims.clone(), bytes).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    assert_eq!(fs_err::read(&path).unwrap(), safetensors::serialize(views, Some(metadata)).unwrap());
    assert_eq!(names(dir.path()), ["state.safetensors"]);
}

#[test]
fn shards_are_numbered_filled_in_order_and_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let data = [0.0; 10];
    let tensors = [
        named("a", &[2], &data[..2]),
        named("b", &[3], &data[..3]),
        named("c", &[10], &data),
        named("d", &[1], &data[..1]),
        named("e", &[4], &data[..4]),
    ];
    write_model(dir.path(), &tensors, &options(Precision::F32, 20)).unwrap();
    assert_eq!(
        names(dir.path()),
        [
            "model-00001-of-000003.safetensors",
            "model-00002-of-000003.safetensors",
            "model-00003-of-000003.safetensors",
            "model.safetensors.index.json",
        ]
    );
    let index = fs_err::read_to_string(dir.path().join("model.safetensors.index.json")).unwrap();
    let expected = r#"{
  "metadata": {
    "total_size": 80
  },
  "weight_map": {
    "a": "model-00001-of-000003.safetensors",
    "b": "model-00001-of-000003.safetensors",
    "c": "model-00002-of-000003.safetensors",
    "d": "model-00003-of-000003.safetensors",
    "e": "model-00003-of-000003.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
    assert_eq!(Reader::open(dir.path()).unwrap().tensors().count(), 5);
}

#[test]
fn a_model_is_not_mixed_into_another() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("config.json"), "{}").unwrap();
    write_model(dir.path(), &[named("a", &[1], &[1.0])], &WriteOptions::default()).unwrap();
    let again = write_model(dir.path(), &[named("b", &[1], &[1.0])], &WriteOptions::default());
    assert!(matches!(again, Err(Error::Occupied { .. })));
    assert!(Reader::open(dir.path()).unwrap().contains("a"));
}

#[test]
#[should_panic(expected = "two tensors are named `a`")]
fn two_tensors_of_one_name_are_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let _ = write_model(dir.path(), &[named("a", &[1], &[1.0]), named("a", &[1], &[1.0])], &WriteOptions::default());
}

#[test]
fn long_tensors_are_written_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(1, "long", 0);
    let values: Vec<f32> = (0..200_003).map(|_| rng.normal() as f32).collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let dir = dir.path().join(format!("{precision:?}"));
        fs_err::create_dir(&dir).unwrap();
        write_model(&dir, &[named("w", &[values.len()], &values)], &options(precision, 1)).unwrap();
        let loaded = Reader::open(&dir).unwrap().load("w", &[values.len()]).unwrap();
        let expected = values.iter().map(|&x| match precision {
            Precision::F32 => x,
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
        });
        assert!(loaded.f32().data().iter().copied().eq(expected));
    }
}

/// `spec` 2.8 of the training specification, for all bits that are no NaN.
fn bf16_by_definition(bits: u32) -> u16 {
    ((u64::from(bits) + 0x7FFF + u64::from(bits >> 16 & 1)) >> 16) as u16
}

#[test]
fn rounding_to_bf16_is_to_nearest_even() {
    let upper = (0..=u16::MAX).filter(|u| u & 0x7FFF <= 0x7F80);
    for upper in upper {
        for lower in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
            let bits = u32::from(upper) << 16 | lower;
            if bits & 0x7FFF_FFFF <= 0x7F80_0000 {
                assert_eq!(bf16::from_f32(f32::from_bits(bits)).to_bits(), bf16_by_definition(bits), "{bits:#x}");
            }
        }
    }
    assert!(bf16::from_f32(f32::NAN).is_nan());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any tensors, any shard size: they come back, bit for bit in f32, rounded once in bf16; the bytes are the same
    /// the second time; and no shard is larger than allowed unless one tensor is.
    #[test]
    fn models_come_back(
        shapes in prop::collection::vec((prop::collection::vec(0_usize..7, 1..=4), any::<bool>()), 1..8),
        max_shard_bytes in 1_u64..2000, bf in any::<bool>(), seed: u64,
    ) {
        let precision = if bf { Precision::Bf16 } else { Precision::F32 };
        let data: Vec<Vec<f32>> = shapes.iter().enumerate().map(|(i, (dims, _))| {
            let mut rng = Rng::new(seed, "models", i as u64);
            (0..dims.iter().product()).map(|_| rng.normal() as f32).collect()
        }).collect();
        let tensors: Vec<_> = shapes.iter().zip(&data).enumerate().map(|(i, ((dims, keep_f32), data))| {
            NamedTensor { keep_f32: *keep_f32, ..named(&format!("t{i}"), dims, data) }
        }).collect();

        let parent = tempfile::tempdir().unwrap();
        let dirs = ["first", "second"].map(|name| parent.path().join(name));
        for dir in &dirs {
            fs_err::create_dir(dir).unwrap();
            write_model(dir, &tensors, &options(precision, max_shard_bytes)).unwrap();
        }
        prop_assert_eq!(names(&dirs[0]), names(&dirs[1]));
        for name in names(&dirs[0]) {
            prop_assert_eq!(fs_err::read(dirs[0].join(&name)).unwrap(), fs_err::read(dirs[1].join(&name)).unwrap());
        }

        let exact = Reader::open(&dirs[0]).unwrap();
        let as_stored = Reader::open(&dirs[0]).unwrap().with_dtype(Load::AsStored);
        for (t, data) in tensors.iter().zip(&data) {
            let stays = t.keep_f32 || precision == Precision::F32;
            let expected: Vec<f32> =
                data.iter().map(|&x| if stays { x } else { bf16::from_f32(x).to_f32() }).collect();
            let loaded = exact.load(&t.name, &t.dims).unwrap();
            prop_assert_eq!(loaded.f32().data(), &expected[..]);
            let loaded = as_stored.load(&t.name, &t.dims).unwrap();
            prop_assert_eq!(loaded.to_f32(), &expected[..]);
            let width = if stays || t.dims.len() != 2 { 4 } else { 2 };
            prop_assert_eq!(loaded.size_bytes(), width * expected.len() as u64);
        }

        let mut shards: BTreeMap<&Path, Vec<u64>> = BTreeMap::new();
        for t in exact.tensors() {
            shards.entry(t.file).or_default().push(t.bytes);
        }
        for sizes in shards.values() {
            let with_bytes = sizes.iter().filter(|&&n| n > 0).count();
            prop_assert!(sizes.iter().sum::<u64>() <= max_shard_bytes || with_bytes == 1, "{:?}", sizes);
        }
    }
}
