//! Files that are not what they should be: each is refused with an error that names what is wrong.

use serde_json::{Value, json};
use tokenizer::{Tokenizer, TokenizerError};

use crate::common;

const FILE: &[u8] = include_bytes!("../../testdata/tiny/tokenizer.json");

fn refused(change: impl FnOnce(&mut Value)) -> TokenizerError {
    let mut file: Value = serde_json::from_slice(FILE).expect("the fixture is JSON");
    change(&mut file);
    Tokenizer::from_bytes(&serde_json::to_vec(&file).expect("it is JSON")).expect_err("the change is a defect")
}

fn check(change: impl FnOnce(&mut Value), expected: &str) {
    let message = refused(change).to_string();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
}

#[test]
fn files_that_are_missing_or_not_json() {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let missing = Tokenizer::read(dir.path()).expect_err("the directory is empty");
    assert!(matches!(missing, TokenizerError::Missing(_)), "{missing}");
    let missing = Tokenizer::read(dir.path().join("no.json")).expect_err("there is no such file");
    assert!(missing.to_string().contains("no.json"), "{missing}");

    let path = dir.path().join("tokenizer.json");
    fs_err::write(&path, "{").expect("the directory can be written");
    let broken = Tokenizer::read(dir.path()).expect_err("the file is cut short");
    assert!(broken.to_string().contains("tokenizer.json: not a tokenizer.json"), "{broken}");
    fs_err::write(&path, FILE).expect("the directory can be written");
    assert_eq!(Tokenizer::read(&path).expect("the file is whole").hash(), common::tiny().hash());
}

#[test]
fn every_truncation_is_an_error() {
    let end = FILE.trim_ascii_end().len();
    for length in (0..end).step_by(97).chain(end - 20..end) {
        assert!(Tokenizer::from_bytes(&FILE[..length]).is_err(), "{length} bytes");
    }
}

/// Whatever byte is damaged, reading ends in a tokenizer or in an error.
#[test]
fn no_damaged_byte_panics() {
    for index in 0..600 {
        let mut rng = tensor::Rng::new(3, "damage", index);
        let mut bytes = FILE.to_vec();
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] = rng.below(256) as u8;
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes) {
            assert_eq!(tokenizer.decode(&tokenizer.encode_untrusted("deep 123\n海🐙"), false), "deep 123\n海🐙");
        }
    }
}

#[test]
fn vocabularies_that_contradict_themselves() {
    check(|file| file["model"]["vocab"] = json!({}), "the vocabulary is empty");
    check(|file| drop(file["model"].as_object_mut().expect("an object").remove("vocab")), "missing field `vocab`");
    check(|file| file["model"]["vocab"]["!"] = json!(4), "both have the id 4");
    check(|file| file["model"]["vocab"]["!"] = json!(495), "\"!\" has the id 495, but ids must be 0 to 494");
    check(|file| file["model"]["vocab"]["!"] = json!(-1), "invalid value");
    check(|file| file["model"]["vocab"]["!"] = json!(4_294_967_296_u64), "invalid value");
    check(
        |file| {
            let vocab = file["model"]["vocab"].as_object_mut().expect("an object");
            let id = vocab.remove("!").expect("it is there");
            vocab.insert("!!!".to_owned(), id);
        },
        "no entry for the byte 0x21",
    );
    check(
        |file| {
            file["model"]["vocab"]["a b"] = json!(495);
            for (token, id) in file["added_tokens"].as_array_mut().expect("a list")[3..].iter_mut().zip(496..) {
                token["id"] = json!(id);
            }
        },
        "\"a b\" (id 495) is not written in the byte alphabet",
    );
    let twice = String::from_utf8_lossy(FILE).replacen("\"!\": 3", "\"!\": 3, \"!\": 3", 1);
    let error = Tokenizer::from_bytes(twice.as_bytes()).expect_err("one entry stands twice");
    assert!(matches!(&error, TokenizerError::DuplicateEntry(entry) if entry == "!"), "{error}");
}

#[test]
fn merges_that_lead_nowhere() {
    let with =
        |merge: Value| move |file: &mut Value| file["model"]["merges"].as_array_mut().expect("a list").push(merge);
    check(with(json!(["!", "zzzz"])), "needs \"zzzz\"");
    check(with(json!(["!", "Q"])), "needs \"!Q\"");
    check(with(json!("no-space")), "not two entries");
    check(with(json!("a b c")), "not two entries");
    check(|file| file["model"]["merges"][1] = file["model"]["merges"][0].clone(), "stands twice");
}

#[test]
fn added_tokens_that_would_be_renumbered_or_reached() {
    check(|file| file["added_tokens"][5]["id"] = json!(600), "has the id 600");
    check(|file| file["added_tokens"][5]["id"] = json!(496), "both have the id 496");
    check(|file| file["added_tokens"][5]["id"] = json!(10), "both have the id 10");
    check(|file| file["added_tokens"][5]["content"] = json!("<think>"), "twice");
    check(|file| file["added_tokens"][5]["content"] = json!(""), "no length");
    check(|file| file["added_tokens"][5]["lstrip"] = json!(true), "lstrip");
    // "!" is a byte: text could not be kept from containing it.
    check(
        |file| {
            file["added_tokens"][5] = json!({"id": 3, "content": "!", "special": true});
            for (token, id) in file["added_tokens"].as_array_mut().expect("a list")[6..].iter_mut().zip(497..) {
                token["id"] = json!(id);
            }
        },
        "also produced by ordinary text",
    );
}

#[test]
fn settings_that_would_change_the_ids() {
    check(|file| file["model"]["type"] = json!("Unigram"), "model.type = \"Unigram\"");
    check(|file| file["model"]["ignore_merges"] = json!(true), "ignore_merges");
    check(|file| file["model"]["dropout"] = json!(0.1), "dropout");
    check(|file| file["model"]["continuing_subword_prefix"] = json!("##"), "continuing_subword_prefix");
    check(|file| file["model"]["end_of_word_suffix"] = json!("</w>"), "end_of_word_suffix");
    check(|file| file["normalizer"] = json!({"type": "NFC"}), "normalizer");
    check(|file| file["pre_tokenizer"] = Value::Null, "pre_tokenizer");
    check(|file| file["pre_tokenizer"]["pretokenizers"][3]["add_prefix_space"] = json!(true), "add_prefix_space");
    check(|file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("("), "not a tokenizer.json");
    check(|file| file["decoder"] = json!({"type": "WordPiece"}), "decoder");
}

/// Both ways of writing merges, another layout and another order of keys are the same tokenizer, with the same hash.
#[test]
fn the_layout_of_the_file_does_not_matter() {
    let mut file: Value = serde_json::from_slice(FILE).expect("the fixture is JSON");
    for merge in file["model"]["merges"].as_array_mut().expect("a list") {
        *merge = json!(format!("{} {}", merge[0].as_str().expect("text"), merge[1].as_str().expect("text")));
    }
    file["model"]["vocab"] = file["model"]["vocab"]
        .as_object()
        .expect("an object")
        .iter()
        .rev()
        .map(|(token, id)| (token.clone(), id.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    file["added_tokens"].as_array_mut().expect("a list").reverse();
    file["normalizer"] = Value::Null;
    file["padding"] = json!({"strategy": "BatchLongest"});
    let same = Tokenizer::from_bytes(&serde_json::to_vec(&file).expect("it is JSON")).expect("nothing is wrong");
    let tiny = common::tiny();
    assert_eq!(same.hash(), tiny.hash());
    assert_eq!(same.encode(common::CORPUS), tiny.encode(common::CORPUS));

    file["model"]["merges"].as_array_mut().expect("a list").swap(0, 1);
    let other = Tokenizer::from_bytes(&serde_json::to_vec(&file).expect("it is JSON")).expect("nothing is wrong");
    assert_ne!(other.hash(), tiny.hash());
}
