use std::process::ExitCode;

use anyhow::Result;
use ops::bench::Spread;
use ops::machine::{self, Cache, Limits};
use serde_json::{Value, json};
use tensor::Ctx;

use super::report::{self, GIGA};
use crate::args::BenchMachine;

/// Nanoseconds, for what is measured in seconds.
const NANO: f64 = 1e-9;

pub(super) fn run(ctx: &Ctx, args: &BenchMachine) -> Result<ExitCode> {
    let limits = machine::measure(ctx);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json(&limits))?);
    } else {
        print(&limits);
    }
    Ok(ExitCode::SUCCESS)
}

fn json(limits: &Limits) -> Value {
    let cache = |cache: &Cache| {
        json!({
            "level": cache.level,
            "size_bytes": cache.size_bytes,
            "shared_by": cache.shared_by,
            "one_thread_gb_per_s": report::spread(&cache.one, GIGA),
            "all_threads_gb_per_s": cache.all.as_ref().map(|s| report::spread(s, GIGA)),
        })
    };
    json!({
        "threads": limits.threads,
        "level": report::level(limits.level),
        "one_thread": report::rates(&limits.one),
        "all_threads": report::rates(&limits.all),
        "caches": limits.caches.iter().map(cache).collect::<Vec<_>>(),
        "job_ns": {
            "empty": report::spread(&limits.job.empty, NANO),
            "everyone": report::spread(&limits.job.everyone, NANO),
        },
    })
}

/// Medians, and between which values half of the rounds lie. The right column is of all threads together.
fn print(limits: &Limits) {
    let Limits { threads, level, one, all, caches, job } = limits;
    let cell = |spread: Option<&Spread>| spread.map_or("absent".into(), |s| report::text(s, GIGA));
    let row = |name: &str, one: Option<&Spread>, all: Option<&Spread>| {
        println!("{name:<34}{:<26}{}", cell(one), cell(all));
    };
    println!("{:<34}{:<26}{}", report::level(*level), "1 thread", report::threads(*threads));
    row("memory, read, GB/s", Some(&one.read), Some(&all.read));
    row("f32 multiply-add, GFLOP/s", Some(&one.f32), Some(&all.f32));
    row("bf16, vdpbf16ps, GFLOP/s", one.bf16.as_ref(), all.bf16.as_ref());
    row("int8, vpdpbusd, GOP/s", one.int8.as_ref(), all.int8.as_ref());
    for Cache { level, size_bytes, shared_by, one, all } in caches {
        let size = if *size_bytes < 1 << 20 {
            format!("{} KiB", size_bytes >> 10)
        } else {
            format!("{} MiB", size_bytes >> 20)
        };
        let whose = if *shared_by > 1 { format!(" for {shared_by}") } else { String::new() };
        row(&format!("L{level}, {size}{whose}, read, GB/s"), Some(one), all.as_ref());
    }
    println!("a job of empty tasks, ns          {}", report::text(&job.empty, NANO));
    println!("a job that every thread joins, ns {}", report::text(&job.everyone, NANO));
}

#[cfg(test)]
mod tests {
    use ops::machine::{Job, Rates};
    use tensor::Level;

    use super::*;

    #[test]
    fn limits_as_json() {
        let at = |x: f64| Spread::of(vec![x]);
        let rates = |x| Rates { read: at(x), f32: at(2.0 * x), bf16: None, int8: None };
        let limits = Limits {
            threads: 2,
            level: Level::Avx2,
            one: rates(1e9),
            all: rates(2e9),
            caches: vec![Cache { level: 1, size_bytes: 32768, shared_by: 2, one: at(1e11), all: None }],
            job: Job { empty: at(1e-7), everyone: at(1e-6) },
        };
        print(&limits);
        let json = json(&limits);
        assert_eq!((&json["threads"], &json["level"]), (&json!(2), &json!("AVX2")));
        assert_eq!(json["one_thread"]["read_gb_per_s"]["median"], 1.0);
        assert_eq!(json["all_threads"]["f32_gflop_per_s"]["median"], 4.0);
        assert!(json["all_threads"]["bf16_gflop_per_s"].is_null());
        assert_eq!(json["caches"][0]["one_thread_gb_per_s"]["median"], 100.0);
        assert!(json["caches"][0]["all_threads_gb_per_s"].is_null());
        assert!((json["job_ns"]["everyone"]["median"].as_f64().unwrap() - 1000.0).abs() < 1e-6);
    }
}
