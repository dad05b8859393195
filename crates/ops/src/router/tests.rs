use tensor::{Ctx, Tensor};

use super::cases::{EXACT, TOLERANCE, V2, V3};
use super::{Config, Method, Scoring, backward, counts, forward, reference, top_k};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

/// Logits and a bias, which only `noaux_tc` has. The bias is large enough to change choices and to make `z` negative.
fn inputs(t: usize, config: &Config) -> (Tensor, Option<Tensor>) {
    let bias = random([config.n_routed_experts], 2);
    (random([t, config.n_routed_experts], 1), (config.method == Method::NoauxTc).then_some(bias))
}

#[test]
fn reference_gradient_is_that_of_the_reference_for_a_fixed_choice() {
    let small = |config| Config { n_routed_experts: 6, num_experts_per_tok: 3, n_group: 3, topk_group: 2, ..config };
    for config in [V3, V2, Config { norm_topk_prob: false, ..V3 }, Config { norm_topk_prob: true, ..V2 }].map(small) {
        let (logits, dw, extra) = (f64s(&random([4, 6], 1)), f64s(&random([4, 3], 2)), f64s(&random([4, 6], 3)));
        let (idx, ..) = reference::forward(&logits, None, &config);
        let loss = |logits: &[f64]| {
            let mut loss = 0.0;
            for t in 0..4 {
                let s = reference::score(&logits[t * 6..][..6], config.scoring);
                let chosen: Vec<usize> = idx[t * 3..][..3].iter().map(|&e| e as usize).collect();
                let w = reference::weigh(&s, &chosen, &config);
                loss += w.iter().zip(&dw[t * 3..]).map(|(w, dw)| w * dw).sum::<f64>();
                loss += s.iter().zip(&extra[t * 6..]).map(|(s, ds)| s * ds).sum::<f64>();
            }
            loss
        };
        let analytic = reference::backward(&dw, &extra, &logits, &idx, &config);
        close_gradient("dlogits", &analytic, &numeric_gradient(&logits, loss));
    }
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for (t, config) in EXACT {
            let (logits, bias) = inputs(*t, config);
            let bias64 = bias.as_ref().map(f64s);
            let routing = forward(&ctx, &logits, bias.as_ref().map(Tensor::data), config);
            let (idx, weights, scores) = reference::forward(&f64s(&logits), bias64.as_deref(), config);
            assert_eq!(routing.idx, idx, "{config:?}");
            close("weights", routing.weights.data(), &weights, TOLERANCE);
            close("scores", routing.scores.data(), &scores, TOLERANCE);
            let again = forward(&one, &logits, bias.as_ref().map(Tensor::data), config);
            assert_eq!((routing.weights.data(), routing.scores.data()), (again.weights.data(), again.scores.data()));

            let dw = random(routing.weights.shape(), 3);
            let extra = random(routing.scores.shape(), 4);
            let want = reference::backward(&f64s(&dw), &f64s(&extra), &f64s(&logits), &idx, config);
            let dlogits = backward(&ctx, &dw, Some(&extra), &routing, config);
            close("dlogits", dlogits.data(), &want, TOLERANCE);
            assert_eq!(dlogits.data(), backward(&one, &dw, Some(&extra), &again, config).data());
            let zeros = ctx.zeros(extra.shape());
            let without = backward(&ctx, &dw, None, &routing, config);
            assert_eq!(without.data(), backward(&ctx, &dw, Some(&zeros), &routing, config).data());
        }
    }
}

#[test]
fn groups_are_ranked_by_two_and_masked_with_minus_infinity() {
    let ctx = Ctx::new(1).unwrap();
    let config = Config { n_routed_experts: 4, num_experts_per_tok: 2, n_group: 2, topk_group: 1, ..V3 };
    // Expert 0 is the best, but experts 2 and 3 are together better than 0 and 1; all z are negative.
    let logits = Tensor::from_vec(vec![2.0, -9.0, 1.0, 1.0], [1, 4]);
    let routing = forward(&ctx, &logits, Some(&[-1.0; 4]), &config);
    assert_eq!(routing.idx, [2, 3]);
    // Equal scores without bias, normalised and scaled by 2.5.
    assert_eq!(routing.weights.data(), [1.25, 1.25]);
    // V2 ranks groups by their best member.
    let config = Config { scoring: Scoring::Softmax, method: Method::GroupLimitedGreedy, ..config };
    assert_eq!(forward(&ctx, &logits, None, &config).idx, [0, 1]);
}

#[test]
fn equal_values_go_to_the_lower_index() {
    let ctx = Ctx::new(1).unwrap();
    let routing = forward(&ctx, &ctx.zeros([2, 256]), None, &V3);
    assert_eq!(routing.idx, [[0, 1, 2, 3, 4, 5, 6, 7]; 2].concat());
    let mut idx = [0; 3];
    top_k(&[1.0, 3.0, 2.0, 3.0, 2.0], &mut idx);
    assert_eq!(idx, [1, 3, 2]);
}

#[test]
fn top_k_equals_a_stable_sort() {
    for n in [1, 2, 7, 64] {
        for stream in 0..20 {
            // Few distinct values, so that ties are many.
            let values: Vec<f32> = random([n], stream).data().iter().map(|x| x.round()).collect();
            // The reference sorts by the total order, which tells zeros apart by sign; adding 0 makes both positive.
            let values64: Vec<f64> = values.iter().map(|&x| f64::from(x) + 0.0).collect();
            for k in 1..=n {
                let mut idx = vec![0; k];
                top_k(&values, &mut idx);
                let want: Vec<u32> = reference::top_k(&values64, k).iter().map(|&i| i as u32).collect();
                assert_eq!(idx, want);
            }
        }
    }
}

#[test]
fn nan_is_chosen_and_reaches_the_weights() {
    let ctx = Ctx::new(1).unwrap();
    for config in [V3, V2] {
        let e = config.n_routed_experts;
        let mut logits = random([2, e], 1).data().to_vec();
        logits[e - 3] = f32::NAN;
        logits[e..].fill(f32::NAN);
        let routing = forward(&ctx, &Tensor::from_vec(logits, [2, e]), None, &config);
        let k = config.num_experts_per_tok;
        assert!(routing.weights.data().chunks(k).all(|w| w.iter().any(|w| w.is_nan())), "{config:?}");
        for idx in routing.idx.chunks(k) {
            assert!(idx.is_sorted_by(|a, b| a < b) && idx[k - 1] < e as u32, "{idx:?}");
        }
        if config == V3 {
            assert!(routing.idx[..k].contains(&(e as u32 - 3)));
        }
        let dlogits = backward(&ctx, &ctx.zeros([2, k]), None, &routing, &config);
        assert!(dlogits.data().iter().any(|x| x.is_nan()));
    }
}

#[test]
fn scores_that_all_underflow_give_finite_weights() {
    let ctx = Ctx::new(1).unwrap();
    let logits = Tensor::from_vec(vec![-200.0; 256], [1, 256]);
    let routing = forward(&ctx, &logits, None, &V3);
    assert_eq!(routing.weights.data(), [0.0; 8]);
    let dlogits = backward(&ctx, &Tensor::from_vec(vec![1.0; 8], [1, 8]), None, &routing, &V3);
    assert_eq!(dlogits.data(), [0.0; 256]);
}

#[test]
fn counts_are_the_sizes_of_the_choices() {
    assert_eq!(counts(&[0, 3, 3, 1, 3], 5), [1, 1, 0, 3, 0]);
}

#[test]
fn no_tokens_give_no_rows() {
    let ctx = Ctx::new(2).unwrap();
    let routing = forward(&ctx, &Tensor::from_vec(vec![], [0, 256]), None, &V3);
    assert_eq!((routing.idx.len(), routing.weights.dims()), (0, [0, 8]));
    assert_eq!(backward(&ctx, &Tensor::from_vec(vec![], [0, 8]), None, &routing, &V3).dims(), [0, 256]);
}
