//! What this machine can do at most: the bounds that kernels, training steps and tokens are measured against.
//!
//! Everything here is measured, in the process that wants to know, on the threads of its context. A rate that the
//! processor has no instruction for is absent. A limit is a maximum: shares are taken of the best round, and the spread
//! over rounds says how quiet the machine was. Only [`Reading`], whose rounds stand between what is held against it, is taken
//! as a median, as that is.
//!
//! Nothing of this may be called within a task of the same context.

mod arithmetic;
mod caches;
mod job;
mod lines;
mod memory;
#[cfg(test)]
mod tests;

use std::fmt;

use tensor::{Ctx, Level};

use crate::Precision;
use crate::bench::Spread;

use self::lines::Line;
use self::memory::Rounds;

/// All that is known of a machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads of the context.
    pub threads: usize,
    /// The instructions that kernels use here.
    pub level: Level,
    /// One thread alone.
    pub one: Rates,
    /// All threads at once.
    pub all: Rates,
    /// Caches of data, the smallest first; empty where the processor does not say.
    pub caches: Vec<Cache>,
    /// What it costs to bring work to the threads.
    pub job: Job,
}

/// Rates per second.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Bytes read from memory far larger than the caches, front to back.
    pub read: Spread,
    /// Operations of f32 multiply-adds, which count as two.
    pub f32: Spread,
    /// Operations of `vdpbf16ps` (AVX-512 BF16), 64 each.
    pub bf16: Option<Spread>,
    /// Operations of `vpdpbusd` (AVX-512 VNNI), 128 each.
    pub int8: Option<Spread>,
}

/// A cache of data and how fast it is read.
#[derive(Clone, Debug)]
pub struct Cache {
    /// 1 is the smallest.
    pub level: u32,
    /// Its size.
    pub size_bytes: u64,
    /// How many hardware threads share one.
    pub shared_by: usize,
    /// Bytes a second that one thread reads out of half of it.
    pub one: Spread,
    /// Bytes a second of all threads together, each reading its part of that; absent where such a part would fit into
    /// the cache before.
    pub all: Option<Spread>,
}

/// Seconds from bringing a job to its end, seen by the thread that brings it.
#[derive(Clone, Debug)]
pub struct Job {
    /// As many empty tasks as there are threads; who comes first may run them all.
    pub empty: Spread,
    /// The same where every thread must have come before any may leave.
    pub everyone: Spread,
}

impl Rates {
    /// The limit of reading, in bytes a second.
    pub fn bytes(&self) -> f64 {
        self.read.max()
    }

    /// The limit of arithmetic, in operations a second. Without instructions of its own, bf16 is widened and multiplied as
    /// f32.
    pub fn flops(&self, precision: Precision) -> f64 {
        match (precision, &self.bf16) {
            (Precision::Bf16, Some(bf16)) => bf16.max(),
            (Precision::Bf16, None) | (Precision::F32, _) => self.f32.max(),
        }
    }
}

/// Rounds of a limit that others are held against: on a shared machine some of them are quiet.
const MANY: usize = 15;
/// Rounds where it must be quick.
const FEW: usize = 7;

/// The limits in one line.
impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let giga = |x: f64| x / 1e9;
        write!(f, "read {:.1} GB/s, f32 {:.0} GFLOP/s", giga(self.read.max()), giga(self.f32.max()))?;
        if let Some(bf16) = &self.bf16 {
            write!(f, ", bf16 {:.0} GFLOP/s", giga(bf16.max()))?;
        }
        if let Some(int8) = &self.int8 {
            write!(f, ", int8 {:.0} GOP/s", giga(int8.max()))?;
        }
        Ok(())
    }
}

/// Measures everything, in some seconds.
pub fn measure(ctx: &Ctx) -> Limits {
    let caches = caches::found();
    let data = memory::fill(ctx, memory::size_bytes(&caches, ctx.threads()));
    Limits {
        threads: ctx.threads(),
        level: ctx.isa.level(),
        one: rates(ctx, 1, &data, MANY),
        all: rates(ctx, ctx.threads(), &data, MANY),
        caches: caches::measure(ctx, &caches, MANY),
        job: job::measure(ctx),
    }
}

/// Only the rates of all threads, in less than a second. It takes some hundred megabytes for a moment: whoever reports
/// the memory of a process asks before.
pub fn quick(ctx: &Ctx) -> Rates {
    let data = memory::fill(ctx, memory::size_bytes(&caches::found(), ctx.threads()));
    rates(ctx, ctx.threads(), &data, MANY)
}

/// Only the rate at which all threads read some memory, in rounds between which other things are measured: on a shared
/// machine it changes by a factor of nearly two, sometimes from one moment to the next.
pub struct Reading<'a>(Rounds<'a>);

impl<'a> Reading<'a> {
    /// Of `parts` of memory; none if they could lie in the caches.
    pub fn of(ctx: &Ctx, parts: &[&'a [u8]]) -> Option<Self> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let is_large = bytes >= memory::size_bytes(&caches::found(), ctx.threads());
        is_large.then(|| Self(Rounds::new(&memory::lines(parts))))
    }

    /// Reads it all twice.
    pub fn round(&mut self, ctx: &Ctx) {
        self.0.run(ctx, ctx.threads());
    }

    /// Bytes a second over the rounds.
    ///
    /// # Panics
    /// When there was none.
    pub fn rate(self) -> Spread {
        self.0.rate()
    }
}

/// Only the limit of arithmetic of all threads, in operations a second.
pub fn flops(ctx: &Ctx, precision: Precision) -> f64 {
    let best = |kind| arithmetic::measure(ctx, ctx.threads(), kind, FEW).map(|spread| spread.max());
    let bf16 = (precision == Precision::Bf16).then(|| best(arithmetic::Kind::Bf16)).flatten();
    bf16.or_else(|| best(arithmetic::Kind::F32)).expect("every processor multiplies f32")
}

fn rates(ctx: &Ctx, threads: usize, data: &[Line], rounds: usize) -> Rates {
    let arithmetic = |kind| arithmetic::measure(ctx, threads, kind, rounds);
    Rates {
        read: memory::measure(ctx, threads, data, rounds),
        f32: arithmetic(arithmetic::Kind::F32).expect("every processor multiplies f32"),
        bf16: arithmetic(arithmetic::Kind::Bf16),
        int8: arithmetic(arithmetic::Kind::Int8),
    }
}
