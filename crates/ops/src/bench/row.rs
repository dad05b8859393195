use crate::Precision;
use crate::bench::Spread;
use crate::machine::Rates;

/// One case of one operation, timed.
#[derive(Clone, Debug)]
pub struct Row {
    /// The operation, its variant and its shape.
    pub name: String,
    /// Threads that it ran on.
    pub threads: usize,
    /// Of a run.
    pub seconds: Spread,
    /// The least that must be moved.
    pub bytes: u64,
    /// The least that must be computed.
    pub flops: u64,
}

impl Row {
    /// Bytes a second, at the median.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds.median()
    }

    /// Operations a second, at the median.
    pub fn flops_per_s(&self) -> f64 {
        self.flops as f64 / self.seconds.median()
    }

    /// The heading of [`Row::line`].
    pub fn heading() -> String {
        format!(
            "{:<56} {:>10} {:>11} {:>16} {:>5} {:>5} {:>12}",
            "", "us", "half within", "GFLOP/s of f32", "bf16", "", "GB/s of read"
        )
    }

    /// The row as a line of a table: the median and the width of the middle half of the runs, and the two rates with their
    /// shares of the limits. A row does not say which arithmetic it used: the share of both is there.
    pub fn line(&self, limits: &Rates) -> String {
        let [lower, upper] = self.seconds.quartiles();
        let (median, flops, bytes) = (self.seconds.median(), self.flops_per_s(), self.bytes_per_s());
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        format!(
            "{:<56} {:>10.1} {:>11} {:>10.1} {:>5} {:>5} {:>12.1} {:>5}",
            self.name,
            median * 1e6,
            percent((upper - lower) / median),
            flops / 1e9,
            percent(flops / limits.flops(Precision::F32)),
            percent(flops / limits.flops(Precision::Bf16)),
            bytes / 1e9,
            percent(bytes / limits.bytes()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rates_and_shares() {
        let at = |x: f64| Spread::of(vec![x]);
        let limits = Rates { read: at(40e9), f32: at(200e9), bf16: Some(at(400e9)), int8: None };
        let seconds = Spread::of(vec![0.9e-3, 1e-3, 1.1e-3]);
        let row = Row { name: "gemm [1]".into(), threads: 2, seconds, bytes: 10_000_000, flops: 100_000_000 };
        let line = row.line(&limits);
        let words: Vec<&str> = line.split_whitespace().collect();
        let want = ["gemm", "[1]", "1000.0", "10", "%", "100.0", "50", "%", "25", "%", "10.0", "25", "%"];
        assert_eq!(words, want);
    }
}
