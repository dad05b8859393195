//! The corpus that the program makes itself, and a tokenizer trained on it.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use data::synth::{Corpus, Doc, Mix, digits_apart, real_documents};
use serde_json::json;
use tokenizer::{ChatFormat, ChatTemplate, Message, Role, TrainOptions};

/// Ids of the tokenizer, control tokens included.
pub(super) const VOCAB_SIZE: usize = 1024;
/// Where the tokenizer's texts end: the registers repeat themselves long before.
const TOKENIZER_DOCUMENTS: u64 = 10_000;
/// The longest piece of real text, in bytes: about two rows.
const REAL_DOCUMENT_BYTES: usize = 600;
/// Tokens in a byte of the registers' text, at the least: they are mostly digits and single letters.
const TOKENS_PER_BYTE: f64 = 0.32;

/// The project's own documents and source: real text.
const REAL: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../../../README.md")),
    ("ARCHITECTURE.md", include_str!("../../../../../ARCHITECTURE.md")),
    ("CONTRIBUTING.md", include_str!("../../../../../CONTRIBUTING.md")),
    ("DESIGN.md", include_str!("../../../../../DESIGN.md")),
    ("gemm/README.md", include_str!("../../../../ops/src/gemm/README.md")),
    ("mla_attention/README.md", include_str!("../../../../ops/src/mla_attention/README.md")),
    ("rms_norm/README.md", include_str!("../../../../ops/src/rms_norm/README.md")),
    ("router/README.md", include_str!("../../../../ops/src/router/README.md")),
    ("mla.rs", include_str!("../../../../model/src/attention/mla.rs")),
    ("moe.rs", include_str!("../../../../model/src/ffn/moe.rs")),
    ("block.rs", include_str!("../../../../model/src/block.rs")),
    ("mtp.rs", include_str!("../../../../model/src/mtp.rs")),
    ("model.rs", include_str!("../../../../model/src/model.rs")),
    ("pretrain.rs", include_str!("../../../../train/src/pretrain.rs")),
    ("step.rs", include_str!("../../../../train/src/step.rs")),
];

/// Writes `out/corpus` (registers for about `tokens` tokens, and the real text) and `out/tokenizer`.
pub(super) fn make(out: &Path, seed: u64, tokens: u64) -> Result<()> {
    let corpus = Corpus::new(seed, Mix::default());
    let real: Vec<Doc> = REAL.iter().flat_map(|(name, text)| real_documents(name, text, REAL_DOCUMENT_BYTES)).collect();

    let texts = (0..TOKENIZER_DOCUMENTS).map(|i| corpus.doc(i)).chain(real.iter().cloned()).map(|doc| plain(&doc));
    let options = TrainOptions { vocab_size: VOCAB_SIZE, min_frequency: 2 };
    // Digits apart: numbers are then read digit by digit, which is what makes sums learnable (`data::synth`).
    let trained = tokenizer::train(texts.map(|text| digits_apart(&text)), options)?;
    let home = out.join("tokenizer");
    fs_err::create_dir_all(&home)?;
    tokenizer::write_model_files(&home, &trained, ChatFormat::V3, 4096, true)?;

    let folder = out.join("corpus");
    fs_err::create_dir_all(&folder)?;
    let template = ChatTemplate::builtin(ChatFormat::V3);
    let mut file = std::io::BufWriter::new(fs_err::File::create(folder.join("registers.jsonl"))?);
    let mut bytes = 0;
    for doc in corpus.iter_from(0) {
        if bytes as f64 * TOKENS_PER_BYTE > tokens as f64 {
            break;
        }
        bytes += write(&mut file, &doc, &template)?;
    }
    file.flush()?;
    let mut file = std::io::BufWriter::new(fs_err::File::create(folder.join("project.jsonl"))?);
    for doc in &real {
        write(&mut file, doc, &template)?;
    }
    file.flush()?;
    Ok(())
}

/// One line of JSONL; returns the bytes of the text.
fn write(file: &mut impl Write, doc: &Doc, template: &ChatTemplate) -> Result<usize> {
    let text = match doc {
        Doc::Document { text } => format!("{}{text}", Role::Bos.text()),
        Doc::Dialogue { turns } => {
            let messages: Vec<Message> = turns
                .iter()
                .flat_map(|(user, assistant)| [Message::new("user", user), Message::new("assistant", assistant)])
                .collect();
            let text = template.render(&messages, &tokenizer::ChatOptions::default())?;
            // Tokenisation ends every document with an EOS of its own.
            text.strip_suffix(Role::Eos.text()).unwrap_or(&text).to_owned()
        }
    };
    writeln!(file, "{}", json!({ "text": text }))?;
    Ok(text.len())
}

/// The words of a document without control tokens.
fn plain(doc: &Doc) -> String {
    match doc {
        Doc::Document { text } => text.clone(),
        Doc::Dialogue { turns } => {
            let lines: Vec<&str> = turns.iter().flat_map(|(user, assistant)| [user.as_str(), assistant]).collect();
            lines.join("\n")
        }
    }
}
