//! A limit to the tokens of reasoning.

use engine::{Allowed, Constraint, ConstraintError, Constraints, TokenSet};

/// Lets an answer reason for so many tokens, and then demands the token that ends reasoning. What else holds for the
/// answer holds as before.
pub(crate) fn constraints(inner: Option<Constraints>, budget: usize, end: u32) -> Constraints {
    Constraints::new(move || {
        Box::new(Budget {
            inner: inner.as_ref().map(Constraints::begin),
            left: Some(budget),
            end,
            only_end: TokenSet::from_iter([end]),
        })
    })
}

struct Budget {
    inner: Option<Box<dyn Constraint>>,
    /// Tokens that the reasoning may still have; nothing once it has ended.
    left: Option<usize>,
    end: u32,
    only_end: TokenSet,
}

impl Constraint for Budget {
    fn next(&mut self) -> Result<Allowed<'_>, ConstraintError> {
        match (self.left, &mut self.inner) {
            (Some(0), _) => Ok(Allowed { tokens: Some(&self.only_end), end: false }),
            (_, Some(inner)) => inner.next(),
            (_, None) => Ok(Allowed { tokens: None, end: true }),
        }
    }

    fn push(&mut self, id: u32) -> Result<(), ConstraintError> {
        if id == self.end {
            self.left = None;
        } else if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        self.inner.as_mut().map_or(Ok(()), |inner| inner.push(id))
    }

    fn is_complete(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_complete())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_ends_when_its_budget_does() {
        let mut budget = constraints(None, 2, 7).begin();
        let only_end = |budget: &mut Box<dyn Constraint>| {
            budget.next().unwrap().tokens.is_some_and(|set| set.contains(7) && !set.contains(1))
        };
        assert!(!only_end(&mut budget));
        budget.push(1).unwrap();
        assert!(!only_end(&mut budget));
        budget.push(2).unwrap();
        assert!(only_end(&mut budget));
        budget.push(7).unwrap();
        for id in [1, 7, 2, 3] {
            assert!(!only_end(&mut budget));
            budget.push(id).unwrap();
        }
        let mut short = constraints(None, 5, 7).begin();
        short.push(7).unwrap();
        (0..9).for_each(|_| short.push(1).unwrap());
        assert!(!only_end(&mut short), "what follows the reasoning is free");
    }
}
