//! TensorBoard event files: `events.out.tfevents.<seconds>.<host>.<process>.<number>`.
//!
//! A file is a sequence of [`record`]s, each an [`event`] message. Curves are named `train/loss`,
//! `validation/nats_per_token`, `max_vio/layer_1`, ..; `expert_load/layer_1` is a distribution over the layer's experts
//! of their load over the mean load, so a balanced layer is a single peak at 1.

mod event;
mod record;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err::{File, OpenOptions};

use self::event::{Histogram, What};
use super::metrics::{Event, Sample, StepMetrics, ValidationMetrics};
use super::{Error, Observer};

/// Upper limits of the histogram's buckets, in units of the layer's mean load.
const LOAD_LIMITS: [f64; 23] = [
    0.0,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.0,
    1.1,
    1.2,
    1.3,
    1.4,
    1.5,
    1.75,
    2.0,
    2.5,
    3.0,
    5.0,
    10.0,
    f64::MAX,
];

/// A writer of one event file.
pub struct TensorBoard {
    file: File,
    path: PathBuf,
    moe_layers: Vec<usize>,
}

impl TensorBoard {
    /// Starts an event file of its own in `directory`, which may hold older ones. `moe_layers` are the layer numbers by
    /// which the entries of `max_vio` and `expert_load` are called.
    ///
    /// With `resume_step`, a viewer is told to forget what older files say about later steps.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn create(directory: &Path, moe_layers: Vec<usize>, resume_step: Option<u64>) -> Result<Self, Error> {
        let seconds = since_epoch() as u64;
        let host = gethostname::gethostname().to_string_lossy().replace(['/', '\\', ':'], "-");
        let process = std::process::id();
        let mut number = 0;
        let (file, path) = loop {
            let path = directory.join(format!("events.out.tfevents.{seconds:010}.{host}.{process}.{number}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(Error::Write { path, source }),
            }
        };
        let mut board = Self { file, path, moe_layers };
        board.write(0, &What::FileVersion("brain.Event:2"))?;
        if let Some(resume_step) = resume_step {
            board.write(resume_step + 1, &What::RunStart)?;
        }
        Ok(board)
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, step: u64, what: &What) -> Result<(), Error> {
        let record = record::frame(&event::encode(since_epoch(), step, what));
        self.file.write_all(&record).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn layer(&self, index: usize) -> String {
        self.moe_layers.get(index).map_or_else(|| format!("moe_{index}"), |layer| format!("layer_{layer}"))
    }
}

impl Observer for TensorBoard {
    fn on_step(&mut self, step: &StepMetrics) -> Result<(), Error> {
        let mut scalars = vec![("train/tokens".to_owned(), step.tokens as f64)];
        for (name, value) in step.scalars() {
            let tag = match name.strip_prefix("max_vio/").and_then(|index| index.parse().ok()) {
                Some(index) => format!("max_vio/{}", self.layer(index)),
                None => format!("train/{name}"),
            };
            scalars.push((tag, value));
        }
        let load = step.expert_load.iter().enumerate().filter_map(|(index, load)| {
            let name = format!("expert_load/{}", self.layer(index));
            relative_load(load).map(|relative| (name, Histogram::of(&relative, &LOAD_LIMITS)))
        });
        let histograms = load.collect::<Vec<_>>();
        self.write(step.step, &What::Summary(&scalars, &histograms))
    }

    fn on_validation(&mut self, validation: &ValidationMetrics) -> Result<(), Error> {
        let scalars = validation.scalars().into_iter().map(|(name, value)| (format!("validation/{name}"), value));
        self.write(validation.step, &What::Summary(&scalars.collect::<Vec<_>>(), &[]))
    }

    /// Text is for the log and the report.
    fn on_sample(&mut self, _: &Sample) -> Result<(), Error> {
        Ok(())
    }

    /// Events are for the log and the report.
    fn on_event(&mut self, _: &Event) -> Result<(), Error> {
        Ok(())
    }
}

/// Each expert's load over the mean load; `None` for a layer that saw no token.
fn relative_load(load: &[u64]) -> Option<Vec<f64>> {
    let mean = load.iter().map(|&tokens| tokens as f64).sum::<f64>() / load.len() as f64;
    (mean > 0.0).then(|| load.iter().map(|&tokens| tokens as f64 / mean).collect())
}

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_second_do_not_overwrite_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let mut boards =
            (0..3).map(|_| TensorBoard::create(directory.path(), vec![], None).unwrap()).collect::<Vec<_>>();
        boards[0].on_step(&StepMetrics::default()).unwrap();
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 3);
        assert!(fs_err::metadata(boards[0].path()).unwrap().len() > fs_err::metadata(boards[1].path()).unwrap().len());
    }

    #[test]
    fn a_file_is_whole_records_that_begin_with_the_version() {
        let directory = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(directory.path(), vec![1, 61], Some(7)).unwrap();
        let expert_load = vec![vec![1, 3], vec![0, 0]];
        let step = StepMetrics { step: 8, max_vio: vec![0.5, 0.0, 9.0], expert_load, ..StepMetrics::default() };
        board.on_step(&step).unwrap();
        board.on_validation(&ValidationMetrics::default()).unwrap();

        let bytes = fs_err::read(board.path()).unwrap();
        let records = record::tests::unframe(&bytes);
        assert_eq!(records.len(), 4);
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        let holds = |record: &[u8], tag: &str| record.windows(tag.len()).any(|window| window == tag.as_bytes());
        for tag in ["train/loss", "max_vio/layer_1", "max_vio/layer_61", "max_vio/moe_2", "expert_load/layer_1"] {
            assert!(holds(records[2], tag), "{tag} is missing");
        }
        assert!(!holds(records[2], "expert_load/layer_61"), "a layer without tokens has no distribution");
        assert!(holds(records[3], "validation/bits_per_byte"));
    }
}
