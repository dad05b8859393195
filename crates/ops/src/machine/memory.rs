//! How fast memory is read, front to back.

use std::hint::black_box;
use std::time::Instant;

use tensor::Ctx;

use super::caches::Found;
use super::lines::{Line, sum_memory, sum_memory_streams};
use crate::bench::Spread;

/// Lines that a task of reading covers: 2 MiB, small enough that a thread which is held up leaves its share to the
/// others.
const TASK: usize = (2 << 20) / size_of::<Line>();

/// What to read so that it cannot come out of the caches: four times all of the largest ones that `threads` threads reach,
/// and at least 256 MiB.
pub(super) fn size_bytes(caches: &[Found], threads: usize) -> usize {
    let largest = caches.iter().map(|c| c.size_bytes as usize * threads.div_ceil(c.shared_by)).max();
    (4 * largest.unwrap_or(0)).max(256 << 20)
}

/// Memory that is really there: every page is written, by the threads that will read it.
pub(super) fn fill(ctx: &Ctx, bytes: usize) -> Vec<Line> {
    let mut data = vec![Line::default(); bytes.div_ceil(size_of::<Line>())];
    ctx.for_each_chunk(&mut data, TASK, |i, lines| lines.fill(Line([i as u64 + 1; 8])));
    data
}

/// The whole lines of each of `parts`.
pub(super) fn lines<'a>(parts: &[&'a [u8]]) -> Vec<&'a [Line]> {
    // SAFETY: eight words are any 64 bytes.
    parts.iter().map(|bytes| unsafe { bytes.align_to() }.1).collect()
}

/// Rounds of reading the same memory, in two ways that take turns.
pub(super) struct Rounds<'a> {
    tasks: Vec<&'a [Line]>,
    bytes: f64,
    /// Bytes a second of each round.
    ahead: Vec<f64>,
    streams: Vec<f64>,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(data: &[&'a [Line]]) -> Self {
        let bytes = data.iter().map(|part| size_of_val(*part)).sum::<usize>() as f64;
        let tasks = data.iter().flat_map(|part| part.chunks(TASK)).collect();
        Self { tasks, bytes, ahead: Vec::new(), streams: Vec::new() }
    }

    /// One more, by the calling thread alone or by all.
    pub(super) fn run(&mut self, ctx: &Ctx, threads: usize) {
        let (tasks, bytes) = (&self.tasks, self.bytes);
        let round = |read: fn(&[Line]) -> u64| {
            let run = |i: usize| {
                black_box(read(tasks[i]));
            };
            let start = Instant::now();
            if threads == 1 {
                (0..tasks.len()).for_each(run);
            } else {
                ctx.for_each(tasks.len(), run);
            }
            bytes / start.elapsed().as_secs_f64()
        };
        let rates = [round(sum_memory), round(sum_memory_streams)];
        self.ahead.push(rates[0]);
        self.streams.push(rates[1]);
    }

    /// Bytes a second in the better way; there was a round.
    pub(super) fn rate(self) -> Spread {
        let [ahead, streams] = [self.ahead, self.streams].map(Spread::of);
        if streams.median() > ahead.median() { streams } else { ahead }
    }
}

/// Bytes a second out of `data`, by the calling thread alone or by all.
pub(super) fn measure(ctx: &Ctx, threads: usize, data: &[Line], times: usize) -> Spread {
    let mut rounds = Rounds::new(&[data]);
    (0..times.max(1)).for_each(|_| rounds.run(ctx, threads));
    rounds.rate()
}
