use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::api::{Api, CHAT};
use crate::error::Error;
use crate::runtime;
use crate::wire::{Progress, Usage};

/// A conversation with a server.
pub struct Chat {
    runtime: Runtime,
    api: Api,
    model: String,
    /// Fields of every request, such as `temperature`.
    options: Map<String, Value>,
    messages: Vec<Value>,
    wants_progress: bool,
}

/// What comes while an answer is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Piece<'a> {
    /// The server does not know `return_progress`; the request was sent again without it, and later ones go without it.
    NoProgress,
    /// The prompt is being read.
    Progress(Progress),
    /// What the model thinks before it answers.
    Reasoning(&'a str),
    /// The answer.
    Content(&'a str),
}

/// A complete answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Its text.
    pub content: String,
    /// What the model thought before.
    pub reasoning: String,
    /// Why it ended, as the server names it.
    pub finish_reason: Option<String>,
    /// Counts of tokens, if the server gives them.
    pub usage: Option<Usage>,
    /// What it took.
    pub times: Times,
}

/// How long an answer took, from the moment it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Until its first text.
    pub first: Option<Duration>,
    /// Until its end.
    pub total: Duration,
}

impl Chat {
    /// `model` is the server's first one without a name. `options` are fields of every request. `wants_progress` asks for
    /// the progress of reading prompts.
    ///
    /// # Errors
    /// The server does not say which models it has.
    pub fn new(
        api: Api,
        model: Option<&str>,
        system: Option<&str>,
        options: Map<String, Value>,
        wants_progress: bool,
    ) -> Result<Self, Error> {
        let runtime = runtime::new()?;
        let model = runtime.block_on(api.model(model))?;
        let mut chat = Self { runtime, api, model, options, messages: Vec::new(), wants_progress };
        chat.restart(system);
        Ok(chat)
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Forgets what was said, and begins with other instructions.
    pub fn restart(&mut self, system: Option<&str>) {
        self.messages = system.map(|text| json!({ "role": "system", "content": text })).into_iter().collect();
    }

    /// The user says `text`; pieces of the answer go to `out` as they come.
    ///
    /// # Errors
    /// There is no complete answer, or `out` failed. Then the conversation is as if `text` had not been said.
    pub fn turn(&mut self, text: &str, out: &mut dyn FnMut(Piece) -> std::io::Result<()>) -> Result<Answer, Error> {
        self.messages.push(json!({ "role": "user", "content": text }));
        let answer = match self.ask(out) {
            // Nothing has come of the answer yet: a server refuses a field before it begins.
            Err(Error::Status { status: 400 | 422, error, .. })
                if self.wants_progress && error.is_about("return_progress") =>
            {
                self.wants_progress = false;
                out(Piece::NoProgress).map_err(Error::Io).and_then(|()| self.ask(out))
            }
            answer => answer,
        };
        match &answer {
            // As the templates of reasoning models want it, thoughts are not part of what was said.
            Ok(answer) => self.messages.push(json!({ "role": "assistant", "content": answer.content })),
            Err(_) => drop(self.messages.pop()),
        }
        answer
    }

    fn ask(&self, out: &mut dyn FnMut(Piece) -> std::io::Result<()>) -> Result<Answer, Error> {
        let mut body = self.options.clone();
        body.insert("model".into(), self.model.as_str().into());
        body.insert("messages".into(), self.messages.clone().into());
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({ "include_usage": true }));
        if self.wants_progress {
            body.insert("return_progress".into(), true.into());
        }
        self.runtime.block_on(answer(&self.api, &body.into(), out))
    }
}

async fn answer(api: &Api, body: &Value, out: &mut dyn FnMut(Piece) -> std::io::Result<()>) -> Result<Answer, Error> {
    let started = Instant::now();
    let mut stream = api.stream(CHAT, body).await?;
    let mut answer = Answer::default();
    while let Some(chunk) = stream.next().await? {
        if let Some(progress) = chunk.prompt_progress {
            out(Piece::Progress(progress))?;
        }
        for choice in &chunk.choices {
            if choice.has_output() {
                answer.times.first.get_or_insert_with(|| started.elapsed());
            }
            if !choice.reasoning().is_empty() {
                answer.reasoning += choice.reasoning();
                out(Piece::Reasoning(choice.reasoning()))?;
            }
            if !choice.content().is_empty() {
                answer.content += choice.content();
                out(Piece::Content(choice.content()))?;
            }
            answer.finish_reason = choice.finish_reason.clone().or(answer.finish_reason);
        }
        answer.usage = chunk.usage.or(answer.usage);
    }
    answer.times.total = started.elapsed();
    Ok(answer)
}
