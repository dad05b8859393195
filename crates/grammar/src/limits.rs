//! Ceilings. What they are worth in time and memory is measured by the tests of hostile grammars.

/// Bytes of a schema, of all schemas of the functions together, of a regular expression, of a grammar, of all choices.
pub const BYTES: usize = 128 << 10;

/// Objects and arrays inside one another in a schema.
pub const DEPTH: usize = 64;

/// Values in a schema: objects, arrays, strings, numbers, keys not counted.
pub const VALUES: usize = 16 << 10;

/// Different references in a schema. Definitions that refer to one another are entered one inside the other.
pub const REFERENCES: usize = 256;

/// Choices in a list.
pub const CHOICES: usize = 1024;

/// Functions that may be called.
pub const FUNCTIONS: usize = 128;

/// Bytes of a function's name.
pub const NAME_BYTES: usize = 128;

/// Bytes of stack for compiling, which goes down into what a grammar nests. Only what is used becomes memory.
pub(crate) const STACK: usize = 256 << 20;

/// What llguidance may spend. Work is counted in its own units, about 50 thousand a millisecond for regular expressions
/// when a grammar is compiled, 14 thousand for those of a draw, and 20 thousand items of the parser.
pub(crate) fn parser() -> llguidance::api::ParserLimits {
    llguidance::api::ParserLimits {
        // Alternatives at one place of an answer.
        max_items_in_row: 1000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        // One to two kilobytes each, for one answer.
        max_lexer_states: 32 << 10,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}
