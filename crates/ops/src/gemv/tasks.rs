//! Which thread multiplies what.
//!
//! Each job is a product of some rows of x with some rows of one matrix. Rows of x are packed once, on the calling thread,
//! also where several jobs share them; then the matrices are cut into tasks of some ten KiB, which threads take one by one.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use tensor::{CodesRef, Ctx, MatrixRef, Tensor, int4_row_bytes};

use super::cpu::{self, MAX_GROUP, Out, ROWS};
use super::pack::{Layout, Line, pack_row, row_lines};
use crate::Precision;
use crate::mla_attention::disjoint::Disjoint;
use crate::simd::LANES;

/// Some rows of x: row `m` is at `data[m * stride..]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) width: usize,
}

/// A product: element `(m, n)` of it, `n` counted from the start of `rows`, goes to `first + m * stride + n` of output `y`.
pub(super) struct Job<'a> {
    /// What [`Jobs::rows`] gave.
    pub(super) x: usize,
    pub(super) matrix: MatrixRef<'a>,
    /// Rows of the matrix.
    pub(super) rows: Range<usize>,
    /// What [`Jobs::output`] gave.
    pub(super) y: usize,
    pub(super) first: usize,
    pub(super) stride: usize,
}

/// Products that are computed together. No two of them may write the same element.
pub(super) struct Jobs<'a> {
    ctx: &'a Ctx,
    precision: Precision,
    rows: Vec<Rows<'a>>,
    outputs: Vec<Disjoint<'a>>,
    products: Vec<Job<'a>>,
}

/// Bytes of weights of a task: enough that starting to read somewhere else does not show, and few enough that all
/// threads end at the same time.
const TASK_BYTES: Range<usize> = 32 << 10..128 << 10;
/// Tasks for each thread, if they do not get too small.
const TASKS_A_THREAD: usize = 8;
/// Below this it is faster to multiply than to tell other threads.
const ALONE_BYTES: usize = 16 << 10;

/// Lines of vectors of a strip that several groups of x meet: with weights, which are half as many bytes, and x they stay
/// in the level-2 cache.
const DECODED_LINES: usize = (128 << 10) / size_of::<Line>();

thread_local! {
    static PACKED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// The vectors of a strip.
    static DECODED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Rows of x packed in one layout: from `start` on, one group after the other.
#[derive(Clone, Copy)]
struct Packed {
    rows: usize,
    layout: Layout,
    start: usize,
}

/// Some rows of the matrix of a job.
struct Task {
    job: usize,
    rows: Range<usize>,
}

/// The next task of a part; apart from those of other parts, which other threads write.
#[repr(align(128))]
struct Next(AtomicUsize);

impl<'a> Jobs<'a> {
    pub(super) fn new(ctx: &'a Ctx, precision: Precision) -> Self {
        Self { ctx, precision, rows: Vec::new(), outputs: Vec::new(), products: Vec::new() }
    }

    /// A tensor that jobs write.
    pub(super) fn output(&mut self, y: &'a mut Tensor) -> usize {
        self.outputs.push(Disjoint::new(y.data_mut()));
        self.outputs.len() - 1
    }

    /// Rows that no other job has.
    pub(super) fn rows(&mut self, rows: Rows<'a>) -> usize {
        self.rows.push(rows);
        self.rows.len() - 1
    }

    /// Rows that other jobs may have too.
    pub(super) fn rows_again(&mut self, rows: Rows<'a>) -> usize {
        let place = |rows: &Rows<'a>| (rows.data.as_ptr(), rows.stride, rows.count, rows.width);
        let known = self.rows.iter().rposition(|other| place(other) == place(&rows));
        known.unwrap_or_else(|| self.rows(rows))
    }

    pub(super) fn add(&mut self, job: Job<'a>) {
        assert!(job.rows.end <= job.matrix.rows, "gemv: rows of a job are rows of its matrix");
        self.products.push(job);
    }

    pub(super) fn run(&self) {
        match self.precision {
            Precision::F32 => self.run_tasks(|task, _| self.f32(task)),
            Precision::Bf16 => PACKED.with_borrow_mut(|lines| {
                let (packed, of_job) = self.pack(lines);
                let lines = &lines[..];
                self.run_tasks(|task, next| self.bf16(task, next, &packed[of_job[task.job]], lines));
            }),
        }
    }

    /// Runs `task(job, rows of its matrix, the task after it)` for all rows of all jobs.
    ///
    /// Each thread works its way through a part of the memory, so that what it asks for ahead of time is what it needs
    /// next, also across the end of a task; then it helps the others.
    fn run_tasks(&self, run: impl Fn(&Task, Option<&Task>) + Sync + Send) {
        let bytes: usize = self.products.iter().map(|job| job.rows.len() * row_bytes(&job.matrix)).sum();
        let threads = if bytes < ALONE_BYTES { 1 } else { self.ctx.threads() };
        let task_bytes = (bytes / (threads * TASKS_A_THREAD)).clamp(TASK_BYTES.start, TASK_BYTES.end);
        let mut tasks = Vec::with_capacity(self.products.len() + bytes / task_bytes);
        for (i, Job { matrix, rows, .. }) in self.products.iter().enumerate() {
            let step = (task_bytes / row_bytes(matrix).max(1)).max(1);
            // Tasks of equal size rather than a small one at the end.
            let step = rows.len().div_ceil(rows.len().div_ceil(step).max(1)).max(1);
            tasks.extend(
                rows.clone().step_by(step).map(|start| Task { job: i, rows: start..rows.end.min(start + step) }),
            );
        }
        let part = |p: usize| tasks.len() * p / threads;
        let next: Vec<Next> = (0..threads).map(|p| Next(AtomicUsize::new(part(p)))).collect();
        self.ctx.for_each(threads, |thread| {
            for p in (thread..threads).chain(0..thread) {
                loop {
                    let t = next[p].0.fetch_add(1, Ordering::Relaxed);
                    if t >= part(p + 1) {
                        break;
                    }
                    run(&tasks[t], tasks.get(t + 1));
                }
            }
        });
    }

    /// Packs the rows of all jobs; for each job which of the results is its.
    fn pack(&self, lines: &mut Vec<Line>) -> (Vec<Packed>, Vec<usize>) {
        let mut packed: Vec<Packed> = Vec::with_capacity(self.rows.len());
        // For each rows of x the last of `packed`: rows meet matrices of another layout seldom.
        let mut last: Vec<Option<usize>> = vec![None; self.rows.len()];
        let mut used = 0;
        let mut of_job = Vec::with_capacity(self.products.len());
        for job in &self.products {
            let layout = Layout::of(&job.matrix.codes);
            let known = last[job.x].filter(|&p| packed[p].layout == layout);
            of_job.push(known.unwrap_or_else(|| {
                let Rows { count, width, .. } = self.rows[job.x];
                packed.push(Packed { rows: job.x, layout, start: used });
                used += count * row_lines(width);
                last[job.x] = Some(packed.len() - 1);
                packed.len() - 1
            }));
        }
        if lines.len() < used {
            lines.resize(used, Line([0; LANES]));
        }
        for &Packed { rows, layout, start } in &packed {
            let Rows { data, stride, count, width } = self.rows[rows];
            let mut at = start;
            for (first, group) in groups(count) {
                let end = at + group * row_lines(width);
                for m in 0..group {
                    let x = &data[(first + m) * stride..][..width];
                    pack_row(self.ctx.isa, x, layout, group, m, &mut lines[at..end]);
                }
                at = end;
            }
        }
        (packed, of_job)
    }

    fn bf16(&self, Task { job, rows }: &Task, next: Option<&Task>, packed: &Packed, lines: &[Line]) {
        let Job { matrix, .. } = self.products[*job];
        let Rows { count, width, .. } = self.rows[packed.rows];
        let mut out: Out = [[0.0; ROWS]; MAX_GROUP];
        let lines_of_row = row_lines(width);
        let step = if shares(&matrix, count) { (DECODED_LINES / lines_of_row).clamp(2, ROWS) & !1 } else { ROWS };
        for start in rows.clone().step_by(step) {
            let strip = start..rows.end.min(start + step);
            let after = match next {
                Some(next) if strip.end == rows.end => row_address(&self.products[next.job].matrix, next.rows.start),
                _ => row_address(&matrix, strip.end),
            };
            #[cfg(target_arch = "x86_64")]
            if self.ctx.isa.level() >= tensor::Level::Avx512Bf16 {
                let x = &lines[packed.start..];
                // SAFETY: an `Isa` of this level exists only on a processor that has the instructions.
                unsafe { self.avx512(*job, &strip, x, count, after, &mut out) };
                continue;
            }
            for (first, group) in groups(count) {
                let x = &lines[packed.start + first * lines_of_row..][..group * lines_of_row];
                cpu::bf16(self.ctx.isa, matrix, strip.clone(), x, group, &mut out);
                self.write(*job, &strip, first, group, &out);
            }
        }
    }

    /// The same for all groups of a strip: the first decodes it, and if there are more, those find its vectors.
    ///
    /// # Safety
    /// The processor has the instructions of `Level::Avx512Bf16`.
    #[cfg(target_arch = "x86_64")]
    unsafe fn avx512(
        &self,
        job: usize,
        strip: &Range<usize>,
        x: &[Line],
        count: usize,
        after: *const u8,
        out: &mut Out,
    ) {
        use super::avx512::{Decoded, products};
        let Job { matrix, .. } = self.products[job];
        let lines = row_lines(matrix.cols);
        let shared = shares(&matrix, count);
        DECODED.with_borrow_mut(|decoded| {
            if shared && decoded.len() < strip.len() * lines {
                decoded.resize(strip.len() * lines, Line([0; LANES]));
            }
            for (first, group) in groups(count) {
                let x = &x[first * lines..][..group * lines];
                // Only the first group comes to what is read after the strip: the others find all in the level-2 cache.
                let (decoded, after) = match first {
                    _ if !shared => (Decoded::Alone, after),
                    0 => (Decoded::Into(decoded), after),
                    _ => (Decoded::From(decoded), decoded.as_ptr().cast()),
                };
                // SAFETY: the processor has the instructions, the caller's promise.
                unsafe { products(matrix, strip.clone(), x, group, after, decoded, out) };
                self.write(job, strip, first, group, out);
            }
        });
    }

    fn f32(&self, Task { job, rows }: &Task) {
        let Job { matrix, x, .. } = self.products[*job];
        let Rows { data, stride, count, .. } = self.rows[x];
        let mut out: Out = [[0.0; ROWS]; MAX_GROUP];
        for start in rows.clone().step_by(ROWS) {
            let strip = start..rows.end.min(start + ROWS);
            for (first, group) in groups(count) {
                cpu::f32(self.ctx.isa, matrix, strip.clone(), &data[first * stride..], stride, group, &mut out);
                self.write(*job, &strip, first, group, &out);
            }
        }
    }

    /// Rows `strip` of the matrix and rows `first..first + group` of x.
    fn write(&self, job: usize, strip: &Range<usize>, first: usize, group: usize, out: &Out) {
        let job = &self.products[job];
        for m in 0..group {
            let start = job.first + (first + m) * job.stride + strip.start - job.rows.start;
            // SAFETY: jobs write different elements, the promise of `Jobs`, and tasks differ in their rows of W.
            let y = unsafe { self.outputs[job.y].part(start, strip.len()) };
            y.copy_from_slice(&out[m][..strip.len()]);
        }
    }
}

/// The groups of rows that kernels take, as `(first row, rows)`.
fn groups(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(MAX_GROUP).map(move |first| (first, MAX_GROUP.min(count - first)))
}

/// Whether several groups of x meet weights that have to be decoded.
fn shares(matrix: &MatrixRef<'_>, count: usize) -> bool {
    count > MAX_GROUP && !matches!(matrix.codes, CodesRef::F32(_) | CodesRef::Bf16(_))
}

/// The bytes of a row without its scales.
fn row_bytes(matrix: &MatrixRef<'_>) -> usize {
    match matrix.codes {
        CodesRef::F32(_) => 4 * matrix.cols,
        CodesRef::Bf16(_) => 2 * matrix.cols,
        CodesRef::Fp8 { .. } | CodesRef::Int8 { .. } => matrix.cols,
        CodesRef::Int4 { .. } => int4_row_bytes(matrix.cols),
    }
}

/// Where a row is, or would be.
fn row_address(matrix: &MatrixRef<'_>, row: usize) -> *const u8 {
    let first = match matrix.codes {
        CodesRef::F32(values) => values.as_ptr().cast(),
        CodesRef::Bf16(values) => values.as_ptr().cast(),
        CodesRef::Fp8 { codes, .. } | CodesRef::Int8 { codes, .. } | CodesRef::Int4 { codes, .. } => codes.as_ptr(),
    };
    first.wrapping_add(row * row_bytes(matrix))
}
