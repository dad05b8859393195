//! Numbers for Prometheus: of requests, collected here, and of engines, asked for when somebody looks.

mod names;
mod told;
mod window;

use std::time::Duration;

use engine::{Times, Usage};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use serde_json::{Value, json};

pub(crate) use names::BLOCK_TOKENS;
pub(crate) use told::{Told, Version};
use window::Window;

/// Bounds of the buckets of short times, in seconds: from a step of a small model to a minute.
const SHORT: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];
/// Of long ones: up to an hour.
const LONG: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 3600.0];
/// Of tokens.
const TOKENS: &[f64] =
    &[1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];

/// Why answers end.
const FINISHED: &[&str] = &["stop", "length", "tool_calls", "abort", "error"];
/// Why requests are not taken.
const REJECTED: &[&str] = &[
    "bodies",
    "connections",
    "draining",
    "rate",
    "requests",
    "text",
    "too_many_requests_waiting",
    "too_many_tokens_waiting",
];

/// Numbers of requests since the program began.
pub(crate) struct Metrics {
    registry: Registry,
    first_token: Histogram,
    inter_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    per_token: Histogram,
    prompt_tokens: Histogram,
    answer_tokens: Histogram,
    finished: IntCounterVec,
    rejected: IntCounterVec,
    http: IntCounterVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) ready: IntGauge,
    pub(crate) panics: IntCounter,
    /// Requests whose clients left. The engine also lets go of answers that have said enough, so its own count is another.
    pub(crate) left: IntCounter,
    recent_first_token: Window,
    recent_inter_token: Window,
    recent_end_to_end: Window,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = Histogram::with_opts(options).expect("a name and buckets that are written here");
            registry.register(Box::new(histogram.clone())).expect("names are different");
            histogram
        };
        let several = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a name that is written here");
            registry.register(Box::new(counters.clone())).expect("names are different");
            counters
        };
        // What has not happened yet is 0, lest the first time be overlooked.
        let counters = |name: &str, help: &str, (label, values): (&str, &[&str])| {
            let counters = several(name, help, &[label]);
            for value in values {
                counters.with_label_values(&[value]).inc_by(0);
            }
            counters
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a name that is written here");
            registry.register(Box::new(gauge.clone())).expect("names are different");
            gauge
        };
        // Memory, processor time, open files: process_*, as all programs name them.
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("names are different");
        let panics = IntCounter::new("hadal_panics_total", "Faults of the program that ended a request")
            .expect("a name that is written here");
        registry.register(Box::new(panics.clone())).expect("names are different");
        let left = IntCounter::new("hadal_cancelled_requests_total", "Requests whose clients left")
            .expect("a name that is written here");
        registry.register(Box::new(left.clone())).expect("names are different");
        Self {
            first_token: histogram(
                "hadal_time_to_first_token_seconds",
                "From the arrival of a request to its first token",
                SHORT,
            ),
            inter_token: histogram("hadal_inter_token_latency_seconds", "Between two tokens of an answer", SHORT),
            end_to_end: histogram("hadal_request_duration_seconds", "From the arrival of a request to its end", LONG),
            queue: histogram("hadal_request_queue_seconds", "From the arrival of a request to its beginning", LONG),
            prefill: histogram(
                "hadal_request_prefill_seconds",
                "From the beginning of a request to its first token",
                LONG,
            ),
            decode: histogram("hadal_request_decode_seconds", "From the first token of a request to its last", LONG),
            per_token: histogram(
                "hadal_request_time_per_output_token_seconds",
                "Mean time between the tokens of an answer",
                SHORT,
            ),
            prompt_tokens: histogram("hadal_request_prompt_tokens", "Tokens of a prompt", TOKENS),
            answer_tokens: histogram("hadal_request_generation_tokens", "Tokens of an answer", TOKENS),
            finished: counters(
                "hadal_request_success_total",
                "Answers that ended, by reason",
                ("finished_reason", FINISHED),
            ),
            rejected: counters(
                "hadal_admission_rejections_total",
                "Requests that were not taken because too many were there, by reason",
                ("reason", REJECTED),
            ),
            http: several("hadal_http_requests_total", "HTTP requests that were answered", &["path", "status"]),
            in_flight: gauge(
                "hadal_http_requests_in_flight",
                "HTTP requests that are being answered, to the last byte",
            ),
            ready: gauge("hadal_ready", "1 if /readyz says so"),
            panics,
            left,
            recent_first_token: Window::default(),
            recent_inter_token: Window::default(),
            recent_end_to_end: Window::default(),
            registry,
        }
    }

    pub(crate) fn first_token(&self, seconds: f64) {
        self.first_token.observe(seconds);
        self.recent_first_token.add(seconds);
    }

    pub(crate) fn inter_token(&self, seconds: f64) {
        self.inter_token.observe(seconds);
        self.recent_inter_token.add(seconds);
    }

    pub(crate) fn end_to_end(&self, seconds: f64) {
        self.end_to_end.observe(seconds);
        self.recent_end_to_end.add(seconds);
    }

    pub(crate) fn times(&self, Times { queue, prefill, decode, .. }: Times) {
        self.queue.observe(queue.as_secs_f64());
        self.prefill.observe(prefill.as_secs_f64());
        self.decode.observe(decode.as_secs_f64());
    }

    /// An answer has ended for `reason`.
    pub(crate) fn answer(&self, reason: &str, usage: Usage) {
        self.finished.with_label_values(&[reason]).inc();
        if usage.answer > 0 {
            self.prompt_tokens.observe(usage.prompt as f64);
            self.answer_tokens.observe(usage.answer as f64);
        }
    }

    pub(crate) fn mean_token(&self, decode: Duration, tokens: usize) {
        if tokens > 1 {
            self.per_token.observe(decode.as_secs_f64() / (tokens - 1) as f64);
        }
    }

    pub(crate) fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    pub(crate) fn http(&self, path: &str, status: u16) {
        self.http.with_label_values(&[path, &status.to_string()]).inc();
    }

    /// All numbers as text, those of `versions` included, under our names and, if `aliases`, also under those of vLLM, which
    /// gateways and dashboards know.
    pub(crate) fn text(&self, model: &str, versions: &[Version], aliases: bool) -> String {
        let mut families = self.registry.gather();
        families.extend(of_versions(versions));
        for family in &mut families {
            for metric in family.mut_metric() {
                let mut labels = metric.take_label();
                labels.push(label("model_name", model));
                metric.set_label(labels);
            }
        }
        if aliases {
            families.extend(names::aliases(&families));
        }
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("families have metrics and memory takes any text");
        String::from_utf8(text).expect("the encoder writes text")
    }

    /// Requests that were not taken.
    pub(crate) fn rejected_total(&self) -> u64 {
        total(&self.rejected)
    }

    /// Answers that ended with an error, and all that ended.
    pub(crate) fn failed_and_ended(&self) -> (u64, u64) {
        (self.finished.with_label_values(&["error"]).get(), total(&self.finished))
    }

    /// Latencies of the last minute.
    pub(crate) fn recent(&self) -> [Value; 3] {
        [&self.recent_first_token, &self.recent_inter_token, &self.recent_end_to_end].map(|window| {
            let (count, [p50, p95, p99]) = window.quantiles([0.5, 0.95, 0.99]);
            json!({ "count": count, "p50": p50, "p95": p95, "p99": p99 })
        })
    }
}

fn total(counters: &IntCounterVec) -> u64 {
    use prometheus::core::Collector;
    let families = counters.collect();
    families.iter().flat_map(MetricFamily::get_metric).map(|metric| metric.get_counter().get_value() as u64).sum()
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

/// The numbers of versions and of their engines.
fn of_versions(versions: &[Version]) -> Vec<MetricFamily> {
    let engines = || versions.iter().filter_map(|version| Some((version.number, version.engine.as_ref()?)));
    let mut families: Vec<MetricFamily> = names::OF_ENGINE
        .iter()
        .map(|number| {
            let metrics = engines().filter_map(|(version, told)| {
                Some(metric(number.kind, (number.value)(told)?, vec![of_version(version)]))
            });
            family(number.name, number.help, number.kind, metrics.collect())
        })
        .collect();
    let gauge = |name, help, metrics| family(name, help, MetricType::GAUGE, metrics);
    let states = versions
        .iter()
        .map(|version| metric(MetricType::GAUGE, 1.0, vec![label("state", version.state), of_version(version.number)]));
    let help = "1 for the state that a version of the model is in";
    families.push(gauge("hadal_model_version_state", help, states.collect()));
    let failures = versions.iter().map(|version| {
        metric(MetricType::GAUGE, f64::from(u8::from(version.is_refused)), vec![of_version(version.number)])
    });
    let help = "1 for a version of the model that could not be loaded";
    families.push(gauge("hadal_model_version_failed", help, failures.collect()));
    let build = metric(MetricType::GAUGE, 1.0, vec![label("build_version", env!("CARGO_PKG_VERSION"))]);
    families.push(gauge("hadal_build_info", "1, with the program's version", vec![build]));
    let infos = engines().map(|(version, told)| {
        let size = label("block_size", &names::BLOCK_TOKENS.to_string());
        let blocks = label("num_gpu_blocks", &told.stats.blocks.to_string());
        metric(MetricType::GAUGE, 1.0, vec![size, blocks, of_version(version)])
    });
    let help = "1, with the size of a block of latents in tokens and their number";
    families.push(gauge("hadal_cache_config_info", help, infos.collect()));
    families.extend(of_experts(engines));
    families
}

/// The numbers of layers with experts, and of the experts if they are wanted.
fn of_experts<'a, I: Iterator<Item = (u64, &'a Told)>>(engines: impl Fn() -> I) -> [MetricFamily; 2] {
    let layer = |i: usize| label("layer", &i.to_string());
    let balance = engines().flat_map(|(version, told)| {
        let layers = told.balancedness.iter().enumerate();
        layers.filter_map(move |(i, balance)| {
            Some(metric(MetricType::GAUGE, (*balance)?, vec![layer(i), of_version(version)]))
        })
    });
    let tokens = engines().flat_map(|(version, told)| {
        let layers = told.expert_loads.iter().enumerate();
        layers.flat_map(move |(i, load)| {
            let experts = load.iter().flatten().enumerate();
            experts.map(move |(expert, &tokens)| {
                let labels = vec![label("expert", &expert.to_string()), layer(i), of_version(version)];
                metric(MetricType::COUNTER, tokens as f64, labels)
            })
        })
    });
    let help = "How evenly the experts of a layer are used: their mean load over the largest one";
    [
        family("hadal_expert_balancedness", help, MetricType::GAUGE, balance.collect()),
        family("hadal_expert_tokens_total", "Tokens of an expert", MetricType::COUNTER, tokens.collect()),
    ]
}

fn of_version(version: u64) -> LabelPair {
    label("version", &version.to_string())
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn metric(kind: MetricType, value: f64, labels: Vec<LabelPair>) -> Metric {
    let mut metric = Metric::from_label(labels);
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use engine::Stats;

    use super::*;

    #[test]
    fn numbers_stand_under_both_names() {
        let metrics = Metrics::new();
        metrics.first_token(0.2);
        metrics.answer("stop", Usage { prompt: 5, answer: 3, ..Usage::default() });
        metrics.rejected("requests");
        let stats = Stats { running: 3, blocks: 10, blocks_in_use: 4, prompt_tokens: 77, ..Stats::default() };
        let engine = Told {
            stats,
            balancedness: vec![None, Some(0.5)],
            expert_loads: vec![None, Some(vec![7, 0])],
            ..Told::default()
        };
        let versions = [
            Version { number: 2, state: "AVAILABLE", is_refused: false, engine: Some(engine) },
            Version { number: 3, state: "END", is_refused: true, engine: None },
        ];
        let text = metrics.text("m\"x", &versions, true);
        for line in [
            "hadal_running_requests{version=\"2\",model_name=\"m\\\"x\"} 3",
            "vllm:num_requests_running{version=\"2\",model_name=\"m\\\"x\"} 3",
            "vllm:kv_cache_usage_perc{version=\"2\",model_name=\"m\\\"x\"} 0.4",
            "vllm:prompt_tokens_total{version=\"2\",model_name=\"m\\\"x\"} 77",
            "vllm:time_to_first_token_seconds_count{model_name=\"m\\\"x\"} 1",
            "vllm:request_success_total{finished_reason=\"stop\",model_name=\"m\\\"x\"} 1",
            "hadal_model_version_state{state=\"AVAILABLE\",version=\"2\",model_name=\"m\\\"x\"} 1",
            "# TYPE vllm:prompt_tokens_total counter",
            "vllm:admission_rejections_total{reason=\"text\",model_name=\"m\\\"x\"} 0",
            "hadal_model_version_failed{version=\"3\",model_name=\"m\\\"x\"} 1",
            "hadal_expert_balancedness{layer=\"1\",version=\"2\",model_name=\"m\\\"x\"} 0.5",
            "hadal_expert_tokens_total{expert=\"0\",layer=\"1\",version=\"2\",model_name=\"m\\\"x\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        let ours = metrics.text("m", &[], false);
        assert!(!ours.contains("vllm:"));
        assert_eq!(metrics.rejected_total(), 1);
        assert_eq!(metrics.failed_and_ended(), (0, 1));
    }
}
