//! Measuring operations, by `cargo bench -p ops` and by `hadal bench kernels` alike.
//!
//! Each operation has a `bench.rs` in its folder that gives its speed cases to [`Bench::row`], with the bytes that must be
//! moved and the operations that must be done. A row is timed and held against what the machine showed in the same run
//! ([`crate::machine`]).

mod all;
mod row;
mod spread;

use std::hint::black_box;

use tensor::{Ctx, Dims, Rng, Tensor};

use all::OPERATIONS;
pub use row::Row;
pub use spread::Spread;

use crate::machine::{self, Rates};

/// Times rows, those whose names were asked for.
pub struct Bench<'a> {
    pub(crate) ctx: &'a Ctx,
    names: &'a [String],
    /// Whether the operation that runs was named as a whole.
    whole: bool,
    sink: &'a mut dyn FnMut(&Row),
}

/// Runs of a row, at least, and for how long, in seconds.
const RUNS: (usize, f64) = (5, 0.5);

/// Measures the limits of `ctx`, gives them to `begin`, and each row to `sink` as soon as it is timed. Without `names` all
/// rows run; the name of an operation (its folder) means all of its rows, and another one all rows whose names contain it.
/// If such a name begins with an operation, only that is looked at: others need not make their inputs.
pub fn run(ctx: &Ctx, names: &[String], begin: impl FnOnce(&Rates), mut sink: impl FnMut(&Row, &Rates)) {
    let limits = machine::quick(ctx);
    begin(&limits);
    let mut bench = Bench { ctx, names, whole: false, sink: &mut |row| sink(row, &limits) };
    for (name, rows) in OPERATIONS {
        bench.operation(name, rows);
    }
}

impl Bench<'_> {
    /// Runs the rows of the operation in the folder `name`, unless the names that are asked for are those of others.
    fn operation(&mut self, name: &str, bench: impl FnOnce(&mut Self)) {
        let first_word = |asked: &String| asked.split(' ').next().unwrap_or_default().to_owned();
        let may_mean_it = |asked: &String| {
            first_word(asked) == name || OPERATIONS.iter().all(|(other, _)| *other != first_word(asked))
        };
        if self.names.is_empty() || self.names.iter().any(may_mean_it) {
            self.whole = self.names.iter().any(|asked| asked == name);
            bench(self);
        }
    }

    /// Times `run`; `bytes` and `flops` are the least that the operation must move and compute.
    pub(crate) fn row(&mut self, name: &str, bytes: u64, flops: u64, mut run: impl FnMut(&Ctx)) {
        if !self.names.is_empty() && !self.whole && !self.names.iter().any(|part| name.contains(part)) {
            return;
        }
        let (times, seconds) = RUNS;
        let seconds = Spread::of_seconds(times, seconds, || run(black_box(self.ctx)));
        (self.sink)(&Row { name: name.to_owned(), threads: self.ctx.threads(), seconds, bytes, flops });
    }
}

/// Standard normal numbers.
pub(crate) fn random(dims: impl Into<Dims>) -> Tensor {
    let dims = dims.into();
    let mut rng = Rng::new(0, "bench", dims.len() as u64);
    Tensor::from_vec((0..dims.len()).map(|_| rng.normal() as f32).collect(), dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_run(names: &[&str]) -> Vec<String> {
        let ctx = Ctx::new(1).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut rows = Vec::new();
        let mut bench = Bench { ctx: &ctx, names: &names, whole: false, sink: &mut |row| rows.push(row.name.clone()) };
        for name in ["gemm nt", "gemv nt", "rope"] {
            bench.row(name, 1, 1, |_| std::thread::sleep(std::time::Duration::from_millis(120)));
        }
        rows
    }

    #[test]
    fn only_what_is_named_runs() {
        assert_eq!(names_run(&["gem"]), ["gemm nt", "gemv nt"]);
        assert_eq!(names_run(&["rope", "gemv"]), ["gemv nt", "rope"]);
        assert!(names_run(&["swiglu"]).is_empty());
    }

    #[test]
    fn a_named_operation_runs_whole_and_alone() {
        let ctx = Ctx::new(1).unwrap();
        let made = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let mut made = Vec::new();
            let mut bench = Bench { ctx: &ctx, names: &names, whole: false, sink: &mut |_| {} };
            for name in ["gemm", "rope"] {
                bench.operation(name, |b| made.push((name, b.whole)));
            }
            made
        };
        assert_eq!(made(&[]), [("gemm", false), ("rope", false)]);
        assert_eq!(made(&["gemm"]), [("gemm", true)]);
        assert_eq!(made(&["rope [4096"]), [("rope", false)]);
        assert_eq!(made(&["[4096"]), [("gemm", false), ("rope", false)], "whose rows it means is not known before");
        assert_eq!(made(&["swiglu"]), []);
    }

    #[test]
    fn a_row_counts_its_runs() {
        let (ctx, mut runs, mut rows) = (Ctx::new(1).unwrap(), 0, Vec::new());
        Bench { ctx: &ctx, names: &[], whole: false, sink: &mut |row| rows.push(row.clone()) }
            .row("x", 8, 4, |_| runs += 1);
        assert_eq!((rows[0].bytes, rows[0].flops, rows[0].threads), (8, 4, 1));
        assert!(runs >= RUNS.0 && rows[0].seconds.len() == runs);
    }
}
