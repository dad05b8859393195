//! Damaged files: an error or the right values, never a panic, never other values.

use checkpoint::{Error, Reader};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tensor::{TensorSource, bf16};

use crate::files::{Stored, f32s, file, message, stored, with_header};

/// A directory for one damaged file after another.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self, bytes: &[u8]) -> checkpoint::Result<Reader> {
        let path = self.0.path().join("model.safetensors");
        // A new file each time: some file systems flush one that is cut to nothing and written again.
        if fs_err::exists(&path).unwrap() {
            fs_err::remove_file(&path).unwrap();
        }
        fs_err::write(&path, bytes).unwrap();
        Reader::open(self.0.path())
    }
}

/// One tensor of each kind that loads.
fn sample() -> Vec<Stored> {
    let bf = [0.5, -2.0, 3.0].map(|x| bf16::from_f32(x).to_le_bytes()).concat();
    vec![
        f32s("model.norm", &[3], &[1.0, 2.0, 3.0]),
        f32s("scales", &[3], &[4.0, 5.0, 6.0]),
        f32s("q_scale_inv", &[1, 1], &[0.25]),
        stored("bias", "BF16", &[3, 1], bf),
        stored("q", "F8_E4M3", &[3, 2], vec![0x38, 0x40, 0x48, 0xB8, 0xC0, 0xC8]),
        stored("ids", "U8", &[2], vec![8, 9]),
    ]
}

/// The expected values of [`sample`].
const VALUES: [(&str, &[usize], &[f32]); 4] = [
    ("model.norm", &[3], &[1.0, 2.0, 3.0]),
    ("scales", &[3], &[4.0, 5.0, 6.0]),
    ("bias", &[3, 1], &[0.5, -2.0, 3.0]),
    ("q", &[3, 2], &[0.25, 0.5, 1.0, -0.25, -0.5, -1.0]),
];

#[test]
fn the_undamaged_file_loads() {
    let reader = Scratch::new().open(&file(&sample())).unwrap();
    for (name, dims, values) in VALUES {
        assert_eq!(reader.load(name, dims).unwrap().f32().data(), values);
    }
}

#[test]
fn every_truncation_is_refused_with_the_file_named() {
    let bytes = file(&sample());
    let scratch = Scratch::new();
    for len in 0..bytes.len() {
        let Err(error) = scratch.open(&bytes[..len]) else { panic!("{len} bytes open") };
        assert!(matches!(error, Error::FileLength { .. } | Error::HeaderLength { .. }), "{len} bytes: {error:?}");
        assert!(message(&error).contains("model.safetensors"));
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut bytes = file(&sample());
    let expected = bytes.len();
    bytes.push(0);
    let error = Scratch::new().open(&bytes).err().unwrap().to_string();
    assert!(error.contains(&format!("{expected}")) && error.contains(&format!("{}", bytes.len())), "{error}");
}

/// A header has no checksum, so another valid name, or another number in the metadata, cannot be told. But no tensor
/// loads with other values than it had.
#[test]
fn no_changed_byte_of_the_header_loads_other_values() {
    let bytes = file(&sample());
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let scratch = Scratch::new();
    let mut refused = 0;
    for at in 0..head {
        for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            let Ok(reader) = scratch.open(&damaged) else {
                refused += 1;
                continue;
            };
            for (name, dims, values) in VALUES {
                if let Ok(loaded) = reader.load(name, dims) {
                    assert_eq!(loaded.f32().data(), values, "{name} after byte {at} ^ {change}");
                }
            }
        }
    }
    assert!(refused > 9 * head / 2, "only {refused} of {} were noticed", 9 * head);
}

#[test]
fn contradictory_headers_are_refused_with_the_tensor_named() {
    let cases: [(&str, &str, &[&str]); 15] = [
        (
            "hole",
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#,
            &["`b`", "byte 2", "byte 1"],
        ),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
            &["`b`", "byte 1", "byte 2"],
        ),
        ("late start", r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#, &["`a`", "byte 1", "byte 0"]),
        (
            "too few bytes",
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,3]}}"#,
            &["`a`", "F32", "[1]", "0 to 3"],
        ),
        ("backwards", r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[3,0]}}"#, &["`a`"]),
        (
            "overflow",
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
            &["`a`", "4611686018427387904"],
        ),
        (
            "overflow in bytes",
            r#"{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#,
            &["`a`", "F64"],
        ),
        (
            "past the end",
            r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#,
            &["bytes long"],
        ),
        (
            "listed twice",
            r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#,
            &["`a` is listed twice"],
        ),
        ("unknown type", r#"{"a":{"dtype":"F4","shape":[6],"data_offsets":[0,3]}}"#, &["`a`", "F4"]),
        ("negative", r#"{"a":{"dtype":"U8","shape":[-3],"data_offsets":[0,3]}}"#, &["`a`", "-3"]),
        ("fraction", r#"{"a":{"dtype":"U8","shape":[3.0],"data_offsets":[0,3]}}"#, &["`a`"]),
        ("no type", r#"{"a":{"shape":[3],"data_offsets":[0,3]}}"#, &["`a`", "dtype"]),
        ("two shapes", r#"{"a":{"dtype":"U8","shape":[3],"shape":[3],"data_offsets":[0,3]}}"#, &["`a`", "shape"]),
        ("no object", "[]", &["header"]),
    ];
    let scratch = Scratch::new();
    for (case, header, words) in cases {
        let Err(error) = scratch.open(&with_header(header, &[0; 3])) else { panic!("{case} opens") };
        let message = message(&error);
        assert!(message.contains("model.safetensors"), "{case}: {message}");
        for word in words {
            assert!(message.contains(word), "{case}: {word:?} is not in: {message}");
        }
    }
}

#[test]
fn an_absurd_header_length_is_refused_without_trying() {
    for length in [100_000_001, u64::MAX, u64::MAX - 7, 1 << 40] {
        let mut bytes = u64::to_le_bytes(length).to_vec();
        bytes.extend([b' '; 100]);
        assert!(matches!(Scratch::new().open(&bytes), Err(Error::HeaderLength { found, .. }) if found == length));
    }
}

/// A header entry that may or may not be right.
fn entry() -> impl Strategy<Value = String> {
    let dtype = prop::sample::select(vec!["F32", "BF16", "U8", "F64", "F8_E4M3"]);
    let shape = prop::collection::vec(0_u64..4, 0..3);
    (dtype, shape, 0_u64..24, 0_u64..24).prop_map(|(dtype, shape, start, len)| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#, start + len)
    })
}

/// Runs `check` on many random values, all of them with one scratch directory.
fn for_random<S: Strategy>(strategy: S, check: impl Fn(&Scratch, S::Value) -> Result<(), TestCaseError>) {
    let scratch = Scratch::new();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2000));
    runner.run(&strategy, |value| check(&scratch, value)).unwrap_or_else(|e| panic!("{e}"));
}

/// Our reader opens a file exactly when the format's own library does.
#[test]
fn the_verdict_is_that_of_the_formats_library() {
    let files = (prop::collection::vec(entry(), 0..3), 0_usize..24);
    for_random(files, |scratch, (entries, data)| {
        let entries: Vec<_> = entries.iter().enumerate().map(|(i, e)| format!(r#""t{i}":{e}"#)).collect();
        let bytes = with_header(&format!("{{{}}}", entries.join(",")), &vec![0; data]);
        let theirs = safetensors::SafeTensors::deserialize(&bytes);
        let ours = scratch.open(&bytes);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours.err(), theirs.err());
        Ok(())
    });
}

/// Right entries are rare above; these files differ from a right one in one digit of the header.
#[test]
fn nearly_right_files_get_the_librarys_verdict() {
    let files = (prop::collection::vec(0_usize..4, 1..4), 0_usize..64, 0_u8..10);
    for_random(files, |scratch, (sizes, at, digit)| {
        let tensors: Vec<_> =
            sizes.iter().enumerate().map(|(i, &n)| f32s(&format!("t{i}"), &[n], &vec![1.0; n])).collect();
        let mut bytes = file(&tensors);
        let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let digits: Vec<_> = (8..head).filter(|&i| bytes[i].is_ascii_digit()).collect();
        bytes[digits[at % digits.len()]] = b'0' + digit;
        match (scratch.open(&bytes), safetensors::SafeTensors::deserialize(&bytes)) {
            (Ok(ours), Ok(theirs)) => {
                for t in ours.tensors() {
                    prop_assert_eq!(ours.raw(t.name).unwrap().bytes, theirs.tensor(t.name).unwrap().data());
                }
            }
            // The library keeps one of two tensors of a name when the other has no bytes of its own.
            (Err(error), Ok(_)) => prop_assert!(message(&error).contains("listed twice"), "{}", message(&error)),
            (ours, theirs) => prop_assert!(ours.is_err() && theirs.is_err(), "{:?} {:?}", ours.err(), theirs.err()),
        }
        Ok(())
    });
}

#[test]
fn noise_does_not_panic() {
    for_random(prop::collection::vec(any::<u8>(), 0..64), |scratch, bytes| {
        prop_assert!(scratch.open(&bytes).is_err() || bytes.len() >= 10);
        Ok(())
    });
}
