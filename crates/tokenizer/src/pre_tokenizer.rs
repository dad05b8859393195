//! DeepSeek-V3's pre-tokenizer: three regular expressions, applied one after the other.
//!
//! Each cuts every piece so far into matches and the gaps between them and keeps both, so that a match never crosses an
//! earlier cut. Digits go first, in threes from the left; then runs of Han and kana; then everything else.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// The expressions, byte for byte as in the published `tokenizer.json`.
const SPLITS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+",
        "| ?[\\p{P}\\p{S}]+[\r\n]*",
        "|\\s*[\r\n]+",
        r"|\s+(?!\S)",
        r"|\s+"
    ),
];

/// The `pre_tokenizer` of a `tokenizer.json`: the three splits and the step that writes bytes in the byte alphabet.
pub(crate) fn deepseek_json() -> Value {
    let mut steps: Vec<Value> = SPLITS.iter().map(|pattern| split_json(pattern)).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The pieces of `text` between which no token ever spans. They concatenate to `text`.
pub fn split(text: &str) -> Vec<&str> {
    static STEPS: LazyLock<PreTokenizerWrapper> = LazyLock::new(|| {
        let steps: Vec<Value> = SPLITS.iter().map(|pattern| split_json(pattern)).collect();
        serde_json::from_value(json!({"type": "Sequence", "pretokenizers": steps}))
            .expect("the three expressions are valid")
    });
    let mut pieces = PreTokenizedString::from(text);
    STEPS.pre_tokenize(&mut pieces).expect("a split by a regular expression does not fail");
    pieces
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .map(|(_, (start, end), _)| &text[start..end])
        .collect()
}

fn split_json(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}
