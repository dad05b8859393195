//! The caches of data, as the processor describes them, and how fast they are read.

use std::hint::black_box;

use tensor::Ctx;

use super::Cache;
use super::lines::{Line, sum_cached};
use super::memory::fill;
use crate::bench::Spread;

/// A cache as the processor describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) level: u32,
    pub(super) size_bytes: u64,
    /// Hardware threads that share one; at least 1.
    pub(super) shared_by: usize,
}

/// Bytes that one measurement reads: milliseconds, so that the start of a job does not count.
const ROUND_BYTES: usize = 128 << 20;

/// Bandwidths of `caches`, the smallest first.
pub(super) fn measure(ctx: &Ctx, caches: &[Found], rounds: usize) -> Vec<Cache> {
    let mut before = 0;
    let mut measured = Vec::with_capacity(caches.len());
    for &Found { level, size_bytes, shared_by } in caches {
        // Half of it, since others live there too.
        let half = size_bytes as usize / 2;
        let part = half / shared_by.min(ctx.threads());
        let all = (ctx.threads() > 1 && part > before).then(|| read(ctx, ctx.threads(), part, rounds));
        measured.push(Cache { level, size_bytes, shared_by, one: read(ctx, 1, half, rounds), all });
        before = size_bytes as usize;
    }
    measured
}

/// Bytes a second of `threads` threads that each read `bytes` of their own again and again.
fn read(ctx: &Ctx, threads: usize, bytes: usize, rounds: usize) -> Spread {
    let bytes = (bytes / 256).max(1) * 256;
    let lines = bytes / size_of::<Line>();
    let data = fill(ctx, threads * bytes);
    let times = (ROUND_BYTES / bytes).max(1);
    let run = |i: usize| {
        black_box(sum_cached(&data[i * lines..(i + 1) * lines], times));
    };
    let again = || if threads == 1 { run(0) } else { ctx.for_each(threads, run) };
    again();
    Spread::of_seconds(rounds, 0.0, again).rate_of((threads * times * bytes) as f64)
}

/// The caches of data, the smallest first. Empty where the processor does not describe them.
pub(super) fn found() -> Vec<Found> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        // Intel describes caches in leaf 4; AMD, in the same form, in the extended leaf 0x1D.
        const AMD: u32 = 0x8000_001D;
        let leaf = if __cpuid(0x8000_0000).eax >= AMD && __cpuid_count(AMD, 0).eax & 31 != 0 {
            AMD
        } else if __cpuid(0).eax >= 4 {
            4
        } else {
            return Vec::new();
        };
        let entries = (0..16).map(|i| __cpuid_count(leaf, i)).take_while(|entry| entry.eax & 31 != 0);
        let mut found: Vec<Found> = entries.filter_map(|e| describe([e.eax, e.ebx, e.ecx])).collect();
        found.sort_by_key(|cache| cache.level);
        found
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// What the registers `eax`, `ebx`, `ecx` of one entry say; none of a cache of instructions.
#[cfg(target_arch = "x86_64")]
pub(super) fn describe([eax, ebx, ecx]: [u32; 3]) -> Option<Found> {
    const DATA: u32 = 1;
    const UNIFIED: u32 = 3;
    let bits = |register: u32, from: u32, count: u32| u64::from(register >> from & ((1 << count) - 1));
    matches!(eax & 31, DATA | UNIFIED).then(|| Found {
        level: bits(eax, 5, 3) as u32,
        // Line, partitions, ways and sets are each stored less one.
        size_bytes: (bits(ebx, 0, 12) + 1) * (bits(ebx, 12, 10) + 1) * (bits(ebx, 22, 10) + 1) * (u64::from(ecx) + 1),
        shared_by: bits(eax, 14, 12) as usize + 1,
    })
}
