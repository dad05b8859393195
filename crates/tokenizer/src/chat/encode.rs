//! Conversations to ids, such that nobody's words become control tokens.
//!
//! A template mixes its own text, in which `<｜User｜>` is a control token, with the conversation's, in which it must not
//! be one, and yields a single string. To know afterwards which character came from whom, the strings of the conversation
//! are *marked* before rendering: each character that occurs in some added token is replaced by a private-use character
//! that occurs nowhere else. An added token that is still spelled out in the rendered text is then the template's alone,
//! and the text between such tokens, marks removed, is encoded as untrusted.
//!
//! Templates compare some strings with their own (`role`, `type`, keys, variables such as `thinking`). Of these only the
//! characters with which an added token begins are marked (for DeepSeek just `<`), which leaves their values as they are
//! in any sane conversation. So that no template can complete its own `<` with such a string, a control token must
//! moreover stand in the template's source as a whole.
//!
//! A template may also look into the text: R1's drops what precedes the last `</think>` of a stored answer, V3.1's what
//! precedes the first. Marks would hide the `</think>`. So the conversation is rendered twice, once as it is and once
//! marked, with stored answers whole, or cut at their first, or at their last `</think>` beforehand. The marked text that
//! reads the same as the plain one, marks removed, is the template's. If none does, the template does something else to
//! the text, and that is an error rather than a guess.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{ChatError, ChatOptions, ChatTemplate, Message};
use crate::tokenizer::Added;
use crate::{Role, Tokenizer};

/// Which control tokens in the strings of a conversation count as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// None: whatever the strings spell is ordinary text. What a server must use, for stored answers too, since it is the
    /// client that sends them.
    #[default]
    Nobody,
    /// `<think>` and `</think>` in assistant messages. For training on conversations that hold reasoning and that one has
    /// chosen oneself.
    AssistantReasoning,
}

/// How stored answers are cut before they are marked.
#[derive(Clone, Copy)]
pub(super) enum Cut {
    Nothing,
    ThroughFirst,
    ThroughLast,
}

impl ChatTemplate {
    /// The ids of a conversation. Its BOS is the template's: none is added.
    ///
    /// No string of `messages` or of `options.variables` can yield a control token, except as `options.trust` allows.
    /// Where the strings spell none, the ids are those of [`render`](Self::render) through [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As [`render`](Self::render), when the text is longer than `options.max_bytes`, and when the template changes the strings in a way that cannot be followed.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, ChatError> {
        let name = self.choose(options)?;
        let plain = self.render_named(name, messages, options)?;
        if let Some(limit) = options.max_bytes.filter(|&limit| plain.len() > limit) {
            return Err(ChatError::TooLong { bytes: plain.len(), limit });
        }
        let marks = Marks::new(tokenizer, &plain, messages, options)?;

        for cut in Cut::ALL {
            let (messages, marked_options) = marks.mark(messages, options, cut);
            // A template can fail on one cut and not on another; its errors about the conversation itself are known by
            // now.
            let Ok(marked) = self.render_named(name, &messages, &marked_options) else { continue };
            if marks.remove(&marked) == plain {
                return self.encode_marked(tokenizer, name, &marks, &marked, options.trust);
            }
        }
        Err(ChatError::ContentTransformed { name: name.to_owned() })
    }

    fn encode_marked(
        &self,
        tokenizer: &Tokenizer,
        name: &str,
        marks: &Marks,
        marked: &str,
        trust: Trust,
    ) -> Result<Vec<u32>, ChatError> {
        let template = self.template(name)?;
        let source = template.source();
        let mut ids = Vec::new();
        for part in tokenizer.split_added(marked) {
            match part {
                Added::Token(id, token) => {
                    let spelled = source.contains(token) || token == self.bos_token || token == self.eos_token;
                    let trusted = trust == Trust::AssistantReasoning && REASONING.contains(&token);
                    if !spelled && !trusted {
                        return Err(ChatError::AssembledToken { name: name.to_owned(), token: token.to_owned() });
                    }
                    ids.push(id);
                }
                Added::Text(text) => ids.extend(tokenizer.encode_untrusted(&marks.remove(text))),
            }
        }
        Ok(ids)
    }
}

/// The tokens around reasoning.
const REASONING: [&str; 2] = [Role::ThinkBegin.text(), Role::ThinkEnd.text()];

/// What stands for which character in marked text.
struct Marks {
    /// Every character that occurs in an added token.
    mark_of: BTreeMap<char, char>,
    char_of: BTreeMap<char, char>,
    /// The characters with which an added token begins.
    first: BTreeSet<char>,
}

/// Which characters of a string are marked.
#[derive(Clone, Copy)]
enum Extent {
    /// All that occur in an added token.
    All,
    /// Those with which an added token begins: for strings that templates compare.
    First,
}

impl Marks {
    /// Chooses private-use characters that occur neither in the conversation nor in its rendering.
    fn new(tokenizer: &Tokenizer, plain: &str, messages: &[Message], options: &ChatOptions) -> Result<Self, ChatError> {
        let conversation = serde_json::to_string(&(messages, &options.variables)).expect("messages are plain data");
        let used: BTreeSet<char> = plain.chars().chain(conversation.chars()).collect();
        let added: Vec<&str> = tokenizer.added_tokens().map(|(text, _)| text).collect();
        let spelling: BTreeSet<char> = added.iter().flat_map(|text| text.chars()).collect();
        let mut free = ('\u{e000}'..='\u{f8ff}').filter(|c| !used.contains(c) && !spelling.contains(c));
        let mark_of = spelling
            .iter()
            .map(|&c| Ok((c, free.next().ok_or(ChatError::NoFreeCharacter)?)))
            .collect::<Result<BTreeMap<char, char>, ChatError>>()?;
        let char_of = mark_of.iter().map(|(&c, &mark)| (mark, c)).collect();
        let first = added.iter().filter_map(|text| text.chars().next()).collect();
        Ok(Self { mark_of, char_of, first })
    }

    fn mark(&self, messages: &[Message], options: &ChatOptions, cut: Cut) -> (Vec<Message>, ChatOptions) {
        let messages = messages
            .iter()
            .map(|message| {
                let assistant = message.role == "assistant";
                let content = message.content.as_deref().map(|content| match options.trust {
                    Trust::AssistantReasoning if assistant => self.mark_except_reasoning(cut.apply(content)),
                    _ if assistant => self.mark_text(cut.apply(content), Extent::All),
                    _ => self.mark_text(content, Extent::All),
                });
                Message {
                    role: self.mark_text(&message.role, Extent::First),
                    content,
                    tool_calls: message.tool_calls.iter().map(|call| self.mark_json(call, Extent::All)).collect(),
                    extra: self.mark_top(&message.extra),
                }
            })
            .collect();
        (messages, ChatOptions { variables: self.mark_top(&options.variables), ..options.clone() })
    }

    fn mark_text(&self, text: &str, extent: Extent) -> String {
        let mark = |c: char| match extent {
            Extent::First if !self.first.contains(&c) => c,
            _ => self.mark_of.get(&c).copied().unwrap_or(c),
        };
        text.chars().map(mark).collect()
    }

    fn mark_except_reasoning(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((at, token)) =
            REASONING.iter().filter_map(|token| Some((rest.find(token)?, *token))).min_by_key(|(at, _)| *at)
        {
            out.push_str(&self.mark_text(&rest[..at], Extent::All));
            out.push_str(token);
            rest = &rest[at + token.len()..];
        }
        out + &self.mark_text(rest, Extent::All)
    }

    /// Templates compare the strings at the top, such as `reasoning_effort`, and print those further inside.
    fn mark_top(&self, map: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        map.iter().map(|(key, value)| (key.clone(), self.mark_json(value, Extent::First))).collect()
    }

    fn mark_json(&self, value: &Value, extent: Extent) -> Value {
        match value {
            Value::String(text) => self.mark_text(text, extent).into(),
            Value::Array(items) => items.iter().map(|item| self.mark_json(item, Extent::All)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| {
                    let extent = if key == "type" { Extent::First } else { Extent::All };
                    (self.mark_text(key, Extent::First), self.mark_json(value, extent))
                })
                .collect(),
            other => other.clone(),
        }
    }

    fn remove(&self, text: &str) -> String {
        text.chars().map(|c| self.char_of.get(&c).copied().unwrap_or(c)).collect()
    }
}

impl Cut {
    pub(super) const ALL: [Self; 3] = [Self::Nothing, Self::ThroughFirst, Self::ThroughLast];

    pub(super) fn apply(self, content: &str) -> &str {
        let close = Role::ThinkEnd.text();
        let parts = match self {
            Self::Nothing => None,
            Self::ThroughFirst => content.split_once(close),
            Self::ThroughLast => content.rsplit_once(close),
        };
        parts.map_or(content, |(_, answer)| answer)
    }
}
