//! From logits to the next token of a request.

use ops::sampling::{self, History};
use tensor::{Ctx, Rng};

use crate::error::Error;
use crate::request::Request;

/// What a request has drawn, and what its next draw depends on beside the logits.
#[derive(Clone)]
pub(crate) struct Drawer {
    history: History,
    rng: Rng,
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// If they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of probabilities in the model's own distribution, before anything that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was drawn.
    pub of_token: f32,
    /// The likeliest tokens and theirs, by falling probability; equal ones by rising id.
    pub top: Vec<(u32, f32)>,
}

impl Drawer {
    pub(crate) fn new(request: &Request) -> Self {
        Self { history: History::new(&request.prompt), rng: Rng::new(request.seed, "sampling", 0) }
    }

    /// Adds tokens of another prompt.
    pub(crate) fn prompt(&mut self, tokens: &[u32]) {
        self.history.prompt(tokens);
    }

    /// The next token; none when it is one that ends the answer.
    ///
    /// # Errors
    /// When the logits are not numbers.
    pub(crate) fn draw(&mut self, ctx: &Ctx, request: &Request, logits: &[f32]) -> Result<Option<Drawn>, Error> {
        let mut biased = logits.to_vec();
        for &(id, bias) in &request.logit_bias {
            if let Some(x) = biased.get_mut(id as usize) {
                *x += bias;
            }
        }
        let Request { sampling, vocab_limit, .. } = request;
        let id = sampling::sample(ctx, &mut biased, *vocab_limit, &self.history, sampling, &mut self.rng)?;
        if request.stop.contains(&id) {
            return Ok(None);
        }
        self.history.push(id);
        let logits = &logits[..logits.len().min(*vocab_limit)];
        Ok(Some(Drawn { id, logprobs: request.logprobs.map(|n| logprobs(logits, id, n)) }))
    }
}

/// `log softmax` of the drawn token and of the `n` largest, in f64.
fn logprobs(logits: &[f32], id: u32, n: usize) -> Logprobs {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    let logprob = |x: f32| (f64::from(x - largest) - sum.ln()) as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, by_logit);
        ids.truncate(n);
    }
    ids.sort_unstable_by(by_logit);
    let top = ids.into_iter().map(|id| (id, logprob(logits[id as usize]))).collect();
    Logprobs { of_token: logprob(logits[id as usize]), top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_logarithms_of_the_softmax() {
        let logits = [1.0, 3.0, -2.0, 3.0];
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let want = |i: usize| (f64::from(logits[i]) - total.ln()) as f32;
        let found = logprobs(&logits, 2, 3);
        assert!((found.of_token - want(2)).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 0]);
        assert!(found.top.iter().all(|&(id, p)| (p - want(id as usize)).abs() < 1e-6));
        assert_eq!(logprobs(&logits, 0, 9).top.len(), 4);
        assert!(logprobs(&logits, 0, 0).top.is_empty());
    }

    #[test]
    fn a_bias_decides_and_logprobs_do_not_see_it() {
        let ctx = Ctx::new(1).unwrap();
        let mut request = Request::new(vec![0], 1);
        request.sampling.temperature = 0.0;
        request.logprobs = Some(1);
        request.logit_bias = vec![(2, 9.0), (77, 1.0)];
        let drawn = Drawer::new(&request).draw(&ctx, &request, &[0.0, 1.0, 0.5]).unwrap().unwrap();
        assert_eq!(drawn.id, 2);
        let logprobs = drawn.logprobs.unwrap();
        assert_eq!(logprobs.top[0].0, 1);
        assert!(logprobs.of_token < logprobs.top[0].1);
    }
}
