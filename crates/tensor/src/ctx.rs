use std::sync::Arc;

use rayon::prelude::*;

use crate::pool::Pool;
use crate::tensor::{Dims, Tensor};

/// Where and how operations run: threads, instruction set and buffers. Passed first to every operation, never looked up.
///
/// Results do not depend on the number of threads: an operation divides its work into tasks whose arithmetic is the
/// same whoever runs them.
#[derive(Clone)]
pub struct Ctx {
    threads: Arc<rayon::ThreadPool>,
    buffers: Arc<Pool>,
    /// The widest instruction set that kernels may use.
    pub isa: Isa,
}

/// Proof that this processor has the instructions of a [`Level`]: it can only be had from detection, so holding one makes
/// it sound to call a kernel compiled for that level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

/// Instruction sets with kernels of their own, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, which the compiler vectorises for the baseline of the target.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// Why a context could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CtxError {
    /// The operating system refused threads.
    #[error("cannot start {threads} compute threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the thread pool said.
        source: rayon::ThreadPoolBuildError,
    },
}

impl Ctx {
    /// A context with `threads` compute threads (0 means one per available core) and the best instruction set found.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self, CtxError> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("hadal-{i}"))
            .build()
            .map_err(|source| CtxError::Threads { threads, source })?;
        Ok(Self { threads: Arc::new(pool), buffers: Arc::default(), isa: Isa::detect() })
    }

    /// The same context restricted to kernels of at most `level`; for comparing kernels with one another.
    #[must_use]
    pub fn at_most(&self, level: Level) -> Self {
        Self { isa: Isa(self.isa.0.min(level)), ..self.clone() }
    }

    /// The number of compute threads.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `work` on one of the compute threads. Operations that it calls then find themselves at home: without this,
    /// each of them would hand its tasks over to another thread and sleep until they are done.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    /// Runs `task(0)` to `task(n - 1)`, on all threads, in no particular order, and waits for them.
    pub fn for_each(&self, n: usize, task: impl Fn(usize) + Sync + Send) {
        if n == 1 || self.threads() == 1 {
            // One thread needs no hand-over; `install` would still cost a wake-up for each operation.
            (0..n).for_each(task);
        } else {
            self.threads.install(|| (0..n).into_par_iter().with_max_len(1).for_each(task));
        }
    }

    /// Cuts `out` into chunks of `chunk` elements (the last may be shorter) and runs `task(i, chunk_i)` for each.
    pub fn for_each_chunk<T: Send>(&self, out: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync + Send) {
        if out.len() <= chunk || self.threads() == 1 {
            out.chunks_mut(chunk).enumerate().for_each(|(i, c)| task(i, c));
        } else {
            self.threads.install(|| {
                out.par_chunks_mut(chunk).with_max_len(1).enumerate().for_each(|(i, c)| task(i, c));
            });
        }
    }

    /// A tensor whose every element the caller is about to write. Its content is unspecified; with debug assertions it
    /// is NaN, so that a kernel that forgets an element is seen.
    pub fn empty(&self, dims: impl Into<Dims>) -> Tensor {
        let dims = dims.into();
        Tensor::from_buffer(Pool::take(&self.buffers, dims.len()), dims)
    }

    /// A tensor of zeros.
    pub fn zeros(&self, dims: impl Into<Dims>) -> Tensor {
        let mut t = self.empty(dims);
        t.data_mut().fill(0.0);
        t
    }
}

impl Isa {
    /// The best set that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
            let avx512 = std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                return Self(Level::Avx512);
            }
            if avx2 {
                return Self(Level::Avx2);
            }
        }
        Self(Level::Portable)
    }

    /// The level whose instructions may be used.
    pub fn level(self) -> Level {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 3] {
            let ctx = Ctx::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            ctx.for_each(100, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn fresh_buffers_are_nan_under_debug_assertions() {
        let ctx = Ctx::new(1).unwrap();
        drop(ctx.zeros([3, 5]));
        let again = ctx.empty([3, 5]);
        assert!(!cfg!(debug_assertions) || again.data().iter().all(|x| x.is_nan()));
    }
}
