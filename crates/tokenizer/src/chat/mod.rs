//! Conversations to text and to ids, by a model's Jinja template.

mod encode;
mod environment;
mod format;
mod json;

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Template};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use encode::Cut;
pub use encode::Trust;
pub use format::ChatFormat;

use crate::{Role, TokenizerConfig, TokenizerError};

/// One message of a conversation, with the field names that templates know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text; an assistant message that only calls tools has none.
    #[serde(default)]
    pub content: Option<String>,
    /// Calls as OpenAI's interface has them: `{"type": "function", "function": {"name": .., "arguments": ..}}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Everything else that a template may look at, such as `prefix` or `name`.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Message {
    /// A message of nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), ..Self::default() }
    }
}

/// How a conversation is rendered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatOptions {
    /// Whether to open the turn that the model is to write.
    pub add_generation_prompt: bool,
    /// Whether the model is to go on from the end of the last message, which is the assistant's and nothing but text. EOS
    /// behind it is left out. System messages behind it do not count, as templates put them elsewhere.
    pub continue_last: bool,
    /// Further variables of the template, such as `thinking` or `tools`.
    pub variables: BTreeMap<String, Value>,
    /// Which of several templates; otherwise `tool_use` if there are `tools` and such a template, and `default` if not.
    pub template: Option<String>,
    /// Whose control tokens count; matters to [`ChatTemplate::encode`] alone.
    pub trust: Trust,
    /// The most bytes of rendered text that are turned into ids, which takes hundreds of times their room; matters to
    /// [`ChatTemplate::encode`] alone.
    pub max_bytes: Option<usize>,
}

/// Why a conversation could not be rendered or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is not valid, or failed on this conversation, or refused it.
    #[error("the chat template {name:?} failed: {source:#}")]
    Template {
        /// Its name.
        name: String,
        /// What the engine says.
        source: minijinja::Error,
    },

    /// The files beside the tokenizer could not be read.
    #[error(transparent)]
    Config(#[from] TokenizerError),

    /// There is no template of the name.
    #[error("there is no chat template {asked:?}; the tokenizer has {known:?}")]
    NoSuchTemplate {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },

    /// More text than [`ChatOptions::max_bytes`].
    #[error("the rendered conversation has {bytes} bytes, and may have {limit}")]
    TooLong {
        /// Bytes of the text.
        bytes: usize,
        /// How many it may have.
        limit: usize,
    },

    /// The template does something to the conversation's strings that cannot be followed.
    #[error(
        "the chat template {name:?} changes the content of a message (beyond dropping what precedes </think>), \
         so that user text cannot be told from control tokens in its output"
    )]
    ContentTransformed {
        /// Its name.
        name: String,
    },

    /// [`ChatOptions::continue_last`] asks for what the template does not do.
    #[error(
        "the last message is the assistant's, and the chat template {name:?} does not end it with its text and EOS, so that \
         nothing can go on from it"
    )]
    NoContinuation {
        /// Its name.
        name: String,
    },

    /// The template makes a control token of pieces, one of which may be the conversation's.
    #[error(
        "the chat template {name:?} prints the control token {token:?} without spelling it out, \
         so that it cannot be told from one that a message puts together"
    )]
    AssembledToken {
        /// Its name.
        name: String,
        /// The token.
        token: String,
    },

    /// The conversation and the template use up all characters that could mark the origin of a character.
    #[error("the conversation leaves no private-use character free")]
    NoFreeCharacter,
}

/// A Jinja template for conversations, with the names it prints for BOS and EOS.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    names: Vec<String>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The templates of a model directory: `chat_template.jinja`, or those in its `tokenizer_config.json`. `None` if it
    /// has neither; a DeepSeek model is then served by [`builtin`](Self::builtin).
    ///
    /// # Errors
    /// When a file cannot be read, or a template is not valid Jinja.
    pub fn read(dir: impl AsRef<Path>) -> Result<Option<Self>, ChatError> {
        let config = TokenizerConfig::read(dir)?;
        if config.chat_templates.is_empty() {
            return Ok(None);
        }
        let bos_token = config.bos_token.unwrap_or_default();
        let eos_token = config.eos_token.unwrap_or_default();
        Ok(Some(Self::new(config.chat_templates, bos_token, eos_token)?))
    }

    /// Templates by name, and the texts that they print for `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// When a template is not valid Jinja.
    pub fn new(templates: Vec<(String, String)>, bos_token: String, eos_token: String) -> Result<Self, ChatError> {
        let mut environment = environment::new();
        let names = templates.iter().map(|(name, _)| name.clone()).collect();
        for (name, source) in templates {
            environment
                .add_template_owned(name.clone(), source)
                .map_err(|source| ChatError::Template { name, source })?;
        }
        Ok(Self { environment, names, bos_token, eos_token })
    }

    /// The template of a published format, written for this crate.
    pub fn builtin(format: ChatFormat) -> Self {
        let templates = vec![("default".to_owned(), format.source().to_owned())];
        Self::new(templates, Role::Bos.text().to_owned(), Role::Eos.text().to_owned())
            .expect("the templates of this crate are valid")
    }

    /// The text of a conversation. It holds its own BOS.
    ///
    /// Text from outside in it may look like a control token; [`encode`](Self::encode) tells them apart, the text alone
    /// does not.
    ///
    /// # Errors
    /// When the template fails or refuses the conversation.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        self.render_named(self.choose(options)?, messages, options)
    }

    /// Whether a template has the word `name` in it, so that a variable of that name may have an effect.
    pub fn mentions(&self, name: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.names
            .iter()
            .filter_map(|template| self.environment.get_template(template).ok())
            .any(|template| template.source().split(|c| !is_part(c)).any(|word| word == name))
    }

    fn choose<'a>(&'a self, options: &'a ChatOptions) -> Result<&'a str, ChatError> {
        let has = |name: &str| self.names.iter().any(|known| known == name);
        let tools = options.variables.get("tools").is_some_and(|tools| !tools.is_null());
        let name = match &options.template {
            Some(name) => name.as_str(),
            None if tools && has("tool_use") => "tool_use",
            None => "default",
        };
        if !has(name) {
            return Err(ChatError::NoSuchTemplate { asked: name.to_owned(), known: self.names.clone() });
        }
        Ok(name)
    }

    fn render_named(&self, name: &str, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        let mut variables = options.variables.clone();
        variables.insert("messages".to_owned(), serde_json::to_value(messages).expect("messages are plain data"));
        variables.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        variables.insert("bos_token".to_owned(), self.bos_token.clone().into());
        variables.insert("eos_token".to_owned(), self.eos_token.clone().into());
        let text = self
            .template(name)?
            .render(Serde(variables))
            .map_err(|source| ChatError::Template { name: name.to_owned(), source })?;
        if !options.continue_last {
            return Ok(text);
        }
        let open = self.without_end(&text, messages).map(str::to_owned);
        open.ok_or_else(|| ChatError::NoContinuation { name: name.to_owned() })
    }

    /// A rendered conversation up to the end of the assistant's text, with which it ends.
    fn without_end<'t>(&self, text: &'t str, messages: &[Message]) -> Option<&'t str> {
        let last = messages.iter().rfind(|message| message.role != "system")?;
        let said = last.content.as_deref().unwrap_or_default();
        let is_fine = last.role == "assistant" && last.tool_calls.is_empty() && !self.eos_token.is_empty();
        let open = text.trim_end_matches('\n').strip_suffix(&self.eos_token)?;
        // A template may leave out what precedes the end of the reasoning.
        let is_whole = Cut::ALL.iter().any(|cut| open.ends_with(cut.apply(said)));
        (is_fine && is_whole).then_some(open)
    }

    fn template(&self, name: &str) -> Result<Template<'_, '_>, ChatError> {
        self.environment.get_template(name).map_err(|source| ChatError::Template { name: name.to_owned(), source })
    }
}
