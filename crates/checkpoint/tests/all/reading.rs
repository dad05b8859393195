//! What opens, what loads, and what is refused with which words.

use std::path::Path;

use checkpoint::{Dtype, Error, Load, NamedValues, Reader, Values, write_file};
use tensor::{Storage, TensorSource, bf16};

use crate::files::{f32s, message, put, put_index, stored};

fn open(dir: &Path) -> Reader {
    Reader::open(dir).unwrap_or_else(|e| panic!("{}", message(&e)))
}

/// The message of the refusal to open `dir`, which must contain all of `words`.
#[track_caller]
fn check_refused(dir: &Path, words: &[&str]) {
    let Err(error) = Reader::open(dir) else { panic!("opened") };
    let message = message(&error);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn one_file_its_types_and_its_table_of_contents() {
    let dir = tempfile::tempdir().unwrap();
    let halves: Vec<u8> = [0x3C00_u16, 0x0001, 0xFC00].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bf: Vec<u8> = [1.0, -3.140_625].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    put(
        dir.path(),
        "model.safetensors",
        &[
            stored("b", "BF16", &[2, 1], bf),
            f32s("a", &[1, 2], &[0.1, f32::NEG_INFINITY]),
            stored("c", "F16", &[3], halves),
            stored("d", "U8", &[3], vec![1, 2, 3]),
        ],
    );
    let reader = open(dir.path());
    assert_eq!(reader.load("a", &[1, 2]).unwrap().f32().data(), [0.1, f32::NEG_INFINITY]);
    assert_eq!(reader.load("b", &[2, 1]).unwrap().f32().data(), [1.0, -3.140_625]);
    assert_eq!(reader.load("c", &[3]).unwrap().f32().data(), [1.0, 2f32.powi(-24), f32::NEG_INFINITY]);

    let table: Vec<_> = reader.tensors().map(|t| (t.name, t.dtype, t.shape, t.bytes)).collect();
    assert_eq!(
        table,
        [
            ("a", Dtype::F32, &[1, 2][..], 8),
            ("b", Dtype::Bf16, &[2, 1], 4),
            ("c", Dtype::F16, &[3], 6),
            ("d", Dtype::U8, &[3], 3),
        ]
    );
    assert!(reader.tensors().all(|t| t.file == dir.path().join("model.safetensors")));
    assert_eq!(reader.raw("d").unwrap().bytes, [1, 2, 3]);
    assert!(reader.contains("d") && !reader.contains("e"));

    let reader = reader.with_dtype(Load::AsStored);
    for (name, dims, bytes) in [("a", [1, 2], 8), ("b", [2, 1], 4)] {
        let w = reader.load(name, &dims).unwrap();
        assert!(matches!(w, Storage::Stored(_)) && w.size_bytes() == bytes, "{name}");
        assert_eq!(w.to_f32(), open(dir.path()).load(name, &dims).unwrap().f32().data());
    }
    assert!(matches!(reader.load("c", &[3]).unwrap(), Storage::F32(_)), "one dimension");
}

#[test]
fn data_at_odd_offsets_load() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors", &[stored("a", "U8", &[1], vec![7]), f32s("b", &[2, 1], &[1.5, -2.5])]);
    let reader = open(dir.path()).with_dtype(Load::AsStored);
    assert_eq!(reader.load("b", &[2, 1]).unwrap().to_f32(), [1.5, -2.5]);
}

#[test]
fn shards_are_found_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "x-1.safetensors", &[f32s("a", &[1], &[1.0])]);
    put(dir.path(), "x-2.safetensors", &[f32s("b", &[1], &[2.0])]);
    put(dir.path(), "golden.safetensors", &[f32s("a", &[1], &[3.0])]);
    put_index(dir.path(), &[("a", "x-1.safetensors"), ("b", "x-2.safetensors")]);
    let reader = open(dir.path());
    assert_eq!(reader.load("a", &[1]).unwrap().f32().data(), [1.0]);
    assert_eq!(reader.load("b", &[1]).unwrap().f32().data(), [2.0]);
}

#[test]
fn frequency_tables_are_left_out_listed_or_not() {
    let table = "model.layers.0.self_attn.rotary_emb.inv_freq";
    for (listed, there) in [(true, true), (true, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let tensors = [f32s("a", &[1], &[1.0]), f32s(table, &[1], &[1.0])];
        put(dir.path(), "x.safetensors", if there { &tensors } else { &tensors[..1] });
        let pairs = [("a", "x.safetensors"), (table, "x.safetensors")];
        put_index(dir.path(), if listed { &pairs } else { &pairs[..1] });
        assert_eq!(open(dir.path()).tensors().map(|t| t.name).collect::<Vec<_>>(), ["a"]);
    }
}

/// What makes it safe to map files that this project itself replaces.
#[test]
fn an_open_reader_keeps_what_it_opened_when_the_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let array = |values| [NamedValues { name: "a".into(), dims: vec![2], values: Values::I64(values) }];
    write_file(&path, &array(&[1, 2])).unwrap();
    let before = Reader::open_file(&path).unwrap();
    write_file(&path, &array(&[3, 4])).unwrap();
    assert_eq!(before.values::<i64>("a", &[2]).unwrap(), [1, 2]);
    assert_eq!(Reader::open_file(&path).unwrap().values::<i64>("a", &[2]).unwrap(), [3, 4]);
}

#[test]
fn a_directory_that_leaves_a_choice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    check_refused(dir.path(), &["no weights", &dir.path().display().to_string()]);
    put(dir.path(), "x.safetensors", &[f32s("a", &[1], &[1.0])]);
    assert!(open(dir.path()).contains("a"));
    put(dir.path(), "y.safetensors", &[f32s("b", &[1], &[1.0])]);
    check_refused(dir.path(), &["cannot tell which", "x.safetensors, y.safetensors"]);
    put(dir.path(), "model.safetensors", &[f32s("c", &[1], &[1.0])]);
    assert!(open(dir.path()).contains("c"));
    put_index(dir.path(), &[("a", "x.safetensors")]);
    check_refused(dir.path(), &["cannot tell which", "index.json, model.safetensors"]);
    put_index(dir.path(), &[("c", "model.safetensors")]);
    assert!(open(dir.path()).contains("c"));
    assert!(matches!(Reader::open(dir.path().join("nowhere")), Err(Error::Io(_))));
}

#[test]
fn contradictions_between_index_and_shards_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "x.safetensors", &[f32s("a", &[1], &[1.0])]);
    put(dir.path(), "y.safetensors", &[f32s("b", &[1], &[2.0])]);

    put_index(dir.path(), &[("a", "x.safetensors"), ("b", "y.safetensors"), ("c", "z.safetensors")]);
    check_refused(dir.path(), &["z.safetensors is missing", "`c`"]);
    put_index(dir.path(), &[("a", "x.safetensors"), ("b", "y.safetensors"), ("c", "y.safetensors")]);
    check_refused(dir.path(), &["places tensor `c` in", "y.safetensors", "does not hold it"]);
    put_index(dir.path(), &[("a", "x.safetensors"), ("b", "x.safetensors")]);
    check_refused(dir.path(), &["places tensor `b` in", "x.safetensors", "does not hold it"]);
    put_index(dir.path(), &[("a", "y.safetensors"), ("b", "x.safetensors")]);
    check_refused(dir.path(), &["holds tensor `a`", "x.safetensors", "does not list"]);
    for escape in ["../x.safetensors", "/x.safetensors", "..", ""] {
        put_index(dir.path(), &[("a", escape)]);
        check_refused(dir.path(), &["`a`", "the name of a file beside the index"]);
    }

    put(dir.path(), "y.safetensors", &[f32s("b", &[1], &[2.0]), f32s("a", &[1], &[3.0])]);
    put_index(dir.path(), &[("a", "x.safetensors"), ("b", "y.safetensors")]);
    check_refused(dir.path(), &["y.safetensors holds tensor `a`", "does not list there"]);

    for json in ["", "[]", "{}", r#"{"weight_map":3}"#, r#"{"weight_map":{"a":1}}"#, "{\"weight_map\":{}"] {
        fs_err::write(dir.path().join("model.safetensors.index.json"), json).unwrap();
        check_refused(dir.path(), &["model.safetensors.index.json cannot be read"]);
    }
    let twice = r#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#;
    fs_err::write(dir.path().join("model.safetensors.index.json"), twice).unwrap();
    check_refused(dir.path(), &["tensor `a` is listed twice"]);
}

#[test]
fn what_is_missing_or_misshapen_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let name = "model.layers.0.self_attn.q_a_proj.weight";
    put(dir.path(), "model.safetensors", &[f32s(name, &[2, 3], &[0.0; 6]), stored("i", "I32", &[1], vec![0; 4])]);
    let reader = open(dir.path());

    let error = reader.load("model.layers.0.self_attn.q_proj.weight", &[2, 3]).unwrap_err().to_string();
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
    assert!(error.contains("`model.layers.0.self_attn.q_proj.weight`"), "{error}");
    assert!(error.ends_with(&format!("there is `{name}`")), "{error}");
    assert!(reader.load("unlike", &[1]).unwrap_err().to_string().ends_with(&dir.path().display().to_string()));

    for dims in [&[3, 2][..], &[6], &[2, 3, 1], &[2, 4]] {
        let error = reader.load(name, dims).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("[2, 3]") && error.contains(&format!("{dims:?}")), "{error}");
        assert!(error.contains("model.safetensors"), "{error}");
        assert!(matches!(reader.load(name, dims), Err(Error::Shape { .. })));
    }
    let error = reader.load("i", &[1]).unwrap_err().to_string();
    assert!(error.contains("`i`") && error.contains("I32") && error.contains("BF16"), "{error}");
}

#[test]
fn state_files_come_back_in_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let bf: Vec<bf16> = [1.0, 2.5].map(bf16::from_f32).into();
    let arrays = [
        ("step", vec![1], Values::U64(&[u64::MAX])),
        ("counts", vec![2], Values::I64(&[i64::MIN, 7])),
        ("m", vec![1, 2], Values::Bf16(&bf)),
        ("v", vec![3], Values::F32(&[0.1, -0.0, f32::MAX])),
        ("ids", vec![2], Values::I32(&[-1, 5])),
        ("rng", vec![5], Values::U8(b"bytes")),
        ("rotary_emb.inv_freq", vec![], Values::F32(&[1.0])),
        ("none", vec![0], Values::F32(&[])),
    ];
    let arrays: Vec<_> =
        arrays.into_iter().map(|(name, dims, values)| NamedValues { name: name.into(), dims, values }).collect();
    write_file(&path, &arrays).unwrap();

    let reader = Reader::open_file(&path).unwrap();
    assert_eq!(reader.tensors().count(), arrays.len());
    assert_eq!(reader.values::<u64>("step", &[1]).unwrap(), [u64::MAX]);
    assert_eq!(reader.values::<i64>("counts", &[2]).unwrap(), [i64::MIN, 7]);
    assert_eq!(reader.values::<bf16>("m", &[1, 2]).unwrap(), bf);
    assert_eq!(reader.values::<f32>("v", &[3]).unwrap().map_bits(), [0.1, -0.0, f32::MAX].map(f32::to_bits));
    assert_eq!(reader.values::<i32>("ids", &[2]).unwrap(), [-1, 5]);
    assert_eq!(reader.values::<u8>("rng", &[5]).unwrap(), b"bytes");
    assert_eq!(reader.values::<f32>("rotary_emb.inv_freq", &[]).unwrap(), [1.0]);
    assert!(reader.values::<f32>("none", &[0]).unwrap().is_empty());

    let error = reader.values::<i64>("step", &[1]).unwrap_err().to_string();
    assert!(error.contains("`step`") && error.contains("U64") && error.contains("I64"), "{error}");
    assert!(matches!(reader.values::<i64>("counts", &[3]), Err(Error::Shape { .. })));
    assert!(matches!(Reader::open_file(dir.path().join("other")), Err(Error::Io(_))));
}

trait MapBits {
    fn map_bits(self) -> Vec<u32>;
}

impl MapBits for Vec<f32> {
    fn map_bits(self) -> Vec<u32> {
        self.into_iter().map(f32::to_bits).collect()
    }
}
