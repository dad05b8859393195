use tensor::{Ctx, Rng};

use super::{Distribution, Error, History, Params, cases, distribution, reference, sample};
use crate::check::{levels, random};

const PROMPT: [u32; 4] = [3, 7, 7, 60];
const ANSWER: [u32; 5] = [7, 1, 1, 1, 2];

fn history() -> History {
    let mut history = History::new(&PROMPT);
    for id in ANSWER {
        history.push(id);
    }
    history
}

/// Logits of a few units.
fn logits(v: usize, stream: u64) -> Vec<f32> {
    random([v], stream).data().iter().map(|x| 3.0 * x).collect()
}

fn of(logits: &[f32], params: &Params) -> Result<Distribution, Error> {
    let ctx = Ctx::new(1).unwrap();
    distribution(&ctx, &mut logits.to_vec(), logits.len(), &History::default(), params)
}

#[test]
fn every_level_agrees_with_the_reference() {
    for v in [61, 1000] {
        for (stream, params) in (0..).zip(cases::EXACT) {
            params.validate().unwrap();
            let logits = logits(v, stream);
            let logits64: Vec<f64> = logits.iter().map(|&x| x.into()).collect();
            let want = reference::distribution(&logits64, &PROMPT, &ANSWER, params);
            let mut first: Option<Distribution> = None;
            for ctx in levels() {
                let got = distribution(&ctx, &mut logits.clone(), v, &history(), params).unwrap();
                assert!((got.probs.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                let mut tokens: Vec<_> = got.ids.iter().copied().zip(got.probs.iter().copied()).collect();
                tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                assert_eq!(tokens.len(), want.len(), "{params:?}");
                for (got, want) in tokens.iter().zip(&want) {
                    assert_eq!(got.0, want.0, "{params:?}");
                    assert!((got.1 / want.1 - 1.0).abs() < cases::TOLERANCE, "{params:?}: {got:?}, {want:?}");
                }
                // Every level gives the same bits.
                assert_eq!(first.get_or_insert_with(|| got.clone()), &got);
            }
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let ctx = Ctx::new(1).unwrap();
    let logits = logits(50, 1);
    for params in [Params::default(), cases::V3, Params { top_k: 5, ..Params::default() }] {
        let distribution = of(&logits, &params).unwrap();
        let mut rng = Rng::new(1, "test", 0);
        let n = 20_000;
        let mut counts = [0_u32; 50];
        for _ in 0..n {
            let id = sample(&ctx, &mut logits.clone(), 50, &History::default(), &params, &mut rng).unwrap();
            counts[id as usize] += 1;
        }
        for id in 0..50 {
            let p = distribution.ids.iter().position(|&i| i == id).map_or(0.0, |i| distribution.probs[i]);
            // Five standard errors of a binomial share, and never a token that has no probability.
            let error = f64::from(counts[id as usize]) / f64::from(n) - p;
            assert!(error.abs() <= 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt(), "token {id}: {error}");
        }
    }
}

#[test]
fn a_draw_takes_one_number_and_greedy_none() {
    let ctx = Ctx::new(1).unwrap();
    let (logits, history) = (logits(30, 1), History::default());
    for (temperature, numbers) in [(1.0, 10), (0.0, 0)] {
        let (mut rng, mut skipped) = (Rng::new(1, "test", 0), Rng::new(1, "test", 0));
        let params = Params { temperature, top_k: 1, ..Params::default() };
        for _ in 0..10 {
            sample(&ctx, &mut logits.clone(), 30, &history, &params, &mut rng).unwrap();
        }
        for _ in 0..numbers {
            skipped.uniform();
        }
        assert_eq!(rng.bits(), skipped.bits());
    }
}

#[test]
fn top_p_keeps_the_smallest_sufficient_prefix() {
    // Probabilities 1/2, 1/4, 1/8, 1/8, whose logits are exact enough that the sums are within 1e-7.
    let logits = [0.5_f32, 0.25, 0.125, 0.125].map(f32::ln);
    let kept = |top_p| of(&logits, &Params { top_p, ..Params::default() }).unwrap().ids;
    assert_eq!(kept(1e-6), [0]);
    assert_eq!(kept(0.4999), [0]);
    assert_eq!(kept(0.5001), [0, 1]);
    assert_eq!(kept(0.7499), [0, 1]);
    // Of equal probabilities the lower id is kept.
    assert_eq!(kept(0.8749), [0, 1, 2]);
    assert_eq!(kept(0.8751), [0, 1, 2, 3]);
    assert_eq!(kept(1.0), [0, 1, 2, 3]);
    // A uniform distribution, wider than the part that is sorted first.
    let uniform = of(&[0.0; 1000], &Params { top_p: 0.5, ..Params::default() }).unwrap();
    assert_eq!(uniform.ids, (0..500).collect::<Vec<_>>());
}

#[test]
fn equal_logits_go_to_the_lower_id() {
    let logits = [1.0, 2.0, -0.0, 2.0, 0.0];
    assert_eq!(of(&logits, &Params { temperature: 0.0, ..Params::default() }).unwrap().ids, [1]);
    let kept = |top_k| of(&logits, &Params { top_k, ..Params::default() }).unwrap().ids;
    assert_eq!(kept(1), [1]);
    assert_eq!(kept(2), [1, 3]);
    assert_eq!(kept(4), [1, 3, 0, 2]);
}

#[test]
fn ids_without_a_token_are_never_drawn() {
    let ctx = Ctx::new(1).unwrap();
    for params in cases::EXACT {
        let mut logits = logits(40, 1);
        logits[30..].fill(100.0);
        logits[39] = f32::NAN;
        // A history may name a token beyond the limit: its penalty touches nothing.
        let got = distribution(&ctx, &mut logits, 30, &history(), params).unwrap();
        assert!(got.ids.iter().all(|&id| id < 30), "{params:?}");
    }
}

#[test]
fn masked_tokens_have_no_probability() {
    let mut logits = logits(20, 1);
    for id in (0..20).filter(|id| id % 3 > 0) {
        logits[id] = f32::NEG_INFINITY;
    }
    for params in cases::EXACT {
        assert!(of(&logits, params).unwrap().ids.iter().all(|id| id % 3 == 0), "{params:?}");
    }
    assert_eq!(of(&[f32::NEG_INFINITY; 4], &cases::V3), Err(Error::Masked { tokens: 4 }));
    assert_eq!(of(&[], &cases::V3), Err(Error::Masked { tokens: 0 }));
}

#[test]
fn broken_logits_are_an_error_that_names_the_token() {
    for params in cases::EXACT {
        assert_eq!(
            of(&[0.0, f32::INFINITY, f32::NAN], params),
            Err(Error::Logit { id: 1, value: f32::INFINITY }),
            "{params:?}"
        );
        let error = of(&[0.0, 1.0, f32::NAN], params).unwrap_err();
        assert!(error.to_string().starts_with("the logit of token 2 is NaN"), "{error}");
    }
}

#[test]
fn extreme_temperatures_are_harmless() {
    let logits = [3e38, -3e38, 1.0, 3e38];
    for temperature in [f32::MIN_POSITIVE, 1e-40, 100.0] {
        let got = of(&logits, &Params { temperature, ..Params::default() }).unwrap();
        assert_eq!((got.ids, got.probs), (vec![0, 3], vec![0.5, 0.5]));
    }
}

#[test]
fn parameters_out_of_range_are_refused_by_name() {
    let plain = Params::default();
    plain.validate().unwrap();
    for (params, message) in [
        (Params { temperature: -0.1, ..plain }, "temperature is -0.1, but must be from 0 to 100"),
        (Params { temperature: f32::NAN, ..plain }, "temperature is NaN, but must be from 0 to 100"),
        (Params { temperature: f32::INFINITY, ..plain }, "temperature is inf, but must be from 0 to 100"),
        (Params { top_p: 0.0, ..plain }, "top_p is 0, but must be above 0 and at most 1"),
        (Params { top_p: 1.1, ..plain }, "top_p is 1.1, but must be above 0 and at most 1"),
        (Params { top_p: f32::NAN, ..plain }, "top_p is NaN, but must be above 0 and at most 1"),
        (Params { min_p: -1.0, ..plain }, "min_p is -1, but must be from 0 to 1"),
        (Params { repetition_penalty: 0.0, ..plain }, "repetition_penalty is 0, but must be from 0.1 to 10"),
        (Params { presence_penalty: 2.5, ..plain }, "presence_penalty is 2.5, but must be from -2 to 2"),
        (Params { frequency_penalty: -3.0, ..plain }, "frequency_penalty is -3, but must be from -2 to 2"),
    ] {
        assert_eq!(params.validate().unwrap_err().to_string(), message);
    }
}
