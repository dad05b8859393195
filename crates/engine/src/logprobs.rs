//! Log-probabilities of tokens, of an answer's and of a prompt's.

use model::Model;
use tensor::{Ctx, Tensor};

/// Natural logarithms of probabilities in the model's own distribution, before anything that a request asks for: a token
/// that a constraint forbids may be among the likeliest, and one that a bias forces may be unlikely.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that is there.
    pub of_token: f32,
    /// The likeliest tokens and theirs, by falling probability; equal ones by rising id.
    pub top: Vec<(u32, f32)>,
}

/// Rows whose logits are there at the same time: 32 MiB at a vocabulary of 128 Ki tokens.
const ROWS: usize = 64;

/// `log softmax` of the token `id` and of the `n` largest, in f64.
pub(crate) fn logprobs(logits: &[f32], id: u32, n: usize) -> Logprobs {
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
    // A prompt may have a token that is never drawn.
    let of_token = logits.get(id as usize).map_or(f32::NEG_INFINITY, |&x| logprob(x));
    Logprobs { of_token, top }
}

/// The same of `ids [T]`, each of which follows a row of the stream `[T, D]`. Logits are computed as for a draw, so these
/// are the bits that a drawn token there would have.
pub(crate) fn of_rows(
    ctx: &Ctx,
    model: &Model,
    stream: &Tensor,
    ids: &[u32],
    vocab_limit: usize,
    n: usize,
) -> Vec<Logprobs> {
    let [_, d] = stream.dims();
    let mut found = Vec::with_capacity(ids.len());
    for (rows, ids) in stream.data().chunks(ROWS * d).zip(ids.chunks(ROWS)) {
        let mut part = ctx.empty([ids.len(), d]);
        part.data_mut().copy_from_slice(&rows[..ids.len() * d]);
        let logits = model.next_logits(ctx, &part);
        let mut of_part: Vec<Option<Logprobs>> = vec![None; ids.len()];
        ctx.for_each_chunk(&mut of_part, 1, |i, one| {
            let row = logits.row(i);
            one[0] = Some(logprobs(&row[..row.len().min(vocab_limit)], ids[i], n));
        });
        found.extend(of_part.into_iter().flatten());
    }
    found
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
        assert_eq!(logprobs(&logits, 4, 0).of_token, f32::NEG_INFINITY);
    }
}
