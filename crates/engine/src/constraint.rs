//! What the tokens of an answer may be, decided by somebody who knows what they mean.

use std::fmt;
use std::sync::Arc;

/// Which tokens may come next in one answer. The engine knows no text: a grammar is behind this.
///
/// Before each draw it is asked, and after each draw told, so it holds at every position, whatever proposed the token
/// there. It may fail, by a limit of its own for instance: that ends this request with the error, and no other.
pub trait Constraint: Send {
    /// What may come next.
    ///
    /// # Errors
    /// When that cannot be said, or nothing may.
    fn next(&mut self) -> Result<Allowed<'_>, ConstraintError>;

    /// Takes the token that was drawn, which was allowed and ends nothing.
    ///
    /// # Errors
    /// When that cannot be followed.
    fn push(&mut self, id: u32) -> Result<(), ConstraintError>;

    /// Whether nothing can follow the tokens so far. The answer then ends without another draw.
    fn is_complete(&self) -> bool;
}

/// Why a [`Constraint`] failed.
pub type ConstraintError = Box<dyn std::error::Error + Send + Sync>;

/// What may come next in an answer.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Tokens that go on with it; without a set all do.
    pub tokens: Option<&'a TokenSet>,
    /// Whether it may end here. Stop tokens are allowed by this alone, whatever the set says of them.
    pub end: bool,
}

/// A set of token ids, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSet {
    /// Token `32 i + j` is bit `j` of word `i`; ids behind the last word are not in the set.
    pub words: Vec<u32>,
}

/// Makes the constraint of each answer to a request: a request may be asked several times.
#[derive(Clone)]
pub struct Constraints(Arc<dyn Fn() -> Box<dyn Constraint> + Send + Sync>);

impl TokenSet {
    /// Adds a token.
    pub fn insert(&mut self, id: u32) {
        let (word, bit) = (id as usize / 32, id % 32);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
    }

    /// Whether a token is in it.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Makes the logits of all other tokens -inf.
    pub(crate) fn mask(&self, logits: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            match word {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => {
                    for (bit, x) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *x = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

impl FromIterator<u32> for TokenSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

impl Constraints {
    /// From what makes a constraint that has seen no token.
    pub fn new(begin: impl Fn() -> Box<dyn Constraint> + Send + Sync + 'static) -> Self {
        Self(Arc::new(begin))
    }

    /// The constraint of one more answer.
    pub fn begin(&self) -> Box<dyn Constraint> {
        (self.0)()
    }
}

impl fmt::Debug for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraints").finish_non_exhaustive()
    }
}

/// The same one, not merely one that allows the same.
impl PartialEq for Constraints {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_set_is_masked() {
        let set: TokenSet = (64..96).chain([1, 33, 100]).collect();
        for len in [0, 1, 31, 32, 33, 65, 101, 300] {
            let mut logits = vec![1.0; len];
            set.mask(&mut logits);
            for (id, x) in (0..).zip(&logits) {
                let is_in = (64..96).contains(&id) || [1, 33, 100].contains(&id);
                assert_eq!((*x == 1.0, set.contains(id)), (is_in, is_in), "{id} of {len}");
            }
        }
    }
}
