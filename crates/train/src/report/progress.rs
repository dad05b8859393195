//! Progress for a person watching: a bar on a terminal, plain lines elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::{Event, Sample, StepMetrics, ValidationMetrics};
use super::units::{duration, printable, scaled, short};
use super::{Error, Observer};

/// How many characters of a sample are shown.
const SAMPLE_CHARS: usize = 240;

/// What lies ahead of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Tokens that the run will have consumed at its end.
    pub total_tokens: u64,
    /// Tokens consumed before, by the run that is resumed.
    pub done_tokens: u64,
    /// The last step's number.
    pub total_steps: u64,
}

/// Shows a run's progress.
pub struct Progress {
    output: Output,
    plan: Plan,
    log_every: Duration,
    last_log: Option<Instant>,
    /// The last step's line, until it has been logged.
    pending: Option<String>,
    loss: Average,
    tokens_per_s: Average,
}

enum Output {
    /// A bar at the bottom of the terminal; lines scroll by above it.
    Bar(ProgressBar),
    Lines(Box<dyn Write>),
}

impl Progress {
    /// On standard error: a bar that is redrawn in place where that is a terminal, plain lines where it is not; on both,
    /// a line for the record every `log_every`. `color` says whether the bar may be coloured.
    pub fn stderr(color: bool, log_every: Duration) -> Self {
        // The bar's own library decides what is a terminal, since on anything else it would print nothing at all.
        if ProgressDrawTarget::stderr().is_hidden() {
            Self::lines(std::io::stderr(), log_every)
        } else {
            Self::bar(color, log_every)
        }
    }

    fn bar(color: bool, log_every: Duration) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = if color {
            "{wide_bar:.cyan/blue.dim} {percent:>3}%  {prefix:.bold}\n{msg}"
        } else {
            "{wide_bar} {percent:>3}%  {prefix}\n{msg}"
        };
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        Self::new(Output::Bar(bar.with_style(style.progress_chars("━╸─"))), log_every)
    }

    /// Plain lines without control codes: the first step, then one every `log_every`, then the last.
    pub fn lines(to: impl Write + 'static, log_every: Duration) -> Self {
        Self::new(Output::Lines(Box::new(to)), log_every)
    }

    fn new(output: Output, log_every: Duration) -> Self {
        Self {
            output,
            plan: Plan::default(),
            log_every,
            last_log: None,
            pending: None,
            loss: Average::default(),
            tokens_per_s: Average::default(),
        }
    }

    /// Says what lies ahead.
    pub fn begin(&mut self, plan: Plan) {
        self.plan = plan;
        if let Output::Bar(bar) = &self.output {
            bar.set_length(plan.total_tokens);
            bar.set_position(plan.done_tokens);
            bar.tick();
        }
    }

    /// Shows a step.
    ///
    /// # Errors
    /// Like every method here, when plain lines cannot be written.
    pub fn step(&mut self, step: &StepMetrics) -> Result<(), Error> {
        self.loss.add(step.loss);
        self.tokens_per_s.add(step.tokens_per_s);
        let tokens_per_s = self.tokens_per_s.value();
        let tokens_left = self.plan.total_tokens.saturating_sub(step.tokens);
        let place = format!("step {}/{}", step.step, self.plan.total_steps);
        let left = format!("{} left", duration(tokens_left as f64 / tokens_per_s));
        let imbalance = match step.max_vio.as_slice() {
            [] => String::new(),
            _ => format!("  expert imbalance {:.2}", step.mean_max_vio()),
        };
        let (loss, lr) = (short(self.loss.value()), step.lr);
        let numbers = format!("loss {loss}  {} tokens/s{imbalance}  lr {lr:.2e}", scaled(tokens_per_s));

        if let Output::Bar(bar) = &self.output {
            bar.set_position(step.tokens);
            bar.set_prefix(format!("{place}  {left}"));
            bar.set_message(numbers.clone());
        }
        let percent = (step.tokens as f64 / self.plan.total_tokens.max(1) as f64 * 100.0).min(100.0);
        self.pending = Some(format!("{place}  {percent:.0}%  {numbers}  {left}"));
        if self.last_log.is_none_or(|last| last.elapsed() >= self.log_every) {
            self.last_log = Some(Instant::now());
            self.log_pending()?;
        }
        Ok(())
    }

    /// Shows a message, on lines of its own.
    ///
    /// # Errors
    /// See [`Progress::step`].
    pub fn message(&mut self, message: &str) -> Result<(), Error> {
        let message = printable(message);
        match &mut self.output {
            Output::Bar(bar) => bar.println(message),
            Output::Lines(to) => writeln!(to, "{message}")
                .and_then(|()| to.flush())
                .map_err(|source| Error::Write { path: "standard error".into(), source })?,
        }
        Ok(())
    }

    fn log_pending(&mut self) -> Result<(), Error> {
        self.pending.take().map_or(Ok(()), |line| self.message(&line))
    }
}

impl Observer for Progress {
    fn on_step(&mut self, step: &StepMetrics) -> Result<(), Error> {
        self.step(step)
    }

    fn on_validation(&mut self, validation: &ValidationMetrics) -> Result<(), Error> {
        let ValidationMetrics { step, nats_per_token, bits_per_byte, .. } = validation;
        self.message(&format!(
            "validation at step {step}: {} nats/token, {} bits/byte",
            short(*nats_per_token),
            short(*bits_per_byte)
        ))
    }

    fn on_sample(&mut self, sample: &Sample) -> Result<(), Error> {
        let line = |text: &str| text.replace('\n', "↵");
        let mut text = sample.text.chars().take(SAMPLE_CHARS).collect::<String>();
        if text.len() < sample.text.len() {
            text.push('…');
        }
        self.message(&format!("sample at step {}: {} → {}", sample.step, line(&sample.prompt), line(&text)))
    }

    fn on_event(&mut self, event: &Event) -> Result<(), Error> {
        self.message(&event.describe())
    }

    /// Logs the last step and leaves the terminal to what comes next.
    fn finish(&mut self) -> Result<(), Error> {
        self.log_pending()?;
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
        Ok(())
    }
}

/// An average over about the last 20 finite values; NaN before the first.
#[derive(Default)]
struct Average {
    sum: f64,
    weight: f64,
}

impl Average {
    const KEEP: f64 = 0.95;

    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum = self.sum * Self::KEEP + value;
            self.weight = self.weight * Self::KEEP + 1.0;
        }
    }

    fn value(&self) -> f64 {
        self.sum / self.weight
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            tokens: step * 1000,
            loss: 2.0,
            lr: 3e-4,
            tokens_per_s: 500.0,
            max_vio: vec![0.1, 0.3],
            ..StepMetrics::default()
        }
    }

    #[test]
    fn plain_lines_are_few_whole_and_without_control_codes() {
        let text = Shared::default();
        let mut progress = Progress::lines(text.clone(), Duration::from_hours(1));
        progress.begin(Plan { total_tokens: 10_000, done_tokens: 0, total_steps: 10 });
        for i in 1..=10 {
            progress.on_step(&step(i)).unwrap();
        }
        let sample = Sample { step: 10, prompt: "1+1=\n".into(), text: format!("\x1b[31m{}", "é".repeat(300)) };
        progress.on_sample(&sample).unwrap();
        progress.finish().unwrap();
        progress.finish().unwrap();

        let text = String::from_utf8(text.0.take()).unwrap();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(
            [lines[0], lines[2]],
            [
                "step 1/10  10%  loss 2.000  500 tokens/s  expert imbalance 0.20  lr 3.00e-4  18s left",
                "step 10/10  100%  loss 2.000  500 tokens/s  expert imbalance 0.20  lr 3.00e-4  0s left"
            ]
        );
        assert!(lines[1].starts_with("sample at step 10: 1+1=↵ → \u{fffd}[31mé") && lines[1].ends_with("é…"));
        assert_eq!(lines.len(), 3);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn a_step_without_numbers_is_shown_too() {
        let text = Shared::default();
        let mut progress = Progress::lines(text.clone(), Duration::ZERO);
        let nan = StepMetrics { loss: f64::NAN, tokens_per_s: f64::INFINITY, ..StepMetrics::default() };
        progress.on_step(&nan).unwrap();
        let text = String::from_utf8(text.0.take()).unwrap();
        assert_eq!(text, "step 0/0  0%  loss NaN  NaN tokens/s  lr 0.00e0  - left\n");
    }

    #[test]
    fn a_closed_stream_is_an_error_that_names_it() {
        let error = Progress::lines(Closed, Duration::ZERO).on_step(&step(1)).unwrap_err();
        assert_eq!(error.to_string(), "cannot write standard error");
    }

    #[test]
    fn a_bar_takes_everything_without_a_terminal() {
        let mut progress = Progress::bar(true, Duration::ZERO);
        progress.begin(Plan { total_tokens: 2000, done_tokens: 1000, total_steps: 2 });
        progress.on_step(&step(2)).unwrap();
        progress.finish().unwrap();
    }
}
