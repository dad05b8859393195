//! Ceilings, chosen so that nothing that gets through takes more than seconds to compile, or more than some tenths of a
//! second at a draw, where a common schema takes microseconds. The tests of hostile grammars know the ways there.

use std::time::Duration;

use llguidance::api::ParserLimits;

use crate::grammar::Grammar;

/// Bytes of a schema, of all schemas of the functions together, of a regular expression, of a grammar, of all choices.
pub const BYTES: usize = 128 << 10;

/// Objects and arrays inside one another in a schema.
pub const DEPTH: usize = 64;

/// Values in a schema: objects, arrays, strings, numbers, keys not counted.
pub const VALUES: usize = 16 << 10;

/// Entries of one object in a schema. What an object costs grows with their square.
pub const ENTRIES: usize = 1024;

/// Different patterns in all `patternProperties` of a schema. Each pair of them is compared whenever two objects are put
/// together.
pub const PATTERNS: usize = 8;

/// Alternatives (of `anyOf`, `oneOf` and `allOf`) and references in a schema with more than one such pattern: how often
/// objects are put together grows with their product.
pub const ALTERNATIVES: usize = 16;

/// Different references in a schema. Definitions that refer to one another are entered one inside the other.
pub const REFERENCES: usize = 256;

/// Lines of a Lark grammar, each of which can be a rule that is entered inside another.
pub const LINES: usize = 1000;

/// Choices in a list.
pub const CHOICES: usize = 1024;

/// Functions that may be called.
pub const FUNCTIONS: usize = 128;

/// Bytes of a function's name.
pub const NAME_BYTES: usize = 128;

/// The time that an answer may take to find out what is allowed, beyond [`TIME_OF_TOKEN`] for each token: all answers of a
/// step wait for the slowest.
pub(crate) const TIME: Duration = Duration::from_secs(2);

/// A hundred times what a common schema takes over a large vocabulary.
pub(crate) const TIME_OF_TOKEN: Duration = Duration::from_millis(5);

/// Bytes of stack for compiling, which goes down into what a grammar nests. Only what is used becomes memory.
pub(crate) const STACK: usize = 256 << 20;

/// Items of the parser at one place of an answer: its alternatives there, and in an ambiguous grammar the ways to read what
/// stands before. The time for a place grows with their square.
const ITEMS: usize = 500;

/// The same for a grammar whose author is free to make it as ambiguous as he likes, which JSON is not.
const ITEMS_OF_LARK: usize = 300;

/// What llguidance may spend. Work is counted in its own units, about 50 thousand a millisecond for regular expressions
/// when a grammar is compiled, 14 thousand for those of a draw, and 20 thousand items of the parser.
pub(crate) fn parser(grammar: &Grammar) -> ParserLimits {
    ParserLimits {
        max_items_in_row: if matches!(grammar, Grammar::Lark(_)) { ITEMS_OF_LARK } else { ITEMS },
        initial_lexer_fuel: 600_000,
        step_lexer_fuel: 200_000,
        step_max_items: 20_000,
        // Up to a kilobyte each, for one answer.
        max_lexer_states: 128 << 10,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}
