//! What is measured: the records of a run, as they stand in `metrics.jsonl` and as every observer sees them.

use serde::{Deserialize, Deserializer, Serialize};

/// One optimiser step. Losses are means over the step's target tokens, in nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1: the number of optimiser steps taken, this one included.
    pub step: u64,
    /// Tokens consumed since the start of the run, those of this step included.
    pub tokens: u64,
    /// The objective: the main loss, the weighted MTP loss and the balance loss together.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Next-token cross-entropy of the main model.
    #[serde(deserialize_with = "number")]
    pub main_loss: f64,
    /// Cross-entropy of the MTP modules, averaged over depths and before its weight; absent without MTP.
    #[serde(default, deserialize_with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub mtp_loss: Option<f64>,
    /// Sequence-wise balance loss, with its weight.
    #[serde(deserialize_with = "number")]
    pub balance_loss: f64,
    /// Learning rate of this step.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Rows of the batch, over all accumulation steps.
    pub batch_sequences: u64,
    /// Tokens of this step over its wall time.
    #[serde(deserialize_with = "number")]
    pub tokens_per_s: f64,
    /// Model FLOPs utilisation: a share of the measured peak, 1 is all of it.
    #[serde(deserialize_with = "number")]
    pub mfu: f64,
    /// Per MoE layer, from the input side: the busiest expert's load over the mean load, minus 1.
    #[serde(deserialize_with = "numbers")]
    pub max_vio: Vec<f64>,
    /// `[MoE layer][expert]`: tokens routed to the expert in this step; empty where a step does not record it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expert_load: Vec<Vec<u64>>,
    /// Seconds of training since the start of the run; time between a stop and its resumption does not count.
    #[serde(deserialize_with = "number")]
    pub elapsed_s: f64,
}

/// A measurement over the held-out split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ValidationMetrics {
    /// The last step taken before the measurement.
    pub step: u64,
    /// Tokens consumed by training so far.
    pub tokens: u64,
    /// Cross-entropy of the main model per token.
    #[serde(deserialize_with = "number")]
    pub nats_per_token: f64,
    /// Cross-entropy per byte of text, in bits: comparable between tokenizers.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
}

/// A continuation written by the model in training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The last step taken before.
    pub step: u64,
    /// What the model was given.
    pub prompt: String,
    /// What it wrote after it.
    pub text: String,
}

/// Something that happened to the run and is not a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A checkpoint is on disk, whole.
    CheckpointSaved {
        /// The last step it contains.
        step: u64,
        /// Where it is, relative to the run's directory.
        path: String,
    },
    /// The run goes on from a checkpoint.
    Resumed {
        /// The last step the checkpoint contains.
        step: u64,
        /// Where it is, relative to the run's directory.
        path: String,
    },
    /// The loss jumped.
    LossSpike {
        /// The step of the jump.
        step: u64,
        /// The loss of that step.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// The loss that was to be expected from the steps before.
        #[serde(deserialize_with = "number")]
        expected: f64,
        /// Which data the step saw.
        batch: String,
    },
    /// A number of the step is NaN or infinite.
    NotFinite {
        /// The step.
        step: u64,
        /// Which number, such as `loss`.
        quantity: String,
        /// Which data the step saw.
        batch: String,
    },
    /// The user stopped the run.
    Interrupted {
        /// The last step taken.
        step: u64,
    },
    /// The run reached its end.
    Finished {
        /// The last step taken.
        step: u64,
    },
}

/// Anything a run records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// See [`StepMetrics`].
    Step(StepMetrics),
    /// See [`ValidationMetrics`].
    Validation(ValidationMetrics),
    /// See [`Sample`].
    Sample(Sample),
    /// See [`Event`].
    Event(Event),
}

impl StepMetrics {
    /// Every measured number with the place where it stands in the record: `loss`, .., `max_vio/0`, ..
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars = vec![("loss".to_owned(), self.loss), ("main_loss".to_owned(), self.main_loss)];
        scalars.extend(self.mtp_loss.map(|loss| ("mtp_loss".to_owned(), loss)));
        scalars.extend([
            ("balance_loss".to_owned(), self.balance_loss),
            ("lr".to_owned(), self.lr),
            ("grad_norm".to_owned(), self.grad_norm),
            ("tokens_per_s".to_owned(), self.tokens_per_s),
            ("mfu".to_owned(), self.mfu),
            ("elapsed_s".to_owned(), self.elapsed_s),
        ]);
        scalars.extend(self.max_vio.iter().enumerate().map(|(layer, &v)| (format!("max_vio/{layer}"), v)));
        scalars
    }

    /// The mean of `max_vio` over the MoE layers; 0 for a model without any.
    pub fn mean_max_vio(&self) -> f64 {
        self.max_vio.iter().sum::<f64>() / self.max_vio.len().max(1) as f64
    }
}

impl ValidationMetrics {
    /// Both numbers, named as in the record.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        vec![("nats_per_token".to_owned(), self.nats_per_token), ("bits_per_byte".to_owned(), self.bits_per_byte)]
    }
}

impl Event {
    /// The step the event belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Self::CheckpointSaved { step, .. }
            | Self::Resumed { step, .. }
            | Self::LossSpike { step, .. }
            | Self::NotFinite { step, .. }
            | Self::Interrupted { step }
            | Self::Finished { step } => *step,
        }
    }

    /// One sentence without a full stop, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::CheckpointSaved { step, path } => format!("step {step} saved as {path}"),
            Self::Resumed { step, path } => format!("resumed after step {step} from {path}"),
            Self::LossSpike { step, loss, expected, batch } => {
                format!("loss spike at step {step}: {loss:.4} where {expected:.4} was expected, batch {batch}")
            }
            Self::NotFinite { step, quantity, batch } => {
                format!("{quantity} is not finite at step {step}, batch {batch}")
            }
            Self::Interrupted { step } => format!("interrupted after step {step}"),
            Self::Finished { step } => format!("finished after step {step}"),
        }
    }
}

impl Record {
    /// The step the record belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step(step) => step.step,
            Self::Validation(validation) => validation.step,
            Self::Sample(sample) => sample.step,
            Self::Event(event) => event.step(),
        }
    }

    /// The record's numbers that JSON cannot express, as `(place, NaN | inf | -inf)`.
    pub(super) fn not_finite(&self) -> Vec<(String, String)> {
        let scalars = match self {
            Self::Step(step) => step.scalars(),
            Self::Validation(validation) => validation.scalars(),
            Self::Event(Event::LossSpike { loss, expected, .. }) => {
                vec![("loss".to_owned(), *loss), ("expected".to_owned(), *expected)]
            }
            Self::Sample(_) | Self::Event(_) => Vec::new(),
        };
        scalars.into_iter().filter(|(_, v)| !v.is_finite()).map(|(place, v)| (place, v.to_string())).collect()
    }
}

/// A number as the log's reader hands it over: `NaN`, `inf` and `-inf` are text, since JSON has no such numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Named(String),
    Unknown(()),
}

impl Number {
    fn value<E: serde::de::Error>(self) -> Result<f64, E> {
        match self {
            Self::Finite(value) => Ok(value),
            Self::Named(name) => name.parse().map_err(|_| E::custom(format!("{name:?} is not a number"))),
            Self::Unknown(()) => Ok(f64::NAN),
        }
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Number::deserialize(deserializer)?.value()
}

fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    number(deserializer).map(Some)
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    Vec::<Number>::deserialize(deserializer)?.into_iter().map(Number::value).collect()
}
