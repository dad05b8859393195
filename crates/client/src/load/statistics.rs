//! From samples to what they mean.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sample::{Run, Sample};

/// What a run says about a server. Times are seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model that answered.
    pub model: String,
    /// From the beginning to the end of the last request.
    pub seconds: f64,
    /// Requests with a complete answer.
    pub completed: u64,
    /// Requests without one.
    pub failed: u64,
    /// Requests that were under way when the run was stopped; they count nowhere.
    pub unfinished: u64,
    /// The failures, by kind.
    pub errors: BTreeMap<String, ErrorCount>,
    /// Complete answers a second.
    pub requests_per_second: f64,
    /// Prompt tokens of complete answers.
    pub prompt_tokens: u64,
    /// Those of them that the server had seen before, if it says so.
    pub cached_tokens: Option<u64>,
    /// Tokens of complete answers.
    pub output_tokens: u64,
    /// Prompt tokens a second.
    pub prompt_tokens_per_second: f64,
    /// Answer tokens a second.
    pub output_tokens_per_second: f64,
    /// Requests that were under way at the same time, on average.
    pub mean_concurrency: f64,
    /// Answer tokens in a chunk, on average.
    pub tokens_per_chunk: Option<f64>,
    /// To the first text.
    pub ttft: Option<Summary>,
    /// Between chunks with text, of all answers together.
    pub itl: Option<Summary>,
    /// For each token after the first, one value an answer.
    pub tpot: Option<Summary>,
    /// To the end.
    pub e2e: Option<Summary>,
    /// From when a request should have been sent to when it was.
    pub lateness: Option<Summary>,
    /// Requests that kept what was promised, if something was.
    pub goodput: Option<Goodput>,
    /// What a reader of the numbers should know.
    pub notes: Vec<String>,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// How many.
    pub count: u64,
    /// The first one's message.
    pub example: String,
}

/// A distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// What users are promised. A request is good if it has a complete answer with text and keeps all limits, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Slo {
    /// To the first text.
    pub ttft: Option<f64>,
    /// The longest of all waits between two chunks.
    pub itl: Option<f64>,
    /// The mean time of a token after the first.
    pub tpot: Option<f64>,
    /// To the end.
    pub e2e: Option<f64>,
}

/// Requests that kept an [`Slo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goodput {
    /// What was promised.
    pub slo: Slo,
    /// Good requests.
    pub good: u64,
    /// Their share of all that ended, failures included.
    pub share: f64,
    /// Good requests a second.
    pub per_second: f64,
}

impl Report {
    /// What `run` says, and how much of it keeps `slo`.
    pub fn of(run: &Run, slo: Option<Slo>) -> Self {
        let complete: Vec<&Sample> = run.samples.iter().filter(|sample| sample.is_complete()).collect();
        let ended = run.samples.len() as u64;
        let completed = complete.len() as u64;
        let mut errors = BTreeMap::<String, ErrorCount>::new();
        for failure in run.samples.iter().filter_map(|sample| sample.failure.as_ref()) {
            let example = failure.message.clone();
            errors.entry(failure.kind.clone()).or_insert(ErrorCount { count: 0, example }).count += 1;
        }
        let per_second = |count: u64| if run.seconds > 0.0 { count as f64 / run.seconds } else { 0.0 };
        let usages = || complete.iter().filter_map(|sample| sample.usage.as_ref());
        let prompt_tokens = usages().map(|usage| usage.prompt_tokens).sum();
        let output_tokens = complete.iter().map(|sample| sample.tokens()).sum();
        let cached: Vec<u64> = usages().filter_map(crate::wire::Usage::cached_tokens).collect();
        let chunks: u64 = complete.iter().map(|sample| sample.chunks).sum();
        let busy: f64 = run.samples.iter().map(|sample| sample.ended - sample.started).sum();
        let goodput = slo.map(|slo| {
            let good = run.samples.iter().filter(|sample| slo.is_kept(sample)).count() as u64;
            let share = if ended > 0 { good as f64 / ended as f64 } else { 0.0 };
            Goodput { slo, good, share, per_second: per_second(good) }
        });
        let each = |value: fn(&Sample) -> Option<f64>| Summary::of(complete.iter().filter_map(|s| value(s)).collect());
        let mut report = Self {
            model: run.model.clone(),
            seconds: run.seconds,
            completed,
            failed: ended - completed,
            unfinished: run.unfinished,
            errors,
            requests_per_second: per_second(completed),
            prompt_tokens,
            cached_tokens: (!cached.is_empty()).then(|| cached.iter().sum()),
            output_tokens,
            prompt_tokens_per_second: per_second(prompt_tokens),
            output_tokens_per_second: per_second(output_tokens),
            mean_concurrency: if run.seconds > 0.0 { busy / run.seconds } else { 0.0 },
            tokens_per_chunk: (chunks > 0).then(|| output_tokens as f64 / chunks as f64),
            ttft: each(Sample::ttft),
            itl: Summary::of(complete.iter().flat_map(|sample| sample.gaps.iter().copied()).collect()),
            tpot: each(Sample::tpot),
            e2e: each(|sample| Some(sample.e2e())),
            lateness: Summary::of(run.samples.iter().map(|sample| sample.started - sample.intended).collect())
                .filter(|_| run.is_open_loop),
            goodput,
            notes: Vec::new(),
        };
        report.notes = notes(&report, run, &complete);
        report
    }
}

/// What a reader of the numbers should know.
fn notes(report: &Report, run: &Run, complete: &[&Sample]) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(ratio) = report.tokens_per_chunk.filter(|ratio| *ratio > 1.02) {
        notes.push(format!(
            "a chunk has {ratio:.2} tokens on average: ITL is between chunks, not between tokens; TPOT is for each token"
        ));
    }
    let without_usage = complete.iter().filter(|sample| sample.usage.is_none()).count();
    if without_usage > 0 {
        notes.push(format!(
            "{without_usage} answers came without usage: their tokens are counted by chunks, and their prompts not at all"
        ));
    }
    if let Some(asked) = run.exact_output_tokens {
        let others = complete.iter().filter(|s| s.usage.as_ref().is_some_and(|u| u.completion_tokens != asked)).count();
        if others > 0 {
            notes.push(format!("{others} answers do not have the {asked} tokens that were asked for"));
        }
    }
    let silent = complete.iter().filter(|sample| sample.first.is_none()).count();
    if silent > 0 {
        notes.push(format!("{silent} answers had no text: they have no TTFT and are not good"));
    }
    // The clock of the event loop ticks in milliseconds; more than a few of them are the client's own fault, or the limit
    // of concurrency at work.
    if let Some(lateness) = report.lateness.filter(|lateness| lateness.p99 > 0.01) {
        notes.push(format!(
            "1 % of the requests were sent more than {:.3} s late; TTFT and E2E contain this wait",
            lateness.p99
        ));
    }
    if run.is_stopped {
        notes.push("the run was stopped: slow requests are missing more often than fast ones".to_owned());
    }
    notes
}

impl Slo {
    /// Whether `sample` is good.
    pub fn is_kept(&self, sample: &Sample) -> bool {
        // What has no such time keeps the limit: an answer of one chunk has no gap.
        let keeps =
            |limit: Option<f64>, value: Option<f64>| limit.zip(value).is_none_or(|(limit, value)| value <= limit);
        sample.is_complete()
            && sample.first.is_some()
            && keeps(self.ttft, sample.ttft())
            && keeps(self.itl, sample.longest_gap())
            && keeps(self.tpot, sample.tpot())
            && keeps(self.e2e, Some(sample.e2e()))
    }
}

impl std::str::FromStr for Slo {
    type Err = String;

    /// Reads `ttft=1.0,itl=0.1,e2e=30`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=SECONDS"))?;
            let limit = match name.trim() {
                "ttft" => &mut slo.ttft,
                "itl" => &mut slo.itl,
                "tpot" => &mut slo.tpot,
                "e2e" => &mut slo.e2e,
                other => return Err(format!("{other:?} is none of ttft, itl, tpot and e2e")),
            };
            let seconds = value.trim().parse().ok().filter(|seconds: &f64| *seconds > 0.0 && seconds.is_finite());
            let seconds = seconds.ok_or_else(|| format!("{name} is {value:?}, but must be seconds above 0"))?;
            if limit.replace(seconds).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(slo)
    }
}

impl Summary {
    /// `None` of no values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |share| percentile(&values, share);
        Some(Self {
            count: values.len() as u64,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: at(50.0)?,
            p90: at(90.0)?,
            p95: at(95.0)?,
            p99: at(99.0)?,
            max: *values.last()?,
        })
    }
}

/// The `percent`th percentile of sorted values: linear between the two nearest ones, as NumPy's default is (type 7 of
/// Hyndman and Fan). `None` of no values.
fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let at = percent / 100.0 * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::sample::Failure;
    use crate::wire::Usage;

    #[test]
    fn percentiles_of_known_data() {
        let hundred: Vec<f64> = (0..=100).map(f64::from).collect();
        for percent in [0.0, 1.0, 50.0, 90.0, 95.0, 99.0, 100.0] {
            assert_eq!(percentile(&hundred, percent), Some(percent));
        }
        // numpy.percentile([1, 2, 3, 4], [25, 50, 75, 90])
        let four = [1.0, 2.0, 3.0, 4.0];
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} {b}");
        close(percentile(&four, 25.0), 1.75);
        close(percentile(&four, 50.0), 2.5);
        close(percentile(&four, 75.0), 3.25);
        close(percentile(&four, 90.0), 3.7);
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_summary_does_not_depend_on_the_order() {
        let summary = Summary::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.count, summary.mean, summary.p50, summary.max), (4, 2.5, 2.5, 4.0));
        assert_eq!(Summary::of(Vec::new()), None);
    }

    /// Sent at 1 and should have been at 0.5, first text at 2, three more tokens in two chunks at 2.2 and 2.8, end at 3.
    fn sample() -> Sample {
        Sample {
            index: 0,
            intended: 0.5,
            started: 1.0,
            first: Some(2.0),
            last: Some(2.8),
            ended: 3.0,
            gaps: vec![0.2, 0.6],
            chunks: 3,
            usage: Some(Usage { prompt_tokens: 10, completion_tokens: 4, ..Usage::default() }),
            finish_reason: Some("length".into()),
            failure: None,
        }
    }

    #[test]
    fn times_count_from_the_intended_moment() {
        let sample = sample();
        assert_eq!((sample.ttft(), sample.e2e()), (Some(1.5), 2.5));
        assert!((sample.tpot().unwrap() - 0.8 / 3.0).abs() < 1e-12);
        assert_eq!(sample.longest_gap(), Some(0.6));
        let uncounted = Sample { usage: None, ..sample.clone() };
        assert_eq!(uncounted.tokens(), 3);
        let one = Sample { usage: Some(Usage { completion_tokens: 1, ..Usage::default() }), ..sample };
        assert_eq!(one.tpot(), None);
    }

    #[test]
    fn good_requests_keep_every_limit() {
        let good = |text: &str| text.parse::<Slo>().unwrap().is_kept(&sample());
        assert!(good("ttft=1.5,itl=0.6,tpot=0.27,e2e=2.5"));
        assert!(!good("ttft=1.4") && !good("itl=0.5") && !good("tpot=0.26") && !good("e2e=2.4"));
        assert!(!good("ttft=9,e2e=2.4"));
        let slo: Slo = "e2e=100".parse().unwrap();
        let failure = Some(Failure { kind: "cut_off".into(), message: String::new() });
        assert!(!slo.is_kept(&Sample { failure, ..sample() }));
        assert!(!slo.is_kept(&Sample { first: None, ..sample() }));
        // An answer in one chunk has no gaps that could be too long.
        assert!("itl=0.1".parse::<Slo>().unwrap().is_kept(&Sample { gaps: vec![], ..sample() }));
    }

    #[test]
    fn limits_are_read_strictly() {
        let slo: Slo = "ttft=1.0, e2e=30".parse().unwrap();
        assert_eq!(slo, Slo { ttft: Some(1.0), e2e: Some(30.0), ..Slo::default() });
        for wrong in ["", "ttft", "ttft=", "ttft=0", "ttft=-1", "ttft=inf", "speed=1", "ttft=1,ttft=2"] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_report_adds_up() {
        let failed = |kind: &str, message: &str| Sample {
            failure: Some(Failure { kind: kind.into(), message: message.into() }),
            ..sample()
        };
        let samples =
            vec![sample(), failed("status_503", "a"), failed("status_503", "b"), failed("cut_off", "c"), sample()];
        let run = Run { samples, seconds: 4.0, exact_output_tokens: Some(5), is_open_loop: true, ..Run::default() };
        let report = Report::of(&run, Some("ttft=2".parse().unwrap()));
        assert_eq!((report.completed, report.failed), (2, 3));
        assert_eq!(report.errors["status_503"], ErrorCount { count: 2, example: "a".into() });
        assert_eq!((report.prompt_tokens, report.output_tokens), (20, 8));
        assert_eq!((report.requests_per_second, report.output_tokens_per_second), (0.5, 2.0));
        let goodput = report.goodput.unwrap();
        assert_eq!((goodput.good, goodput.share, goodput.per_second), (2, 0.4, 0.5));
        assert_eq!(report.itl.unwrap().count, 4);
        assert_eq!((report.lateness.unwrap().max, report.mean_concurrency), (0.5, 2.5));
        let notes = report.notes.join("\n");
        for part in ["1.33 tokens", "do not have the 5 tokens", "0.500 s late"] {
            assert!(notes.contains(part), "{part} in {notes}");
        }
        assert!(!notes.contains("without usage") && !notes.contains("stopped"), "{notes}");
    }

    #[test]
    fn nothing_measured_is_no_number() {
        let report = Report::of(&Run::default(), Some(Slo::default()));
        assert!(report.ttft.is_none() && report.e2e.is_none() && report.tokens_per_chunk.is_none());
        let json = serde_json::to_value(&report).expect("a report is JSON");
        assert_eq!((&json["requests_per_second"], &json["goodput"]["share"]), (&0.0.into(), &0.0.into()));
        assert!(json["ttft"].is_null());
    }
}
