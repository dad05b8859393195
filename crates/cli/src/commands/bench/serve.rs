use std::io::BufWriter;
use std::process::ExitCode;

use anyhow::Result;
use client::load::{self, Arrivals, Dataset, Goodput, Plan, Progress, Prompts, RandomTokens, Report, Slo, Summary};
use serde_json::json;

use super::report::{number, percent};
use crate::args::BenchServe;
use crate::commands::pretrain::interrupted;
use crate::commands::server;
use crate::commands::ticker::Ticker;
use crate::failure::INTERRUPTED;

/// Tokens of an answer to a random prompt.
const OUTPUT_TOKENS: u64 = 128;

pub(super) fn run(args: &BenchServe) -> Result<ExitCode> {
    let api = server::open(&args.url, &args.access)?;
    let plan = plan(args)?;
    // Made before the first request: a run of an hour must not end with a path that cannot be written.
    let csv = args.csv.as_ref().map(fs_err::File::create).transpose()?;
    let stop = interrupted("stopping; the report is about what has ended")?;
    let mut ticker = Ticker::stderr();
    let outcome = load::run(&api, &plan, &stop, &mut |progress| ticker.show(&line(&plan, &progress)));
    ticker.clear();
    let outcome = outcome?;
    if let Some(csv) = csv {
        let mut out = BufWriter::new(csv);
        load::write_csv(&mut out, &outcome)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    }
    let report = Report::of(&outcome, args.slo);
    if args.json {
        let mut json = serde_json::to_value(&report)?;
        json["url"] = api.url().into();
        json["plan"] = describe(&plan);
        println!("{json:#}");
    } else {
        print!("{}", table(&api, &plan, &report));
    }
    Ok(match report.completed {
        _ if outcome.is_stopped => ExitCode::from(INTERRUPTED),
        0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn plan(args: &BenchServe) -> Result<Plan> {
    let arrivals = match (args.arrivals.rate, args.arrivals.concurrency) {
        (Some(rate), concurrency) => Arrivals::Open { rate, concurrency },
        (None, concurrency) => Arrivals::Closed { concurrency: concurrency.expect("one of the two is required") },
    };
    let prompts = match &args.dataset {
        Some(path) => Prompts::Dataset(Dataset::read(path, args.output_tokens)?),
        None => Prompts::Random(RandomTokens {
            input_tokens: args.input_tokens,
            shared_prefix_tokens: args.shared_prefix_tokens,
            output_tokens: args.output_tokens.unwrap_or(OUTPUT_TOKENS),
            ids: args.token_ids.clone(),
        }),
    };
    Ok(Plan {
        model: args.model.clone(),
        arrivals,
        requests: args.end.requests,
        seconds: args.end.seconds,
        warmup: args.warmup,
        prompts,
        extra: args.extra.clone().unwrap_or_default(),
        seed: args.seed,
    })
}

/// How far a run is, for a person.
fn line(plan: &Plan, progress: &Progress) -> String {
    let Progress { seconds, sent, ended, failed, tokens } = *progress;
    let all = plan.requests.map_or_else(String::new, |all| format!(" of {all}"));
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let speed = if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let under_way = sent - ended;
    format!("{ended}{all} requests in {seconds:.0} s{failed}, {under_way} under way, {} tokens/s", number(speed))
}

/// What was asked for, for programs.
fn describe(plan: &Plan) -> serde_json::Value {
    let arrivals = match plan.arrivals {
        Arrivals::Closed { concurrency } => json!({ "loop": "closed", "concurrency": concurrency }),
        Arrivals::Open { rate, concurrency } => json!({ "loop": "open", "rate": rate, "concurrency": concurrency }),
    };
    let prompts = match &plan.prompts {
        Prompts::Random(random) => json!({
            "input_tokens": random.input_tokens,
            "shared_prefix_tokens": random.shared_prefix_tokens,
            "output_tokens": random.output_tokens,
            "token_ids": [random.ids.start, random.ids.end],
        }),
        Prompts::Dataset(dataset) => json!({ "dataset_lines": dataset.len() }),
    };
    json!({
        "arrivals": arrivals,
        "prompts": prompts,
        "requests": plan.requests,
        "seconds": plan.seconds,
        "warmup": plan.warmup,
        "extra": plan.extra,
        "seed": plan.seed,
    })
}

/// The report, for a person.
fn table(api: &client::Api, plan: &Plan, report: &Report) -> String {
    let arrivals = match plan.arrivals {
        Arrivals::Closed { concurrency } => format!("closed loop, concurrency {concurrency}"),
        Arrivals::Open { rate, concurrency: None } => format!("open loop, {rate} requests/s"),
        Arrivals::Open { rate, concurrency: Some(most) } => {
            format!("open loop, {rate} requests/s, at most {most} under way")
        }
    };
    let prompts = match &plan.prompts {
        Prompts::Random(random) => format!(
            "random prompts of {} tokens, the first {} shared; answers of {}",
            random.input_tokens, random.shared_prefix_tokens, random.output_tokens
        ),
        Prompts::Dataset(dataset) => format!("{} prompts of a file", dataset.len()),
    };
    let mut lines = vec![format!("{} at {}", report.model, api.url()), format!("{arrivals}; {prompts}")];
    lines.push(format!(
        "{} requests complete, {} failed, in {} s",
        report.completed,
        report.failed,
        number(report.seconds)
    ));
    lines.push(String::new());
    let columns = ["mean", "p50", "p90", "p95", "p99", "max"];
    lines.push(format!("{:<14}{}", "seconds", columns.map(|name| format!("{name:>9}")).concat()));
    let rows = [
        ("TTFT", &report.ttft),
        ("ITL", &report.itl),
        ("TPOT", &report.tpot),
        ("E2E", &report.e2e),
        ("sent late", &report.lateness),
    ];
    lines.extend(rows.into_iter().filter_map(|(name, summary)| Some(row(name, summary.as_ref()?))));
    lines.push(String::new());
    lines.push(format!("requests/s         {:>9}", number(report.requests_per_second)));
    lines.push(format!("prompt tokens/s    {:>9}", number(report.prompt_tokens_per_second)));
    lines.push(format!("output tokens/s    {:>9}", number(report.output_tokens_per_second)));
    lines.push(format!("mean concurrency   {:>9}", number(report.mean_concurrency)));
    if let Some(cached) = report.cached_tokens {
        let share = cached as f64 / report.prompt_tokens.max(1) as f64;
        lines.push(format!("prompt tokens known before: {cached} of {} ({})", report.prompt_tokens, percent(share)));
    }
    if let Some(Goodput { slo, good, share, per_second }) = report.goodput {
        let all = report.completed + report.failed;
        let share = percent(share);
        lines.push(format!("good requests ({}): {good} of {all} ({share}), {}/s", limits(&slo), number(per_second)));
    }
    lines
        .extend(report.errors.iter().map(|(kind, error)| format!("failed: {} {kind}: {}", error.count, error.example)));
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n") + "\n"
}

fn row(name: &str, summary: &Summary) -> String {
    let Summary { mean, p50, p90, p95, p99, max, .. } = *summary;
    format!("{name:<14}{}", [mean, p50, p90, p95, p99, max].map(|value| format!("{value:>9.4}")).concat())
}

fn limits(slo: &Slo) -> String {
    let limits = [("TTFT", slo.ttft), ("ITL", slo.itl), ("TPOT", slo.tpot), ("E2E", slo.e2e)];
    let limits: Vec<String> =
        limits.iter().filter_map(|(name, limit)| Some(format!("{name} <= {} s", (*limit)?))).collect();
    limits.join(", ")
}
