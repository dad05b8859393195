use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tempfile::tempdir;

use super::*;
use crate::dataset::Split;
use crate::testing::{Bytes, ENCODER, EOS, FIM, corpus, decode, write_documents};

fn run(dir: &Path, corpus: &Corpus) -> Result<(Dataset, Prepared)> {
    prepare(&dir.join("shards"), corpus, &ENCODER, &mut |_| ())
}

/// Prepares the corpus and expects it to be rebuilt for one reason, which is returned.
fn rebuilt(dir: &Path, corpus: &Corpus, encoder: &dyn Encoder) -> String {
    match prepare(&dir.join("shards"), corpus, encoder, &mut |_| ()).unwrap().1 {
        Prepared::Rebuilt { differences } if differences.len() == 1 => differences[0].clone(),
        other => panic!("{other:?}"),
    }
}

/// Every file below `dir` with its bytes.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.unwrap().into_path());
    let files = files.filter(|path| path.is_file());
    files.map(|path| (path.strip_prefix(dir).unwrap().display().to_string(), fs_err::read(&path).unwrap())).collect()
}

/// Gives all files below `dir` a date well before now, as files of a finished download have.
fn age(dir: &Path) {
    for path in walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.unwrap().into_path()) {
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let old = SystemTime::now() - Duration::from_hours(1);
            fs_err::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        }
    }
}

fn tokens(dataset: &Dataset, split: Split, source: &str) -> Vec<u32> {
    let (_, stored) = dataset.sources(split).find(|(name, _)| *name == source).unwrap();
    let stream = dataset.stream(stored).unwrap();
    let mut tokens = vec![0; stream.tokens() as usize];
    stream.read(0, &mut tokens).unwrap();
    tokens
}

#[test]
fn every_document_is_stored_once_on_its_side() {
    let dir = tempdir().unwrap();
    let corpus = corpus(dir.path(), &[("web", 300, 1.0), ("code", 50, 1.0)]);
    let (dataset, outcome) = run(dir.path(), &corpus).unwrap();
    assert_eq!(outcome, Prepared::Built);
    for source in &corpus.sources {
        let documents = Documents::new(source, read::list(source).unwrap()).map(|document| document.unwrap().text);
        let mut expected = [Vec::new(), Vec::new()];
        for text in documents {
            let side = usize::from(crate::held_out(&text, 0.2));
            expected[side].extend(ENCODER.encode(&text));
            expected[side].push(EOS);
        }
        assert_eq!(tokens(&dataset, Split::Train, &source.name), expected[0]);
        assert_eq!(tokens(&dataset, Split::Validation, &source.name), expected[1]);
    }
    let stored = &dataset.manifest().content.sources[0];
    assert_eq!(stored.train.documents + stored.validation.documents, 300);
    let text_bytes = decode(&tokens(&dataset, Split::Train, "web")).len() as u64;
    assert_eq!((stored.train.text_bytes, stored.train.fim_documents), (text_bytes, 0));
}

#[test]
fn augmentation_is_for_training_documents() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 300, 1.0)]);
    let (plain, _) = run(dir.path(), &corpus).unwrap();
    let (plain_train, held_out) = (tokens(&plain, Split::Train, "web"), tokens(&plain, Split::Validation, "web"));
    drop(plain);
    corpus.sources[0].fim_rate = 0.5;
    corpus.boundary_split_rate = 0.5;
    let (dataset, _) = run(dir.path(), &corpus).unwrap();
    assert_eq!(tokens(&dataset, Split::Validation, "web"), held_out);
    let train = tokens(&dataset, Split::Train, "web");
    let rearranged = dataset.manifest().content.sources[0].train.fim_documents;
    assert_eq!(train.iter().filter(|&&id| id == FIM.hole).count() as u64, rearranged);
    assert!(rearranged > 10);
    // What is not rearranged has the same text, in the same place.
    let documents = |tokens: &[u32]| tokens.split(|&id| id == EOS).map(<[u32]>::to_vec).collect::<Vec<_>>();
    for (new, old) in documents(&train).iter().zip(documents(&plain_train)) {
        assert!(new.contains(&FIM.hole) || decode(new) == decode(&old));
    }
}

#[test]
fn threads_change_no_byte() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 9000, 1.0), ("code", 50, 1.0)]);
    corpus.sources[0].fim_rate = 0.3;
    corpus.boundary_split_rate = 0.3;
    let build = |threads: usize| {
        let out = dir.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut calls = 0;
        let (tokens, corpus) = (&mut 0, &corpus);
        let dataset = pool.scope(|_| {
            prepare(&out, corpus, &ENCODER, &mut |progress| {
                calls += 1;
                assert!(progress.tokens > *tokens && progress.bytes_read <= progress.bytes_total);
                *tokens = progress.tokens;
            })
        });
        assert!(calls >= 3);
        let mut files = contents(&out);
        // It holds the time at which the files were looked at.
        files.remove("manifest.json");
        (dataset.unwrap().0.manifest().hash.clone(), files)
    };
    let one = build(1);
    assert!(one == build(4));
    assert!(one.1.contains_key(&format!("{}/train/web-00000.bin", one.0)), "{:?}", one.1.keys());
}

#[test]
fn the_same_corpus_is_reused() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 30, 1.0), ("code", 20, 1.0)]);
    let hash = run(dir.path(), &corpus).unwrap().0.manifest().hash.clone();
    let before = contents(&dir.path().join("shards"));
    let check = |corpus: &Corpus| {
        let (dataset, outcome) = run(dir.path(), corpus).unwrap();
        assert_eq!((outcome, &dataset.manifest().hash), (Prepared::Reused, &hash));
    };
    check(&corpus);
    // Weights belong to the loader; the seed and the limit say nothing while nothing is drawn.
    corpus.sources[0].weight = 9.0;
    corpus.seed = 123;
    corpus.max_fim_tokens = 5;
    check(&corpus);
    // New dates without new content.
    age(dir.path());
    check(&corpus);
    check(&corpus);
    let mut after = contents(&dir.path().join("shards"));
    assert_ne!(after.insert("manifest.json".to_owned(), Vec::new()), Some(before["manifest.json"].clone()));
    let mut before = before;
    before.insert("manifest.json".to_owned(), Vec::new());
    assert!(before == after);
}

#[test]
fn what_has_changed_is_named_and_never_reused() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 30, 1.0), ("code", 20, 1.0)]);
    run(dir.path(), &corpus).unwrap();
    let rebuilt = |corpus: &Corpus| rebuilt(dir.path(), corpus, &ENCODER);

    corpus.held_out = 0.25;
    assert_eq!(rebuilt(&corpus), "held_out was 0.2, is 0.25");
    corpus.shard_tokens = 1000;
    assert_eq!(rebuilt(&corpus), "shard_tokens was 134217728, is 1000");
    corpus.boundary_split_rate = 0.1;
    // The seed has an effect now.
    match run(dir.path(), &corpus).unwrap().1 {
        Prepared::Rebuilt { differences } => {
            assert_eq!(differences, ["boundary_split_rate was 0.0, is 0.1", "seed was 0, is 7"]);
        }
        other => panic!("{other:?}"),
    }
    corpus.seed = 8;
    assert_eq!(rebuilt(&corpus), "seed was 7, is 8");
    corpus.sources[1].role = Role::Train;
    assert_eq!(rebuilt(&corpus), "role of source \"code\" was \"split\", is \"train\"");
    corpus.sources[1].control_tokens = true;
    assert_eq!(rebuilt(&corpus), "control_tokens of source \"code\" was false, is true");
    corpus.sources.swap(0, 1);
    assert_eq!(rebuilt(&corpus), "the sources were [\"web\", \"code\"], are [\"code\", \"web\"]");

    // One letter, neither size nor date.
    age(dir.path());
    assert_eq!(run(dir.path(), &corpus).unwrap().1, Prepared::Reused);
    let path = dir.path().join("web.jsonl");
    let date = fs_err::metadata(&path).unwrap().modified().unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    fs_err::write(&path, text.replacen("says", "sags", 1)).unwrap();
    assert!(rebuilt(&corpus).ends_with("web.jsonl of source \"web\" has changed"));
    // Within the resolution of dates even an equal date is not trusted.
    fs_err::write(&path, &text).unwrap();
    let recent = SystemTime::now();
    let set = |date| fs_err::File::options().write(true).open(&path).unwrap().set_modified(date).unwrap();
    set(recent);
    run(dir.path(), &corpus).unwrap();
    fs_err::write(&path, text.replacen("says", "sags", 1)).unwrap();
    set(recent);
    assert!(rebuilt(&corpus).ends_with("web.jsonl of source \"web\" has changed"));
    set(date);
    assert_eq!(run(dir.path(), &corpus).unwrap().1, Prepared::Reused);

    let new = write_documents(dir.path(), "more", 3);
    corpus.sources[1].paths.push(new);
    assert_eq!(rebuilt(&corpus), "the files of source \"web\" have changed: more.jsonl new");
    corpus.sources[1].paths.pop();
    assert_eq!(rebuilt(&corpus), "the files of source \"web\" have changed: more.jsonl gone");
}

#[test]
fn another_tokenizer_is_another_corpus() {
    let dir = tempdir().unwrap();
    let corpus = corpus(dir.path(), &[("web", 30, 1.0)]);
    run(dir.path(), &corpus).unwrap();
    let reason = rebuilt(dir.path(), &corpus, &Bytes { hash: "other" });
    assert_eq!(reason, "tokenizer_hash was \"bytes\", is \"other\"");
}

#[test]
fn only_the_present_shards_are_kept_and_other_files_stay() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 30, 1.0)]);
    let first = run(dir.path(), &corpus).unwrap().0.manifest().hash.clone();
    let shards = dir.path().join("shards");
    fs_err::write(shards.join("notes.txt"), "mine").unwrap();
    // As a killed process leaves it.
    fs_err::create_dir_all(shards.join("partial/train")).unwrap();
    fs_err::write(shards.join("partial/train/web-00000.bin"), "half").unwrap();
    corpus.held_out = 0.3;
    let second = run(dir.path(), &corpus).unwrap().0.manifest().hash.clone();
    assert_ne!(first, second);
    let mut names: Vec<_> =
        fs_err::read_dir(&shards).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected = ["lock", "manifest.json", "notes.txt", &second].map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn a_corpus_in_use_is_not_replaced() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 30, 1.0)]);
    let (dataset, _) = run(dir.path(), &corpus).unwrap();
    let (_, outcome) = run(dir.path(), &corpus).unwrap();
    assert_eq!(outcome, Prepared::Reused, "reading it twice is no conflict");
    let (_, stored) = dataset.sources(Split::Train).next().unwrap();
    let stream = dataset.stream(stored).unwrap();
    drop(dataset);
    corpus.held_out = 0.3;
    assert!(matches!(run(dir.path(), &corpus), Err(Error::Locked { .. })));
    stream.read(0, &mut [0; 10]).unwrap();
    drop(stream);
    assert!(matches!(run(dir.path(), &corpus), Ok((_, Prepared::Rebuilt { .. }))));
}

#[test]
fn a_damaged_manifest_is_refused() {
    let dir = tempdir().unwrap();
    let corpus = corpus(dir.path(), &[("web", 30, 1.0)]);
    let stored = run(dir.path(), &corpus).unwrap().0.manifest().clone();
    let path = dir.path().join("shards/manifest.json");
    let bytes = fs_err::read(&path).unwrap();
    let open = |damaged: &[u8]| {
        fs_err::write(&path, damaged).unwrap();
        Dataset::open(&dir.path().join("shards"))
    };
    // The last byte is a line break.
    for cut in 0..bytes.len() - 1 {
        assert!(matches!(open(&bytes[..cut]), Err(Error::Manifest { .. })), "cut at {cut}");
    }
    for i in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[i] ^= 1;
        match open(&bytes) {
            Err(Error::Manifest { .. } | Error::Damaged { .. }) => {}
            // The dates of the files are outside the hash: a wrong one costs hashing a file once more.
            Ok(dataset) => assert_eq!(dataset.manifest().content, stored.content, "flipped at {i}"),
            Err(other) => panic!("flipped at {i}: {other}"),
        }
    }
    fs_err::remove_file(&path).unwrap();
    assert!(matches!(Dataset::open(&dir.path().join("shards")), Err(Error::NoManifest { .. })));
    assert!(matches!(Dataset::open(&dir.path().join("nowhere")), Err(Error::NoManifest { .. })));
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn a_source_without_text_is_an_error() {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 1, 1.0)]);
    corpus.held_out = 0.999_999;
    assert!(matches!(run(dir.path(), &corpus), Err(Error::AllHeldOut { documents: 1, .. })));
    fs_err::write(dir.path().join("web.jsonl"), "{\"text\":\"\"}\n\n").unwrap();
    assert!(matches!(run(dir.path(), &corpus), Err(Error::EmptySource { files: 1, .. })));
    assert!(!dir.path().join("shards/manifest.json").exists());
}

#[test]
fn one_text_file_has_documents_to_hold_out_when_it_is_cut() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("book.txt");
    let lines: Vec<_> = (0..2000).map(|i| format!("Sentence {i} of the book.\n")).collect();
    let text = lines.concat();
    fs_err::write(&path, &text).unwrap();
    let mut corpus = Corpus::new(vec![Source::new("book", &[path.to_str().unwrap()])], 1, 64);
    corpus.held_out = 0.2;
    let (dataset, _) = run(dir.path(), &corpus).unwrap();
    let error = crate::Validation::open(&dataset, 16, None).err().unwrap().to_string();
    assert!(error.contains("cut text files with cut_bytes"), "{error}");
    drop(dataset);

    corpus.sources[0].cut_bytes = 500;
    assert_eq!(rebuilt(dir.path(), &corpus, &ENCODER), "cut_bytes of source \"book\" was 0, is 500");
    let (dataset, _) = run(dir.path(), &corpus).unwrap();
    let stored = &dataset.manifest().content.sources[0];
    assert_eq!(stored.train.text_bytes + stored.validation.text_bytes, text.len() as u64);
    assert!((50..300).contains(&stored.train.documents) && (5..100).contains(&stored.validation.documents));
}

#[test]
fn settings_that_contradict_are_refused() {
    let dir = tempdir().unwrap();
    let corpus = corpus(dir.path(), &[("web", 3, 1.0), ("code", 3, 1.0)]);
    let check = |key: &str, change: &dyn Fn(&mut Corpus)| {
        let mut corpus = corpus.clone();
        change(&mut corpus);
        match run(dir.path(), &corpus) {
            Err(Error::Setting { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {:?}", other.map(|(_, outcome)| outcome)),
        }
    };
    check("sources", &|corpus| corpus.sources.clear());
    check("held_out", &|corpus| corpus.held_out = 1.0);
    check("held_out", &|corpus| corpus.held_out = f64::NAN);
    check("boundary_split_rate", &|corpus| corpus.boundary_split_rate = -0.1);
    check("shard_tokens", &|corpus| corpus.shard_tokens = 0);
    for name in ["", "a/b", "..", ".hidden", "a b", "WEB"] {
        check("name", &|corpus| corpus.sources[1].name = name.to_owned());
    }
    check("paths", &|corpus| corpus.sources[0].paths.clear());
    check("fim_rate", &|corpus| corpus.sources[0].fim_rate = 1.5);
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        check("weight", &|corpus| corpus.sources[0].weight = weight);
    }
    check("cut_bytes", &|corpus| corpus.sources[0].cut_bytes = read::MAX_DOCUMENT_BYTES + 1);
    check("cut_bytes", &|corpus| corpus.sources[0].cut_bytes = 100);
    check("fim_rate", &|corpus| {
        corpus.sources[0] = Source { control_tokens: true, fim_rate: 0.1, ..corpus.sources[0].clone() };
    });
    check("weight", &|corpus| corpus.sources[0].role = Role::Validation);
    check("fim_rate", &|corpus| {
        corpus.sources[0] = Source { role: Role::Validation, weight: 0.0, fim_rate: 0.1, ..corpus.sources[0].clone() };
    });
    assert!(!dir.path().join("shards").exists(), "nothing is written for a wrong corpus");
}
