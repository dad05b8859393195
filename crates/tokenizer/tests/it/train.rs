//! Training: the same bytes whatever the threads and the order of documents, and the merges the library learns.

use std::collections::BTreeMap;

use tokenizer::{ChatFormat, ChatTemplate, Role, Tokenizer, TokenizerConfig, TrainError, TrainOptions, train};

use crate::common;

const OPTIONS: TrainOptions = TrainOptions { vocab_size: 512, min_frequency: 2 };

#[test]
fn the_fixture_is_what_training_on_its_corpus_makes() {
    let trained = train(common::documents(), OPTIONS).expect("the corpus is large enough");
    assert_eq!(trained.json, include_bytes!("../../testdata/tiny/tokenizer.json"));
    assert_eq!(trained.tokenizer.hash(), "2783afa9aaa0a2d7a356c5d76329e2f405ffaac09230b66e4edf504aa182f87a");
}

#[test]
fn threads_and_order_do_not_matter() {
    let expected = train(common::documents(), OPTIONS).expect("the corpus is large enough").json;
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be made");
        let backwards = common::documents().into_iter().rev();
        let trained = pool.install(|| train(backwards, OPTIONS)).expect("the corpus is large enough");
        assert!(trained.json == expected, "{threads} threads");
    }
}

#[test]
fn ids_are_laid_out_as_documented() {
    let tokenizer = common::tiny();
    assert_eq!(tokenizer.vocab_size(), 512);
    let special = tokenizer.special_tokens();
    assert_eq!((special.bos, special.eos, special.pad), (Some(0), Some(1), Some(2)));
    assert_eq!(tokenizer.token_bytes(3), Some(&b"!"[..]));
    for (role, id) in Role::ALL[3..].iter().zip(512 - 17..) {
        assert_eq!(tokenizer.require(*role).expect("every role is there"), id);
        assert_eq!(tokenizer.is_special(id), *role == Role::Eot);
        assert_eq!(tokenizer.token_bytes(id), Some(role.text().as_bytes()));
    }
    assert!(tokenizer.is_special(0) && tokenizer.is_special(1) && tokenizer.is_special(2) && !tokenizer.is_special(3));
    // Every byte is there once, and every merge is the join of two earlier tokens.
    let bytes: BTreeMap<&[u8], u32> = (3..512).map(|id| (tokenizer.token_bytes(id).expect("no gap"), id)).collect();
    assert_eq!(bytes.len(), 509);
    for id in 259..495 {
        let token = tokenizer.token_bytes(id).expect("no gap");
        let joins = (1..token.len()).any(|at| {
            let known = |part: &[u8]| bytes.get(part).is_some_and(|&part| part < id);
            known(&token[..at]) && known(&token[at..])
        });
        assert!(joins, "token {id} is {token:?}");
    }
}

/// The library's own trainer, on the pieces of the same pre-tokenizer.
#[test]
fn merges_are_those_the_library_learns() {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::{AddedToken, Model, Trainer};

    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(495)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(alphabet)
        .special_tokens(Role::ALL[..3].iter().map(|role| AddedToken::from(role.text(), true)).collect())
        .build();
    let byte_level = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, false);
    trainer
        .feed(common::documents().iter(), |document| {
            let mut words = Vec::new();
            for piece in tokenizer::pre_tokenize(document) {
                let mut mapped = tokenizers::PreTokenizedString::from(piece);
                tokenizers::PreTokenizer::pre_tokenize(&byte_level, &mut mapped)?;
                let splits = mapped.get_splits(tokenizers::OffsetReferential::Normalized, tokenizers::OffsetType::Byte);
                words.extend(splits.into_iter().map(|(word, ..)| word.to_owned()));
            }
            Ok(words)
        })
        .expect("feeding does not fail");
    let mut model = BPE::default();
    trainer.train(&mut model).expect("training does not fail");

    let file: serde_json::Value =
        serde_json::from_slice(include_bytes!("../../testdata/tiny/tokenizer.json")).expect("the fixture is JSON");
    let ours = file["model"]["vocab"].as_object().expect("a vocabulary is an object");
    assert_eq!(ours.len(), 495);
    for (token, id) in ours {
        assert_eq!(model.token_to_id(token).map(u64::from), id.as_u64(), "{token:?}");
    }
}

#[test]
fn sizes_that_cannot_be_reached_are_refused() {
    let small = train(common::documents(), TrainOptions { vocab_size: 275, ..OPTIONS });
    assert!(matches!(small, Err(TrainError::VocabularyTooSmall { asked: 275, least: 276 })), "{small:?}");
    let bytes_only =
        train(common::documents(), TrainOptions { vocab_size: 276, ..OPTIONS }).expect("no merge is needed");
    assert_eq!(bytes_only.tokenizer.vocab_size(), 276);
    assert_eq!(bytes_only.tokenizer.encode("né").len(), 3);
    let large = train(["abab abab"], TrainOptions { vocab_size: 400, ..OPTIONS });
    // "ab", "abab"; the third pair of " abab" occurs once.
    assert!(matches!(large, Err(TrainError::TooLittleText { asked: 400, reached: 278, .. })), "{large:?}");
    let empty = train(Vec::<String>::new(), TrainOptions { vocab_size: 277, ..OPTIONS });
    assert!(matches!(empty, Err(TrainError::TooLittleText { reached: 276, .. })), "{empty:?}");
}

#[test]
fn model_files_are_read_back() {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let trained = train(common::documents(), OPTIONS).expect("the corpus is large enough");
    let write = |add_bos_token| {
        tokenizer::write_model_files(dir.path(), &trained, ChatFormat::V3, 4096, add_bos_token)
            .expect("the directory can be written");
        TokenizerConfig::read(dir.path()).expect("what was written is valid")
    };
    assert_eq!(write(false).add_bos_token, Some(false));
    let config = write(true);
    let read = Tokenizer::read(dir.path()).expect("what was written is valid");
    assert_eq!(read.hash(), trained.tokenizer.hash());
    assert_eq!(config.add_bos_token, Some(true));
    assert_eq!(config.model_max_length, Some(4096));
    assert_eq!(config.eos_token.as_deref(), Some(Role::Eos.text()));
    let template = ChatTemplate::read(dir.path()).expect("the template is valid").expect("there is a template");
    let messages = [tokenizer::Message::new("user", "hi")];
    let options = tokenizer::ChatOptions::default();
    assert_eq!(
        template.render(&messages, &options).expect("one message is a conversation"),
        ChatTemplate::builtin(ChatFormat::V3).render(&messages, &options).expect("one message is a conversation"),
    );
}
