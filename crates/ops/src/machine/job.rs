//! What it costs to bring work to the threads.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::yield_now;

use tensor::Ctx;

use super::Job;
use crate::bench::Spread;

/// Jobs before those that are timed: they wake the threads.
const WARM_UP: usize = 20;
/// How often a job is timed, at least, and for how long, in seconds.
const TIMES: (usize, f64) = (20, 0.02);

/// After so many looks a thread that waits lets others run: there may be fewer cores than threads.
const LOOKS: usize = 1 << 16;

pub(super) fn measure(ctx: &Ctx) -> Job {
    let threads = ctx.threads();
    let empty = || ctx.for_each(threads, |_| {});
    let everyone = || {
        let come = AtomicUsize::new(0);
        ctx.for_each(threads, |_| {
            come.fetch_add(1, Ordering::Relaxed);
            let mut looks = 0;
            while come.load(Ordering::Relaxed) < threads {
                looks += 1;
                if looks < LOOKS { spin_loop() } else { yield_now() }
            }
        });
    };
    (0..WARM_UP).for_each(|_| everyone());
    let (times, seconds) = TIMES;
    Job { empty: Spread::of_seconds(times, seconds, empty), everyone: Spread::of_seconds(times, seconds, everyone) }
}
