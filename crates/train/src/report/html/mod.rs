//! `report.html`: one file that shows a run, with no script and nothing to load.
//!
//! The page is drawn from the run's log and a summary alone, so it can be drawn again at any time.

mod chart;
mod heat;
mod scale;
mod text;

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::chart::{Chart, Line, Scale};
use self::text::Text;
use super::history::History;
use super::metrics::{Event, Record, Sample, StepMetrics, ValidationMetrics};
use super::series::{MAX_POINTS, Series};
use super::units::{count, duration, percent, scaled, short};
use super::{Error, Observer};

/// What the page says about a run beyond its log. All text is plain text.
#[derive(Clone, Debug, Default)]
pub struct RunSummary {
    /// The heading.
    pub name: String,
    /// What the run trains, as pairs of a name and a value, such as `Parameters` and `12.4M, 3.1M active`.
    pub facts: Vec<(String, String)>,
    /// Tokens that the run will have consumed at its end.
    pub total_tokens: u64,
    /// The last step's number.
    pub total_steps: u64,
    /// The layer numbers by which the entries of `max_vio` and `expert_load` are called.
    pub moe_layers: Vec<usize>,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// Results on unseen items; empty before the evaluation.
    pub evaluation: Vec<EvaluationRow>,
}

/// A row of the evaluation's table. Shares are between 0 and 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvaluationRow {
    /// What was asked, such as `addition`.
    pub register: String,
    /// How many items.
    pub n: u64,
    /// The share answered exactly.
    pub exact_match: f64,
    /// A confidence interval of that share.
    pub interval: (f64, f64),
    /// The share that the majority answer gets.
    pub baseline: f64,
}

impl RunSummary {
    fn layer_name(&self, index: usize) -> String {
        self.moe_layers.get(index).map_or_else(|| format!("MoE {index}"), |layer| format!("layer {layer}"))
    }
}

/// The page of a run that has the records `records` in its log.
pub fn render(summary: &RunSummary, records: &[Record]) -> String {
    render_history(summary, &History::of(records))
}

/// The page of a run with this history.
pub fn render_history(summary: &RunSummary, history: &History) -> String {
    let mut out = String::new();
    write_page(&mut out, summary, history).expect("writing into a string does not fail");
    out
}

/// Draws the page at `path`. A reader sees the old page or the new one, never a part.
///
/// # Errors
/// When a file cannot be written beside `path` or moved there.
pub fn write(path: &Path, summary: &RunSummary, history: &History) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    fs_err::write(&partial, render_history(summary, history))
        .and_then(|()| fs_err::rename(&partial, path))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Keeps `report.html` up to date while a run goes on.
pub struct HtmlReport {
    path: PathBuf,
    summary: RunSummary,
    history: History,
    every: Duration,
    written: Option<Instant>,
}

impl HtmlReport {
    /// A page at `path`, drawn anew every `every` and at the end. `history` is what a resumed run's log holds already.
    pub fn new(path: PathBuf, summary: RunSummary, history: History, every: Duration) -> Self {
        Self { path, summary, history, every, written: None }
    }

    fn write_if_due(&mut self) -> Result<(), Error> {
        if self.written.is_some_and(|written| written.elapsed() < self.every) {
            return Ok(());
        }
        self.written = Some(Instant::now());
        write(&self.path, &self.summary, &self.history)
    }
}

impl Observer for HtmlReport {
    fn on_step(&mut self, step: &StepMetrics) -> Result<(), Error> {
        self.history.push_step(step);
        self.write_if_due()
    }

    fn on_validation(&mut self, validation: &ValidationMetrics) -> Result<(), Error> {
        self.history.push_validation(validation);
        self.write_if_due()
    }

    fn on_sample(&mut self, sample: &Sample) -> Result<(), Error> {
        self.history.push_sample(sample);
        self.write_if_due()
    }

    fn on_event(&mut self, event: &Event) -> Result<(), Error> {
        self.history.push_event(event);
        self.write_if_due()
    }

    fn finish(&mut self) -> Result<(), Error> {
        write(&self.path, &self.summary, &self.history)
    }
}

fn write_page(out: &mut String, summary: &RunSummary, history: &History) -> fmt::Result {
    write!(
        out,
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{}</title>\n<style>\n{}</style></head>\n<body><main>\n",
        Text(&summary.name),
        include_str!("page.css")
    )?;
    write_header(out, summary, history)?;
    write_tiles(out, history)?;
    write_evaluation(out, &summary.evaluation)?;
    out.push_str("<section class=cards>\n");
    for chart in charts(summary, history) {
        chart.write(out)?;
    }
    heat::write(out, summary, &history.load)?;
    out.push_str("</section>\n");
    write_samples(out, history)?;
    write_validations(out, history)?;
    write_events(out, history)?;
    writeln!(out, "<details><summary>Recipe</summary><pre>{}</pre></details>", Text(&summary.recipe))?;
    out.push_str("</main></body></html>\n");
    Ok(())
}

fn write_header(out: &mut String, summary: &RunSummary, history: &History) -> fmt::Result {
    let (state, class) = match history.events.back() {
        Some(Event::Finished { .. }) => ("finished", "done"),
        Some(Event::Interrupted { .. }) => ("interrupted", "halted"),
        Some(Event::LossSpike { .. }) => ("stopped at a loss spike", "failed"),
        Some(Event::NotFinite { .. }) => ("stopped at a number that is not finite", "failed"),
        Some(Event::Resumed { .. } | Event::CheckpointSaved { .. }) | None => ("running", "live"),
    };
    write!(out, "<header><h1>{}</h1><span class=\"state {class}\">{state}</span>", Text(&summary.name))?;
    let (step, tokens, elapsed_s) = history.last.as_ref().map_or((0, 0, 0.0), |s| (s.step, s.tokens, s.elapsed_s));
    let share = (tokens as f64 / summary.total_tokens.max(1) as f64).min(1.0);
    write!(
        out,
        "<div class=bar role=progressbar aria-valuemin=0 aria-valuemax=100 aria-valuenow={percent:.0} \
         aria-label=\"training\"><i style=\"width:{percent:.2}%\"></i></div>\
         <p class=progress><span>step {} of {}</span><span>{} of {} tokens</span><span>{} of training</span></p>",
        count(step),
        count(summary.total_steps),
        scaled(tokens as f64),
        scaled(summary.total_tokens as f64),
        duration(elapsed_s),
        percent = 100.0 * share,
    )?;
    if !summary.facts.is_empty() {
        out.push_str("<dl>");
        for (name, value) in &summary.facts {
            write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Text(name), Text(value))?;
        }
        out.push_str("</dl>");
    }
    out.push_str("</header>\n");
    Ok(())
}

fn write_tiles(out: &mut String, history: &History) -> fmt::Result {
    let Some(last) = &history.last else { return Ok(()) };
    let smooth = |series: &Series| series.smooth().last().map_or(f64::NAN, |point| point.1);
    let mut tiles = vec![("Loss", short(smooth(&history.loss)), "nats per token, smoothed".to_owned())];
    if let Some(best) = &history.best_validation {
        let where_best = format!("bits per byte, best at step {}", count(best.step));
        tiles.push(("Validation", short(best.bits_per_byte), where_best));
    }
    let mfu = smooth(&history.mfu);
    let mfu = if mfu.is_finite() { format!("tokens/s, {} MFU", percent(mfu)) } else { "tokens/s".to_owned() };
    tiles.push(("Throughput", scaled(smooth(&history.tokens_per_s)), mfu));
    if !last.max_vio.is_empty() {
        let busiest = "MaxVio, mean over layers; 0 is even".to_owned();
        tiles.push(("Expert imbalance", format!("{:.2}", smooth(&history.mean_max_vio)), busiest));
    }
    tiles.push(("Learning rate", short(last.lr), "at the last step".to_owned()));
    out.push_str("<section class=tiles>");
    for (name, value, unit) in tiles {
        write!(out, "<div class=card><h2>{name}</h2><strong>{value}</strong><span>{unit}</span></div>")?;
    }
    out.push_str("</section>\n");
    Ok(())
}

fn write_evaluation(out: &mut String, rows: &[EvaluationRow]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section class=\"card table\"><h2>What the model can do</h2>\
         <p class=note>Exact match on unseen items, with its interval; the dashed line is the majority baseline.</p>\
         <table><thead><tr><th>Register<th class=n>Items<th class=n>Exact match<th class=gauge><th class=n>Interval\
         <th class=n>Baseline</thead><tbody>",
    );
    for row in rows {
        let place = |share: f64| if share.is_finite() { 100.0 * share.clamp(0.0, 1.0) } else { 0.0 };
        let (low, high) = (place(row.interval.0), place(row.interval.1));
        write!(
            out,
            "<tr><th scope=row>{}<td class=n>{}<td class=n><strong>{}</strong><td class=gauge><div><i \
             style=\"width:{:.2}%\"></i><u style=\"left:{low:.2}%;width:{:.2}%\"></u><s style=\"left:{:.2}%\"></s></div>\
             <td class=n>{:.1} – {}<td class=n>{}",
            Text(&row.register),
            count(row.n),
            percent(row.exact_match),
            place(row.exact_match),
            (high - low).max(0.0),
            place(row.baseline),
            100.0 * row.interval.0,
            percent(row.interval.1),
            percent(row.baseline),
        )?;
    }
    out.push_str("</tbody></table></section>\n");
    Ok(())
}

fn charts<'a>(summary: &RunSummary, history: &History) -> Vec<Chart<'a>> {
    let marks = history.events.iter().map(|event| (event.step() as f64, event.describe())).collect::<Vec<_>>();
    let chart = |title, unit, scale, lines: Vec<Line>, source: &Series| Chart {
        title,
        unit,
        lines,
        dots: None,
        marks: Vec::new(),
        scale,
        wide: false,
        note: source.not_finite.map_or_else(String::new, |(number, first)| {
            format!("{number} steps without a finite value, the first at step {first}")
        }),
    };
    let raw = |series: &Series| Line {
        label: String::new(),
        class: "raw".to_owned(),
        trace: series.trace(MAX_POINTS),
        readout: Vec::new(),
    };
    let whole = |label: &str, series: &Series| Line {
        label: label.to_owned(),
        class: "c0".to_owned(),
        trace: series.trace(MAX_POINTS),
        readout: series.means(),
    };
    let noisy = |label: &str, series: &Series| vec![raw(series), Line::plain(label, "c0", series.smooth())];

    let mut loss_lines = noisy("objective", &history.loss);
    loss_lines.push(Line::plain("main", "c1", history.main_loss.smooth()));
    loss_lines.push(Line::plain("MTP", "c2", history.mtp_loss.smooth()));
    let loss = Chart {
        dots: Some(Line::plain("validation", "dots c3", history.validation_loss.means())),
        marks,
        wide: true,
        ..chart("Loss", "nats per token: each step, and smoothed", Scale::Fitting, loss_lines, &history.loss)
    };

    // Many layers share the points that one line would have, and a ramp of colours from the first to the last.
    let layers = history.max_vio.len();
    let mut vio_lines = Vec::new();
    for (index, series) in history.max_vio.iter().enumerate() {
        let shade = index * 15 / layers.saturating_sub(1).max(1);
        let trace = series.trace(MAX_POINTS / layers.clamp(1, 8));
        let label = if layers <= 6 { summary.layer_name(index) } else { String::new() };
        vio_lines.push(Line { label, class: format!("thin d{shade}"), trace, readout: series.means() });
    }
    vio_lines.push(Line::plain("mean", "bold", history.mean_max_vio.smooth()));
    let vio = chart("Expert imbalance", "MaxVio per MoE layer", Scale::Fitting, vio_lines, &history.mean_max_vio);

    vec![
        loss,
        chart("Learning rate", "", Scale::FromZero, vec![whole("lr", &history.lr)], &history.lr),
        chart(
            "Gradient norm",
            "L2, before clipping",
            Scale::Fitting,
            noisy("norm", &history.grad_norm),
            &history.grad_norm,
        ),
        chart(
            "Throughput",
            "tokens/s",
            Scale::FromZero,
            noisy("tokens/s", &history.tokens_per_s),
            &history.tokens_per_s,
        ),
        chart("MFU", "share of the measured peak", Scale::FromZero, noisy("MFU", &history.mfu), &history.mfu),
        vio,
        chart(
            "Balance loss",
            "sequence-wise, weighted",
            Scale::Fitting,
            noisy("balance", &history.balance_loss),
            &history.balance_loss,
        ),
    ]
}

fn write_samples(out: &mut String, history: &History) -> fmt::Result {
    let mut steps = history.samples.iter().rev();
    let Some(latest) = steps.next() else { return Ok(()) };
    out.push_str("<section class=\"card samples\"><h2>Samples</h2>\n");
    write_step_samples(out, latest)?;
    if steps.clone().next().is_some() {
        out.push_str("<details><summary>Earlier</summary>\n");
        for samples in steps {
            write_step_samples(out, samples)?;
        }
        out.push_str("</details>");
    }
    out.push_str("</section>\n");
    Ok(())
}

fn write_step_samples(out: &mut String, samples: &[Sample]) -> fmt::Result {
    let step = samples.first().map_or(0, |sample| sample.step);
    write!(out, "<h3>step {}</h3>", count(step))?;
    for sample in samples {
        writeln!(out, "<pre dir=auto><b>{}</b>{}</pre>", Text(&sample.prompt), Text(&sample.text))?;
    }
    Ok(())
}

fn write_validations(out: &mut String, history: &History) -> fmt::Result {
    if history.validations.pushed() == 0 {
        return Ok(());
    }
    out.push_str(
        "<details><summary>Validation</summary><div class=table><table><thead><tr><th class=n>Step<th class=n>Tokens\
         <th class=n>Nats per token<th class=n>Bits per byte</thead><tbody>",
    );
    for validation in history.validations.iter().rev() {
        let best = history.best_validation.as_ref().is_some_and(|best| best.step == validation.step);
        let ValidationMetrics { step, tokens, nats_per_token, bits_per_byte } = validation;
        write!(
            out,
            "<tr{}><td class=n>{}<td class=n>{}<td class=n>{nats_per_token:.4}<td class=n>{bits_per_byte:.4}",
            if best { " class=best" } else { "" },
            count(*step),
            count(*tokens),
        )?;
    }
    out.push_str("</tbody></table></div></details>\n");
    Ok(())
}

fn write_events(out: &mut String, history: &History) -> fmt::Result {
    let (checkpoints, last) = &history.checkpoints;
    if history.events.is_empty() && *checkpoints == 0 {
        return Ok(());
    }
    out.push_str("<details><summary>Events</summary><ul class=events>");
    if let Some(last) = last {
        write!(out, "<li>{} checkpoints, the last: {}</li>", count(*checkpoints), Text(last.describe()))?;
    }
    for event in history.events.iter().rev() {
        write!(out, "<li>{}</li>", Text(event.describe()))?;
    }
    out.push_str("</ul></details>\n");
    Ok(())
}

#[cfg(test)]
mod tests;
