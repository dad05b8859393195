use proptest::prelude::*;
use tensor::Rng;

use super::*;
use crate::corpus::Source;
use crate::testing::{ENCODER, EOS, FIM, decode};

fn corpus(max_fim_tokens: usize, boundary_split_rate: f64) -> Corpus {
    let mut corpus = Corpus::new(vec![Source::new("test", &["."])], 5, max_fim_tokens);
    corpus.boundary_split_rate = boundary_split_rate;
    corpus
}

fn document(id: u64, text: &str) -> Document {
    Document { id, text: text.to_owned() }
}

fn source(role: Role, fim_rate: f64) -> Source {
    Source { fim_rate, role, ..Source::new("test", &["."]) }
}

/// A source whose documents may spell control tokens.
fn trusted(role: Role) -> Source {
    Source { control_tokens: true, ..source(role, 0.0) }
}

/// Prefix, suffix and middle of rearranged ids.
fn parts(ids: &[u32]) -> [&[u32]; 3] {
    let at = |id| ids.iter().position(|&other| other == id).unwrap();
    let (hole, end) = (at(FIM.hole), at(FIM.end));
    assert_eq!((ids[0], *ids.last().unwrap()), (FIM.begin, EOS));
    [&ids[1..hole], &ids[hole + 1..end], &ids[end + 1..ids.len() - 1]]
}

proptest! {
    #[test]
    fn the_parts_of_a_rearranged_document_make_it_up(text in "\\PC{10,60}", id in any::<u64>()) {
        let corpus = corpus(1000, 0.0);
        let tokens = Tokenization::new(&ENCODER, &corpus).document(&document(id, &text), &source(Role::Train, 1.0)).unwrap();
        prop_assert!(tokens.fim);
        prop_assert_eq!(tokens.text_bytes, text.len() as u64);
        let [prefix, suffix, middle] = parts(&tokens.ids);
        prop_assert_eq!([decode(prefix), decode(middle), decode(suffix)].concat(), text.as_bytes());
        prop_assert!(!middle.is_empty());
        // The parts are encoded one by one, so each is what its own text gives.
        for part in [prefix, suffix, middle] {
            let text = String::from_utf8(decode(part)).expect("cuts are between characters");
            prop_assert_eq!(part, ENCODER.encode(&text));
        }
    }

    #[test]
    fn splitting_keeps_every_byte(text in "(the |[.!])(\n|!\n|\\.\n\n|。\n|\\PC){0,60}", rate in 0.0..=1.0) {
        let corpus = corpus(1000, rate);
        let tokens = Tokenization::new(&ENCODER, &corpus).document(&document(1, &text), &source(Role::Train, 0.0)).unwrap();
        prop_assert_eq!(decode(&tokens.ids), text.as_bytes());
    }

    #[test]
    fn spelled_control_tokens_are_no_text(
        parts in proptest::collection::vec("<eos>|<begin>|<hole>|<end>|the |!\n|[<>endos]|\\PC", 1..30),
        rate in 0.0..=1.0,
    ) {
        let (text, corpus) = (parts.concat(), corpus(1000, rate));
        let tokenization = Tokenization::new(&ENCODER, &corpus);
        let encode = |source: &Source| tokenization.document(&document(1, &text), source).unwrap();

        let tokens = encode(&trusted(Role::Train));
        let spelled = |id: &u32| ENCODER.spelling(*id).or(ENCODER.token_bytes(*id)).unwrap();
        let written = tokens.ids.iter().flat_map(spelled).copied().collect::<Vec<u8>>();
        let ends = text.ends_with("<eos>") && text != "<eos>";
        let expected = if ends { text.clone() } else { text.clone() + "<eos>" };
        prop_assert_eq!(String::from_utf8(written).unwrap(), expected);
        // Replaced rather than removed, so that their neighbours do not make up another.
        let spellings = ["<eos>", "<begin>", "<hole>", "<end>"];
        let plain = spellings.iter().fold(text.clone(), |text, spelling| text.replace(spelling, "\0"));
        prop_assert_eq!(tokens.text_bytes as usize, plain.replace('\0', "").len());
        prop_assert_eq!(tokens.text_bytes as usize, decode(&tokens.ids).len());

        let tokens = encode(&source(Role::Train, 0.0));
        prop_assert_eq!(tokens.ids.iter().filter(|id| ENCODER.spelling(**id).is_some()).count(), 1);
        prop_assert_eq!(tokens.text_bytes as usize, text.len());
    }
}

#[test]
fn a_conversation_ends_in_one_eos() {
    let corpus = corpus(1000, 0.0);
    let tokenization = Tokenization::new(&ENCODER, &corpus);
    let ids = |text| tokenization.document(&document(1, text), &trusted(Role::Validation)).unwrap().ids;
    assert_eq!(ids("<begin>a<eos>"), [FIM.begin, 97, EOS]);
    assert_eq!(ids("a<eos>b"), [97, EOS, 98, EOS]);
    assert_eq!(ids("<eos>"), [EOS, EOS]);
}

#[test]
fn cuts_are_uniform_over_pairs_of_positions() {
    let text = "0123456789";
    let mut counts = [[0; 11]; 11];
    for index in 0..55_000 {
        let [prefix, middle, _] = fim::cut(text, &mut Rng::new(1, "test", index)).unwrap();
        counts[prefix.len()][prefix.len() + middle.len()] += 1;
    }
    for (first, counts) in counts.iter().enumerate() {
        for (second, &count) in counts.iter().enumerate() {
            // 55 pairs, 1,000 each, with a standard deviation of 31.
            let expected = if first < second { 840..1160 } else { 0..1 };
            assert!(expected.contains(&count), "{first}, {second}: {count}");
        }
    }
}

#[test]
fn the_rate_is_per_document_and_leaves_short_and_long_ones_alone() {
    let corpus = corpus(40, 0.0);
    let tokenization = Tokenization::new(&ENCODER, &corpus);
    let rearranged = |text: &str, role| {
        let one = |id| tokenization.document(&document(id, text), &source(role, 0.1)).unwrap().fim;
        (0..10_000).filter(|&id| one(id)).count()
    };
    // 1,000 with a standard deviation of 30.
    assert!((850..1150).contains(&rearranged("0123456789", Role::Train)));
    assert_eq!(rearranged("012345678", Role::Train), 0);
    // 36 bytes, three sentinels and EOS fill 40.
    assert!(rearranged(&"x".repeat(36), Role::Train) > 800);
    assert_eq!(rearranged(&"x".repeat(37), Role::Train), 0);
    assert_eq!(rearranged("0123456789", Role::Validation), 0);
}

#[test]
fn held_out_documents_are_encoded_as_they_are() {
    let corpus = corpus(1000, 1.0);
    let text = "The word!\nAnd the other.\n\n";
    let tokens =
        Tokenization::new(&ENCODER, &corpus).document(&document(3, text), &source(Role::Validation, 1.0)).unwrap();
    assert!(tokens.held_out && !tokens.fim);
    assert_eq!(tokens.ids, [ENCODER.encode(text), vec![EOS]].concat());
}

#[test]
fn joined_punctuation_is_split_at_the_rate() {
    let corpus = corpus(1000, 0.25);
    let text = "!\n".repeat(10_000);
    let tokens = Tokenization::new(&ENCODER, &corpus).document(&document(1, &text), &source(Role::Train, 0.0)).unwrap();
    // Each split adds one id: 2,500 of them, with a standard deviation of 43.
    assert!((12_300..12_700).contains(&(tokens.ids.len() - 1)), "{}", tokens.ids.len());
}

/// An encoder whose ids are wrong in some way.
struct Wrong(fn(&str) -> Vec<u32>);

impl Encoder for Wrong {
    fn encode(&self, text: &str) -> Vec<u32> {
        (self.0)(text)
    }
    fn encode_trusted(&self, text: &str) -> Vec<u32> {
        (self.0)(text)
    }
    fn eos(&self) -> u32 {
        EOS
    }
    fn fim(&self) -> Option<FimTokens> {
        None
    }
    fn hash(&self) -> String {
        "wrong".to_owned()
    }
    fn vocab_size(&self) -> usize {
        ENCODER.vocab_size()
    }
    fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        ENCODER.token_bytes(id)
    }
    fn spelling(&self, id: u32) -> Option<&[u8]> {
        ENCODER.spelling(id)
    }
    fn boundary_splits(&self) -> BTreeMap<u32, Vec<u32>> {
        BTreeMap::new()
    }
}

#[test]
fn a_tokenizer_that_loses_text_is_refused() {
    let corpus = corpus(1000, 0.0);
    let encode =
        |wrong: Wrong| Tokenization::new(&wrong, &corpus).document(&document(1, "abc"), &source(Role::Train, 0.0));
    assert!(matches!(encode(Wrong(|_| vec![97, 99])), Err(Error::Lossy { text_bytes: 3, token_bytes: 2, .. })));
    assert!(matches!(encode(Wrong(|_| Vec::new())), Err(Error::Lossy { token_bytes: 0, .. })));
    assert!(matches!(encode(Wrong(|_| vec![EOS])), Err(Error::Lossy { token_bytes: 0, .. })));
    assert!(matches!(encode(Wrong(|_| vec![97, 98, 5000])), Err(Error::TokenOutOfRange { id: 5000, .. })));
    assert!(encode(Wrong(|_| vec![97, 98, 99])).is_ok());
    let trusted = |wrong: Wrong| {
        Tokenization::new(&wrong, &corpus)
            .document(&document(1, "a<eos>"), &trusted(Role::Train))
            .map(|tokens| tokens.ids)
    };
    assert!(matches!(trusted(Wrong(|_| vec![97])), Err(Error::Lossy { text_bytes: 6, token_bytes: 1, .. })));
    assert!(matches!(trusted(Wrong(|_| vec![EOS])), Err(Error::Lossy { token_bytes: 5, .. })));
    assert!(matches!(trusted(Wrong(|_| vec![97, FIM.begin])), Err(Error::Lossy { token_bytes: 8, .. })));
    assert_eq!(trusted(Wrong(|_| vec![97, EOS])).unwrap(), [97, EOS]);
}

#[test]
fn the_text_alone_decides_what_is_held_out() {
    let texts: Vec<String> = (0..20_000).map(|i| format!("document {i}")).collect();
    let count = |fraction| texts.iter().filter(|text| held_out(text, fraction)).count();
    assert_eq!((count(0.0), count(0.5 - 0.5)), (0, 0));
    // 2,000 with a standard deviation of 42.
    assert!((1800..2200).contains(&count(0.1)));
    assert!(texts.iter().all(|text| !held_out(text, 0.1) || held_out(text, 0.2)), "the split only grows");
    // Ids, and so sources and positions, play no part.
    let corpus = corpus(1000, 0.0);
    let tokenization = Tokenization::new(&ENCODER, &corpus);
    let side = |id, text| tokenization.document(&document(id, text), &source(Role::Split, 0.0)).unwrap().held_out;
    assert!(texts.iter().all(|text| side(1, text) == side(2, text)));
}
