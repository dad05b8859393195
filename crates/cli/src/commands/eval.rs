//! How well a model predicts real text: bits per byte.

use std::f64::consts::LN_2;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use data::Source;
use data::read::{Documents, list};
use model::{Batch, IGNORE, Precision};
use serde::Serialize;
use serde_json::json;
use tensor::Ctx;
use tokenizer::Role;

use super::status::Status;
use crate::args::{Compute, Eval};
use crate::failure::Usage;
use crate::load::{self, Loaded};

/// Tokens of a batch of windows: enough rows for the experts, little memory.
const BATCH: usize = 4096;

/// A part of a document: what the model sees, and what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    tokens: Vec<u32>,
    /// The token after each, or [`IGNORE`] where the window before has scored it.
    labels: Vec<u32>,
}

/// Sums over texts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Score {
    documents: u64,
    bytes: u64,
    tokens: u64,
    nats: f64,
}

pub(crate) fn run(ctx: &Ctx, args: &Eval) -> Result<ExitCode> {
    let stride = args.stride.unwrap_or(args.context.div_ceil(2));
    if args.context == 0 || stride == 0 || stride > args.context {
        let message =
            format!("--context {} and --stride {stride}: they are 1 at least, the stride no longer", args.context);
        return Err(Usage(message).into());
    }
    let loaded = load::everything(&args.model, Compute { dtype: args.dtype, ..Compute::default() })?;
    let limit = loaded.model.config.max_position_embeddings;
    if args.context > limit {
        return Err(Usage(format!("--context {}: the model has {limit} positions", args.context)).into());
    }

    let mut status = Status::new();
    let (mut total, mut files) = (Score::default(), Vec::new());
    for path in &args.text {
        let before = total;
        let mut score = Score::default();
        let mut waiting = Vec::new();
        for document in documents(path, &args.text_key)? {
            let text = document?.text;
            let stream = with_start(&loaded, &text)?;
            score.documents += 1;
            score.bytes += text.len() as u64;
            waiting.extend(windows(&stream, args.context, stride));
            while waiting.len() * args.context >= BATCH.max(args.context) {
                let rows = (BATCH / args.context).max(1);
                score.add(ctx, &loaded, &waiting.drain(..rows).collect::<Vec<_>>());
                status.show(|| {
                    format!("{} tokens  {:.4} bits per byte", before.tokens + score.tokens, score.bits_per_byte())
                });
            }
        }
        if !waiting.is_empty() {
            score.add(ctx, &loaded, &waiting);
        }
        total.documents += score.documents;
        total.bytes += score.bytes;
        total.tokens += score.tokens;
        total.nats += score.nats;
        files.push((path, score));
    }
    drop(status);
    if total.bytes == 0 {
        return Err(Usage("--text: there is no text in these files".into()).into());
    }

    let precision = match loaded.model.params.precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    if args.json {
        let files: Vec<_> = files.iter().map(|(path, score)| report(score, Some(path))).collect();
        let mut all = report(&total, None);
        all["context"] = args.context.into();
        all["stride"] = stride.into();
        all["precision"] = precision.into();
        all["files"] = files.into();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    let line = |name: &str, score: &Score| {
        let Score { bytes, tokens, .. } = score;
        println!(
            "{:.4} bits per byte  {:.4} nats a token  {bytes} bytes  {tokens} tokens  {name}",
            score.bits_per_byte(),
            score.nats / *tokens as f64
        );
    };
    for (path, score) in files.iter().filter(|_| files.len() > 1) {
        line(&path.display().to_string(), score);
    }
    line(&format!("windows of {} by {stride}, {precision}", args.context), &total);
    Ok(ExitCode::SUCCESS)
}

impl Score {
    /// Scores `windows` as one batch.
    fn add(&mut self, ctx: &Ctx, loaded: &Loaded, windows: &[Window]) {
        let seq_len = windows.iter().map(|w| w.tokens.len()).max().expect("a batch has windows");
        // What stands behind the end of a shorter window is seen by nothing in it.
        let padded = |values: &[u32], filler| {
            values.iter().copied().chain(std::iter::repeat(filler)).take(seq_len).collect::<Vec<u32>>()
        };
        let tokens: Vec<u32> = windows.iter().flat_map(|w| padded(&w.tokens, 0)).collect();
        let labels: Vec<u32> = windows.iter().flat_map(|w| padded(&w.labels, IGNORE)).collect();
        let losses = loaded.model.losses(ctx, Batch { tokens: &tokens, labels: &labels, seq_len });
        self.nats += losses.iter().map(|&x| f64::from(x)).sum::<f64>();
        self.tokens += labels.iter().filter(|&&label| label != IGNORE).count() as u64;
    }

    fn bits_per_byte(&self) -> f64 {
        self.nats / LN_2 / self.bytes as f64
    }
}

/// The documents of one file.
fn documents(path: &Path, text_key: &str) -> Result<Documents> {
    let Some(name) = path.to_str() else { return Err(Usage(format!("{}: not UTF-8", path.display())).into()) };
    let source = Source { text_key: text_key.to_owned(), ..Source::new("text", &[name]) };
    Ok(Documents::new(&source, list(&source)?))
}

/// The tokens of `text` behind the one that its first token is predicted from: BOS where completions begin with it, else
/// the EOS that ends the document before.
fn with_start(loaded: &Loaded, text: &str) -> Result<Vec<u32>> {
    let role = if loaded.tokenizer_config.add_bos_token == Some(true) { Role::Bos } else { Role::Eos };
    let mut stream = vec![loaded.tokenizer.require(role)?];
    stream.extend(loaded.tokenizer.encode_untrusted(text));
    Ok(stream)
}

/// Cuts `stream` into windows that begin every `stride` tokens, so that each token but the first is asked for once: in the
/// first window all, in the others those that are new, which see `context - stride` tokens at least.
fn windows(stream: &[u32], context: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut scored = 1;
    for start in (0..stream.len()).step_by(stride) {
        if scored == stream.len() {
            break;
        }
        let end = stream.len().min(start + context + 1);
        let tokens = stream[start..end - 1].to_vec();
        let labels = (start + 1..end).map(|i| if i < scored { IGNORE } else { stream[i] }).collect();
        windows.push(Window { tokens, labels });
        scored = end;
    }
    windows
}

fn report(score: &Score, path: Option<&Path>) -> serde_json::Value {
    let mut report = json!(score);
    report["bits_per_byte"] = score.bits_per_byte().into();
    report["nats_per_token"] = (score.nats / score.tokens as f64).into();
    if let Some(path) = path {
        report["file"] = path.display().to_string().into();
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_asked_for_once_and_sees_what_it_should() {
        for len in 1..40 {
            let stream: Vec<u32> = (100..100 + len).collect();
            for (context, stride) in [(1, 1), (5, 1), (5, 2), (5, 5), (8, 3), (64, 32)] {
                let mut asked = Vec::new();
                for (i, w) in windows(&stream, context, stride).iter().enumerate() {
                    assert!(w.tokens.len() == w.labels.len() && w.tokens.len() <= context);
                    assert_eq!(w.tokens[0], 100 + (i * stride) as u32);
                    for (at, (token, label)) in w.tokens.iter().zip(&w.labels).enumerate() {
                        if *label != IGNORE {
                            assert_eq!(*label, token + 1);
                            asked.push(*label);
                            // What it sees: at + 1 tokens.
                            assert!(i == 0 || at + 1 > context - stride, "{len} {context} {stride}");
                        }
                    }
                }
                assert_eq!(asked, stream[1..], "{len} {context} {stride}");
            }
        }
    }
}
