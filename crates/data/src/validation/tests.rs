use tempfile::tempdir;

use super::*;
use crate::corpus::{Role, Source};
use crate::testing::{EOS, corpus, dataset, decode, write_documents};

fn setup() -> (tempfile::TempDir, Dataset) {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 100, 5.0), ("code", 60, 3.0)]);
    let path = write_documents(dir.path(), "book", 3);
    corpus.sources.push(Source { role: Role::Validation, weight: 0.0, ..Source::new("book", &[&path]) });
    corpus.sources[0].fim_rate = 1.0;
    corpus.boundary_split_rate = 1.0;
    corpus.shard_tokens = 500;
    let dataset = dataset(dir.path(), &corpus);
    (dir, dataset)
}

#[test]
fn every_held_out_byte_is_scored_once() {
    let (_dir, dataset) = setup();
    let stored: Vec<_> =
        dataset.sources(Split::Validation).map(|(name, stored)| (name.to_owned(), stored.clone())).collect();
    assert_eq!(stored.len(), 3);
    for seq_len in [1, 7, 64, 100_000] {
        let validation = Validation::open(&dataset, seq_len, None).unwrap();
        let batches: Vec<_> = validation.batches(5).collect::<Result<_>>().unwrap();
        for (source, (name, stored)) in stored.iter().enumerate() {
            let of = || batches.iter().filter(|found| found.batch.origins[0].source == source);
            let labels: Vec<u32> =
                of().flat_map(|found| &found.batch.labels).copied().filter(|&label| label != IGNORE).collect();
            assert_eq!(labels.len() as u64, stored.tokens, "{name} at {seq_len}");
            let bytes = of().map(|found| found.text_bytes).sum::<u64>();
            assert_eq!((bytes, decode(&labels).len() as u64), (stored.text_bytes, stored.text_bytes), "{name}");
            assert_eq!(labels.iter().filter(|&&label| label == EOS).count() as u64, stored.documents);
            // Each input is the label before it.
            let inputs = of().flat_map(|found| &found.batch.tokens).copied();
            assert!(inputs.zip([EOS].into_iter().chain(labels)).all(|(input, label)| input == label));
        }
    }
}

#[test]
fn the_batch_size_changes_nothing() {
    let (_dir, dataset) = setup();
    let validation = Validation::open(&dataset, 16, None).unwrap();
    let rows = |size| {
        let mut rows = Vec::new();
        for found in validation.batches(size) {
            let found = found.unwrap();
            assert!(found.batch.rows as u64 <= size && found.batch.first_sequence == rows.len() as u64);
            assert!(found.batch.origins.iter().all(|origin| origin.source == found.batch.origins[0].source));
            rows.extend(found.batch.micro_batches(1).map(|row| (row.tokens, row.labels)));
        }
        rows
    };
    let one = rows(1);
    assert_eq!(one.len() as u64, validation.rows());
    assert!([2, 7, u64::MAX].into_iter().all(|size| rows(size) == one));
}

#[test]
fn a_limit_takes_the_first_rows_of_each_source() {
    let (_dir, dataset) = setup();
    let all = Validation::open(&dataset, 16, None).unwrap();
    let some = Validation::open(&dataset, 16, Some(2)).unwrap();
    assert_eq!((some.rows(), some.sources().collect::<Vec<_>>()), (6, vec!["web", "code", "book"]));
    let first = |validation: &Validation| validation.batches(2).next().unwrap().unwrap();
    assert_eq!(first(&all), first(&some));
}

#[test]
fn nothing_held_out_is_an_error() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 5, 1.0)]);
    corpus.held_out = 0.0;
    let error = Validation::open(&dataset(dir.path(), &corpus), 16, None).err();
    assert!(matches!(error, Some(Error::NoValidation { documents: 5, .. })), "{error:?}");
}
