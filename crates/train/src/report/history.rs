//! What the report page keeps of a run: bounded memory for a run of any length.

use std::collections::VecDeque;
use std::path::Path;

use super::Error;
use super::log::Records;
use super::metrics::{Event, Record, Sample, StepMetrics, ValidationMetrics};
use super::series::Series;

/// How many of the latest steps the picture of the expert load adds up.
pub const LOAD_WINDOW: usize = 50;

/// How many validations, steps with samples, and events are kept at most.
const KEPT: usize = 100;

/// A run so far, gathered record by record. The curves are over steps.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last step, without its expert load.
    pub last: Option<StepMetrics>,
    /// The objective.
    pub loss: Series,
    /// The main model's cross-entropy.
    pub main_loss: Series,
    /// The MTP modules' cross-entropy; empty without MTP.
    pub mtp_loss: Series,
    /// The balance loss.
    pub balance_loss: Series,
    /// The learning rate.
    pub lr: Series,
    /// The gradient norm before clipping.
    pub grad_norm: Series,
    /// Throughput.
    pub tokens_per_s: Series,
    /// Model FLOPs utilisation.
    pub mfu: Series,
    /// MaxVio of each MoE layer.
    pub max_vio: Vec<Series>,
    /// MaxVio averaged over the MoE layers.
    pub mean_max_vio: Series,
    /// The expert load of the latest steps.
    pub load: LoadWindow,
    /// Nats per token on the held-out split.
    pub validation_loss: Series,
    /// Validations, evenly thinned where there are many.
    pub validations: Thinned<ValidationMetrics>,
    /// The validation with the fewest bits per byte.
    pub best_validation: Option<ValidationMetrics>,
    /// The samples of each step that has some, evenly thinned where there are many.
    pub samples: Thinned<Vec<Sample>>,
    /// The latest events other than saved checkpoints.
    pub events: VecDeque<Event>,
    /// Checkpoints saved: how many, and the last one's event.
    pub checkpoints: (u64, Option<Event>),
}

impl History {
    /// The history of all `records`.
    pub fn of(records: &[Record]) -> Self {
        let mut history = Self::default();
        for record in records {
            history.push(record);
        }
        history
    }

    /// The history in the log at `path`, read as a stream.
    ///
    /// # Errors
    /// When the log cannot be read or is damaged.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut history = Self::default();
        for record in Records::open(path)? {
            history.push(&record?);
        }
        Ok(history)
    }

    /// Adds the next record.
    pub fn push(&mut self, record: &Record) {
        match record {
            Record::Step(step) => self.push_step(step),
            Record::Validation(validation) => self.push_validation(validation),
            Record::Sample(sample) => self.push_sample(sample),
            Record::Event(event) => self.push_event(event),
        }
    }

    /// Adds the next step.
    pub fn push_step(&mut self, step: &StepMetrics) {
        let x = step.step as f64;
        self.loss.push(x, step.loss);
        self.main_loss.push(x, step.main_loss);
        if let Some(mtp_loss) = step.mtp_loss {
            self.mtp_loss.push(x, mtp_loss);
        }
        self.balance_loss.push(x, step.balance_loss);
        self.lr.push(x, step.lr);
        self.grad_norm.push(x, step.grad_norm);
        self.tokens_per_s.push(x, step.tokens_per_s);
        self.mfu.push(x, step.mfu);
        if self.max_vio.len() < step.max_vio.len() {
            self.max_vio.resize_with(step.max_vio.len(), Series::default);
        }
        for (series, &max_vio) in self.max_vio.iter_mut().zip(&step.max_vio) {
            series.push(x, max_vio);
        }
        if !step.max_vio.is_empty() {
            self.mean_max_vio.push(x, step.mean_max_vio());
        }
        self.load.push(&step.expert_load);
        self.last = Some(StepMetrics { expert_load: Vec::new(), ..step.clone() });
    }

    /// Adds the next validation.
    pub fn push_validation(&mut self, validation: &ValidationMetrics) {
        self.validation_loss.push(validation.step as f64, validation.nats_per_token);
        let best = self.best_validation.as_ref().map_or(f64::INFINITY, |best| best.bits_per_byte);
        if validation.bits_per_byte < best {
            self.best_validation = Some(validation.clone());
        }
        self.validations.push(validation.clone());
    }

    /// Adds the next sample.
    pub fn push_sample(&mut self, sample: &Sample) {
        match self.samples.last_mut() {
            Some(samples) if samples[0].step == sample.step => samples.push(sample.clone()),
            _ => self.samples.push(vec![sample.clone()]),
        }
    }

    /// Adds the next event.
    pub fn push_event(&mut self, event: &Event) {
        if matches!(event, Event::CheckpointSaved { .. }) {
            self.checkpoints = (self.checkpoints.0 + 1, Some(event.clone()));
            return;
        }
        self.events.push_back(event.clone());
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
    }
}

/// The sum of the expert load over the last [`LOAD_WINDOW`] steps that recorded it.
#[derive(Clone, Debug, Default)]
pub struct LoadWindow {
    steps: VecDeque<Vec<Vec<u64>>>,
    /// `[MoE layer][expert]`: tokens; empty before the first step.
    pub sum: Vec<Vec<u64>>,
}

impl LoadWindow {
    /// How many steps the sum is over.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether no step has been added.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    fn push(&mut self, load: &[Vec<u64>]) {
        if load.iter().all(Vec::is_empty) {
            return;
        }
        if !self.sum.iter().map(Vec::len).eq(load.iter().map(Vec::len)) {
            self.steps.clear();
            self.sum = load.iter().map(|layer| vec![0; layer.len()]).collect();
        }
        self.steps.push_back(load.to_vec());
        let oldest = if self.steps.len() > LOAD_WINDOW { self.steps.pop_front() } else { None };
        for (layer, sums) in self.sum.iter_mut().enumerate() {
            for (expert, sum) in sums.iter_mut().enumerate() {
                // Saturating, so that absurd numbers in a damaged log are drawn rather than fatal.
                *sum = sum
                    .saturating_sub(oldest.as_ref().map_or(0, |oldest| oldest[layer][expert]))
                    .saturating_add(load[layer][expert]);
            }
        }
    }
}

/// Of everything pushed, evenly spaced items from the first on, and always the last.
#[derive(Clone, Debug)]
pub struct Thinned<T> {
    /// The items whose index is a multiple of `stride`.
    kept: Vec<T>,
    stride: usize,
    pushed: usize,
    /// The last item, where it is not in `kept`.
    last: Option<T>,
}

impl<T> Default for Thinned<T> {
    fn default() -> Self {
        Self { kept: Vec::new(), stride: 1, pushed: 0, last: None }
    }
}

impl<T> Thinned<T> {
    /// Adds an item.
    pub fn push(&mut self, item: T) {
        if self.pushed.is_multiple_of(self.stride) {
            self.kept.push(item);
            self.last = None;
        } else {
            self.last = Some(item);
        }
        self.pushed += 1;
        // At this length the item just added has an even index, so it stays.
        if self.kept.len() > KEPT {
            let mut even = false;
            self.kept.retain(|_| {
                even = !even;
                even
            });
            self.stride *= 2;
        }
    }

    /// The items kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.kept.iter().chain(&self.last)
    }

    /// The item pushed last.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.last.as_mut().or(self.kept.last_mut())
    }

    /// How many items were pushed.
    pub fn pushed(&self) -> usize {
        self.pushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_first_and_the_last_and_even_distances() {
        for length in 1..1000 {
            let mut thinned = Thinned::default();
            (0..length).for_each(|i| thinned.push(i));
            assert_eq!(thinned.last_mut(), Some(&mut (length - 1)));
            let kept = thinned.iter().copied().collect::<Vec<_>>();
            assert!(kept.len() <= KEPT + 1 && kept.len() >= (KEPT / 2).min(length));
            assert_eq!((kept[0], kept[kept.len() - 1]), (0, length - 1));
            let even = kept[..kept.len() - 1].windows(2).all(|pair| pair[1] - pair[0] == thinned.stride);
            assert!(even, "uneven distances in {kept:?}");
        }
    }

    #[test]
    fn the_expert_load_is_that_of_the_latest_steps() {
        let mut history = History::default();
        for step in 0..LOAD_WINDOW as u64 + 10 {
            let expert_load = vec![vec![step, 1], vec![2, step * step]];
            history.push_step(&StepMetrics { step, expert_load, ..StepMetrics::default() });
            // A step that does not record its load leaves the picture alone.
            history.push_step(&StepMetrics { step, ..StepMetrics::default() });
        }
        let latest = 10..LOAD_WINDOW as u64 + 10;
        let window = LOAD_WINDOW as u64;
        let expected = vec![vec![latest.clone().sum(), window], vec![2 * window, latest.map(|step| step * step).sum()]];
        assert_eq!((history.load.sum, history.load.steps.len()), (expected, LOAD_WINDOW));
    }

    #[test]
    fn samples_of_one_step_stay_together() {
        let mut history = History::default();
        for step in 0..500 {
            for prompt in ["a", "b"] {
                history.push(&Record::Sample(Sample { step, prompt: prompt.into(), text: "c".into() }));
            }
        }
        assert!(history.samples.iter().all(|samples| samples.len() == 2 && samples[0].step == samples[1].step));
        assert_eq!(history.samples.pushed(), 500);
    }
}
