//! What a gateway counts.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::fleet::Fleet;

/// Seconds until an answer begins: a refusal takes less than the first of these, and a long answer that is not streamed
/// more than most.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

pub(crate) struct Metrics {
    registry: Registry,
    /// Answers to clients, `backend` and `code`; `backend` is empty for those that the gateway gave itself.
    pub(crate) requests: IntCounterVec,
    /// Requests that were taken on to another backend, by the `backend` that failed and the `reason`.
    pub(crate) retries: IntCounterVec,
    /// Answers that did not come to their end, by `backend` and `reason`.
    pub(crate) cut: IntCounterVec,
    /// By `backend`.
    pub(crate) first_byte: HistogramVec,
    in_flight: IntGaugeVec,
    up: IntGaugeVec,
    buffered: IntGauge,
}

impl Metrics {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let registry = Registry::new();
        let counter =
            |name, help, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name, help| register(&registry, IntGaugeVec::new(Opts::new(name, help), &["backend"]));
        let first_byte = HistogramOpts::new(
            "hadal_gateway_first_byte_seconds",
            "Time from the whole request to the first byte of a backend's answer.",
        );
        let metrics = Self {
            requests: counter(
                "hadal_gateway_requests_total",
                "Answers to clients; without a backend those of the gateway itself.",
                &["backend", "code"],
            ),
            retries: counter(
                "hadal_gateway_retries_total",
                "Requests that were taken from this backend to another one.",
                &["backend", "reason"],
            ),
            cut: counter(
                "hadal_gateway_cut_answers_total",
                "Answers that did not come to their end: the client left, the backend broke off, or it stood still.",
                &["backend", "reason"],
            ),
            first_byte: register(&registry, HistogramVec::new(first_byte.buckets(BUCKETS.to_vec()), &["backend"])),
            in_flight: gauge("hadal_gateway_inflight", "Requests that a backend works on now."),
            up: gauge("hadal_gateway_backend_up", "Whether a backend is ready."),
            buffered: register(
                &registry,
                IntGauge::new(
                    "hadal_gateway_buffered_bytes",
                    "Bytes of requests that are held until their answers begin.",
                ),
            ),
            registry,
        };
        for backend in &fleet.backends {
            metrics.first_byte.with_label_values(&[backend.name.as_str()]);
        }
        metrics
    }

    /// Everything in the text format of Prometheus.
    pub(crate) fn text(&self, fleet: &Fleet, buffered_bytes: usize) -> String {
        self.buffered.set(buffered_bytes as i64);
        for (backend, in_flight) in fleet.backends.iter().zip(fleet.in_flight()) {
            let name = [backend.name.as_str()];
            self.in_flight.with_label_values(&name).set(in_flight as i64);
            self.up.with_label_values(&name).set(i64::from(backend.judge().is_up()));
        }
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("metrics with names and labels are text")
    }
}

/// The names and labels are ours, so they are valid and none is taken.
fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a name and labels of ours are valid");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}
