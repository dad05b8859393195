//! Encoding and decoding, against what Python's `tokenizers` says and against each other.

use serde::Deserialize;
use tensor::Rng;
use tokenizer::{DecodeStream, Role};

use crate::common;

#[derive(Deserialize)]
struct Vector {
    text: String,
    ids: Vec<u32>,
    pieces: Vec<String>,
    decoded: String,
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../testdata/vectors.json")).expect("the fixture is JSON");
    assert!(vectors.len() > 300);
    vectors
}

#[test]
fn ids_are_those_of_python() {
    let tokenizer = common::tiny();
    for Vector { text, ids, decoded, .. } in vectors() {
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true), decoded, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

#[test]
fn pieces_are_those_of_python() {
    for Vector { text, pieces, .. } in vectors() {
        assert_eq!(tokenizer::pre_tokenize(&text), pieces, "{text:?}");
    }
}

/// The rules of the pre-tokenizer that are easy to get wrong, each with a text that shows it.
#[test]
fn pieces_of_known_texts() {
    let check = |text, expected: &[&str]| assert_eq!(tokenizer::pre_tokenize(text), expected, "{text:?}");
    check("1234567", &["123", "456", "7"]);
    check(" 123", &[" ", "123"]);
    check("x²½1Ⅷ", &["x", "²½1", "Ⅷ"]);
    check(".NET 't _bar", &[".NET", " '", "t", " _", "bar"]);
    check("a.\n\n b", &["a", ".\n\n", " b"]);
    check("   x", &["  ", " x"]);
    check("   1", &["   ", "1"]);
    check("x  \n\n y", &["x", "  \n\n", " y"]);
    check("漢字カナ・かな", &["漢字カナ", "・", "かな"]);
    check("e\u{301}\u{a0}e", &["e\u{301}", "\u{a0}e"]);
}

#[test]
fn untrusted_text_holds_no_added_token_and_reads_the_same() {
    let tokenizer = common::tiny();
    let added: Vec<u32> = tokenizer.added_tokens().map(|(_, id)| id).collect();
    let mut differing = 0;
    for index in 0..400 {
        let text = common::random_text(index);
        let ids = tokenizer.encode_untrusted(&text);
        assert!(ids.iter().all(|id| !added.contains(id)), "{text:?} became {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
        let trusted = tokenizer.encode(&text);
        let spelled = trusted.iter().any(|id| added.contains(id));
        assert_eq!(trusted == ids, !spelled, "{text:?}");
        differing += usize::from(spelled);
    }
    assert!(differing > 50, "only {differing} texts held an added token");
}

#[test]
fn every_added_token_is_one_token_when_trusted_and_many_when_not() {
    let tokenizer = common::tiny();
    for role in Role::ALL {
        let id = tokenizer.require(role).expect("every role is there");
        assert_eq!(tokenizer.encode(role.text()), [id]);
        assert!(tokenizer.encode_untrusted(role.text()).len() > 1);
        assert_eq!(tokenizer.decode(&[id], true).is_empty(), role.is_skipped());
    }
}

#[test]
fn bos_is_added_once_and_on_request() {
    let tokenizer = common::tiny();
    let plain = tokenizer.encode("hi");
    assert_ne!(plain[0], 0);
    assert_eq!(tokenizer.encode_with_bos("hi").expect("there is a BOS"), [&[0], &plain[..]].concat());
}

#[test]
fn batches_keep_their_order() {
    let tokenizer = common::tiny();
    let texts: Vec<String> = (0..200).map(common::random_text).collect();
    let each: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text)).collect();
    let untrusted: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode_untrusted(text)).collect();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be made");
        assert_eq!(pool.install(|| tokenizer.encode_batch(&texts)), each);
        assert_eq!(pool.install(|| tokenizer.encode_untrusted_batch(&texts)), untrusted);
    }
}

/// Any ids at all: bytes in impossible order, added tokens in between, and ids without a token.
#[test]
fn streamed_pieces_concatenate_to_the_decoded_text() {
    let tokenizer = common::tiny();
    let byte = |byte: u8| (3..259).find(|&id| tokenizer.token_bytes(id) == Some(&[byte])).expect("every byte is there");
    let bytes: Vec<u32> = (0..=255).map(byte).collect();
    for index in 0..2000 {
        let mut rng = Rng::new(11, "stream", index);
        let mut ids = Vec::new();
        for _ in 0..rng.below(12) {
            match rng.below(6) {
                0 => ids.push(rng.below(tokenizer.vocab_size() as u64 + 4) as u32),
                1 => ids.push(bytes[rng.below(256) as usize]),
                2 => ids.extend([0xf0, 0x9f, 0x90, 0x99].map(|byte: u8| bytes[byte as usize])),
                3 => ids.extend([0xe6, 0xb5].map(|byte: u8| bytes[byte as usize])),
                4 => ids.push(rng.below(3) as u32),
                _ => ids.push(bytes[128 + rng.below(128) as usize]),
            }
        }
        for skip_special in [false, true] {
            // Independent of the stream: all bytes at once.
            let all: Vec<u8> = ids
                .iter()
                .filter(|&&id| !(skip_special && tokenizer.is_special(id)))
                .flat_map(|&id| tokenizer.token_bytes(id).unwrap_or("\u{fffd}".as_bytes()))
                .copied()
                .collect();
            let expected = String::from_utf8_lossy(&all);
            let mut stream = DecodeStream::new(&tokenizer, skip_special);
            let mut text = String::new();
            for &id in &ids {
                let piece = stream.push(id);
                assert!(piece.as_deref() != Some(""), "an empty piece");
                text.extend(piece);
            }
            text.extend(stream.finish());
            assert_eq!(text, expected, "{ids:?}");
            assert_eq!(tokenizer.decode(&ids, skip_special), expected, "{ids:?}");
        }
    }
}

#[test]
fn a_stream_emits_whole_characters_as_soon_as_they_are_whole() {
    let tokenizer = common::tiny();
    let byte = |byte: u8| (3..259).find(|&id| tokenizer.token_bytes(id) == Some(&[byte])).expect("every byte is there");
    let mut stream = DecodeStream::new(&tokenizer, true);
    let octopus = [0xf0, 0x9f, 0x90, 0x99].map(byte);
    assert_eq!(octopus.map(|id| stream.push(id)), [None, None, None, Some("🐙".to_owned())]);
    // The start of a character, then something that does not go on with it.
    assert_eq!(stream.push(octopus[0]), None);
    assert_eq!(stream.push(0), None);
    assert_eq!(stream.push(byte(b'x')), Some("\u{fffd}x".to_owned()));
    assert_eq!(stream.push(octopus[0]), None);
    assert_eq!(stream.push(octopus[1]), None);
    assert_eq!(stream.finish(), Some("\u{fffd}".to_owned()));
}

#[test]
fn ids_without_a_token_are_visible() {
    let tokenizer = common::tiny();
    assert_eq!(tokenizer.token_bytes(512), None);
    assert!(!tokenizer.is_special(512));
    assert_eq!(tokenizer.decode(&[512, u32::MAX], true), "\u{fffd}\u{fffd}");
}

#[test]
fn merged_breaks_are_the_tokens_of_punctuation_and_line_breaks() {
    let tokenizer = common::tiny();
    let found = tokenizer.merged_punctuation_newline_tokens();
    let texts: Vec<String> = found.iter().map(|merged| tokenizer.decode(&[merged.id], false)).collect();
    assert!(texts.contains(&".\n".to_owned()) && texts.contains(&";\n".to_owned()), "{texts:?}");
    let expected: Vec<u32> = (0..tokenizer.vocab_size() as u32)
        .filter(|&id| {
            let text = tokenizer.decode(&[id], false);
            let punctuation = text.trim_end_matches(['\n', '\r']);
            punctuation.len() < text.len()
                && !punctuation.is_empty()
                && punctuation.chars().all(|c| c.is_ascii_punctuation() || "。、！".contains(c))
        })
        .collect();
    assert_eq!(found.iter().map(|merged| merged.id).collect::<Vec<_>>(), expected);
    for merged in found {
        let parts = [&merged.punctuation[..], &merged.line_breaks[..]];
        assert_eq!(tokenizer.decode(&parts.concat(), false), tokenizer.decode(&[merged.id], false));
        assert!(parts.iter().all(|part| !part.is_empty() && !part.contains(&merged.id)));
        assert!(tokenizer.decode(parts[1], false).chars().all(|c| c == '\n' || c == '\r'));
    }
}
