use model::Model;
use tensor::Ctx;

use crate::error::Error;
use crate::sequence::{Finish, Request, Sequence, advance};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Sequences decoded at once: their caches and one row of logits each are in memory together.
const BATCH: usize = 32;

/// Answers all requests, in their order.
///
/// # Errors
/// The first request that cannot be answered.
pub fn complete(ctx: &Ctx, model: &Model, requests: &[Request]) -> Result<Vec<Completion>, Error> {
    complete_until(ctx, model, requests, |_| false)
}

/// The same, where an answer also ends with the token after which `ended` says so of its tokens.
///
/// # Errors
/// As [`complete`].
pub fn complete_until(
    ctx: &Ctx,
    model: &Model,
    requests: &[Request],
    ended: impl Fn(&[u32]) -> bool,
) -> Result<Vec<Completion>, Error> {
    let mut waiting = requests.iter().enumerate();
    let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
    let mut running: Vec<(usize, Sequence, Vec<u32>)> = Vec::new();
    loop {
        // Places that have become free are taken at once, so the batch stays full.
        while running.len() < BATCH
            && let Some((i, request)) = waiting.next()
        {
            running.push((i, Sequence::start(ctx, model, request.clone())?, Vec::new()));
        }
        if running.is_empty() {
            break;
        }
        let mut drawn = Vec::with_capacity(running.len());
        let mut advancing = Vec::with_capacity(running.len());
        for (_, sequence, tokens) in &mut running {
            if let Some(token) = sequence.draw(ctx)? {
                tokens.push(token);
                if ended(tokens) {
                    sequence.stop();
                } else {
                    drawn.push(token);
                    advancing.push(sequence);
                }
            }
        }
        advance(ctx, model, &drawn, &mut advancing)?;
        for (i, sequence, tokens) in running.extract_if(.., |(_, sequence, _)| sequence.finish().is_some()) {
            let finish = sequence.finish().expect("extracted because it has finished");
            done[i] = Some(Completion { tokens, finish });
        }
    }
    Ok(done.into_iter().map(|c| c.expect("every request has run to its end")).collect())
}
