//! A model that is being served: its engine, its tokenizer, its chat format.

use std::sync::Arc;

use engine::{Constraints, DiskCache, DiskError, DiskOptions, Handle, Limits, Sampling};
use grammar::{Grammar, Grammars};
use model::{BLOCK_TOKENS, Model};
use serde_json::json;
use tensor::Ctx;
use tokenizer::{ChatFormat, ChatOptions, ChatTemplate, Message, Start, Tokenizer};

use crate::error::ApiError;
use crate::versions::LoadError;

/// What a model directory holds, in memory.
pub struct Parts {
    /// The weights.
    pub model: Model,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Conversations to text.
    pub template: ChatTemplate,
    /// Whether a plain completion begins with BOS.
    pub add_bos: bool,
    /// How tokens are drawn where a request does not say: generation_config.json, over the published defaults.
    pub defaults: Sampling,
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
    /// SHA-256 of what decides the model's answers.
    pub identity: [u8; 32],
    /// The same with the times of its files: what of it is kept on disk is found again only if nobody has touched them.
    pub latents_identity: [u8; 32],
}

/// A model in service.
pub(crate) struct Served {
    /// The version's number; 1 for a plain model directory.
    pub(crate) version: u64,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) format: ChatFormat,
    /// Whether the template prints the definitions of `tools`, and asks for `thinking`.
    pub(crate) prints_tools: bool,
    pub(crate) asks_thinking: bool,
    /// Whether the template prints the reasoning of earlier turns.
    pub(crate) prints_reasoning: bool,
    /// Whether it thinks before it answers a user, by itself or when it is asked to.
    pub(crate) thinks: bool,
    pub(crate) add_bos: bool,
    pub(crate) defaults: Sampling,
    pub(crate) stop: Vec<u32>,
    /// The longest context that is served.
    pub(crate) max_model_len: usize,
    /// Bytes of the longest token: text that is longer than all tokens of a context can be need not be tokenised.
    longest_token: usize,
    pub(crate) fingerprint: String,
    grammars: Grammars,
    pub(crate) engine: Handle,
    /// Seconds since 1970 when it was loaded.
    pub(crate) created: u64,
}

/// What an answer is held to.
pub(crate) struct Held {
    /// The field of the request that asks for it.
    pub(crate) param: &'static str,
    pub(crate) grammar: Grammar,
    /// Whether an answer is free until it begins to call something, which it need not do.
    pub(crate) from_calls: bool,
}

impl Served {
    /// Starts an engine for `parts`.
    pub(crate) fn start(
        ctx: Ctx,
        parts: Parts,
        version: u64,
        limits: Limits,
        max_model_len: Option<usize>,
        disk: Option<DiskOptions>,
    ) -> Result<Self, LoadError> {
        let Parts { model, tokenizer, template, add_bos, defaults, stop, identity, latents_identity: _ } = parts;
        let longest = model.config.max_position_embeddings;
        // A context that the memory for latents cannot hold would be refused when it is needed most.
        let held = limits.blocks(&model).saturating_mul(BLOCK_TOKENS);
        let max_model_len = max_model_len.unwrap_or(longest).min(longest).min(held);
        if held < longest {
            tracing::warn!(
                "the memory for latents (--kv-memory) holds {held} tokens, the model's context is {longest}"
            );
        }
        if max_model_len == 0 {
            let message = "the memory for latents does not hold a block of them; --kv-memory gives it more";
            return Err(LoadError(message.to_owned()));
        }
        let longest_token = (0..tokenizer.vocab_size() as u32)
            .filter_map(|id| tokenizer.token_bytes(id))
            .map(<[u8]>::len)
            .max()
            .unwrap_or(1);
        let hex = format!("{:08x}", u32::from_be_bytes(identity[..4].try_into().expect("four bytes")));
        let grammars = Grammars::new(&tokenizer, model.config.vocab_size)
            .map_err(|error| LoadError(format!("preparing grammars for the vocabulary: {error}")))?;
        let model = Arc::new(model);
        let disk = disk.map(|options| DiskCache::open(options, &model).map(Arc::new)).transpose().map_err(|error| {
            let flag = match error {
                DiskError::Quota { .. } => " (--kv-disk-quota)",
                _ => " (--kv-disk)",
            };
            LoadError(in_full(&error) + flag)
        })?;
        let engine = Handle::start_with(ctx, model, limits, disk)
            .map_err(|error| LoadError(format!("starting the engine: {error}")))?;
        let (prints_tools, asks_thinking) = (prints_tools(&template), asks_thinking(&template));
        let prints_reasoning = prints_reasoning(&template);
        let thinks = thinks(&template, &tokenizer);
        Ok(Self {
            version,
            format: format_of(&template),
            prints_tools,
            asks_thinking,
            prints_reasoning,
            thinks,
            tokenizer,
            template,
            add_bos,
            defaults,
            stop,
            max_model_len,
            longest_token,
            fingerprint: format!("hadal-{}-{hex}", env!("CARGO_PKG_VERSION")),
            grammars,
            engine,
            created: crate::clock::unix_seconds(),
        })
    }

    /// How evenly the experts of each layer are used; nothing where there are none.
    pub(crate) fn balancedness(&self) -> Vec<Option<f64>> {
        engine::balancedness(self.engine.model())
    }

    /// The most bytes that the tokens of a context can hold.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_model_len.saturating_mul(self.longest_token)
    }

    /// Refuses text that cannot fit the context, before anybody takes the time to tokenise it.
    pub(crate) fn check_bytes(&self, bytes: usize, param: &str) -> Result<(), ApiError> {
        if bytes <= self.max_bytes() { Ok(()) } else { Err(self.too_long(bytes, param)) }
    }

    /// What is said of such a text.
    pub(crate) fn too_long(&self, bytes: usize, param: &str) -> ApiError {
        let message = format!(
            "the prompt is too long: {param} has {bytes} bytes, which no {} tokens can hold; this model's context is {} tokens",
            self.max_model_len, self.max_model_len
        );
        ApiError::field("context_length_exceeded", param, message)
    }

    /// How many tokens an answer may have after a prompt of `prompt` tokens, of `asked` ones. The fields of both have names.
    pub(crate) fn max_tokens(
        &self,
        prompt: usize,
        asked: Option<u64>,
        [prompt_field, param]: [&str; 2],
    ) -> Result<usize, ApiError> {
        let limit = self.max_model_len;
        if prompt > limit || (prompt == limit && asked != Some(0)) {
            let message = format!(
                "this model's context is {limit} tokens, and the prompt alone has {prompt}; shorten it so that an answer fits"
            );
            return Err(ApiError::field("context_length_exceeded", prompt_field, message));
        }
        let room = limit - prompt;
        match asked {
            Some(asked) if asked > room as u64 => {
                let message = format!(
                    "this model's context is {limit} tokens; the prompt has {prompt} and {param} asks for {asked} more; shorten \
                     the prompt or ask for at most {room}"
                );
                Err(ApiError::field("context_length_exceeded", param, message))
            }
            Some(asked) => Ok(asked as usize),
            None => Ok(room),
        }
    }

    /// What holds an answer to a grammar. Reasoning is free: the grammar begins behind it. May take a while.
    pub(crate) fn constraints(&self, held: Option<Held>, start: Start) -> Result<Option<Constraints>, ApiError> {
        let Some(Held { param, grammar, from_calls }) = held else { return Ok(None) };
        let compiled = self.grammars.compile(&grammar);
        let compiled = compiled.map_err(|error| ApiError::field("invalid_grammar", param, error.to_string()))?;
        let after = self.tokenizer.special_tokens().think_end.filter(|_| start == Start::Reasoning);
        Ok(Some(if from_calls { compiled.constraints_of_calls(after) } else { compiled.constraints(after) }))
    }

    /// Whether a prompt leaves the model inside of its reasoning.
    pub(crate) fn opens_reasoning(&self, prompt: &[u32]) -> bool {
        opens_reasoning(&self.tokenizer, prompt)
    }
}

fn opens_reasoning(tokenizer: &Tokenizer, prompt: &[u32]) -> bool {
    let special = tokenizer.special_tokens();
    let last = prompt.iter().rposition(|&id| Some(id) == special.think_begin || Some(id) == special.think_end);
    let turn = prompt.iter().rposition(|&id| Some(id) == special.assistant);
    last.is_some_and(|at| Some(prompt[at]) == special.think_begin && turn.is_none_or(|turn| turn < at))
}

/// An error with its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The published format whose template prints what this one prints. One that prints something else is taken for V3 or
/// V3.1, by how it writes tool calls.
fn format_of(template: &ChatTemplate) -> ChatFormat {
    let call = json!({ "id": "c0", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let calls = Message { tool_calls: vec![call], ..Message::new("assistant", "") };
    let conversations = [
        vec![Message::new("system", "s"), Message::new("user", "u")],
        vec![Message::new("user", "u"), Message::new("assistant", "a"), Message::new("user", "v")],
        vec![Message::new("user", "u"), calls, Message::new("tool", "t")],
        // Here V3 and its revision of March differ: who prints what opens an answer.
        vec![Message::new("user", "u"), Message::new("user", "v")],
    ];
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    // A generation prompt may or may not begin a line after `<think>`: one revision of R1 does, another does not.
    let prints = |template: &ChatTemplate| {
        conversations
            .each_ref()
            .map(|messages| template.render(messages, &options).ok().map(|text| text.trim_end().to_owned()))
    };
    let printed = prints(template);
    let agrees = |format: ChatFormat| {
        let published = prints(&ChatTemplate::builtin(format));
        published.iter().zip(&printed).filter(|(a, b)| a.is_some() && a == b).count()
    };
    let best = ChatFormat::ALL.into_iter().max_by_key(|&format| (agrees(format), std::cmp::Reverse(format)));
    match best {
        Some(format) if agrees(format) > 0 => format,
        _ if printed[2].as_ref().is_some_and(|text| text.contains("```json")) => ChatFormat::V3,
        _ => ChatFormat::V31,
    }
}

fn prints_tools(template: &ChatTemplate) -> bool {
    let name = "probe_of_tools";
    let tool = json!([{ "type": "function", "function": { "name": name, "description": "", "parameters": {} } }]);
    let mut options = ChatOptions::default();
    options.variables.insert("tools".to_owned(), tool);
    template.render(&[Message::new("user", "u")], &options).is_ok_and(|text| text.contains(name))
}

fn asks_thinking(template: &ChatTemplate) -> bool {
    let print = |thinking: bool| {
        let mut options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        options.variables.insert("thinking".to_owned(), thinking.into());
        template.render(&[Message::new("user", "u")], &options).ok()
    };
    print(true) != print(false)
}

fn prints_reasoning(template: &ChatTemplate) -> bool {
    let thought = "probe_of_reasoning";
    let mut answer = Message::new("assistant", "a");
    answer.extra.insert("reasoning_content".to_owned(), thought.into());
    let conversation = [Message::new("user", "u"), answer, Message::new("user", "v")];
    template.render(&conversation, &ChatOptions::default()).is_ok_and(|text| text.contains(thought))
}

fn thinks(template: &ChatTemplate, tokenizer: &Tokenizer) -> bool {
    let mut options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    options.variables.insert("thinking".to_owned(), true.into());
    let prompt = template.encode(tokenizer, &[Message::new("user", "u")], &options);
    prompt.is_ok_and(|prompt| opens_reasoning(tokenizer, &prompt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_what_they_print() {
        for format in ChatFormat::ALL {
            let template = ChatTemplate::builtin(format);
            assert_eq!(format_of(&template), format);
            assert_eq!(prints_tools(&template), format == ChatFormat::V31);
            assert_eq!(asks_thinking(&template), format == ChatFormat::V31);
            assert!(!prints_reasoning(&template));
        }
        let source = "{% for m in messages %}{{ m.reasoning_content }}{{ m.content }}{% endfor %}".to_owned();
        let other = ChatTemplate::new(vec![("default".to_owned(), source)], String::new(), String::new()).unwrap();
        assert!(prints_reasoning(&other));
    }
}
