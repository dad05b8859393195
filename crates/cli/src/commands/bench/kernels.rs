use std::process::ExitCode;

use anyhow::Result;
use ops::bench::Row;
use ops::machine::Rates;
use ops::{Precision, bench};
use serde_json::{Value, json};
use tensor::Ctx;

use super::report::{self, GIGA};
use crate::args::BenchKernels;
use crate::failure::Usage;

/// `threads` are all threads; rows are measured with one as well.
pub(super) fn run(threads: usize, args: &BenchKernels) -> Result<ExitCode> {
    let all = Ctx::new(threads)?;
    let one = (all.threads() > 1).then(|| Ctx::new(1)).transpose()?;
    let mut runs = Vec::new();
    let mut found = false;
    for ctx in one.iter().chain([&all]) {
        let begin = |limits: &Rates| {
            if !args.json {
                let (threads, level) = (report::threads(ctx.threads()), report::level(ctx.isa.level()));
                println!("{threads}, {level}, {limits}\n{}", Row::heading());
            }
        };
        let mut rows = Vec::new();
        let mut last = None;
        bench::run(ctx, &args.names, begin, |row, limits| {
            found = true;
            if args.json {
                rows.push(json(row, limits));
                last.get_or_insert_with(|| report::rates(limits));
            } else {
                println!("{}", row.line(limits));
            }
        });
        runs.push(json!({
            "threads": ctx.threads(), "level": report::level(ctx.isa.level()), "limits": last, "rows": rows,
        }));
    }
    if !found {
        return Err(Usage(format!("no row of an operation has a name with {}", args.names.join(" or "))).into());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&runs)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn json(row: &Row, limits: &Rates) -> Value {
    let (flops, bytes) = (row.flops_per_s(), row.bytes_per_s());
    json!({
        "name": row.name,
        "seconds": report::spread(&row.seconds, 1.0),
        "bytes": row.bytes,
        "flops": row.flops,
        "gb_per_s": bytes / GIGA,
        "gflop_per_s": flops / GIGA,
        "share_of_read": bytes / limits.bytes(),
        "share_of_f32": flops / limits.flops(Precision::F32),
        "share_of_bf16": flops / limits.flops(Precision::Bf16),
    })
}

#[cfg(test)]
mod tests {
    use ops::bench::Spread;

    use super::*;

    #[test]
    fn a_row_as_json() {
        let at = |x: f64| Spread::of(vec![x]);
        let limits = Rates { read: at(4e9), f32: at(2e9), bf16: None, int8: None };
        let row = Row { name: "x [1]".into(), threads: 1, seconds: at(1.0), bytes: 1_000_000_000, flops: 500_000_000 };
        let json = json(&row, &limits);
        assert_eq!(
            (&json["name"], &json["gb_per_s"], &json["gflop_per_s"]),
            (&json!("x [1]"), &json!(1.0), &json!(0.5))
        );
        assert_eq!((&json["share_of_read"], &json["share_of_f32"]), (&json!(0.25), &json!(0.25)));
        assert_eq!(json["share_of_bf16"], 0.25, "widened to f32 where there is no instruction");
        assert_eq!(json["seconds"]["median"], 1.0);
    }
}
