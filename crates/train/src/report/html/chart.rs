//! A line chart: an SVG that stretches with its card, labels in HTML over it so that they keep their size, and a
//! read-out under the pointer that needs no script.

use std::fmt::{self, Write};

use super::scale::Axis;
use super::text::Text;
use crate::report::series::Point;
use crate::report::units::short;

/// The drawing's own units, fine enough for whole numbers.
const WIDTH: f64 = 2000.0;
const HEIGHT: f64 = 600.0;

/// How many places along x have a read-out.
const READOUTS: usize = 80;

/// What a chart shows.
pub(super) struct Chart<'a> {
    /// Plain text.
    pub(super) title: &'a str,
    /// What the numbers are, in plain text.
    pub(super) unit: &'a str,
    /// The lines, from back to front.
    pub(super) lines: Vec<Line>,
    /// Single points above the lines.
    pub(super) dots: Option<Line>,
    /// Steps that get a vertical line, with what happened there.
    pub(super) marks: Vec<(f64, String)>,
    /// How the numbers lie on the y axis.
    pub(super) scale: Scale,
    /// Whether the chart takes the width of two.
    pub(super) wide: bool,
    /// A remark below the chart, in plain text; may be empty.
    pub(super) note: String,
}

/// How numbers lie on an axis.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// Linear, from zero.
    FromZero,
    /// Linear, or logarithmic where the numbers span more than a factor of ten.
    Fitting,
}

/// A line of a chart.
pub(super) struct Line {
    /// Stands in the legend and in the read-out; a line without a label is in neither.
    pub(super) label: String,
    /// The CSS class that gives the line its looks.
    pub(super) class: String,
    /// What is drawn; `None` is a gap.
    pub(super) trace: Vec<Option<Point>>,
    /// What is read out.
    pub(super) readout: Vec<Point>,
}

impl Line {
    /// A line whose read-out is what is drawn.
    pub(super) fn plain(label: &str, class: &str, points: Vec<Point>) -> Self {
        let trace = points.iter().copied().map(Some).collect();
        Self { label: label.to_owned(), class: class.to_owned(), trace, readout: points }
    }

    fn points(&self) -> impl Iterator<Item = Point> + Clone {
        self.trace.iter().flatten().copied()
    }
}

impl Chart<'_> {
    /// Writes the chart's card; an empty card where there is nothing to draw.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let wide = if self.wide { " wide" } else { "" };
        write!(out, "<figure class=\"card{wide}\"><figcaption><h2>{}</h2>", Text(self.title))?;
        write!(out, "<span class=unit>{}</span>", Text(self.unit))?;
        let labelled = self.lines.iter().chain(&self.dots).filter(|line| !line.label.is_empty());
        let shown = labelled.filter(|line| line.points().next().is_some()).collect::<Vec<_>>();
        if shown.len() > 1 {
            out.push_str("<ul class=legend>");
            for line in shown {
                write!(out, "<li class=\"{}\">{}</li>", line.class, Text(&line.label))?;
            }
            out.push_str("</ul>");
        }
        out.push_str("</figcaption>");
        let points = self.lines.iter().chain(&self.dots).flat_map(Line::points);
        if points.clone().next().is_none() {
            out.push_str("<p class=empty>nothing measured yet</p>");
        } else {
            let x = Axis::linear(points.clone().map(|point| point.0), 6, false);
            let values = points.map(|point| point.1);
            let y = match self.scale {
                Scale::FromZero => Axis::linear(values.chain([0.0]), 4, true),
                Scale::Fitting => Axis::fitting(values, 10.0, 4),
            };
            self.write_plot(out, &x, &y)?;
        }
        if !self.note.is_empty() {
            write!(out, "<p class=note>{}</p>", Text(&self.note))?;
        }
        out.push_str("</figure>\n");
        Ok(())
    }

    fn write_plot(&self, out: &mut String, x: &Axis, y: &Axis) -> fmt::Result {
        write!(
            out,
            "<div class=plot><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=none role=img aria-label=\"{}\">",
            Text(self.title)
        )?;
        let mut grid = String::new();
        for (place, _) in y.ticks() {
            write!(grid, "M0 {}h{WIDTH}", (HEIGHT * (1.0 - place)).round())?;
        }
        write!(out, "<path class=grid d=\"{grid}\"/>")?;
        for (step, what) in &self.marks {
            let place = (WIDTH * x.place(*step)).round();
            write!(out, "<path class=mark d=\"M{place} 0v{HEIGHT}\"><title>{}</title></path>", Text(what))?;
        }
        for line in &self.lines {
            write!(out, "<path class=\"{}\" d=\"{}\"/>", line.class, path(&line.trace, x, y)?)?;
        }
        if let Some(dots) = &self.dots {
            // A line without length has round ends, which stay round however the drawing is stretched.
            let mut path = String::new();
            for (px, py) in dots.points() {
                let (px, py) = place((px, py), x, y);
                write!(path, "M{px} {py}h0")?;
            }
            write!(out, "<path class=\"{}\" d=\"{path}\"/>", dots.class)?;
        }
        out.push_str("</svg>");
        for (place, label) in y.ticks() {
            write!(out, "<span class=y style=\"top:{:.2}%\">{label}</span>", 100.0 * (1.0 - place))?;
        }
        for (place, label) in x.ticks() {
            write!(out, "<span class=x style=\"left:{:.2}%\">{label}</span>", 100.0 * place)?;
        }
        out.push_str("<span class=\"x name\">step</span>");
        self.write_readouts(out, x)?;
        out.push_str("</div>");
        Ok(())
    }

    /// Strips side by side over the plot, each with what the lines say at its middle.
    fn write_readouts(&self, out: &mut String, x: &Axis) -> fmt::Result {
        let labelled = self.lines.iter().filter(|line| !line.label.is_empty()).collect::<Vec<_>>();
        let Some(longest) = labelled.iter().map(|line| &line.readout).max_by_key(|readout| readout.len()) else {
            return Ok(());
        };
        let strips = longest.len().min(READOUTS);
        let at = |strip: usize| longest[(strip * 2 + 1) * longest.len() / (strips * 2)].0;
        for strip in 0..strips {
            let middle = at(strip);
            let left = if strip == 0 { 0.0 } else { x.place(f64::midpoint(at(strip - 1), middle)) };
            let right = if strip + 1 == strips { 1.0 } else { x.place(f64::midpoint(middle, at(strip + 1))) };
            let side = if x.place(middle) > 0.5 { " class=r" } else { "" };
            let (left, width) = (100.0 * left, 100.0 * (right - left));
            write!(out, "<i{side} style=\"left:{left:.2}%;width:{width:.2}%\"><b>step {}", middle.round())?;
            for line in &labelled {
                if let Some((_, value)) = nearest(&line.readout, middle) {
                    write!(out, "<br><em class=\"{}\"></em>{} {}", line.class, Text(&line.label), short(value))?;
                }
            }
            out.push_str("</b></i>");
        }
        Ok(())
    }
}

fn nearest(points: &[Point], x: f64) -> Option<Point> {
    let after = points.partition_point(|point| point.0 < x);
    let around = points[after.saturating_sub(1)..].iter().take(2);
    around.copied().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs()))
}

/// Where a point lies in the drawing, in whole units.
fn place(point: Point, x: &Axis, y: &Axis) -> (i64, i64) {
    ((WIDTH * x.place(point.0)).round() as i64, (HEIGHT * (1.0 - y.place(point.1))).round() as i64)
}

/// The path's commands; relative ones, which are shorter. A lone point is a dot.
fn path(trace: &[Option<Point>], x: &Axis, y: &Axis) -> Result<String, fmt::Error> {
    let mut path = String::new();
    for run in trace.split(Option::is_none) {
        let mut points = run.iter().flatten().map(|&point| place(point, x, y));
        let Some((mut at_x, mut at_y)) = points.next() else { continue };
        write!(path, "M{at_x} {at_y}")?;
        path.push_str(if run.len() == 1 { "h0" } else { "l" });
        for (next_x, next_y) in points {
            write!(path, "{} {} ", next_x - at_x, next_y - at_y)?;
            (at_x, at_y) = (next_x, next_y);
        }
    }
    Ok(path)
}
