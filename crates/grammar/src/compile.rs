use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use engine::{Constraints, TokenSet};
use llguidance::api::GrammarInit;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Logger, Matcher, ParserFactory};
use tokenizer::Tokenizer;

use crate::answer::Answer;
use crate::check::check;
use crate::error::{AnswerError, Error, said};
use crate::grammar::{Function, Grammar};
use crate::limits;
use crate::source::{ToolTokens, arguments, source};
use crate::vocabulary::vocabulary;

/// Compiles grammars for one vocabulary. It is made once for each model, as it walks all tokens several times.
pub struct Grammars {
    factory: ParserFactory,
    text: Arc<TokenSet>,
    /// The control tokens of tool calls, and text with them; or the one that is missing.
    tools: Result<(ToolTokens, Arc<TokenSet>), &'static str>,
}

/// A grammar that answers can be held to, any number of them at once. A clone is the same one.
#[derive(Clone)]
pub struct Compiled {
    /// At the beginning of an answer; answers take copies.
    matcher: Arc<Mutex<Matcher>>,
    permitted: Arc<TokenSet>,
    /// The token with which tool calls begin, if it is a grammar of those.
    first: Option<u32>,
}

impl Grammars {
    /// Of a vocabulary, of which a model has the first `vocab_size` ids.
    ///
    /// # Errors
    /// When llguidance cannot use it.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self, Error> {
        let kind = "vocabulary";
        let (tree, text) = vocabulary(tokenizer, vocab_size);
        let factory = ParserFactory::new_simple(&tree).map_err(|error| said(kind, &error.to_string()))?;
        let tools = ToolTokens::of(tokenizer).map(|tokens| {
            let mut permitted = text.clone();
            tokens.ids().into_iter().filter(|&id| (id as usize) < vocab_size).for_each(|id| permitted.insert(id));
            (tokens, Arc::new(permitted))
        });
        Ok(Self { factory, text: Arc::new(text), tools })
    }

    /// Compiles a grammar, on a thread of its own and in bounded time and memory, and sees to it that an answer can begin.
    ///
    /// # Errors
    /// When the grammar is above a ceiling of [`limits`], or not understood; the message is for its author.
    pub fn compile(&self, grammar: &Grammar) -> Result<Compiled, Error> {
        check(grammar)?;
        let (tokens, permitted) = match (grammar, &self.tools) {
            (Grammar::Tools { .. }, Ok((tokens, permitted))) => (Some(tokens), permitted),
            (Grammar::Tools { .. }, Err(missing)) => return Err(Error::NoToken(missing)),
            _ => (None, &self.text),
        };
        let kind = grammar.kind();
        let matcher = thread::scope(|scope| {
            let thread = thread::Builder::new().name("grammar".to_owned()).stack_size(limits::STACK);
            // llguidance turns its panics into errors; what is left is ours.
            let panicked = |_| said(kind, "the compiler failed; this is a fault of the program");
            let compile = || self.matcher(grammar, tokens, permitted);
            thread.spawn_scoped(scope, compile)?.join().unwrap_or_else(|panic| Err(panicked(panic)))
        });
        match (matcher, grammar) {
            (Ok(matcher), _) => {
                let first = tokens.map(ToolTokens::first);
                Ok(Compiled { matcher: Arc::new(Mutex::new(matcher)), permitted: permitted.clone(), first })
            }
            (Err(Error::Grammar { kind, message }), Grammar::Tools { functions, .. }) => {
                Err(self.whose(functions).unwrap_or(Error::Grammar { kind, message }))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A parser at the beginning of an answer.
    fn matcher(
        &self,
        grammar: &Grammar,
        tokens: Option<&ToolTokens>,
        permitted: &Arc<TokenSet>,
    ) -> Result<Matcher, Error> {
        let kind = grammar.kind();
        let (quiet, plain) = (Logger::new(0, 0), InferenceCapabilities::default());
        let source = GrammarInit::Serialized(source(grammar, tokens));
        let parser = self.factory.create_parser_from_init_ext(source, quiet, plain, limits::parser(grammar));
        let mut matcher = Matcher::new(Ok(parser.map_err(|error| said(kind, &error.to_string()))?));
        // An empty text may be all there is, which shows only now.
        matcher.consume_tokens(&[]).map_err(|error| said(kind, &error.to_string()))?;
        let mut answer = Answer::new(matcher, permitted.clone(), None, None);
        match answer.look() {
            Ok(_) if !answer.has_failed() => Ok(answer.into_matcher()),
            Ok(_) | Err(AnswerError::Stuck) => Err(said(kind, "there is no text that it allows")),
            Err(error) => Err(said(kind, &error.to_string())),
        }
    }

    /// The error of the first function whose schema is at fault: the compiler has seen them all as one grammar.
    fn whose(&self, functions: &[Function]) -> Option<Error> {
        functions.iter().find_map(|Function { name, parameters }| {
            match self.compile(&Grammar::JsonSchema(arguments(parameters.as_ref()))) {
                Err(Error::Grammar { message, .. }) => Some(Error::Function { name: name.clone(), message }),
                _ => None,
            }
        })
    }
}

impl Compiled {
    /// What a request asks of its answers. With `after`, the id of `</think>` for instance, an answer is free until it has
    /// drawn that token, and begins behind it; only that it ends before it is not allowed.
    pub fn constraints(&self, after: Option<u32>) -> Constraints {
        self.begin(after, None)
    }

    /// The same of tool calls that need not come: an answer is free, and may end, until it draws the token with which they
    /// begin. A grammar of something else has no such token, and holds from the beginning.
    pub fn constraints_of_calls(&self, after: Option<u32>) -> Constraints {
        self.begin(after, self.first)
    }

    fn begin(&self, after: Option<u32>, first: Option<u32>) -> Constraints {
        let Self { matcher, permitted, .. } = self.clone();
        Constraints::new(move || {
            // Nobody changes what is behind the lock.
            let matcher = matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
            Box::new(Answer::new(matcher, permitted.clone(), after, first))
        })
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}
