//! Sampled answers have the distribution that the model's logits and the request's parameters say, with proposals of the
//! MTP layer and without.

use std::collections::BTreeMap;
use std::ops::Range;

use config::presets;
use engine::{Engine, Limits, Mtp, Request, Sampling};
use model::{Form, Model, Precision};
use serde_json::json;
use tensor::Ctx;

use crate::support::ask_all;

/// The tokens of an answer.
const LENGTH: usize = 3;

const PROMPT: [u32; 2] = [1, 4];

/// How often each answer was given.
type Counts = BTreeMap<Vec<u32>, u64>;

/// A model that is as small as it can be with all its parts, so that many answers are quick.
fn smallest() -> Model {
    let changes = json!({
        "vocab_size": 6, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "first_k_dense_replace": 0, "kv_lora_rank": 16,
        "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_attention_heads": 2,
        "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 8, "max_position_embeddings": 64
    });
    let config = presets::preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
    Model::random(&config, 0.4, 4).with_precision(Precision::F32)
}

/// How often each answer was given, of those to `seeds`.
fn histogram(ctx: &Ctx, model: &Model, sampling: Sampling, mtp: Mtp, seeds: Range<u64>) -> Counts {
    let limits = Limits { max_batch_size: 256, prefill_tokens: 512, mtp, ..Limits::default() };
    let mut engine = Engine::new(ctx, model, limits);
    let mut counts = Counts::new();
    // So many proposals must have been taken, and refused, for the counts to say something.
    let few = (seeds.end - seeds.start) / 30;
    let seeds: Vec<u64> = seeds.collect();
    for seeds in seeds.chunks(1000) {
        let request = |&seed: &u64| Request { sampling, seed, ..Request::new(PROMPT.to_vec(), LENGTH) };
        let requests: Vec<Request> = seeds.iter().map(request).collect();
        for (drawn, _) in ask_all(&mut engine, &requests) {
            *counts.entry(drawn.iter().map(|d| d.id).collect()).or_default() += 1;
        }
    }
    let stats = engine.stats();
    if mtp == Mtp::On {
        assert!(stats.accepted > few && stats.proposed - stats.accepted > few, "{stats:?}");
    } else {
        assert_eq!(stats.proposed, 0);
    }
    counts
}

/// The probability of each answer, from the logits of the model alone.
fn exact(ctx: &Ctx, model: &Model, sampling: &Sampling) -> BTreeMap<Vec<u32>, f64> {
    let mut open: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 1.0)];
    for _ in 0..LENGTH {
        let mut next = Vec::new();
        for (answer, p) in open {
            let mut cache = model.new_cache();
            let stream = model.extend(ctx, &PROMPT, &mut cache, Form::Direct).unwrap();
            let logits = match answer.as_slice() {
                [] => model.next_logits(ctx, &stream),
                tokens => model.decode(ctx, &[tokens], &mut [&mut cache]).unwrap(),
            };
            for (id, q) in processed(logits.row(0), &answer, sampling) {
                next.push(([answer.as_slice(), &[id]].concat(), p * q));
            }
        }
        open = next;
    }
    open.into_iter().collect()
}

/// What the next token is drawn from, step by step in f64.
fn processed(logits: &[f32], answer: &[u32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let &Sampling { temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, .. } = sampling;
    let penalised = |(id, &logit): (u32, &f32)| {
        let mut x = f64::from(logit);
        let times = answer.iter().filter(|&&t| t == id).count();
        if times > 0 || PROMPT.contains(&id) {
            let repetition = f64::from(repetition_penalty);
            x = if x > 0.0 { x / repetition } else { x * repetition };
        }
        if times > 0 {
            x -= f64::from(presence_penalty) + f64::from(frequency_penalty) * times as f64;
        }
        (id, (x / f64::from(temperature)).exp())
    };
    let mut weights: Vec<(u32, f64)> = (0..).zip(logits).map(penalised).collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = weights.iter().map(|w| w.1).sum();
    let mut before = 0.0;
    weights.retain(|w| {
        let is_kept = before < f64::from(top_p) * total;
        before += w.1;
        is_kept
    });
    let least = f64::from(min_p) * weights[0].1;
    weights.retain(|w| w.1 >= least);
    let total: f64 = weights.iter().map(|w| w.1).sum();
    weights.into_iter().map(|(id, w)| (id, w / total)).collect()
}

/// The probability that chi-square of `n` degrees of freedom is as large as this, by recurrence over `n`.
fn upper_tail(chi_square: f64, n: usize) -> f64 {
    // Q(a, x) = Γ(a, x) / Γ(a) with a = n / 2 and x = χ² / 2, and Q(a + 1, x) = Q(a, x) + x^a e^-x / Γ(a + 1).
    let x = chi_square / 2.0;
    let (mut a, mut q, mut term) = if n.is_multiple_of(2) {
        (1.0, (-x).exp(), (-x).exp() * x)
    } else {
        // Γ(3/2) = √π / 2.
        (0.5, erfc(x.sqrt()), (-x).exp() * x.sqrt() * 2.0 / std::f64::consts::PI.sqrt())
    };
    while a < n as f64 / 2.0 {
        q += term;
        a += 1.0;
        term *= x / a;
    }
    q
}

/// The complementary error function, by the integral of its derivative.
fn erfc(z: f64) -> f64 {
    let steps = 20_000;
    let end = z + 8.0;
    let h = (end - z) / f64::from(steps);
    let f = |i: u32| (-(z + h * f64::from(i)).powi(2)).exp();
    let inner: f64 = (1..steps).map(|i| f64::from(if i % 2 == 1 { 4 } else { 2 }) * f(i)).sum();
    (f(0) + inner + f(steps)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

/// The p-value of counts under expected ones; answers that are expected fewer than ten times are one.
fn against_exact(counts: &Counts, exact: &BTreeMap<Vec<u32>, f64>) -> f64 {
    let samples = counts.values().sum::<u64>() as f64;
    let (mut chi_square, mut bins, mut rest) = (0.0, 0, (0.0, 0.0));
    for (answer, p) in exact {
        let (found, expected) = (counts.get(answer).copied().unwrap_or(0) as f64, p * samples);
        if expected < 10.0 {
            rest = (rest.0 + found, rest.1 + expected);
            continue;
        }
        chi_square += (found - expected).powi(2) / expected;
        bins += 1;
    }
    if rest.1 >= 10.0 {
        chi_square += (rest.0 - rest.1).powi(2) / rest.1;
        bins += 1;
    }
    assert!(bins > 20, "{bins} bins say little");
    upper_tail(chi_square, bins - 1)
}

/// The p-value of two lists of as many counts being of one distribution; rare answers are one.
fn against_each_other(a: &Counts, b: &Counts) -> f64 {
    let mut pairs: BTreeMap<&[u32], (f64, f64)> = BTreeMap::new();
    for (answer, n) in a {
        pairs.entry(answer).or_default().0 += *n as f64;
    }
    for (answer, n) in b {
        pairs.entry(answer).or_default().1 += *n as f64;
    }
    let (often, rare): (Vec<_>, Vec<_>) = pairs.into_values().partition(|(x, y)| x + y >= 20.0);
    let rare = rare.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    let bins: Vec<(f64, f64)> = often.into_iter().chain((rare.0 + rare.1 >= 20.0).then_some(rare)).collect();
    let chi_square: f64 = bins.iter().map(|(x, y)| (x - y).powi(2) / (x + y)).sum();
    upper_tail(chi_square, bins.len() - 1)
}

#[test]
fn tails_are_those_of_the_tables() {
    // Critical values of chi-square.
    for (chi_square, n, p) in
        [(3.841, 1, 0.05), (5.991, 2, 0.05), (16.266, 3, 0.001), (29.588, 10, 0.001), (148.23, 99, 0.001)]
    {
        let found = upper_tail(chi_square, n);
        assert!((found / p - 1.0).abs() < 0.01, "{chi_square} of {n}: {found}");
    }
}

#[test]
fn sampled_answers_have_the_distribution_of_the_logits() {
    let (ctx, model) = (Ctx::new(1).unwrap(), smallest());
    let plain = Sampling::default();
    let processed = Sampling {
        temperature: 1.3,
        top_p: 0.97,
        min_p: 0.04,
        repetition_penalty: 1.1,
        presence_penalty: 0.1,
        frequency_penalty: 0.2,
        ..plain
    };
    let samples = 100_000;
    for (name, sampling) in [("plain", plain), ("processed", processed)] {
        let exact = exact(&ctx, &model, &sampling);
        assert!((exact.values().sum::<f64>() - 1.0).abs() < 1e-9);
        let of = |mtp, seeds| histogram(&Ctx::new(1).unwrap(), &model, sampling, mtp, seeds);
        let (without, with) = std::thread::scope(|scope| {
            let without = scope.spawn(|| of(Mtp::Off, 0..samples));
            let with = of(Mtp::On, 1_000_000..1_000_000 + samples);
            (without.join().unwrap(), with)
        });
        assert!(
            with.keys().chain(without.keys()).all(|answer| exact.contains_key(answer)),
            "{name}: an answer that cannot be"
        );
        let p = [against_exact(&without, &exact), against_exact(&with, &exact), against_each_other(&with, &without)];
        assert!(p.iter().all(|&p| p > 1e-4), "{name}: {p:?}");
        // The numbers can tell: of another distribution they are not.
        let other = Sampling { temperature: sampling.temperature * 1.1, ..sampling };
        let p = against_exact(&with, &self::exact(&ctx, &model, &other));
        assert!(p < 1e-9, "{name}: {p}");
    }
}
