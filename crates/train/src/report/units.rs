//! Numbers and text as people read them, for the terminal and for the report.

use std::borrow::Cow;

/// Three or four significant digits: `2.314`, `0.0312`, `3.00e-4`, `12.3k`; `NaN` and `inf` as they are.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-2 => format!("{value:.2e}"),
        size if size < 0.1 => format!("{value:.4}"),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 1000.0 => format!("{value:.1}"),
        size if size < 1e15 => scaled(value),
        _ => format!("{value:.2e}"),
    }
}

/// Three significant digits with a decimal suffix: `512`, `4.10k`, `14.8T`.
pub fn scaled(value: f64) -> String {
    let mut rest = value;
    let mut suffixes = ["", "k", "M", "G", "T"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while rest.abs() >= 999.5
        && let Some(next) = suffixes.next()
    {
        (rest, suffix) = (rest / 1000.0, next);
    }
    let digits = match rest.abs() {
        size if suffix.is_empty() && size.fract() == 0.0 || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{rest:.digits$}{suffix}")
}

/// All digits, in groups of three: `14,800,000`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time of two units: `42s`, `3m 05s`, `2h 07m`, `54d 3h`; `-` where it is not known.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A share: `41.2 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Text without control characters other than line break and tab, which a terminal would obey and HTML forbids; each
/// becomes `�`.
pub fn printable(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(hidden) { text.replace(hidden, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let shorts = [
            (0.0, "0"),
            (2.31449, "2.314"),
            (-0.031_24, "-0.0312"),
            (3e-4, "3.00e-4"),
            (10.26, "10.3"),
            (999.0, "999.0"),
            (12_340.0, "12.3k"),
            (1e300, "1.00e300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in shorts {
            assert_eq!(short(value), text);
        }
        let scaleds =
            [(0.0, "0"), (512.0, "512"), (999.6, "1.00k"), (4096.0, "4.10k"), (99_960.0, "100k"), (14.8e12, "14.8T")];
        for (value, text) in scaleds {
            assert_eq!(scaled(value), text);
        }
        assert_eq!([0, 999, 1000, 14_800_000].map(count), ["0", "999", "1,000", "14,800,000"]);
        let durations = [0.4, 59.6, 185.0, 7620.0, 4_676_400.0, f64::NAN, f64::INFINITY, -1.0].map(duration);
        assert_eq!(durations, ["0s", "1m 00s", "3m 05s", "2h 07m", "54d 3h", "-", "-", "-"]);
        assert_eq!(percent(0.412), "41.2 %");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        assert_eq!(printable("a\x1b[2J\u{9b}\x07\r\u{0}b\n\tc"), "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\n\tc");
        assert!(matches!(printable("plain\ntext"), Cow::Borrowed(_)));
    }
}
