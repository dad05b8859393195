//! The axes of a chart: from values to places, and ticks at round numbers.

use crate::report::series::LARGEST;

/// An axis from `low` to `high`, which differ and are finite.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A linear axis that holds all `values`, with ticks in about `intervals` intervals. With `round`, it begins and
    /// ends at a tick.
    pub(super) fn linear(values: impl Iterator<Item = f64>, intervals: u32, round: bool) -> Self {
        let (mut low, mut high) = range(values).unwrap_or((0.0, 1.0));
        // A flat curve runs through the middle of its chart.
        if high - low <= low.abs().max(high.abs()) * 1e-9 {
            let margin = if low == 0.0 { 0.5 } else { low.abs() * 0.1 };
            (low, high) = (low - margin, high + margin);
        }
        let step = nice_step((high - low) / f64::from(intervals));
        let (first, last) = if round {
            ((low / step).floor(), (high / step).ceil())
        } else {
            ((low / step).ceil(), (high / step).floor())
        };
        let largest = step * first.abs().max(last.abs());
        let ticks = (0..=(last - first) as u64).map(|i| {
            let value = (first + i as f64) * step;
            (value, label(value, step, largest))
        });
        let ticks = ticks.collect::<Vec<_>>();
        if round {
            (low, high) = (first * step, last * step);
        }
        Self { low, high, logarithmic: false, ticks }
    }

    /// A logarithmic axis that holds all `values`, which are positive and not all equal.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values.map(f64::log10)).unwrap_or((0.0, 1.0));
        let margin = (high - low) * 0.04;
        let (low, high) = (low - margin, high + margin);
        let decades = (low.floor() as i32)..=(high.ceil() as i32);
        let every = ((high - low) / 6.0).ceil().max(1.0) as usize;
        let multiples: &[f64] = match high - low {
            span if span < 1.5 => &[1.0, 2.0, 3.0, 5.0],
            span if span < 3.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let ticks = decades.step_by(every).flat_map(|decade| {
            let step = 10_f64.powi(decade);
            multiples.iter().map(move |multiple| (multiple * step, label(multiple * step, step, multiple * step)))
        });
        let ticks = ticks.filter(|tick| (low..=high).contains(&tick.0.log10())).collect();
        Self { low, high, logarithmic: true, ticks }
    }

    /// Linear, or logarithmic where that shows more: for positive values that span more than a factor of `ratio`.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone, ratio: f64, intervals: u32) -> Self {
        match range(values.clone()) {
            Some((low, high)) if low > 0.0 && high / low > ratio => Self::logarithmic(values),
            _ => Self::linear(values, intervals, true),
        }
    }

    /// Where a value lies: 0 at the beginning of the axis, 1 at its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        ((value.clamp(-LARGEST, LARGEST) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The places of the ticks, with their labels.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, &str)> {
        self.ticks.iter().map(|(value, label)| (self.place(*value), label.as_str()))
    }
}

/// The least and the greatest of the finite values, kept to sizes at which a step between ticks is an ordinary number.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| {
        let value = if value.abs() < LARGEST.recip() { 0.0 } else { value.clamp(-LARGEST, LARGEST) };
        let (low, high) = range.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// The least of 1, 2, 5, 10, .. times a power of ten that is not less than `step`.
fn nice_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.log10().floor());
    let multiple = [1.0, 2.0, 5.0].into_iter().find(|multiple| multiple * decade >= step * (1.0 - 1e-9));
    decade * multiple.unwrap_or(10.0)
}

/// `value` with as many digits as ticks `step` apart need, in the notation that suits numbers of size `largest`.
fn label(value: f64, step: f64, largest: f64) -> String {
    if value.abs() < step * 1e-6 {
        return "0".to_owned();
    }
    let decimals = |unit: f64| ((unit / step).log10() - 1e-9).ceil().clamp(0.0, 12.0) as usize;
    let largest = largest * (1.0 + 1e-9);
    if (1e-3..1e15).contains(&largest) {
        let suffixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
        let (unit, suffix) = suffixes.into_iter().find(|(unit, _)| largest >= *unit).unwrap_or((1.0, ""));
        return format!("{:.*}{suffix}", decimals(unit), value / unit);
    }
    let exponent = largest.log10().floor();
    let unit = 10_f64.powf(exponent);
    format!("{:.*}e{exponent}", decimals(unit), value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round() {
        let linear = |low: f64, high: f64| Axis::linear([low, high].into_iter(), 4, true);
        assert_eq!(labels(&linear(0.0, 1.0)), ["0", "0.5", "1.0"]);
        assert_eq!(labels(&linear(1.97, 5.2)), ["1", "2", "3", "4", "5", "6"]);
        assert_eq!(labels(&linear(0.0, 3e-4)), ["0", "1e-4", "2e-4", "3e-4"]);
        assert_eq!(labels(&linear(-0.02, 0.03)), ["-0.02", "0", "0.02", "0.04"]);
        assert_eq!(labels(&linear(2.0, 2.0)), ["1.8", "1.9", "2.0", "2.1", "2.2"]);
        let steps = Axis::linear([1.0, 1234.0].into_iter(), 6, false);
        assert_eq!(labels(&steps), ["0.5k", "1.0k"]);
        assert_eq!(labels(&Axis::logarithmic([0.2, 9.0].into_iter())), ["0.3", "1", "3", "10"]);
        assert_eq!(labels(&Axis::logarithmic([2.0, 9.0].into_iter())), ["2", "3", "5"]);
        assert_eq!(labels(&Axis::logarithmic([1e-5, 1.0].into_iter())), ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
    }

    #[test]
    fn every_place_is_on_the_axis() {
        let values = [0.0, -0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 5e-324];
        for low in values {
            for high in values {
                let both = [low, high].into_iter();
                for axis in [
                    Axis::linear(both.clone(), 5, false),
                    Axis::linear(both.clone(), 5, true),
                    Axis::fitting(both, 10.0, 5),
                ] {
                    assert!(axis.ticks.len() <= 20, "{} ticks from {low} to {high}", axis.ticks.len());
                    for value in values.into_iter().filter(|value| !value.is_nan()) {
                        assert!((0.0..=1.0).contains(&axis.place(value)), "{value} on {axis:?}");
                    }
                    assert!(axis.ticks().all(|tick| (0.0..=1.0).contains(&tick.0)), "{axis:?}");
                }
            }
        }
        assert!(Axis::linear(std::iter::empty(), 5, true).place(0.5) == 0.5);
    }
}
