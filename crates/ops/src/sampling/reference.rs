//! What sampling means: f64, plain loops, a full sort.

use super::Params;

/// `(id, probability)` of the tokens that may come next, by falling probability.
pub fn distribution(logits: &[f64], prompt: &[u32], answer: &[u32], params: &Params) -> Vec<(u32, f64)> {
    let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().copied()).collect();
    for (id, x) in &mut tokens {
        if prompt.contains(id) || answer.contains(id) {
            let penalty = f64::from(params.repetition_penalty);
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
        let times = answer.iter().filter(|&a| a == id).count();
        if times > 0 {
            *x -= f64::from(params.presence_penalty) + f64::from(params.frequency_penalty) * times as f64;
        }
    }
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if params.temperature == 0.0 {
        return vec![(tokens[0].0, 1.0)];
    }
    if params.top_k > 0 {
        tokens.truncate(params.top_k);
    }
    let largest = tokens[0].1;
    for (_, x) in &mut tokens {
        *x = ((*x - largest) / f64::from(params.temperature)).exp();
    }
    normalise(&mut tokens);
    let mut sum = 0.0;
    let enough = tokens.iter().position(|(_, p)| {
        sum += p;
        sum >= f64::from(params.top_p)
    });
    if params.top_p < 1.0 {
        tokens.truncate(enough.map_or(tokens.len(), |i| i + 1));
    }
    let least = f64::from(params.min_p) * tokens[0].1;
    tokens.retain(|(_, p)| *p >= least);
    normalise(&mut tokens);
    tokens
}

fn normalise(tokens: &mut [(u32, f64)]) {
    let total: f64 = tokens.iter().map(|(_, p)| p).sum();
    for (_, p) in tokens {
        *p /= total;
    }
}
