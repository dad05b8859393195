use std::path::{Path, PathBuf};

use tempfile::tempdir;

use super::*;
use crate::error::{Error, Result};

const VOCAB_SIZE: u32 = 1000;

fn write(dir: &Path, documents: &[Vec<u32>], shard_tokens: u64) -> Vec<ShardEntry> {
    let mut writer = ShardWriter::new(dir, "web".to_owned(), shard_tokens);
    for document in documents {
        writer.push(document, 2 * document.len() as u64).unwrap();
    }
    writer.finish().unwrap()
}

/// Everything in the shard.
fn read(dir: &Path, entry: &ShardEntry) -> Result<(Vec<u32>, Vec<u32>)> {
    let shard = Shard::open(dir, entry, VOCAB_SIZE)?;
    let mut tokens = vec![0; shard.tokens as usize];
    shard.read(0, &mut tokens)?;
    Ok((tokens, shard.lengths(0..shard.documents)?))
}

fn documents(count: u32, length: u32) -> Vec<Vec<u32>> {
    (0..count).map(|i| (0..2 + (i * 7 + length) % (2 * length)).map(|j| (i * 31 + j) % VOCAB_SIZE).collect()).collect()
}

#[test]
fn the_index_is_megatrons_byte_for_byte() {
    let dir = tempdir().unwrap();
    let entries = write(dir.path(), &[vec![7, 8, 9], vec![300, 256]], 100);
    let bytes = |extension: &str| fs_err::read(dir.path().join(format!("web-00000.{extension}"))).unwrap();
    assert_eq!(bytes("bin"), [7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 44, 1, 0, 0, 0, 1, 0, 0]);
    let word = |n: u64| n.to_le_bytes().to_vec();
    let index = [
        b"MMIDIDX\0\0".to_vec(),
        word(1),
        vec![4],
        word(2),
        word(3),
        vec![3, 0, 0, 0, 2, 0, 0, 0],
        word(0),
        word(12),
        word(0),
        word(1),
        word(2),
    ];
    assert_eq!(bytes("idx"), index.concat());
    let expected =
        ShardEntry { name: "web-00000".to_owned(), tokens: 5, documents: 2, text_bytes: 10, crc: entries[0].crc };
    assert_eq!(entries, [expected]);
}

#[test]
fn what_is_written_is_read() {
    let dir = tempdir().unwrap();
    let documents = documents(500, 40);
    let entries = write(dir.path(), &documents, 3000);
    assert!(entries.len() > 5 && entries[..entries.len() - 1].iter().all(|entry| (3000..3100).contains(&entry.tokens)));
    let mut tokens = Vec::new();
    let mut lengths = Vec::new();
    for entry in &entries {
        let (some, of) = read(dir.path(), entry).unwrap();
        tokens.extend(some);
        lengths.extend(of);
    }
    assert_eq!(tokens, documents.concat());
    assert_eq!(lengths, documents.iter().map(|document| document.len() as u32).collect::<Vec<_>>());
}

#[test]
fn every_damage_is_found() {
    let dir = tempdir().unwrap();
    let entry = write(dir.path(), &documents(6, 4), 1000).remove(0);
    read(dir.path(), &entry).unwrap();
    for extension in ["bin", "idx", "crc"] {
        let path = dir.path().join(format!("web-00000.{extension}"));
        let bytes = fs_err::read(&path).unwrap();
        let check = |what: &str, damaged: &[u8]| {
            fs_err::write(&path, damaged).unwrap();
            match read(dir.path(), &entry) {
                Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path, "{what}"),
                other => panic!("{what} of {extension}: {other:?}"),
            }
        };
        for cut in 0..bytes.len() {
            check(&format!("truncation at {cut}"), &bytes[..cut]);
        }
        for i in 0..bytes.len() {
            for flip in [1, 0x80] {
                let mut bytes = bytes.clone();
                bytes[i] ^= flip;
                check(&format!("a flip at {i}"), &bytes);
            }
        }
        check("an appended byte", &[&bytes[..], &[0]].concat());
        fs_err::remove_file(&path).unwrap();
        assert!(matches!(read(dir.path(), &entry), Err(Error::Io(_))), "a missing {extension}");
        fs_err::write(&path, bytes).unwrap();
    }
    read(dir.path(), &entry).unwrap();
}

#[test]
fn another_entry_than_the_files_is_refused() {
    let dir = tempdir().unwrap();
    let entry = write(dir.path(), &documents(6, 4), 1000).remove(0);
    for wrong in [
        ShardEntry { tokens: entry.tokens + 1, ..entry.clone() },
        ShardEntry { documents: entry.documents - 1, ..entry.clone() },
        ShardEntry { crc: entry.crc ^ 1, ..entry.clone() },
    ] {
        assert!(matches!(read(dir.path(), &wrong), Err(Error::Damaged { .. })), "{wrong:?}");
    }
    let small_vocabulary = Shard::open(dir.path(), &entry, 3).and_then(|shard| shard.read(0, &mut [0; 8]));
    assert!(matches!(small_vocabulary, Err(Error::Damaged { .. })));
}

#[test]
fn blocks_are_checked_when_they_are_read() {
    let dir = tempdir().unwrap();
    // 3.2 MiB of tokens: four blocks.
    let documents = documents(8400, 100);
    let all = documents.concat();
    assert!(all.len() as u64 * 4 > 3 * BLOCK_BYTES);
    let entry = write(dir.path(), &documents, u64::MAX).remove(0);
    let path: PathBuf = dir.path().join("web-00000.bin");
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[2 * BLOCK_BYTES as usize + 12_345] ^= 4;
    fs_err::write(&path, &bytes).unwrap();

    let shard = Shard::open(dir.path(), &entry, VOCAB_SIZE).unwrap();
    let block = BLOCK_BYTES / 4;
    let read = |start: u64, n: usize| {
        let mut out = vec![0; n];
        shard.read(start, &mut out).map(|()| out)
    };
    // Across the first boundary, up to the damaged block, and behind it.
    for (start, n) in [(block - 5, 10), (2 * block - 10, 10), (3 * block, 7), (0, 1), (block - 5, 10)] {
        assert_eq!(read(start, n).unwrap(), all[start as usize..start as usize + n], "{start}");
    }
    for start in [2 * block - 5, 2 * block + 100, 3 * block - 1] {
        assert!(matches!(read(start, 10), Err(Error::Damaged { .. })), "{start}");
    }
}
