//! `/v1/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::response::sse::Event;
use engine::Logprobs;
use serde::Serialize;
use serde_json::{Value, json};
use tokenizer::{Role, Start};

use crate::answer::{Ask, Outcome, Whole, deadline};
use crate::app::{App, salt};
use crate::assemble::{Delta, Reading};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::keys::Caller;
use crate::openai::chat::{Response, described, stream_options, usage};
use crate::openai::logprobs::Listed;
use crate::openai::sampling::{Drawing, MAX_CHOICES, MAX_LOGPROBS, token};
use crate::openai::shape;
use crate::openai::stream::{done, progress};
use crate::record::Described;
use crate::served::{Held, Served};
use crate::stream::{Frames, event};

/// Prompts of one request.
const MAX_PROMPTS: usize = 128;
/// Answers of one request, to all its prompts.
const MAX_ANSWERS: usize = 256;

/// A request, read.
pub(crate) struct Completions {
    pub(crate) asks: Vec<Ask>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) described: Described,
    pub(crate) form: Form,
}

/// What its response looks like.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Answers to each prompt that are shown, of those that are drawn.
    pub(crate) n: usize,
    pub(crate) drawn: usize,
    pub(crate) with_logprobs: bool,
    /// The prompts, if they are to stand before their answers.
    echo: Option<Vec<Vec<u32>>>,
}

/// Reads a body and makes its prompts. May take a while for long ones.
pub(crate) fn read(app: &App, served: &Served, caller: &Caller, mut fields: Fields) -> Result<Completions, ApiError> {
    let prompt = fields.any("prompt");
    let suffix = fields.string("suffix")?;
    let prompts = prompts(prompt, suffix.as_deref(), served)?;
    let format = shape::read(&mut fields)?;
    let drawing = Drawing::read(&mut fields, served)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let include_usage = stream_options(&mut fields, stream)?;
    let logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|n| n as usize);
    let echo = fields.boolean("echo")?.unwrap_or(false);
    let asked = fields.integer("max_tokens", 0..=u64::from(u32::MAX))?;
    let drawn = best_of(&mut fields, drawing.n, stream)?;
    let described = described(&mut fields)?;
    fields.end()?;
    drawing.check_stream(stream)?;
    if prompts.len() * drawn > MAX_ANSWERS {
        let message = format!(
            "{} prompts with {drawn} answers each are {} answers, and a request may ask for {MAX_ANSWERS}",
            prompts.len(),
            prompts.len() * drawn
        );
        return Err(ApiError::field("too_many_entries", "prompt", message));
    }
    if echo && stream && logprobs.is_some() {
        let message = "echo with logprobs is not streamed; ask for the whole answer";
        return Err(ApiError::field("unsupported_parameter", "echo", message));
    }
    let constraint = served.constraints(
        format.map(|grammar| Held { param: "response_format", grammar, from_calls: false }),
        Start::Answer,
    )?;
    // Candidates are compared by their probabilities.
    let of_answers = if drawn > drawing.n { logprobs.or(Some(0)) } else { logprobs };
    let asks = prompts
        .iter()
        .map(|prompt| {
            let room = served.max_tokens(prompt.len(), asked, ["prompt", "max_tokens"])?;
            // Published: sixteen, if nothing is asked for.
            let max_tokens = if asked.is_some() { room } else { room.min(16) };
            Ok(Ask {
                prompt: prompt.clone(),
                answers: drawn,
                seed: drawing.seed.unwrap_or_else(|| app.next_seed()),
                max_tokens,
                logprobs: of_answers,
                prompt_logprobs: logprobs.filter(|_| echo),
                constraint: constraint.clone(),
                reading: Reading::Text,
                salt: salt(caller, drawing.salt.as_deref()),
                deadline: deadline(app.options.request_timeout),
                drawing: drawing.clone(),
            })
        })
        .collect::<Result<_, ApiError>>()?;
    let form = Form { n: drawing.n, drawn, with_logprobs: logprobs.is_some(), echo: echo.then_some(prompts) };
    Ok(Completions { asks, stream, include_usage, described, form })
}

fn best_of(fields: &mut Fields, n: usize, stream: bool) -> Result<usize, ApiError> {
    let Some(best_of) = fields.integer("best_of", 1..=MAX_CHOICES)? else { return Ok(n) };
    let best_of = best_of as usize;
    if best_of < n {
        let message = format!("best_of is {best_of}, but must be at least n, which is {n}");
        return Err(ApiError::field("invalid_value", "best_of", message));
    }
    if best_of > n && stream {
        let message = "the best of several answers is known at their end and cannot be streamed";
        return Err(ApiError::field("invalid_value", "best_of", message));
    }
    Ok(best_of)
}

/// A text, tokens, or a list of either.
fn prompts(value: Option<Value>, suffix: Option<&str>, served: &Served) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong = || {
        let message = "prompt must be a text, a list of texts, a list of token ids, or a list of such lists";
        ApiError::field("invalid_type", "prompt", message)
    };
    let text = |text: &str| match suffix {
        Some(suffix) => fill_in(served, text, suffix),
        None => encode(served, text),
    };
    let ids = |list: &[Value]| list.iter().map(|id| token(id, served, "prompt")).collect::<Result<Vec<u32>, _>>();
    let prompts: Vec<Vec<u32>> =
        match value.ok_or_else(|| ApiError::field("missing_field", "prompt", "prompt is missing"))? {
            Value::String(prompt) => vec![text(&prompt)?],
            Value::Array(list) if list.is_empty() => {
                return Err(ApiError::field("empty_prompt", "prompt", "prompt is an empty list"));
            }
            Value::Array(list) if list[0].is_number() => vec![ids(&list)?],
            Value::Array(list) => {
                if list.len() > MAX_PROMPTS {
                    let message = format!("prompt has {} entries, and may have {MAX_PROMPTS}", list.len());
                    return Err(ApiError::field("too_many_entries", "prompt", message));
                }
                let one = |entry: &Value| match entry {
                    Value::String(prompt) => text(prompt),
                    Value::Array(list) => ids(list),
                    _ => Err(wrong()),
                };
                list.iter().map(one).collect::<Result<_, _>>()?
            }
            _ => return Err(wrong()),
        };
    if let Some(i) = prompts.iter().position(Vec::is_empty) {
        let message = format!("prompt {i} has no tokens; there is nothing to continue");
        return Err(ApiError::field("empty_prompt", "prompt", message));
    }
    Ok(prompts)
}

/// A prompt's ids, behind BOS where the model's tokenizer is configured so.
fn encode(served: &Served, text: &str) -> Result<Vec<u32>, ApiError> {
    served.check_bytes(text.len(), "prompt")?;
    let mut ids = if served.add_bos { served.tokenizer.special_tokens().bos.into_iter().collect() } else { Vec::new() };
    ids.extend(served.tokenizer.encode_untrusted(text));
    Ok(ids)
}

/// A prompt with a hole to fill, as the published models were trained to: what precedes it, the hole, what follows.
fn fill_in(served: &Served, prefix: &str, suffix: &str) -> Result<Vec<u32>, ApiError> {
    let missing = || {
        let message =
            "this model's vocabulary has no tokens for filling in, so suffix cannot be honoured; leave it out";
        ApiError::field("unsupported_parameter", "suffix", message)
    };
    served.check_bytes(prefix.len(), "prompt")?;
    served.check_bytes(suffix.len(), "suffix")?;
    let special = served.tokenizer.special_tokens();
    let id = |id: Option<u32>| id.ok_or_else(missing);
    let (begin, hole, end) = (id(special.fim_begin)?, id(special.fim_hole)?, id(special.fim_end)?);
    let mut ids = if served.add_bos { special.bos.into_iter().collect() } else { Vec::new() };
    ids.push(begin);
    ids.extend(served.tokenizer.encode_untrusted(prefix));
    ids.push(hole);
    ids.extend(served.tokenizer.encode_untrusted(suffix));
    ids.push(end);
    debug_assert_eq!(served.tokenizer.added_token_id(Role::FimHole.text()), Some(hole));
    Ok(ids)
}

/// The whole answers.
pub(crate) fn response<'a>(
    served: &'a Served,
    model: &'a str,
    id: &'a str,
    answers: &'a [Whole],
    form: &Form,
) -> impl Serialize + use<'a> {
    let mut choices = Vec::new();
    for (p, answers) in answers.chunks(form.drawn).enumerate() {
        let mut order: Vec<&Whole> = answers.iter().collect();
        if form.drawn > form.n {
            order.sort_by(|a, b| mean_logprob(b).total_cmp(&mean_logprob(a)));
        }
        for Whole { delta, outcome, .. } in order.into_iter().take(form.n) {
            let prompt = form.echo.as_ref().map(|prompts| prompts[p].as_slice());
            let mut text = prompt.map_or_else(String::new, |ids| served.tokenizer.decode(ids, true));
            text += &delta.content;
            let logprobs = form.with_logprobs.then(|| {
                let mut listed = Listed::at(served, 0);
                let of_prompt = std::iter::once(None).chain(answers[0].prompt.iter().map(Some));
                for (&id, logprobs) in prompt.unwrap_or_default().iter().zip(of_prompt) {
                    listed.push(id, logprobs.map(|l| l.of_token), logprobs.map_or(&[], |l| &l.top));
                }
                for token in &delta.tokens {
                    listed.push(token.id, Some(token.logprobs.of_token), &token.logprobs.top);
                }
                listed
            });
            choices.push(Choice { index: choices.len(), text, logprobs, finish_reason: outcome.finish.openai() });
        }
    }
    Response {
        id,
        object: "text_completion",
        created: crate::clock::unix_seconds(),
        model,
        system_fingerprint: &served.fingerprint,
        choices,
        usage: of_prompts(&answers.iter().map(|answer| answer.outcome).collect::<Vec<_>>(), form.drawn),
    }
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    text: String,
    logprobs: Option<Listed<'a>>,
    finish_reason: &'static str,
}

/// Per token, as published.
fn mean_logprob(answer: &Whole) -> f32 {
    let tokens = &answer.delta.tokens;
    tokens.iter().map(|token| token.logprobs.of_token).sum::<f32>() / tokens.len().max(1) as f32
}

/// Usage of several prompts: the sums.
fn of_prompts(outcomes: &[Outcome], drawn: usize) -> Value {
    let mut all = json!(null);
    for outcomes in outcomes.chunks(drawn) {
        let one = usage(outcomes);
        if all.is_null() {
            all = one;
            continue;
        }
        let add = |all: &mut Value, one: &Value| *all = (all.as_u64().unwrap_or(0) + one.as_u64().unwrap_or(0)).into();
        for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            add(&mut all[name], &one[name]);
        }
        add(&mut all["prompt_tokens_details"]["cached_tokens"], &one["prompt_tokens_details"]["cached_tokens"]);
    }
    all
}

/// A completion's chunks.
pub(crate) struct Chunks {
    pub(crate) served: Arc<Served>,
    pub(crate) model: String,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) include_usage: bool,
    pub(crate) form: Form,
    /// Characters of each answer so far.
    pub(crate) offsets: Vec<usize>,
    pub(crate) began: Instant,
}

impl Chunks {
    fn chunk(&self, choices: &Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.served.fingerprint,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl Frames for Chunks {
    fn begin(&mut self) -> Vec<Event> {
        let Some(prompts) = &self.form.echo else { return Vec::new() };
        let prompt = |i: usize| self.served.tokenizer.decode(&prompts[i / self.form.n], true);
        let choice = |i: usize| json!([{ "index": i, "text": prompt(i), "logprobs": null, "finish_reason": null }]);
        (0..self.offsets.len()).map(|i| event(&self.chunk(&choice(i)))).collect()
    }

    fn progress(&mut self, index: usize, done: usize, total: usize, cached: usize) -> Vec<Event> {
        if !index.is_multiple_of(self.form.n) {
            return Vec::new();
        }
        let mut chunk = self.chunk(&json!([]));
        chunk["prompt_progress"] = progress(self.began, done, total, cached);
        vec![event(&chunk)]
    }

    fn prompt(&mut self, _: usize, _: Vec<Logprobs>) -> Vec<Event> {
        Vec::new()
    }

    fn delta(&mut self, index: usize, delta: &Delta) -> Vec<Event> {
        let logprobs = self.form.with_logprobs.then(|| {
            let mut listed = Listed::at(&self.served, self.offsets[index]);
            for token in &delta.tokens {
                listed.push(token.id, Some(token.logprobs.of_token), &token.logprobs.top);
            }
            self.offsets[index] = listed.offset();
            listed
        });
        let choice = json!([{ "index": index, "text": delta.content, "logprobs": logprobs, "finish_reason": null }]);
        vec![event(&self.chunk(&choice))]
    }

    fn end(&mut self, index: usize, outcome: Outcome) -> Vec<Event> {
        let reason = outcome.finish.openai();
        vec![event(&self.chunk(&json!([{ "index": index, "text": "", "logprobs": null, "finish_reason": reason }])))]
    }

    fn finish(&mut self, outcomes: &[Outcome]) -> Vec<Event> {
        let mut events = Vec::new();
        if self.include_usage {
            let mut chunk = self.chunk(&json!([]));
            chunk["usage"] = of_prompts(outcomes, self.form.drawn);
            events.push(event(&chunk));
        }
        events.push(done());
        events
    }

    fn error(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event(&error.openai())]
    }
}
