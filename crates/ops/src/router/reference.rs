//! What routing means: f64, plain loops, sorting where the kernel selects.

use super::{Config, Method, Scoring};

/// `logits [T, E]` to `(idx [T, K], weights [T, K], scores [T, E])`.
pub fn forward(logits: &[f64], bias: Option<&[f64]>, config: &Config) -> (Vec<u32>, Vec<f64>, Vec<f64>) {
    let (mut idx, mut weights, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for logits in logits.chunks_exact(config.n_routed_experts) {
        let s = score(logits, config.scoring);
        let chosen = choose(&s, bias, config);
        weights.extend(weigh(&s, &chosen, config));
        idx.extend(chosen.iter().map(|&e| e as u32));
        scores.extend(s);
    }
    (idx, weights, scores)
}

/// `dlogits [T, E]` for the choice `idx`.
pub fn backward(dweights: &[f64], dscores_extra: &[f64], logits: &[f64], idx: &[u32], config: &Config) -> Vec<f64> {
    let (e, k) = (config.n_routed_experts, config.num_experts_per_tok);
    let mut dlogits = Vec::with_capacity(logits.len());
    for (t, logits) in logits.chunks_exact(e).enumerate() {
        let s = score(logits, config.scoring);
        let (idx, dw) = (&idx[t * k..][..k], &dweights[t * k..][..k]);
        let mut ds = dscores_extra[t * e..][..e].to_vec();
        let (divide, factor) = weighting(config);
        let total = idx.iter().map(|&i| s[i as usize]).sum::<f64>() + 1e-20;
        for j in 0..k {
            if divide {
                // The quotient rule: every chosen score is in the denominator of every weight.
                for i in 0..k {
                    let numerator = if i == j { total } else { 0.0 } - s[idx[j] as usize];
                    ds[idx[i] as usize] += dw[j] * factor * numerator / (total * total);
                }
            } else {
                ds[idx[j] as usize] += dw[j] * factor;
            }
        }
        let mean: f64 = ds.iter().zip(&s).map(|(d, s)| d * s).sum();
        dlogits.extend(ds.iter().zip(&s).map(|(d, s)| match config.scoring {
            Scoring::Sigmoid => d * s * (1.0 - s),
            Scoring::Softmax => s * (d - mean),
        }));
    }
    dlogits
}

/// The scores of one token.
pub fn score(logits: &[f64], scoring: Scoring) -> Vec<f64> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Scoring::Softmax => {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
            logits.iter().map(|x| (x - largest).exp() / total).collect()
        }
    }
}

/// The weights of the experts `idx` of one token.
pub fn weigh(s: &[f64], idx: &[usize], config: &Config) -> Vec<f64> {
    let (divide, factor) = weighting(config);
    let total = if divide { idx.iter().map(|&e| s[e]).sum::<f64>() + 1e-20 } else { 1.0 };
    idx.iter().map(|&e| s[e] / total * factor).collect()
}

/// The indices of the `k` largest, best first, equal values by index.
pub fn top_k(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(k);
    order
}

fn choose(s: &[f64], bias: Option<&[f64]>, config: &Config) -> Vec<usize> {
    let mut z: Vec<f64> = (0..s.len()).map(|e| s[e] + bias.map_or(0.0, |b| b[e])).collect();
    let width = s.len() / config.n_group;
    let (members, masked) = match config.method {
        Method::NoauxTc => (2, f64::NEG_INFINITY),
        Method::GroupLimitedGreedy => (1, 0.0),
        Method::Greedy => (0, 0.0),
    };
    if members > 0 {
        let best = |z: &[f64]| top_k(z, members).iter().map(|&i| z[i]).sum();
        let groups: Vec<f64> = z.chunks_exact(width).map(best).collect();
        let kept = top_k(&groups, config.topk_group);
        for e in 0..z.len() {
            if !kept.contains(&(e / width)) {
                z[e] = masked;
            }
        }
    }
    let mut chosen = top_k(&z, config.num_experts_per_tok);
    chosen.sort_unstable();
    chosen
}

fn weighting(config: &Config) -> (bool, f64) {
    let factor = config.routed_scaling_factor.into();
    match (config.method, config.norm_topk_prob) {
        (Method::NoauxTc, divide) => (divide, factor),
        (_, true) if config.num_experts_per_tok > 1 => (true, 1.0),
        _ => (false, factor),
    }
}
