//! Models written while their tensors are made.

use std::path::Path;

use checkpoint::{Dtype, Error, Reader, TensorSpec, stream_model, write_dir_atomically};

fn spec(name: &str, dtype: Dtype, n: usize) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, dims: vec![n] }
}

/// Weights with scales, whose bytes in the files do not lie in the order in which they are given.
fn units() -> Vec<Vec<TensorSpec>> {
    (0..5)
        .map(|i| vec![spec(&format!("w{i}"), Dtype::U8, 40 + i), spec(&format!("w{i}.scales"), Dtype::Bf16, 3 + i)])
        .collect()
}

/// The bytes of a tensor: its name again and again.
fn content(spec: &TensorSpec) -> Vec<u8> {
    spec.name.bytes().cycle().take(spec.size_bytes() as usize).collect()
}

/// Gives scales before numbers, and all of it in pieces.
fn write(dir: &Path, max_shard_bytes: u64, piece: usize) -> Result<(), Error> {
    let units = units();
    stream_model(dir, &units, max_shard_bytes, |unit, sink| {
        for (i, spec) in units[unit].iter().enumerate().rev() {
            content(spec).chunks(piece).try_for_each(|piece| sink.append(i, piece))?;
        }
        Ok(())
    })
}

#[test]
fn tensors_come_back_however_they_are_cut() {
    for max_shard_bytes in [1, 60, 120, 1000] {
        let dirs = [1, 7, 1000].map(|piece| {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), max_shard_bytes, piece).unwrap();
            dir
        });
        let reader = Reader::open(dirs[0].path()).unwrap();
        for unit in units() {
            for spec in &unit {
                assert_eq!(reader.raw(&spec.name).unwrap().bytes, content(spec));
            }
            let file = |spec: &TensorSpec| reader.tensors().find(|t| t.name == spec.name).unwrap().file.to_owned();
            assert_eq!(file(&unit[0]), file(&unit[1]), "a weight lies beside its scales");
        }
        let files = |dir: &Path| {
            let mut names: Vec<_> = fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort();
            names.iter().map(|path| fs_err::read(path).unwrap()).collect::<Vec<_>>()
        };
        let first = files(dirs[0].path());
        assert!(dirs.iter().all(|dir| files(dir.path()) == first), "pieces do not show in the bytes");
        assert_eq!(
            first.len(),
            match max_shard_bytes {
                1 | 60 => 6,
                120 => 4,
                _ => 1,
            }
        );
    }
}

#[test]
fn a_failure_in_the_middle_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("model");
    let units = units();
    let result = write_dir_atomically(&path, |dir| {
        stream_model(dir, &units, 60, |unit, sink| {
            sink.append(0, &content(&units[unit][0]))?;
            sink.append(1, &content(&units[unit][1]))?;
            if unit == 3 { Err(Error::NoModel { dir: "given up".into() }) } else { Ok(()) }
        })
    });
    assert!(matches!(result, Err(Error::NoModel { .. })));
    assert_eq!(fs_err::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
#[should_panic(expected = "were not filled to their ends")]
fn a_tensor_that_is_cut_short_is_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let _ = stream_model(dir.path(), &[vec![spec("w", Dtype::U8, 3)]], 60, |_, sink| sink.append(0, &[1, 2]));
}

#[test]
#[should_panic(expected = "more bytes than it has")]
fn a_tensor_that_is_too_long_is_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let _ = stream_model(dir.path(), &[vec![spec("w", Dtype::U8, 3)]], 60, |_, sink| sink.append(0, &[1, 2, 3, 4]));
}
