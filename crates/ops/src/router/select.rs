use super::{Config, Method};

/// Chooses the experts of one token after another.
pub(super) struct Select<'a> {
    config: &'a Config,
    z: Vec<f32>,            // [E]
    group_scores: Vec<f32>, // [n_group]
    kept: Vec<u32>,         // [topk_group]
}

impl<'a> Select<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let z = Vec::with_capacity(config.n_routed_experts);
        Self { config, z, group_scores: Vec::with_capacity(config.n_group), kept: vec![0; config.topk_group] }
    }

    /// The experts that `scores [E]` choose, ascending, into `idx [K]`.
    pub(super) fn choose(&mut self, scores: &[f32], bias: Option<&[f32]>, idx: &mut [u32]) {
        self.z.clear();
        match bias {
            Some(bias) => self.z.extend(scores.iter().zip(bias).map(|(s, b)| s + b)),
            None => self.z.extend(scores),
        }
        let limited = self.config.topk_group < self.config.n_group;
        match self.config.method {
            Method::NoauxTc if limited => self.keep_groups(sum_of_two_largest, f32::NEG_INFINITY),
            Method::GroupLimitedGreedy if limited => self.keep_groups(largest, 0.0),
            _ => {}
        }
        top_k(&self.z, idx);
        idx.sort_unstable();
    }

    /// Masks all groups but the `topk_group` of largest `score`.
    fn keep_groups(&mut self, score: fn(&[f32]) -> f32, masked: f32) {
        let width = self.config.n_routed_experts / self.config.n_group;
        self.group_scores.clear();
        self.group_scores.extend(self.z.chunks_exact(width).map(score));
        top_k(&self.group_scores, &mut self.kept);
        for (group, z) in (0..).zip(self.z.chunks_exact_mut(width)) {
            if !self.kept.contains(&group) {
                z.fill(masked);
            }
        }
    }
}

/// The indices of the `idx.len()` largest values, best first; equal values by index, NaN as the largest.
pub(crate) fn top_k(values: &[f32], idx: &mut [u32]) {
    let rank = |i: u32| ranked(values[i as usize]);
    let mut filled = 0;
    for (i, &value) in (0..).zip(values) {
        let value = ranked(value);
        if filled == idx.len() {
            // Most values end here: an insertion is rare once the first have been seen.
            if value <= rank(idx[filled - 1]) {
                continue;
            }
            filled -= 1;
        }
        let mut at = filled;
        while at > 0 && value > rank(idx[at - 1]) {
            idx[at] = idx[at - 1];
            at -= 1;
        }
        idx[at] = i;
        filled += 1;
    }
    assert_eq!(filled, idx.len(), "router: {} values have no {} largest", values.len(), idx.len());
}

/// What a value counts as in comparisons.
fn ranked(value: f32) -> f32 {
    if value.is_nan() { f32::INFINITY } else { value }
}

/// Of a group of at least one.
fn largest(z: &[f32]) -> f32 {
    z.iter().fold(f32::NEG_INFINITY, |m, &z| if ranked(z) > m { ranked(z) } else { m })
}

/// Of a group of at least two.
fn sum_of_two_largest(z: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &z in z {
        let z = ranked(z);
        if z > first {
            (first, second) = (z, first);
        } else if z > second {
            second = z;
        }
    }
    first + second
}
