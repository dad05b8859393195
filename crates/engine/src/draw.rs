//! From logits to the next token of a request.

use ops::sampling::{self, History};
use tensor::{Ctx, Rng};

use crate::constraint::{Constraint, Constraints};
use crate::error::Error;
use crate::logprobs::{Logprobs, logprobs};
use crate::request::Request;

/// What a request has drawn, and what its next draw depends on beside the logits.
pub(crate) struct Drawer {
    history: History,
    rng: Rng,
    constraint: Option<Box<dyn Constraint>>,
    /// Tokens of the answer so far.
    drawn: usize,
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// If they were asked for.
    pub logprobs: Option<Logprobs>,
}

impl Drawer {
    pub(crate) fn new(request: &Request) -> Self {
        Self {
            history: History::new(&request.prompt),
            rng: Rng::new(request.seed, "sampling", 0),
            constraint: request.constraint.as_ref().map(Constraints::begin),
            drawn: 0,
        }
    }

    /// Begins another answer, behind these tokens of another prompt.
    pub(crate) fn resume(&mut self, request: &Request, prompt: &[u32]) {
        self.history.prompt(prompt);
        self.constraint = request.constraint.as_ref().map(Constraints::begin);
        self.drawn = 0;
    }

    /// Whether the constraint has no place for another token.
    pub(crate) fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(|constraint| constraint.is_complete())
    }

    /// The next token; none when the answer ends instead, with a stop token or because its constraint is complete.
    ///
    /// # Errors
    /// When the logits are not numbers, no token may be drawn, or the constraint fails.
    pub(crate) fn draw(&mut self, ctx: &Ctx, request: &Request, logits: &[f32]) -> Result<Option<Drawn>, Error> {
        if self.is_complete() {
            return Ok(None);
        }
        let Request { sampling, vocab_limit, stop, .. } = request;
        let mut biased = logits.to_vec();
        for &(id, bias) in &request.logit_bias {
            if let Some(x) = biased.get_mut(id as usize) {
                *x += bias;
            }
        }
        self.mask(request, &mut biased)?;
        let id = sampling::sample(ctx, &mut biased, *vocab_limit, &self.history, sampling, &mut self.rng)?;
        if stop.contains(&id) {
            return Ok(None);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.push(id).map_err(Error::Constraint)?;
        }
        self.history.push(id);
        self.drawn += 1;
        let logits = &logits[..logits.len().min(*vocab_limit)];
        Ok(Some(Drawn { id, logprobs: request.logprobs.map(|n| logprobs(logits, id, n)) }))
    }

    /// Makes the logits of tokens that may not be drawn -inf: those that the constraint does not allow, and stop tokens
    /// where the answer may not end yet.
    fn mask(&mut self, request: &Request, logits: &mut [f32]) -> Result<(), Error> {
        let stops = |logits: &[f32]| -> Vec<(usize, f32)> {
            request.stop.iter().filter_map(|&id| Some((id as usize, *logits.get(id as usize)?))).collect()
        };
        let mut may_end = self.drawn >= request.min_tokens;
        if let Some(constraint) = &mut self.constraint {
            let allowed = constraint.next().map_err(Error::Constraint)?;
            may_end &= allowed.end;
            if let Some(tokens) = allowed.tokens {
                let stops = stops(logits);
                tokens.mask(logits);
                for (id, x) in stops {
                    logits[id] = x;
                }
            }
        }
        if !may_end {
            for (id, _) in stops(logits) {
                logits[id] = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::{Allowed, ConstraintError, TokenSet};

    fn greedy(logits: &[f32], request: &Request) -> Result<Option<u32>, Error> {
        let drawn = Drawer::new(request).draw(&Ctx::new(1).unwrap(), request, logits)?;
        Ok(drawn.map(|drawn| drawn.id))
    }

    fn request() -> Request {
        let mut request = Request::new(vec![0], 9);
        request.sampling.temperature = 0.0;
        request
    }

    #[test]
    fn a_bias_decides_and_logprobs_do_not_see_it() {
        let ctx = Ctx::new(1).unwrap();
        let request = Request { logprobs: Some(1), logit_bias: vec![(2, 9.0), (77, 1.0)], ..request() };
        let drawn = Drawer::new(&request).draw(&ctx, &request, &[0.0, 1.0, 0.5]).unwrap().unwrap();
        assert_eq!(drawn.id, 2);
        let logprobs = drawn.logprobs.unwrap();
        assert_eq!(logprobs.top[0].0, 1);
        assert!(logprobs.of_token < logprobs.top[0].1);
    }

    #[test]
    fn an_answer_does_not_end_before_it_is_long_enough() {
        let ctx = Ctx::new(1).unwrap();
        let logits = [0.0, 5.0, 1.0, 7.0];
        let request = Request { stop: vec![3, 1, 99], min_tokens: 2, ..request() };
        let mut drawer = Drawer::new(&request);
        let mut draw = || drawer.draw(&ctx, &request, &logits).unwrap().map(|drawn| drawn.id);
        assert_eq!([draw(), draw(), draw()], [Some(2), Some(2), None]);
    }

    /// Allows one token after the other.
    struct Script {
        steps: Vec<(TokenSet, bool)>,
        pushed: Vec<u32>,
    }

    impl Constraint for Script {
        fn next(&mut self) -> Result<Allowed<'_>, ConstraintError> {
            let (tokens, end) = &self.steps[self.pushed.len()];
            Ok(Allowed { tokens: Some(tokens), end: *end })
        }

        fn push(&mut self, id: u32) -> Result<(), ConstraintError> {
            self.pushed.push(id);
            if id == 2 { Err("the second is too much".into()) } else { Ok(()) }
        }

        fn is_complete(&self) -> bool {
            self.pushed.len() == self.steps.len()
        }
    }

    fn script(steps: &[(&[u32], bool)]) -> Constraints {
        let steps: Vec<(TokenSet, bool)> =
            steps.iter().map(|(ids, end)| (ids.iter().copied().collect(), *end)).collect();
        Constraints::new(move || Box::new(Script { steps: steps.clone(), pushed: Vec::new() }))
    }

    #[test]
    fn a_stop_token_is_drawn_only_where_the_constraint_may_end() {
        let logits = [0.0, 5.0, 1.0, 7.0];
        let with = |steps: &[(&[u32], bool)]| Request { stop: vec![3], constraint: Some(script(steps)), ..request() };
        assert_eq!(greedy(&logits, &with(&[(&[0], false)])).unwrap(), Some(0));
        assert_eq!(greedy(&logits, &with(&[(&[0], true)])).unwrap(), None);
        assert_eq!(greedy(&logits, &with(&[(&[0, 3], false)])).unwrap(), Some(0), "the set does not allow to end");
        assert_eq!(greedy(&logits, &Request { min_tokens: 1, ..with(&[(&[0], true)]) }).unwrap(), Some(0));
        assert_eq!(greedy(&logits, &with(&[])).unwrap(), None, "complete");
        // A bias does not let in what the constraint keeps out.
        let biased = Request { logit_bias: vec![(1, 100.0)], ..with(&[(&[0], false)]) };
        assert_eq!(greedy(&logits, &biased).unwrap(), Some(0));
    }

    #[test]
    fn a_constraint_that_fails_is_an_error() {
        let logits = [0.0, 5.0, 1.0, 7.0];
        let request = Request { constraint: Some(script(&[(&[2], false)])), ..request() };
        assert_eq!(greedy(&logits, &request).unwrap_err().to_string(), "the second is too much");
        let nothing = Request { constraint: Some(script(&[(&[], false)])), ..request };
        assert!(matches!(greedy(&logits, &nothing), Err(Error::Sampling(sampling::Error::Masked { .. }))));
    }
}
