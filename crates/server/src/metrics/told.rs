//! What is told of a version of the model when somebody asks for the numbers.

use std::time::Duration;

use engine::{Handle, Stats};
use tensor::ExpertReads;

/// A version.
pub(crate) struct Version {
    pub(crate) number: u64,
    /// What has become of it.
    pub(crate) state: &'static str,
    /// Whether it could not be loaded.
    pub(crate) is_refused: bool,
    /// What its engine tells, if it has one.
    pub(crate) engine: Option<Told>,
}

/// An engine and its model.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) stats: Stats,
    pub(crate) faults: u64,
    /// How long the present step has taken.
    pub(crate) in_step: Duration,
    /// For each layer, MTP layers last, how evenly its experts are used; none for a dense one.
    pub(crate) balancedness: Vec<Option<f64>>,
    /// For each layer the tokens of each expert, if they are wanted.
    pub(crate) expert_loads: Vec<Option<Vec<u64>>>,
    pub(crate) expert_cache: Option<ExpertCache>,
}

/// Experts that are read when they are needed.
#[derive(Clone, Copy)]
pub(crate) struct ExpertCache {
    pub(crate) used_bytes: u64,
    pub(crate) reads: ExpertReads,
}

impl Told {
    pub(crate) fn of(engine: &Handle, expert_loads: bool) -> Self {
        let (model, health) = (engine.model(), engine.health());
        let cache = model.expert_memory();
        Self {
            stats: engine.stats(),
            faults: health.faults,
            in_step: health.in_step.unwrap_or_default(),
            balancedness: engine::balancedness(model),
            expert_loads: if expert_loads { model.served_expert_load() } else { Vec::new() },
            expert_cache: cache.map(|cache| ExpertCache { used_bytes: cache.used_bytes(), reads: cache.reads() }),
        }
    }
}
