/// Why a grammar is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More than there may be of something.
    #[error("the {kind} has {found} {what}, but may have at most {limit}")]
    Limit {
        /// What was to be compiled.
        kind: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// How much there is; where counting stopped early, the first number above the limit.
        found: usize,
        /// How much there may be.
        limit: usize,
    },
    /// A reference out of the schema.
    #[error(
        "the schema refers to {0:?}, but only references into the schema itself (\"#/…\") are followed: include what it needs"
    )]
    Reference(String),
    /// A list without entries.
    #[error("the {0} is empty; there must be something that an answer can be")]
    Empty(&'static str),
    /// A choice without text.
    #[error("choice {0} is an empty text, which no answer can be")]
    EmptyChoice(usize),
    /// A name that could not be written or read back.
    #[error("a function is called {0:?}: a name has at least one character, and no control character or white space")]
    Name(String),
    /// Two functions have one name.
    #[error("two functions are called {0:?}")]
    DuplicateName(String),
    /// Arguments that are no object.
    #[error("the parameters of the function {0:?} must be a schema of type \"object\"")]
    Parameters(String),
    /// The compiler does not know what is written there, or it asks for too much.
    #[error("cannot use the {kind}: {message}")]
    Grammar {
        /// What was to be compiled.
        kind: &'static str,
        /// What the compiler says.
        message: String,
    },
    /// The compiler does not know what is written in the schema of one function.
    #[error("cannot use the parameters of the function {name:?}: {message}")]
    Function {
        /// The function.
        name: String,
        /// What the compiler says.
        message: String,
    },
    /// The vocabulary lacks a token that tool calls are written with.
    #[error("the vocabulary has no token {0:?}, without which no function can be called")]
    NoToken(&'static str),
    /// The operating system refused a thread.
    #[error("cannot start a thread to compile a grammar")]
    Thread(#[from] std::io::Error),
}

/// Why an answer cannot be held to its grammar any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the grammar of the answer became too expensive to follow: {0}")]
    Parser(String),
    #[error("the grammar of the answer leads to a place where no text can follow")]
    Stuck,
    #[error("the grammar of the answer takes too much time to follow")]
    Slow,
}

/// The error that llguidance's words make.
pub(crate) fn said(kind: &'static str, message: &str) -> Error {
    Error::Grammar { kind, message: shortened(message) }
}

impl AnswerError {
    /// What the parser says, in its first line: what follows shows its state.
    pub(crate) fn parser(error: impl std::fmt::Display) -> Self {
        Self::Parser(shortened(error.to_string().lines().next().unwrap_or_default()))
    }
}

/// Messages quote what they complain of, which may be long. A panic that llguidance has caught is one of its numbers, and
/// comes with its stack.
fn shortened(message: &str) -> String {
    let message = message.split("\n<").next().unwrap_or_default().trim_end();
    if let Some(panic) = message.strip_prefix("panic: ") {
        return format!("it has numbers that are too large to be worked with ({panic})");
    }
    match message.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}
