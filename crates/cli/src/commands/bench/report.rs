//! How measurements are printed and written.

use ops::bench::Spread;
use ops::machine::Rates;
use serde_json::{Value, json};
use tensor::Level;

/// What a rate is divided by when it is printed.
pub(super) const GIGA: f64 = 1e9;

/// A spread, its values divided by `unit`.
pub(super) fn spread(spread: &Spread, unit: f64) -> Value {
    let [lower, upper] = spread.quartiles();
    json!({
        "median": spread.median() / unit,
        "lower_quartile": lower / unit,
        "upper_quartile": upper / unit,
        "min": spread.min() / unit,
        "max": spread.max() / unit,
        "runs": spread.len(),
    })
}

/// The same for a person: the median, and between which values half of the runs lie.
pub(super) fn text(spread: &Spread, unit: f64) -> String {
    let [lower, upper] = spread.quartiles().map(|x| number(x / unit));
    format!("{} ({lower} to {upper})", number(spread.median() / unit))
}

/// Three digits that count.
pub(super) fn number(x: f64) -> String {
    let whole_digits = if x.abs() < 1.0 { 0 } else { x.abs().log10() as usize + 1 };
    format!("{x:.*}", 3_usize.saturating_sub(whole_digits))
}

/// `0.834` as `83 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Rates, for `machine` in full and for others as their limits.
pub(super) fn rates(rates: &Rates) -> Value {
    json!({
        "read_gb_per_s": spread(&rates.read, GIGA),
        "f32_gflop_per_s": spread(&rates.f32, GIGA),
        "bf16_gflop_per_s": rates.bf16.as_ref().map(|s| spread(s, GIGA)),
        "int8_gop_per_s": rates.int8.as_ref().map(|s| spread(s, GIGA)),
    })
}

/// The instructions that kernels use.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Portable => "portable",
        Level::Avx2 => "AVX2",
        Level::Avx512 => "AVX-512",
        Level::Avx512Bf16 => "AVX-512 BF16",
    }
}

/// `1 thread`, `2 threads`.
pub(super) fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases =
            [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (999.9, "1000"), (1234.0, "1234"), (0.0, "0.000")];
        for (x, want) in cases {
            assert_eq!(number(x), want);
        }
    }

    #[test]
    fn a_spread_is_written_in_its_unit() {
        let values = Spread::of(vec![1e9, 2e9, 3e9, 4e9, 5e9]);
        assert_eq!(text(&values, GIGA), "3.00 (2.00 to 4.00)");
        let json = spread(&values, GIGA);
        assert_eq!(json["median"], 3.0);
        assert_eq!((&json["lower_quartile"], &json["upper_quartile"]), (&json!(2.0), &json!(4.0)));
        assert_eq!((&json["min"], &json["max"], &json["runs"]), (&json!(1.0), &json!(5.0), &json!(5)));
    }

    #[test]
    fn what_a_processor_lacks_is_null() {
        let one = Spread::of(vec![GIGA]);
        let json = rates(&Rates { read: one.clone(), f32: one.clone(), bf16: None, int8: Some(one) });
        assert!(json["bf16_gflop_per_s"].is_null());
        assert_eq!(json["int8_gop_per_s"]["median"], 1.0);
    }
}
