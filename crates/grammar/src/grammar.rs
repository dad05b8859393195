use serde_json::Value;
use tokenizer::ChatFormat;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts. Properties come in the order of the schema. Of the drafts from 4 to 2020-12 that is
    /// what llguidance knows; a keyword that it does not know is refused, not ignored. References lead into the schema
    /// itself (`#/…`).
    JsonSchema(Value),
    /// Text that all of a regular expression matches, in the syntax of Rust's `regex` without look-around.
    Regex(String),
    /// Text of a context-free grammar in llguidance's variant of Lark, whose first rule is `start`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of functions, at least one, and nothing beside them.
    Tools {
        /// How calls are written.
        format: ChatFormat,
        /// What may be called.
        functions: Vec<Function>,
        /// Whether there may be several calls.
        parallel: bool,
    },
}

/// A function that an answer may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, which are an object; without one there are none.
    pub parameters: Option<Value>,
}

impl Grammar {
    /// What it is, as errors name it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject => "JSON object",
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
            Self::Choice(_) => "list of choices",
            Self::Tools { .. } => "schema of a function",
        }
    }
}
