//! The control tokens of DeepSeek's vocabularies, found by their text.

/// What a control token is for. The ids differ between vocabularies; the texts do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Begin of sentence: the first token of every document and conversation.
    Bos,
    /// End of sentence: ends documents and assistant turns; generation stops here.
    Eos,
    /// Fills up batches.
    Pad,
    /// Stands between prefix and suffix in fill-in-the-middle.
    FimHole,
    /// Precedes the prefix.
    FimBegin,
    /// Follows the suffix and precedes the middle.
    FimEnd,
    /// Opens a user turn.
    User,
    /// Opens an assistant turn.
    Assistant,
    /// End of turn, from the coder models.
    Eot,
    /// Opens a group of tool calls.
    ToolCallsBegin,
    /// Closes a group of tool calls.
    ToolCallsEnd,
    /// Opens one tool call.
    ToolCallBegin,
    /// Closes one tool call.
    ToolCallEnd,
    /// Opens a group of tool results.
    ToolOutputsBegin,
    /// Closes a group of tool results.
    ToolOutputsEnd,
    /// Opens one tool result.
    ToolOutputBegin,
    /// Closes one tool result.
    ToolOutputEnd,
    /// Stands between the fields of a tool call.
    ToolSep,
    /// Opens the reasoning.
    ThinkBegin,
    /// Closes the reasoning.
    ThinkEnd,
}

impl Role {
    /// All roles, in the order in which a trained vocabulary numbers them. The first three lead the vocabulary, the
    /// others close it.
    pub const ALL: [Self; 20] = [
        Self::Bos,
        Self::Eos,
        Self::Pad,
        Self::FimHole,
        Self::FimBegin,
        Self::FimEnd,
        Self::User,
        Self::Assistant,
        Self::Eot,
        Self::ToolCallsBegin,
        Self::ToolCallsEnd,
        Self::ToolCallBegin,
        Self::ToolCallEnd,
        Self::ToolOutputsBegin,
        Self::ToolOutputsEnd,
        Self::ToolOutputBegin,
        Self::ToolOutputEnd,
        Self::ToolSep,
        Self::ThinkBegin,
        Self::ThinkEnd,
    ];

    /// The token's text. The bars are U+FF5C and the low lines U+2581, except in `<|EOT|>`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Bos => "<｜begin▁of▁sentence｜>",
            Self::Eos => "<｜end▁of▁sentence｜>",
            Self::Pad => "<｜▁pad▁｜>",
            Self::FimHole => "<｜fim▁hole｜>",
            Self::FimBegin => "<｜fim▁begin｜>",
            Self::FimEnd => "<｜fim▁end｜>",
            Self::User => "<｜User｜>",
            Self::Assistant => "<｜Assistant｜>",
            Self::Eot => "<|EOT|>",
            Self::ToolCallsBegin => "<｜tool▁calls▁begin｜>",
            Self::ToolCallsEnd => "<｜tool▁calls▁end｜>",
            Self::ToolCallBegin => "<｜tool▁call▁begin｜>",
            Self::ToolCallEnd => "<｜tool▁call▁end｜>",
            Self::ToolOutputsBegin => "<｜tool▁outputs▁begin｜>",
            Self::ToolOutputsEnd => "<｜tool▁outputs▁end｜>",
            Self::ToolOutputBegin => "<｜tool▁output▁begin｜>",
            Self::ToolOutputEnd => "<｜tool▁output▁end｜>",
            Self::ToolSep => "<｜tool▁sep｜>",
            Self::ThinkBegin => "<think>",
            Self::ThinkEnd => "</think>",
        }
    }

    /// Whether `skip_special` removes the token from decoded text. Only these four are marked so; the chat and tool
    /// tokens stay visible.
    pub const fn is_skipped(self) -> bool {
        matches!(self, Self::Bos | Self::Eos | Self::Pad | Self::Eot)
    }
}

/// The ids of the control tokens that a vocabulary has; a role it lacks is `None`.
///
/// `pad` is the token `<｜▁pad▁｜>`. The published `tokenizer_config.json` names EOS as the padding token instead; padding
/// is masked wherever it stands, so the difference is visible in no result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the id of the role of the same name")]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub fim_hole: Option<u32>,
    pub fim_begin: Option<u32>,
    pub fim_end: Option<u32>,
    pub user: Option<u32>,
    pub assistant: Option<u32>,
    pub eot: Option<u32>,
    pub tool_calls_begin: Option<u32>,
    pub tool_calls_end: Option<u32>,
    pub tool_call_begin: Option<u32>,
    pub tool_call_end: Option<u32>,
    pub tool_outputs_begin: Option<u32>,
    pub tool_outputs_end: Option<u32>,
    pub tool_output_begin: Option<u32>,
    pub tool_output_end: Option<u32>,
    pub tool_sep: Option<u32>,
    pub think_begin: Option<u32>,
    pub think_end: Option<u32>,
}

impl SpecialTokens {
    pub(crate) fn find(id_of: impl Fn(&str) -> Option<u32>) -> Self {
        let id = |role: Role| id_of(role.text());
        Self {
            bos: id(Role::Bos),
            eos: id(Role::Eos),
            pad: id(Role::Pad),
            fim_hole: id(Role::FimHole),
            fim_begin: id(Role::FimBegin),
            fim_end: id(Role::FimEnd),
            user: id(Role::User),
            assistant: id(Role::Assistant),
            eot: id(Role::Eot),
            tool_calls_begin: id(Role::ToolCallsBegin),
            tool_calls_end: id(Role::ToolCallsEnd),
            tool_call_begin: id(Role::ToolCallBegin),
            tool_call_end: id(Role::ToolCallEnd),
            tool_outputs_begin: id(Role::ToolOutputsBegin),
            tool_outputs_end: id(Role::ToolOutputsEnd),
            tool_output_begin: id(Role::ToolOutputBegin),
            tool_output_end: id(Role::ToolOutputEnd),
            tool_sep: id(Role::ToolSep),
            think_begin: id(Role::ThinkBegin),
            think_end: id(Role::ThinkEnd),
        }
    }
}
