//! What a streamed answer is made of, as OpenAI publishes it, with the fields that others have added. Unknown fields are
//! passed over: a client has no business to refuse what a server adds.

use serde::Deserialize;
use serde_json::Value;

/// One `data` of a stream.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Chunk {
    /// Pieces of answers; none in chunks about usage and progress.
    #[serde(default)]
    pub choices: Vec<Choice>,
    /// Counts of tokens, in the last chunk if the request asked for them.
    pub usage: Option<Usage>,
    /// How far the prompt is read, while it is (llama.cpp's name).
    pub prompt_progress: Option<Progress>,
}

/// A piece of an answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Choice {
    /// Which of the request's answers.
    #[serde(default)]
    pub index: u32,
    /// What is new, of a chat.
    pub delta: Option<Delta>,
    /// What is new, of a completion.
    pub text: Option<String>,
    /// Why the answer ended, if it did.
    pub finish_reason: Option<String>,
}

/// What is new in an answer of a chat.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Delta {
    /// The answer itself.
    pub content: Option<String>,
    /// What the model thinks before it answers.
    pub reasoning_content: Option<String>,
    /// The same under the name that some servers give it.
    pub reasoning: Option<String>,
    /// Pieces of calls.
    pub tool_calls: Option<Vec<Value>>,
}

/// Counts of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Of the answer.
    #[serde(default)]
    pub completion_tokens: u64,
    /// More of the prompt's.
    pub prompt_tokens_details: Option<PromptDetails>,
    /// More of the answer's.
    pub completion_tokens_details: Option<CompletionDetails>,
}

/// More about the tokens of a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PromptDetails {
    /// Those that the server had seen before.
    pub cached_tokens: Option<u64>,
}

/// More about the tokens of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CompletionDetails {
    /// Those of the reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// How far a prompt is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Progress {
    /// Tokens of the prompt.
    pub total: u64,
    /// Those that were known before.
    #[serde(default)]
    pub cache: u64,
    /// Those that are read, the known ones included.
    pub processed: u64,
    /// Milliseconds since reading began.
    #[serde(default)]
    pub time_ms: f64,
}

impl Choice {
    /// What is new of the answer; empty if nothing is.
    pub fn content(&self) -> &str {
        let delta = self.delta.as_ref().and_then(|delta| delta.content.as_deref());
        delta.or(self.text.as_deref()).unwrap_or("")
    }

    /// What is new of the reasoning; empty if nothing is.
    pub fn reasoning(&self) -> &str {
        let Some(delta) = &self.delta else { return "" };
        delta.reasoning_content.as_deref().or(delta.reasoning.as_deref()).unwrap_or("")
    }

    /// Whether it carries anything that a model has written.
    pub fn has_output(&self) -> bool {
        let calls = self.delta.as_ref().and_then(|delta| delta.tool_calls.as_ref());
        !self.content().is_empty() || !self.reasoning().is_empty() || calls.is_some_and(|calls| !calls.is_empty())
    }
}

impl Usage {
    /// Prompt tokens that the server had seen before, if it says so.
    pub fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details.as_ref()?.cached_tokens
    }

    /// Answer tokens of the reasoning, if the server says so.
    pub fn reasoning_tokens(&self) -> Option<u64> {
        self.completion_tokens_details.as_ref()?.reasoning_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_different_servers_are_read() {
        let read = |text: &str| serde_json::from_str::<Chunk>(text).expect("a chunk");
        // The first chunk of a chat has a role and no text, which is null for some.
        let first = read(
            r#"{"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
        );
        assert!(!first.choices[0].has_output());
        let think = read(r#"{"choices":[{"delta":{"reasoning_content":"a","reasoning":"a"}}],"usage":null}"#);
        assert_eq!((think.choices[0].reasoning(), think.choices[0].content()), ("a", ""));
        let completion = read(r#"{"choices":[{"text":"b","finish_reason":"length"}],"timings":{}}"#);
        assert_eq!((completion.choices[0].content(), completion.choices[0].has_output()), ("b", true));
        let call = read(r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}]}"#);
        assert!(call.choices[0].has_output());
        let usage = read(
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}"#,
        );
        let usage = usage.usage.expect("usage");
        assert_eq!((usage.completion_tokens, usage.cached_tokens(), usage.reasoning_tokens()), (2, Some(1), None));
        let progress = read(r#"{"choices":[],"prompt_progress":{"total":9,"cache":0,"processed":4,"time_ms":12}}"#);
        assert_eq!(progress.prompt_progress, Some(Progress { total: 9, cache: 0, processed: 4, time_ms: 12.0 }));
    }
}
