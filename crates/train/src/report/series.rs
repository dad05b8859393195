//! A curve of any length in bounded memory, without losing a spike.

/// The most points a curve is drawn with.
pub const MAX_POINTS: usize = 2000;

/// Values beyond this size are kept as this size, so that no difference of two overflows.
pub const LARGEST: f64 = 1e150;

/// A point of a curve: `(x, y)`.
pub type Point = (f64, f64);

/// A curve, told point by point with rising x.
///
/// Up to [`MAX_POINTS`] points are kept as they are. A longer curve is kept as buckets of equally many points, of which
/// the lowest and the highest are drawn; whenever there are too many buckets, neighbours merge. What is kept depends on
/// the points alone, not on when they came or were looked at.
#[derive(Clone, Debug, Default)]
pub struct Series {
    buckets: Vec<Bucket>,
    /// Points per full bucket are `2^merges`; all buckets but the last are full.
    merges: u32,
    /// The points that are not finite, which no bucket shows: how many, and the x of the first.
    pub not_finite: Option<(u64, f64)>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    points: u64,
    /// How many of the points are finite; the fields below speak of these alone.
    finite: u64,
    low: Point,
    high: Point,
    mean: Point,
}

impl Series {
    /// Adds a point. A y that is not finite leaves a gap.
    pub fn push(&mut self, x: f64, y: f64) {
        let bucket = if y.is_finite() {
            let y = y.clamp(-LARGEST, LARGEST);
            Bucket { points: 1, finite: 1, low: (x, y), high: (x, y), mean: (x, y) }
        } else {
            let (count, first) = self.not_finite.unwrap_or((0, x));
            self.not_finite = Some((count + 1, first));
            Bucket { points: 1, finite: 0, low: (x, y), high: (x, y), mean: (x, y) }
        };
        match self.buckets.last_mut() {
            Some(last) if last.points < 1 << self.merges => *last = last.merged(bucket),
            _ => self.buckets.push(bucket),
        }
        let points_per_bucket = if self.merges == 0 { 1 } else { 2 };
        if self.buckets.len() * points_per_bucket > MAX_POINTS {
            self.halve();
        }
    }

    /// The points to draw, in order of x, `None` at a gap; at most `max_points` of them (or 2, where that is more).
    pub fn trace(&self, max_points: usize) -> Vec<Option<Point>> {
        let mut series = self.clone();
        while series.buckets.len() * (if series.merges == 0 { 1 } else { 2 }) > max_points.max(2) {
            series.halve();
        }
        let mut trace = Vec::new();
        for bucket in &series.buckets {
            if bucket.finite == 0 {
                trace.push(None);
            } else if bucket.low.0 == bucket.high.0 {
                trace.push(Some(bucket.low));
            } else {
                let low_first = bucket.low.0 < bucket.high.0;
                let (first, second) = if low_first { (bucket.low, bucket.high) } else { (bucket.high, bucket.low) };
                trace.extend([Some(first), Some(second)]);
            }
        }
        trace
    }

    /// The mean point of each bucket.
    pub fn means(&self) -> Vec<Point> {
        self.buckets.iter().filter(|bucket| bucket.finite > 0).map(|bucket| bucket.mean).collect()
    }

    /// The curve without its noise: each point averaged with its neighbours on both sides, with weights that fall
    /// exponentially over about 1.5 % of the curve, the same share however long it is.
    ///
    /// Both sides count alike, so a smoothed curve does not lag behind its points; at an end one side is missing.
    pub fn smooth(&self) -> Vec<Point> {
        let means = self.means();
        let keep = 1.0 - 1.0 / (0.015 * means.len() as f64).max(1.0);
        // Before and after each point: the weighted sum of what its neighbours differ by, and the sum of the weights.
        let one_side = |points: &mut dyn Iterator<Item = &Point>| {
            let (mut sum, mut weight, mut last) = (0.0, 0.0, None);
            let sides = points.map(|&(_, y)| {
                if let Some(last) = last.replace(y) {
                    weight = keep * (weight + 1.0);
                    sum = keep * sum + weight * (last - y);
                }
                (sum, weight)
            });
            sides.collect::<Vec<_>>()
        };
        let before = one_side(&mut means.iter());
        let after = one_side(&mut means.iter().rev());
        let sides = before.iter().zip(after.iter().rev());
        let smoothed = means
            .iter()
            .zip(sides)
            .map(|(&(x, y), (before, after))| (x, y + (before.0 + after.0) / (1.0 + before.1 + after.1)));
        smoothed.collect()
    }

    fn halve(&mut self) {
        self.buckets = self
            .buckets
            .chunks(2)
            .map(|pair| pair[1..].iter().fold(pair[0], |left, &right| left.merged(right)))
            .collect();
        self.merges += 1;
    }
}

impl Bucket {
    /// Both as one; `other` is the later one.
    fn merged(self, other: Self) -> Self {
        let points = self.points + other.points;
        if self.finite == 0 || other.finite == 0 {
            let shown = if self.finite == 0 { other } else { self };
            return Self { points, ..shown };
        }
        let finite = self.finite + other.finite;
        let share = other.finite as f64 / finite as f64;
        let mean = |a: f64, b: f64| a * (1.0 - share) + b * share;
        Self {
            points,
            finite,
            low: if other.low.1 < self.low.1 { other.low } else { self.low },
            high: if other.high.1 > self.high.1 { other.high } else { self.high },
            mean: (mean(self.mean.0, other.mean.0), mean(self.mean.1, other.mean.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(points: usize) -> Vec<Point> {
        (0..points).map(|i| (i as f64, (i as f64 * 0.37).sin())).collect()
    }

    fn series(points: &[Point]) -> Series {
        let mut series = Series::default();
        for &(x, y) in points {
            series.push(x, y);
        }
        series
    }

    #[test]
    fn short_curves_are_kept_as_they_are() {
        let points = wave(MAX_POINTS);
        assert_eq!(series(&points).trace(MAX_POINTS), points.into_iter().map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn long_curves_keep_every_extreme() {
        for length in [2001, 3999, 4001, 50_000, 123_457] {
            for spike in [0, 1, 777, length / 2, length - 2, length - 1] {
                let mut points = wave(length);
                points[spike].1 = 1e9;
                points[(spike + 13) % length].1 = -1e9;
                let series = series(&points);
                for max_points in [MAX_POINTS, 100, 7, 2] {
                    let trace = series.trace(max_points);
                    assert!(trace.len() <= max_points, "{} points drawn of {max_points}", trace.len());
                    assert!(trace.contains(&Some(points[spike])), "the spike at {spike} of {length} is gone");
                    assert!(trace.contains(&Some(points[(spike + 13) % length])), "the dip by {spike} is gone");
                    assert!(trace.windows(2).all(|pair| pair[0].unwrap().0 < pair[1].unwrap().0), "x goes back");
                }
            }
        }
    }

    #[test]
    fn means_are_means_of_all_points() {
        let points = wave(10_000);
        let means = series(&points).means();
        // 10 000 points make 625 buckets of 16.
        assert_eq!(means.len(), 625);
        for (bucket, mean) in points.chunks(16).zip(means) {
            let x = bucket.iter().map(|p| p.0).sum::<f64>() / 16.0;
            let y = bucket.iter().map(|p| p.1).sum::<f64>() / 16.0;
            assert!((mean.0 - x).abs() < 1e-9 && (mean.1 - y).abs() < 1e-12);
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_a_gap_and_is_counted() {
        let mut points = wave(6);
        points[2].1 = f64::NAN;
        points[3].1 = f64::INFINITY;
        let series = series(&points);
        assert_eq!(series.not_finite, Some((2, 2.0)));
        assert_eq!(series.trace(100).iter().filter(|point| point.is_none()).count(), 2);
        assert!(series.smooth().iter().all(|point| point.1.is_finite()));
        assert_eq!(series.smooth().len(), 4);
    }

    #[test]
    fn smoothing_is_the_weighted_average_of_both_sides() {
        let points = wave(200);
        let keep = 1.0 - 1.0 / 3.0_f64;
        for (i, smooth) in series(&points).smooth().into_iter().enumerate() {
            let weights = (0..200).map(|j| keep.powi((j - i as i32).abs())).collect::<Vec<_>>();
            let sum = points.iter().zip(&weights).map(|(point, weight)| weight * point.1).sum::<f64>();
            let expected = sum / weights.iter().sum::<f64>();
            assert!((smooth.1 - expected).abs() < 1e-12, "{smooth:?} instead of {expected} at {i}");
        }
    }

    #[test]
    fn smoothing_keeps_a_slope_where_both_sides_are_there() {
        let slope = series(&(0..1000).map(|i| (f64::from(i), f64::from(i))).collect::<Vec<_>>());
        assert!(slope.smooth()[300..700].iter().all(|point| (point.1 - point.0).abs() < 1e-6));
    }
}
