//! What the integration tests share.

use tensor::Rng;
use tokenizer::Tokenizer;

/// The text on which the tiny tokenizer of `testdata` was trained.
pub(crate) const CORPUS: &str = include_str!("../../testdata/corpus.txt");

/// The tiny tokenizer of `testdata`.
pub(crate) fn tiny() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!("../../testdata/tiny/tokenizer.json")).expect("the fixture is valid")
}

/// The corpus in paragraphs, as documents.
pub(crate) fn documents() -> Vec<&'static str> {
    CORPUS.split_inclusive("\n\n").collect()
}

/// A random string over scripts, digits, white space, marks, emoji and the texts of control tokens.
pub(crate) fn random_text(index: u64) -> String {
    let alphabets: [&[&str]; 8] = [
        &["a", "b", "Z", "the", "ing", "é", "ß", "Ж", "ع", "ก", "ि", "न"],
        &["0", "1", "2", "9", "١", "²", "½", "Ⅷ"],
        &[" ", " ", "  ", "\t", "\u{a0}", "\u{3000}", "\u{2028}"],
        &["\n", "\r\n", "\n\n", "\r", "\u{b}", "\u{85}"],
        &[".", ",", "!", "'", "_", "$", "<", ">", "{", "+", "「", "。", "€", "^"],
        &["日", "本", "語", "カ", "タ", "ひ", "・", "゛", "龥", "龦", "한"],
        &["\u{301}", "\u{200d}", "👩", "🐙", "\u{fe0f}", "\0", "\u{e000}", "\u{fffd}"],
        &["<think>", "</think>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "<|EOT|>", "｜", "▁", "<｜"],
    ];
    let mut rng = Rng::new(7, "text", index);
    let length = rng.below(24);
    (0..length)
        .map(|_| {
            let alphabet = alphabets[rng.below(alphabets.len() as u64) as usize];
            alphabet[rng.below(alphabet.len() as u64) as usize]
        })
        .collect()
}
