use std::sync::Arc;

use crate::pool::{BufferBytes, Pool};
use crate::tensor::{Dims, Tensor};
use crate::threads::Threads;

/// Where and how operations run: threads, instruction set and buffers. Passed first to every operation, never looked up.
///
/// Results do not depend on the number of threads: an operation divides its work into tasks whose arithmetic is the
/// same whoever runs them.
#[derive(Clone)]
pub struct Ctx {
    threads: Arc<Threads>,
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
    /// The same with VBMI, VNNI and BF16: products of bf16 pairs, and tables in registers.
    Avx512Bf16,
}

/// Why a context could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CtxError {
    /// The operating system refused threads.
    #[error("cannot start {threads} compute threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What it said.
        source: std::io::Error,
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
        let crew = Threads::new(threads).map_err(|source| CtxError::Threads { threads, source })?;
        Ok(Self { threads: Arc::new(crew), buffers: Arc::default(), isa: Isa::detect() })
    }

    /// The same context restricted to kernels of at most `level`; for comparing kernels with one another.
    #[must_use]
    pub fn at_most(&self, level: Level) -> Self {
        Self { isa: Isa(self.isa.0.min(level)), ..self.clone() }
    }

    /// The number of compute threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Runs `task(0)` to `task(n - 1)`, on all threads, in no particular order, and waits for them. The calling thread is
    /// one of them. Within a task it runs where it is, on one thread.
    pub fn for_each(&self, n: usize, task: impl Fn(usize) + Sync + Send) {
        self.threads.run(n, &task);
    }

    /// Cuts `out` into chunks of `chunk` elements (the last may be shorter) and runs `task(i, chunk_i)` for each.
    pub fn for_each_chunk<T: Send>(&self, out: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync + Send) {
        assert!(chunk > 0, "a chunk has at least one element");
        let chunks = Chunks { first: out.as_mut_ptr(), len: out.len(), chunk };
        self.for_each(out.len().div_ceil(chunk), |i| {
            // SAFETY: `for_each` runs each `i` once, and `out` is borrowed until it returns.
            task(i, unsafe { chunks.get(i) });
        });
    }

    /// A tensor whose every element the caller is about to write. Its content is unspecified; with debug assertions it
    /// is NaN, so that a kernel that forgets an element is seen.
    pub fn empty(&self, dims: impl Into<Dims>) -> Tensor {
        let dims = dims.into();
        Tensor::from_buffer(Pool::take(&self.buffers, dims.len()), dims)
    }

    /// What the tensors made by this context take of memory.
    pub fn buffer_bytes(&self) -> BufferBytes {
        self.buffers.bytes()
    }

    /// A tensor of zeros.
    pub fn zeros(&self, dims: impl Into<Dims>) -> Tensor {
        let mut t = self.empty(dims);
        t.data_mut().fill(0.0);
        t
    }
}

/// A slice that is dealt out in chunks.
struct Chunks<T> {
    first: *mut T,
    len: usize,
    chunk: usize,
}

// SAFETY: threads get different chunks (`get`), each of which is a `&mut [T]` that may be sent to them.
unsafe impl<T: Send> Sync for Chunks<T> {}

impl<T> Chunks<T> {
    /// Chunk `i`.
    ///
    /// # Safety
    /// The slice must be borrowed mutably for as long as the result lives, and nobody may ask for a chunk twice.
    #[expect(clippy::mut_from_ref, reason = "that nobody asks for a chunk twice is the caller's promise")]
    unsafe fn get(&self, i: usize) -> &mut [T] {
        let start = i * self.chunk;
        let len = self.chunk.min(self.len - start);
        // SAFETY: inside the slice, and chunks of different numbers do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), len) }
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
            let bf16 = std::is_x86_feature_detected!("avx512vbmi")
                && std::is_x86_feature_detected!("avx512vnni")
                && std::is_x86_feature_detected!("avx512bf16");
            if avx2 && avx512 {
                return Self(if bf16 { Level::Avx512Bf16 } else { Level::Avx512 });
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
