use std::fmt;

use tensor::Rng;

use super::{Item, arithmetic, copying, programs, reversal, sorting, stories};

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// The sum of two numbers of two digits.
    Addition,
    /// The difference of two numbers of two digits, never negative.
    Subtraction,
    /// A string of letters, repeated.
    Copying,
    /// A string of letters, backwards.
    Reversal,
    /// Letters, digits or words, in order.
    Sorting,
    /// Where something is, who has it or what colour it has, after a short story.
    Stories,
    /// What a small program prints.
    Programs,
}

impl Register {
    /// All registers, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Addition,
        Self::Subtraction,
        Self::Copying,
        Self::Reversal,
        Self::Sorting,
        Self::Stories,
        Self::Programs,
    ];

    /// Its name in tables and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Subtraction => "subtraction",
            Self::Copying => "copying",
            Self::Reversal => "reversal",
            Self::Sorting => "sorting",
            Self::Stories => "stories",
            Self::Programs => "programs",
        }
    }

    /// What stands between question and answer in a document.
    pub fn cue(self) -> &'static str {
        match self {
            // No space: before a digit it would be a token of its own.
            Self::Addition | Self::Subtraction => "=",
            Self::Copying | Self::Reversal | Self::Sorting => " -> ",
            Self::Stories => " ",
            // A comment, so that the document is a valid program.
            Self::Programs => "\n# prints ",
        }
    }

    /// An item drawn at random, held out or not.
    pub(super) fn draw(self, rng: &mut Rng) -> Item {
        match self {
            Self::Addition => arithmetic::addition(rng),
            Self::Subtraction => arithmetic::subtraction(rng),
            Self::Copying => copying::draw(rng),
            Self::Reversal => reversal::draw(rng),
            Self::Sorting => sorting::draw(rng),
            Self::Stories => stories::draw(rng),
            Self::Programs => programs::draw(rng),
        }
    }

    /// An item drawn from the held-out tenth or from the rest.
    pub(super) fn draw_from(self, held_out: bool, rng: &mut Rng) -> Item {
        loop {
            let item = self.draw(rng);
            if item.is_held_out() == held_out {
                return item;
            }
        }
    }

    /// What separates two items in a document: items of several lines stand apart.
    pub(super) fn separator(self) -> &'static str {
        match self {
            Self::Stories | Self::Programs => "\n",
            _ => "",
        }
    }

    /// How many items a document has, chosen so that documents of all registers have about 100 to 200 tokens.
    pub(super) fn items_per_document(self) -> u64 {
        match self {
            Self::Addition | Self::Subtraction => 16,
            Self::Copying | Self::Reversal | Self::Sorting => 10,
            Self::Stories => 3,
            Self::Programs => 5,
        }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
