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

/// Bytes a second out of `data`, by the calling thread alone or by all: the better of two ways of reading, which take turns.
pub(super) fn measure(ctx: &Ctx, threads: usize, data: &[Line], rounds: usize) -> Spread {
    let parts: Vec<&[Line]> = data.chunks(TASK).collect();
    let round = |read: fn(&[Line]) -> u64| {
        let run = |i: usize| {
            black_box(read(parts[i]));
        };
        let start = Instant::now();
        if threads == 1 {
            (0..parts.len()).for_each(run);
        } else {
            ctx.for_each(parts.len(), run);
        }
        size_of_val(data) as f64 / start.elapsed().as_secs_f64()
    };
    let (mut ahead, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        ahead.push(round(sum_memory));
        streams.push(round(sum_memory_streams));
    }
    let [ahead, streams] = [ahead, streams].map(Spread::of);
    if streams.median() > ahead.median() { streams } else { ahead }
}
