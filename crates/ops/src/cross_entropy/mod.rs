#![doc = include_str!("README.md")]

pub mod cases;
pub(crate) mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

use tensor::{Ctx, Tensor};

/// The label of a row that has no loss.
pub const IGNORE: u32 = u32::MAX;

/// The loss of each row of `logits [T, V]`; on return `logits` holds the gradient of `scale · Σ losses`.
pub fn forward_backward(ctx: &Ctx, logits: &mut Tensor, labels: &[u32], scale: f32) -> Vec<f32> {
    let v = check(logits, labels);
    let mut losses = vec![0.0; labels.len()];
    let rows = logits.data_mut().chunks_exact_mut(v).zip(labels);
    let mut rows: Vec<_> = losses.iter_mut().zip(rows).collect();
    ctx.for_each_chunk(&mut rows, ROWS, |_, rows| {
        for (loss, (x, label)) in rows {
            if **label == IGNORE {
                x.fill(0.0);
                continue;
            }
            let label = **label as usize;
            let of_label = x[label];
            let largest = cpu::largest(ctx.isa, x);
            let sum = cpu::exp(ctx.isa, x, largest);
            **loss = loss_of(largest, sum, of_label);
            cpu::scale(ctx.isa, x, (f64::from(scale) / sum) as f32);
            x[label] -= scale;
        }
    });
    losses
}

/// The loss of each row of `logits [T, V]`.
pub fn losses(ctx: &Ctx, logits: &Tensor, labels: &[u32]) -> Vec<f32> {
    check(logits, labels);
    let mut losses = vec![0.0; labels.len()];
    ctx.for_each_chunk(&mut losses, ROWS, |task, losses| {
        for (t, loss) in (task * ROWS..).zip(losses) {
            if labels[t] != IGNORE {
                let x = logits.row(t);
                let largest = cpu::largest(ctx.isa, x);
                let sum = cpu::sum_exp(ctx.isa, x, largest);
                *loss = loss_of(largest, sum, x[labels[t] as usize]);
            }
        }
    });
    losses
}

/// The sum of losses, in order, in f64.
pub fn sum(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum()
}

/// Rows per task: at a vocabulary's width a single row is work enough.
const ROWS: usize = 2;

fn loss_of(largest: f32, sum: f64, of_label: f32) -> f32 {
    (f64::from(largest) + sum.ln() - f64::from(of_label)) as f32
}

/// The width.
fn check(logits: &Tensor, labels: &[u32]) -> usize {
    let [t, v] = logits.dims();
    assert_eq!(t, labels.len(), "cross_entropy: {logits:?} and {} labels", labels.len());
    let wrong = labels.iter().find(|&&l| l != IGNORE && l as usize >= v);
    assert!(wrong.is_none(), "cross_entropy: label {wrong:?} is not below the {v} logits");
    v
}
