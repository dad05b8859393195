use std::collections::BTreeSet;
use std::path::Path;

use tempfile::{TempDir, tempdir};

use super::*;
use crate::corpus::Corpus;
use crate::testing::{corpus, dataset};

fn setup() -> (TempDir, Corpus, Dataset) {
    let dir = tempdir().unwrap();
    let corpus = corpus(dir.path(), &[("web", 200, 5.0), ("code", 60, 3.0), ("maths", 20, 1.0)]);
    let dataset = dataset(dir.path(), &corpus);
    (dir, corpus, dataset)
}

fn config(corpus: &Corpus, packing: Packing) -> LoaderConfig {
    LoaderConfig { seq_len: 48, packing, seed: 11, weights: corpus.weights() }
}

fn sequences(batch: &Batch) -> Vec<(Vec<u32>, Vec<u32>, Origin)> {
    let rows = batch.tokens.chunks(batch.seq_len).zip(batch.labels.chunks(batch.seq_len));
    rows.zip(&batch.origins).map(|((tokens, labels), &origin)| (tokens.to_vec(), labels.to_vec(), origin)).collect()
}

#[test]
fn ranks_batches_and_micro_batches_only_cut_the_sequence() {
    let (_dir, corpus, dataset) = setup();
    for packing in [Packing::BestFit, Packing::Concat] {
        let config = config(&corpus, packing);
        let whole = sequences(&Loader::new(&dataset, &config).unwrap().batch(240).unwrap());
        for world_size in [1, 2, 8] {
            let mut ranks: Vec<_> = (0..world_size).map(|_| Loader::new(&dataset, &config).unwrap()).collect();
            let mut found = Vec::new();
            // A ramp of the batch size does not change the order either.
            for size in [8, 16, 16, 40, 160] {
                for (rank, loader) in ranks.iter_mut().enumerate() {
                    let batch = loader.rank_batch(size, rank as u64, world_size).unwrap();
                    assert_eq!(batch.first_sequence, found.len() as u64);
                    for part in batch.micro_batches(3) {
                        assert!(part.rows <= 3 && part.first_sequence == found.len() as u64);
                        found.extend(sequences(&part));
                    }
                }
            }
            assert!(found == whole, "{world_size} ranks, {packing:?}");
            assert!(ranks.iter().all(|rank| rank.state() == ranks[0].state()));
        }
    }
}

#[test]
fn resuming_goes_on_with_the_next_sequence() {
    let (_dir, corpus, dataset) = setup();
    let config = config(&corpus, Packing::BestFit);
    let whole = sequences(&Loader::new(&dataset, &config).unwrap().batch(300).unwrap());
    let mut loader = Loader::new(&dataset, &config).unwrap();
    for g in 0..250 {
        let state = serde_json::to_string(&loader.state()).unwrap();
        let state: LoaderState = serde_json::from_str(&state).unwrap();
        let mut resumed = Loader::resume(&dataset, &config, &state).unwrap();
        assert!(sequences(&resumed.batch(50).unwrap()) == whole[g..g + 50], "resumed at {g}");
        loader.batch(1).unwrap();
    }
}

#[test]
fn every_row_comes_once_an_epoch_and_each_epoch_differs() {
    let (_dir, corpus, dataset) = setup();
    for packing in [Packing::BestFit, Packing::Concat] {
        let mut loader = Loader::new(&dataset, &config(&corpus, packing)).unwrap();
        let plan = loader.plan(3000);
        let origins = loader.batch(3000).unwrap().origins;
        for (source, plan) in plan.iter().enumerate() {
            let rows: Vec<_> = origins.iter().filter(|origin| origin.source == source).collect();
            assert!((plan.epochs - rows.len() as f64 / plan.rows as f64).abs() <= 1.0 / plan.rows as f64, "{plan:?}");
            assert!(rows.len() as u64 > 2 * plan.rows, "the test sees several epochs of {}", plan.name);
            let epochs: Vec<Vec<u64>> = rows
                .chunks_exact(plan.rows as usize)
                .map(|rows| rows.iter().map(|origin| origin.row).collect())
                .collect();
            for (epoch, order) in epochs.iter().enumerate() {
                assert_eq!(order.iter().collect::<BTreeSet<_>>().len() as u64, plan.rows, "{} {epoch}", plan.name);
                assert!(rows[epoch * order.len()].epoch == epoch as u64);
            }
            assert_ne!(epochs[0], epochs[1], "{}", plan.name);
        }
    }
}

#[test]
fn shares_are_kept_at_every_sequence() {
    let (_dir, corpus, dataset) = setup();
    let mut loader = Loader::new(&dataset, &config(&corpus, Packing::BestFit)).unwrap();
    let mut taken = [0.0; 3];
    for (g, origin) in (1..).zip(loader.batch(2000).unwrap().origins) {
        taken[origin.source] += 1.0;
        for (taken, weight) in taken.iter().zip([5.0, 3.0, 1.0]) {
            assert!(f64::abs(taken - weight / 9.0 * f64::from(g)) <= 1.0, "{taken} after {g}");
        }
    }
}

#[test]
fn the_seed_decides_the_order() {
    let (_dir, corpus, dataset) = setup();
    let config = config(&corpus, Packing::BestFit);
    let origins = |config: &LoaderConfig| Loader::new(&dataset, config).unwrap().batch(100).unwrap().origins;
    assert_eq!(origins(&config), origins(&config));
    assert_ne!(origins(&config), origins(&LoaderConfig { seed: 12, ..config.clone() }));
}

#[test]
fn a_state_of_another_run_is_refused() {
    let (_dir, corpus, dataset) = setup();
    let config = config(&corpus, Packing::BestFit);
    let mut loader = Loader::new(&dataset, &config).unwrap();
    loader.batch(10).unwrap();
    let state = loader.state();
    let refused = |state: &LoaderState, config: &LoaderConfig| match Loader::resume(&dataset, config, state).err() {
        Some(Error::State { what, expected, found }) if expected != found => what,
        other => panic!("{other:?}"),
    };
    let seed = LoaderConfig { seed: 12, ..config.clone() };
    assert_eq!(refused(&state, &seed), "the seed");
    assert_eq!(refused(&state, &LoaderConfig { seq_len: 49, ..config.clone() }), "seq_len");
    assert_eq!(refused(&state, &LoaderConfig { packing: Packing::Concat, ..config.clone() }), "the packing");
    let mut weights = config.clone();
    weights.weights[0].1 = 4.0;
    assert_eq!(refused(&state, &weights), "the mixture");
    let manifest = LoaderState { manifest: "0".repeat(32), ..state.clone() };
    assert_eq!(refused(&manifest, &config), "the corpus (manifest hash)");
    let count = LoaderState { next_sequence: 11, ..state.clone() };
    assert_eq!(refused(&count, &config), "the number of sequences");
    let mut overflow = state.clone();
    overflow.taken.insert("web".to_owned(), u64::MAX);
    assert_eq!(refused(&overflow, &config), "the number of sequences");
    let mut names = state;
    names.taken.remove("web");
    assert_eq!(refused(&names, &config), "the list of sources");
}

#[test]
fn far_into_a_run_nothing_overflows() {
    let (_dir, mut corpus, dataset) = setup();
    // Shares of 1/2, 3/8 and 1/8 are exact in binary, so that these counts are what a run would have come to.
    for (source, weight) in corpus.sources.iter_mut().zip([4.0, 3.0, 1.0]) {
        source.weight = weight;
    }
    let config = config(&corpus, Packing::BestFit);
    let mut state = Loader::new(&dataset, &config).unwrap().state();
    state.next_sequence = 8 << 56;
    state.taken =
        [("web", 4 << 56), ("code", 3 << 56), ("maths", 1 << 56)].map(|(name, n)| (name.to_owned(), n)).into();
    let batch = Loader::resume(&dataset, &config, &state).unwrap().batch(8).unwrap();
    let count = |source| batch.origins.iter().filter(|origin| origin.source == source).count();
    assert_eq!([count(0), count(1), count(2)], [4, 3, 1]);
    assert_eq!(batch.first_sequence, 8 << 56);
}

#[test]
fn configurations_that_do_not_fit_the_corpus_are_refused() {
    let (_dir, corpus, dataset) = setup();
    let config = config(&corpus, Packing::BestFit);
    let refused = |config: LoaderConfig| Loader::new(&dataset, &config).err().unwrap();
    let missing = config.weights[1..].to_vec();
    assert!(matches!(refused(LoaderConfig { weights: missing, ..config.clone() }), Error::Sources { .. }));
    assert!(matches!(refused(LoaderConfig { seq_len: 0, ..config.clone() }), Error::Setting { key: "seq_len", .. }));
    let long = LoaderConfig { seq_len: 1 << 20, packing: Packing::Concat, ..config.clone() };
    assert!(matches!(refused(long), Error::TooFewTokens { .. }));
    let mut loader = Loader::new(&dataset, &config).unwrap();
    assert!(matches!(loader.rank_batch(9, 0, 2), Err(Error::UnequalRanks { rows: 9, world_size: 2 })));
}

#[test]
fn a_damaged_shard_stops_the_run_where_it_is() {
    let (dir, corpus, dataset) = setup();
    let config = config(&corpus, Packing::Concat);
    let mut loader = Loader::new(&dataset, &config).unwrap();
    loader.batch(1).unwrap();
    let path = find(&dir.path().join("shards"), "maths-00000.bin");
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[100] ^= 1;
    fs_err::write(&path, &bytes).unwrap();
    let before = loader.state();
    assert!(matches!(loader.batch(100), Err(Error::Damaged { path: named, .. }) if named == path));
    assert_eq!(loader.state(), before);
}

fn find(dir: &Path, name: &str) -> std::path::PathBuf {
    let entries = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let folder = entries.into_iter().find(|path| path.is_dir()).unwrap();
    folder.join("train").join(name)
}
