use std::io::BufRead;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};
use tensor::Rng;

use crate::api::{CHAT, COMPLETIONS};
use crate::error::Error;

/// What is asked.
#[derive(Debug, Clone)]
pub enum Prompts {
    /// Token lists that mean nothing.
    Random(RandomTokens),
    /// Conversations from a file, again from the first one after the last.
    Dataset(Dataset),
}

/// Prompts of a fixed length, answered at a fixed length: `ignore_eos` is set, which OpenAI's own service does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomTokens {
    /// Tokens of a prompt.
    pub input_tokens: usize,
    /// The first of them are the same in all prompts.
    pub shared_prefix_tokens: usize,
    /// Tokens of an answer.
    pub output_tokens: u64,
    /// The ids that are drawn from.
    pub ids: Range<u32>,
}

/// Conversations, one a line.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Messages, and the most tokens of the answer if the line says so.
    lines: Vec<(Value, Option<u64>)>,
    /// The most tokens of every answer.
    output_tokens: Option<u64>,
}

impl Prompts {
    pub(super) fn check(&self) -> Result<(), Error> {
        let Self::Random(random) = self else { return Ok(()) };
        let RandomTokens { input_tokens, shared_prefix_tokens, output_tokens, ids } = random;
        let wrong = |text: String| Err(Error::Plan(text));
        if *input_tokens == 0 || *output_tokens == 0 {
            return wrong("prompts and answers have at least 1 token".to_owned());
        }
        if shared_prefix_tokens > input_tokens {
            return wrong(format!(
                "the shared prefix of {shared_prefix_tokens} tokens is longer than the prompts of {input_tokens}, which it \
                 is a part of"
            ));
        }
        if ids.is_empty() {
            return wrong(format!("there is no token id from {} to below {}", ids.start, ids.end));
        }
        Ok(())
    }

    /// The tokens that every answer should have, if that is known.
    pub(super) fn exact_output_tokens(&self) -> Option<u64> {
        match self {
            Self::Random(random) => Some(random.output_tokens),
            Self::Dataset(_) => None,
        }
    }

    /// Path and body of request `index` of the `purpose` (`"bench prompt"` or `"bench warmup"`), but for the model.
    pub(super) fn request(&self, seed: u64, purpose: &'static str, index: u64) -> (&'static str, Map<String, Value>) {
        let mut body = Map::new();
        let path = match self {
            Self::Random(random) => {
                body.insert("prompt".into(), random.tokens(seed, purpose, index).into());
                body.insert("max_tokens".into(), random.output_tokens.into());
                body.insert("ignore_eos".into(), true.into());
                // Drawing costs servers different amounts of work; this one is about the same for all.
                body.insert("temperature".into(), 0.into());
                COMPLETIONS
            }
            Self::Dataset(dataset) => {
                let (messages, max_tokens) = &dataset.lines[(index % dataset.lines.len() as u64) as usize];
                body.insert("messages".into(), messages.clone());
                if let Some(max_tokens) = dataset.output_tokens.or(*max_tokens) {
                    body.insert("max_tokens".into(), max_tokens.into());
                }
                CHAT
            }
        };
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({ "include_usage": true }));
        (path, body)
    }
}

impl RandomTokens {
    fn tokens(&self, seed: u64, purpose: &'static str, index: u64) -> Vec<u32> {
        let draw = |rng: &mut Rng| self.ids.start + rng.below(u64::from(self.ids.end - self.ids.start)) as u32;
        let mut shared = Rng::new(seed, "bench prefix", 0);
        let mut own = Rng::new(seed, purpose, index);
        let rest = self.input_tokens - self.shared_prefix_tokens;
        let shared = (0..self.shared_prefix_tokens).map(|_| draw(&mut shared));
        shared.chain((0..rest).map(|_| draw(&mut own))).collect()
    }
}

impl Dataset {
    /// Reads lines of `{"prompt": "text"}` or `{"messages": [..]}`, each perhaps with `max_tokens`; other keys are not
    /// looked at. `output_tokens` is put in the place of every `max_tokens`.
    ///
    /// # Errors
    /// The file cannot be read, has no line, or one that is not such an object.
    pub fn read(path: &Path, output_tokens: Option<u64>) -> Result<Self, Error> {
        let wrong = |line: u64, reason: String| Error::Line { path: path.to_owned(), line, reason };
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(std::io::BufReader::new(fs_err::File::open(path)?).lines()) {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let value: Value =
                serde_json::from_str(&line).map_err(|error| wrong(number, format!("no JSON: {error}")))?;
            let messages = match (&value["prompt"], &value["messages"]) {
                (Value::String(prompt), Value::Null) => json!([{ "role": "user", "content": prompt }]),
                (Value::Null, Value::Array(messages)) if !messages.is_empty() => value["messages"].clone(),
                _ => {
                    let reason = "a line has either \"prompt\", a text, or \"messages\", a list that is not empty";
                    return Err(wrong(number, reason.to_owned()));
                }
            };
            let max_tokens = match &value["max_tokens"] {
                Value::Null => None,
                number if number.as_u64().is_some_and(|n| n > 0) => number.as_u64(),
                other => return Err(wrong(number, format!("max_tokens is {other}, but must be a number from 1"))),
            };
            lines.push((messages, max_tokens));
        }
        if lines.is_empty() {
            return Err(wrong(1, "the file has no prompts".to_owned()));
        }
        Ok(Self { lines, output_tokens })
    }

    /// How many conversations there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(input_tokens: usize, shared_prefix_tokens: usize) -> RandomTokens {
        RandomTokens { input_tokens, shared_prefix_tokens, output_tokens: 4, ids: 10..20 }
    }

    #[test]
    fn prompts_share_their_prefix_and_nothing_else() {
        let random = random(40, 15);
        let prompts: Vec<Vec<u32>> = (0..4).map(|index| random.tokens(1, "bench prompt", index)).collect();
        for (i, prompt) in prompts.iter().enumerate() {
            assert_eq!(prompt.len(), 40);
            assert!(prompt.iter().all(|id| (10..20).contains(id)));
            assert_eq!(prompt[..15], prompts[0][..15]);
            assert!(prompts[..i].iter().all(|other| other[15..] != prompt[15..]));
        }
        assert_eq!(random.tokens(1, "bench prompt", 2), prompts[2]);
        assert_ne!(random.tokens(2, "bench prompt", 2)[..15], prompts[2][..15]);
        assert_ne!(random.tokens(1, "bench warmup", 2)[15..], prompts[2][15..]);
    }

    #[test]
    fn plans_without_tokens_are_refused() {
        let check = |random: RandomTokens| Prompts::Random(random).check().map_err(|error| error.to_string());
        assert_eq!(check(random(8, 8)), Ok(()));
        assert!(check(random(8, 9)).unwrap_err().contains("longer than the prompts"));
        assert!(check(random(0, 0)).is_err());
        assert!(check(RandomTokens { ids: 5..5, ..random(1, 0) }).is_err());
    }

    #[test]
    fn a_dataset_is_asked_in_turn() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("d.jsonl");
        let read = |text: &str, most| {
            fs_err::write(&path, text).expect("written");
            Dataset::read(&path, most)
        };
        let lines =
            "{\"prompt\":\"a\",\"id\":3}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"b\"}],\"max_tokens\":5}\n";
        let prompts = Prompts::Dataset(read(lines, None).unwrap());
        let body = |prompts: &Prompts, index| Value::from(prompts.request(0, "bench prompt", index).1);
        assert_eq!(body(&prompts, 0)["messages"][0]["content"], "a");
        assert!(body(&prompts, 0)["max_tokens"].is_null());
        assert_eq!(body(&prompts, 3)["messages"][0]["content"], "b");
        assert_eq!(body(&prompts, 3)["max_tokens"], 5);
        assert_eq!(body(&Prompts::Dataset(read(lines, Some(9)).unwrap()), 1)["max_tokens"], 9);
        for wrong in
            ["", "[]", "{}", "{\"prompt\":1}", "{\"messages\":[]}", "{\"prompt\":\"a\",\"max_tokens\":-1}", "{"]
        {
            let message = read(wrong, None).expect_err(wrong).to_string();
            assert!(message.contains("d.jsonl:1: "), "{message}");
        }
    }
}
