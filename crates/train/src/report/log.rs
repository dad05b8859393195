//! `metrics.jsonl`: one JSON object per line, appended as things happen.
//!
//! Each line has a `kind` (`step`, `validation`, `sample`, `event`) beside the fields of its record in
//! [`metrics`](super::metrics). JSON has no NaN and no infinity: such a number is `null`, and `not_finite` says what it
//! was, such as `"not_finite":{"loss":"NaN","max_vio/3":"inf"}`.
//!
//! A line reaches the operating system in one write, so a killed process leaves at most one torn line, the last. Steps
//! never decrease from line to line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use serde::Serialize;
use serde_json::Value;

use super::metrics::{Event, Record, Sample, StepMetrics, ValidationMetrics};
use super::{Error, Observer};

/// A run's log, open for appending.
pub struct MetricsLog {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    len: u64,
    /// Whether a failed write may have left part of a line behind `len`.
    torn: bool,
}

impl MetricsLog {
    /// Opens the log at `path`: of a new run (`None`), or of a run that goes on after `resume_step`.
    ///
    /// A resumed run's log is cut behind the last record of `resume_step`, a torn last line included, so that the file
    /// reads as if the run had never stopped. A resumed run without a log gets an empty one.
    ///
    /// # Errors
    /// When the log of a new run exists already, when a line before the cut is damaged, or when the file cannot be read
    /// or written.
    pub fn open(path: &Path, resume_step: Option<u64>) -> Result<Self, Error> {
        let refused = |source| Error::Write { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        let Some(resume_step) = resume_step else {
            let file = options.create_new(true).open(path).map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => Error::AlreadyThere { path: path.to_owned() },
                _ => refused(source),
            })?;
            return Ok(Self { file, path: path.to_owned(), len: 0, torn: false });
        };
        let file = options.create(true).open(path).map_err(refused)?;
        let mut records = Records::new(file, path);
        let (mut len, mut unterminated) = (0, false);
        while let Some(record) = records.next() {
            if record?.step() > resume_step {
                break;
            }
            (len, unterminated) = (records.offset, records.unterminated);
        }
        let mut file = records.reader.into_inner();
        file.set_len(len).map_err(refused)?;
        if unterminated {
            file.write_all(b"\n").map_err(refused)?;
            len += 1;
        }
        Ok(Self { file, path: path.to_owned(), len, torn: false })
    }

    /// Appends one record.
    ///
    /// # Errors
    /// When the file cannot be written; the log then holds the records before this one, and no part of it.
    pub fn append(&mut self, record: &Record) -> Result<(), Error> {
        let line = encode(record);
        let mut write = || {
            if self.torn {
                self.file.set_len(self.len)?;
            }
            self.torn = true;
            self.file.write_all(line.as_bytes())
        };
        write().map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.torn = false;
        self.len += line.len() as u64;
        Ok(())
    }
}

impl Observer for MetricsLog {
    fn on_step(&mut self, step: &StepMetrics) -> Result<(), Error> {
        self.append(&Record::Step(step.clone()))
    }

    fn on_validation(&mut self, validation: &ValidationMetrics) -> Result<(), Error> {
        self.append(&Record::Validation(validation.clone()))
    }

    fn on_sample(&mut self, sample: &Sample) -> Result<(), Error> {
        self.append(&Record::Sample(sample.clone()))
    }

    fn on_event(&mut self, event: &Event) -> Result<(), Error> {
        self.append(&Record::Event(event.clone()))
    }
}

/// The records of a log, one after the other. A torn last line is the end, not an error: it is what a kill leaves, and
/// what a reader sees of a line that is being written.
pub struct Records {
    reader: BufReader<File>,
    path: PathBuf,
    /// Lines read so far.
    line: u64,
    /// Bytes of the lines read so far.
    offset: u64,
    /// Whether the line read last has no line break, and so is the last.
    unterminated: bool,
}

impl Records {
    /// The records of the log at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened; the iterator's, when it cannot be read or a line before the last is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self::new(file, path))
    }

    fn new(file: File, path: &Path) -> Self {
        Self { reader: BufReader::new(file), path: path.to_owned(), line: 0, offset: 0, unterminated: false }
    }
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line);
        if let Err(source) = read {
            return Some(Err(Error::Read { path: self.path.clone(), source }));
        }
        if line.is_empty() {
            return None;
        }
        self.line += 1;
        self.offset += line.len() as u64;
        self.unterminated = line.last() != Some(&b'\n');
        match decode(&line) {
            Ok(record) => Some(Ok(record)),
            Err(_) if self.unterminated => None,
            Err(source) => Some(Err(Error::BadRecord { path: self.path.clone(), line: self.line, source })),
        }
    }
}

/// The record's line, with its line break.
fn encode(record: &Record) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        record: &'a Record,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        not_finite: BTreeMap<String, String>,
    }
    let line = Line { record, not_finite: record.not_finite().into_iter().collect() };
    let mut line = serde_json::to_string(&line).expect("a record has only text keys and plain values");
    line.push('\n');
    line
}

/// The record of a line. The names in `not_finite` take the place of the nulls they explain before the fields are read.
fn decode(line: &[u8]) -> Result<Record, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(line)?;
    let named = value.as_object_mut().and_then(|fields| fields.remove("not_finite"));
    for (place, name) in named.as_ref().and_then(Value::as_object).into_iter().flatten() {
        if let Some(number) = value.pointer_mut(&format!("/{place}")) {
            *number = name.clone();
        }
    }
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Record {
        Record::Step(StepMetrics {
            step,
            tokens: step * 512,
            loss: 0.1 + 2.0 / step as f64,
            main_loss: 1.0 / 3.0,
            mtp_loss: step.is_multiple_of(2).then_some(2.5),
            max_vio: vec![0.25, 1e-300],
            expert_load: vec![vec![u64::MAX, 0], vec![3, 4]],
            ..StepMetrics::default()
        })
    }

    /// Four steps with everything that stands between them.
    fn run() -> Vec<Record> {
        vec![
            step(1),
            Record::Validation(ValidationMetrics { step: 1, tokens: 512, nats_per_token: 2.0, bits_per_byte: 1.5 }),
            step(2),
            Record::Sample(Sample { step: 2, prompt: "a\n\"b\"".into(), text: "\u{0}é\u{2028}".into() }),
            Record::Event(Event::CheckpointSaved { step: 2, path: "checkpoints/step-2".into() }),
            step(3),
            Record::Event(Event::LossSpike { step: 3, loss: f64::INFINITY, expected: 2.0, batch: "7".into() }),
            step(4),
        ]
    }

    fn written(records: &[Record]) -> Vec<u8> {
        records.iter().map(encode).collect::<String>().into_bytes()
    }

    #[test]
    fn a_log_cut_at_any_byte_resumes_as_if_uninterrupted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let whole = written(&run());
        for resume_step in [2, 4] {
            let before = run().into_iter().filter(|record| record.step() <= resume_step).collect::<Vec<_>>();
            let after = run().into_iter().filter(|record| record.step() > resume_step).collect::<Vec<_>>();
            // The checkpoint was saved after its step's records, so no kill can take any of them but their line break.
            for cut in (written(&before).len().saturating_sub(1))..=whole.len() {
                fs_err::write(&path, &whole[..cut]).unwrap();
                let mut log = MetricsLog::open(&path, Some(resume_step)).unwrap();
                for record in &after {
                    log.append(record).unwrap();
                }
                assert_eq!(fs_err::read(&path).unwrap(), whole, "resumed at step {resume_step}, cut at byte {cut}");
            }
        }
    }

    #[test]
    fn a_reader_stops_before_a_torn_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let whole = written(&run());
        for cut in 0..=whole.len() {
            fs_err::write(&path, &whole[..cut]).unwrap();
            let records = Records::open(&path).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
            // A line is complete from its closing brace on.
            let complete = (0..cut).filter(|&i| whole.get(i + 1) == Some(&b'\n')).count();
            assert_eq!(records, run()[..complete], "cut at byte {cut}");
        }
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let lines = run().iter().map(encode).collect::<Vec<_>>();
        for damaged in ["\n", "{}\n", "\u{0}\u{0}\n", "{\"kind\":\"step\",\"step\":2}\n", "{\"kind\":\"new\"}\n"] {
            fs_err::write(&path, [&lines[0], damaged, &lines[2]].concat()).unwrap();
            for error in [
                MetricsLog::open(&path, Some(2)).err().unwrap(),
                Records::open(&path).unwrap().collect::<Result<Vec<_>, _>>().unwrap_err(),
            ] {
                assert!(matches!(error, Error::BadRecord { line: 2, .. }), "{error:?}");
            }
        }
    }

    #[test]
    fn a_new_run_does_not_write_into_an_old_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        MetricsLog::open(&path, None).unwrap().append(&step(1)).unwrap();
        assert!(matches!(MetricsLog::open(&path, None), Err(Error::AlreadyThere { .. })));
        assert_eq!(fs_err::read(&path).unwrap(), written(&[step(1)]));
    }

    #[test]
    fn numbers_that_json_lacks_are_null_with_a_note_and_come_back() {
        let record = Record::Step(StepMetrics {
            step: 1,
            loss: f64::NAN,
            main_loss: f64::INFINITY,
            mtp_loss: Some(f64::NEG_INFINITY),
            balance_loss: f64::NAN,
            lr: f64::NAN,
            grad_norm: f64::NAN,
            tokens_per_s: f64::NAN,
            mfu: f64::NAN,
            max_vio: vec![0.0, f64::INFINITY],
            elapsed_s: f64::NAN,
            ..StepMetrics::default()
        });
        let line = encode(&record);
        let json: Value = serde_json::from_str(&line).unwrap();
        let notes = json["not_finite"].as_object().unwrap();
        assert!(notes.keys().all(|place| json.pointer(&format!("/{place}")) == Some(&Value::Null)), "{line}");
        assert_eq!(line.matches("null").count(), notes.len(), "a number is null without a note: {line}");
        assert_eq!(notes["max_vio/1"], "inf");

        let Record::Step(read) = decode(line.as_bytes()).unwrap() else { panic!("another kind came back") };
        assert!(read.loss.is_nan() && read.elapsed_s.is_nan());
        assert_eq!((read.main_loss, read.mtp_loss), (f64::INFINITY, Some(f64::NEG_INFINITY)));
        assert_eq!(read.max_vio, [0.0, f64::INFINITY]);
        assert_eq!(encode(&Record::Step(read)), line);
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        for bits in (0..2000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let loss = f64::from_bits(bits);
            let line = encode(&Record::Step(StepMetrics { loss, ..StepMetrics::default() }));
            let Record::Step(read) = decode(line.as_bytes()).unwrap() else { panic!("another kind came back") };
            assert!(read.loss.to_bits() == bits || loss.is_nan() && read.loss.is_nan(), "{loss:e} in {line}");
        }
    }
}
