#![doc = include_str!("README.md")]

pub mod cases;
mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

use crate::router;

/// The loss, times `factor`, and its gradient `[T, E]`, for `scores [T, E]` of sequences `cu_seqlens[i]..cu_seqlens[i + 1]`
/// and `k` experts per token.
pub fn forward_backward(ctx: &Ctx, scores: &Tensor, cu_seqlens: &[usize], k: usize, factor: f32) -> (f64, Tensor) {
    let [t, e] = scores.dims();
    let cut = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&t) && cu_seqlens.is_sorted();
    assert!(cut, "balance: cu_seqlens do not cut {t} tokens into sequences");
    assert!((1..=e).contains(&k), "balance: {k} of {e} experts per token");

    let mut idx = vec![0; t * k];
    ctx.for_each_chunk(&mut idx, ROWS * k, |task, idx| {
        for (i, idx) in idx.chunks_exact_mut(k).enumerate() {
            router::top_k(scores.row(task * ROWS + i), idx);
        }
    });

    let mut dscores = ctx.empty([t, e]);
    let mut losses = vec![0.0; t];
    let (mut rest, mut rest_losses) = (dscores.data_mut(), &mut losses[..]);
    let mut tasks = Vec::new();
    let frequencies: Vec<Vec<f32>> = cu_seqlens
        .windows(2)
        .map(|s| {
            let tokens = s[1] - s[0];
            let counts = router::counts(&idx[s[0] * k..s[1] * k], e);
            counts.iter().map(|&c| (c as f64 * e as f64 / (k * tokens) as f64) as f32).collect()
        })
        .collect();
    for (s, f) in cu_seqlens.windows(2).zip(&frequencies) {
        let tokens = s[1] - s[0];
        let (dscores, after) = rest.split_at_mut(tokens * e);
        let (losses, after_losses) = rest_losses.split_at_mut(tokens);
        (rest, rest_losses) = (after, after_losses);
        let scores = &scores.data()[s[0] * e..s[1] * e];
        let rows = scores.chunks(ROWS * e).zip(dscores.chunks_mut(ROWS * e)).zip(losses.chunks_mut(ROWS));
        tasks.extend(rows.map(|rows| (rows, f, f64::from(factor) / tokens as f64)));
    }
    ctx.for_each_chunk(&mut tasks, 1, |_, tasks| {
        for (((scores, dscores), losses), f, factor) in tasks {
            cpu::rows(ctx.isa, scores, f, *factor, dscores, losses);
        }
    });
    (losses.iter().sum(), dscores)
}

/// Rows per task.
const ROWS: usize = 32;
