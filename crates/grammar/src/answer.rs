//! One answer, token by token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Allowed, Constraint, ConstraintError, TokenSet};
use llguidance::Matcher;
use llguidance::api::StopReason;

use crate::error::AnswerError;
use crate::limits;

/// How llguidance says that no token can follow.
const NO_TOKEN: &str = "NoExtensionBias";

/// Where an answer is in its grammar.
pub(crate) struct Answer {
    matcher: Matcher,
    /// Tokens that the grammar may have at all.
    permitted: Arc<TokenSet>,
    /// The token that the answer is free before, until it is drawn.
    after: Option<u32>,
    /// The same behind that one; it is the grammar's first, and need not come.
    first: Option<u32>,
    allowed: TokenSet,
    patience: Patience,
}

/// The time that an answer may still take from the steps that it is in.
struct Patience(Duration);

impl Patience {
    /// Whether there is some left after a token that `took` so long.
    fn lasts(&mut self, took: Duration) -> bool {
        self.0 = (self.0 + limits::TIME_OF_TOKEN).min(limits::TIME).saturating_sub(took);
        !self.0.is_zero()
    }
}

impl Answer {
    pub(crate) fn new(matcher: Matcher, permitted: Arc<TokenSet>, after: Option<u32>, first: Option<u32>) -> Self {
        Self { matcher, permitted, after, first, allowed: TokenSet::default(), patience: Patience(limits::TIME) }
    }

    /// Finds out which tokens are allowed, and whether the answer may end. The parser keeps what it finds for next time.
    pub(crate) fn look(&mut self) -> Result<bool, AnswerError> {
        let begun = Instant::now();
        let found = self.masked();
        if self.patience.lasts(begun.elapsed()) { found } else { Err(AnswerError::Slow) }
    }

    fn masked(&mut self) -> Result<bool, AnswerError> {
        if self.is_complete() {
            self.allowed.words.clear();
            return Ok(true);
        }
        let end = self.matcher.is_accepting().map_err(AnswerError::parser)?;
        self.allowed.words = match self.matcher.compute_mask() {
            Ok(mask) => mask.into(),
            Err(error) if error.to_string().starts_with(NO_TOKEN) => Vec::new(),
            Err(error) => return Err(AnswerError::parser(error)),
        };
        let permitted = self.permitted.words.iter().chain(std::iter::repeat(&0));
        self.allowed.words.iter_mut().zip(permitted).for_each(|(word, permitted)| *word &= permitted);
        if !end && self.allowed.words.iter().all(|&word| word == 0) {
            return Err(AnswerError::Stuck);
        }
        Ok(end)
    }

    /// Whether the grammar has not begun.
    fn is_free(&self) -> bool {
        self.after.is_some() || self.first.is_some()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.matcher.is_error()
    }

    pub(crate) fn into_matcher(self) -> Matcher {
        self.matcher
    }
}

impl Constraint for Answer {
    fn next(&mut self) -> Result<Allowed<'_>, ConstraintError> {
        if self.is_free() {
            return Ok(Allowed { tokens: None, end: self.first.is_some() });
        }
        let end = self.look()?;
        Ok(Allowed { tokens: Some(&self.allowed), end })
    }

    fn push(&mut self, id: u32) -> Result<(), ConstraintError> {
        match self.after {
            Some(after) => self.after = (id != after).then_some(after),
            None if self.first.is_some_and(|first| id != first) => {}
            None => {
                self.first = None;
                self.matcher.consume_token(id).map_err(AnswerError::parser)?;
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        // A parser that has failed has stopped too, but then the next draw is to say so.
        let ended = [StopReason::NoExtension, StopReason::EndOfSentence];
        !self.is_free() && ended.contains(&self.matcher.stop_reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_ends_and_what_is_not_goes_on() {
        let tokens = |milliseconds| {
            let mut patience = Patience(limits::TIME);
            (0..10_000).take_while(|_| patience.lasts(Duration::from_millis(milliseconds))).count()
        };
        assert_eq!([0, 4, 5].map(tokens), [10_000; 3]);
        assert_eq!([10, 100, 3000].map(tokens), [398, 20, 0]);
    }
}
