//! What must not change a result: threads, batch, recomputation, when weight gradients run, how a text is cut.

use config::{ModelConfig, presets};
use model::{Batch, Cache, Deferred, Draft, Following, Form, Gradients, Model, Outcome, Recompute, Scales, Told};
use serde_json::json;
use tensor::{Ctx, Level, Rng};
use testkit::{Golden, max_abs, max_difference};

const SEQ_LEN: usize = 24;

/// A small model with every part: compressed queries, a dense layer, groups of experts, two MTP layers.
fn small() -> Model {
    let changes = json!({ "num_hidden_layers": 3, "num_nextn_predict_layers": 2, "vocab_size": 97 });
    let config: ModelConfig = presets::preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
    // Large weights: attention and routing are far from uniform. With this seed no token stands so near a tie between
    // experts that the small steps of the gradient test move it across.
    Model::random(&config, 0.15, 4)
}

fn ids(n: usize, vocab_size: usize) -> Vec<u32> {
    let mut rng = Rng::new(3, "test ids", 0);
    (0..n).map(|_| rng.below(vocab_size as u64) as u32).collect()
}

/// `rows` rows and their labels, some of them ignored.
fn rows(rows: usize) -> (Vec<u32>, Vec<u32>) {
    let all = ids(rows * SEQ_LEN + 1, 97);
    let mut labels = all[1..].to_vec();
    labels.iter_mut().step_by(7).for_each(|label| *label = model::IGNORE);
    (all[..rows * SEQ_LEN].to_vec(), labels)
}

const SCALES: Scales = Scales { main: 0.01, mtp: 0.003, balance: 0.02 };

/// The outcome and the bits of all gradients.
fn run(ctx: &Ctx, model: &Model, n: usize, again: Recompute) -> (Outcome, Vec<Vec<f32>>) {
    let (tokens, labels) = rows(n);
    let batch = Batch { tokens: &tokens, labels: &labels, seq_len: SEQ_LEN };
    let mut grads = Gradients::new(ctx, &model.params);
    let outcome = model.forward_backward(ctx, batch, SCALES, again, &mut grads);
    (outcome, values(model, &grads))
}

fn values(model: &Model, grads: &Gradients) -> Vec<Vec<f32>> {
    model.params.ids().filter_map(|id| grads.get(id)).map(|g| g.data().to_vec()).collect()
}

#[test]
fn threads_and_levels_give_the_same_bits() {
    let model = small();
    let want = run(&Ctx::new(1).unwrap(), &model, 4, Recompute::NOTHING);
    for threads in [2, 3] {
        assert!(run(&Ctx::new(threads).unwrap(), &model, 4, Recompute::NOTHING) == want, "{threads} threads");
    }
    for level in [Level::Avx2, Level::Portable] {
        assert!(run(&Ctx::new(2).unwrap().at_most(level), &model, 4, Recompute::NOTHING) == want, "{level:?}");
    }
}

#[test]
fn recomputation_gives_the_same_bits() {
    let model = small();
    let ctx = Ctx::new(2).unwrap();
    let want = run(&ctx, &model, 4, Recompute::NOTHING);
    for (rms_norm, mla_up, swiglu) in
        [(true, false, false), (false, true, false), (false, false, true), (true, true, true)]
    {
        let again = Recompute { rms_norm, mla_up, swiglu };
        assert!(run(&ctx, &model, 4, again) == want, "{again:?}");
    }
}

#[test]
fn deferred_weight_gradients_give_the_same_bits() {
    let model = small();
    let ctx = Ctx::new(2).unwrap();
    let (want, want_grads) = run(&ctx, &model, 4, Recompute::ALL);
    let (tokens, labels) = rows(4);
    let batch = Batch { tokens: &tokens, labels: &labels, seq_len: SEQ_LEN };
    let mut kept = Deferred::default();
    let outcome = model.forward_backward(&ctx, batch, SCALES, Recompute::ALL, &mut kept);
    assert_eq!(outcome, want);
    let mut grads = Gradients::new(&ctx, &model.params);
    kept.run(&ctx, &mut grads);
    assert!(values(&model, &grads) == want_grads);
}

#[test]
fn a_row_has_the_same_losses_alone_and_in_a_batch() {
    let model = small();
    let ctx = Ctx::new(2).unwrap();
    let (tokens, labels) = rows(4);
    let all = model.losses(&ctx, Batch { tokens: &tokens, labels: &labels, seq_len: SEQ_LEN });
    for row in 0..4 {
        let part = row * SEQ_LEN..(row + 1) * SEQ_LEN;
        let alone = Batch { tokens: &tokens[part.clone()], labels: &labels[part.clone()], seq_len: SEQ_LEN };
        assert_eq!(model.losses(&ctx, alone), all[part], "row {row}");
    }
}

#[test]
fn micro_batches_add_up() {
    let model = small();
    let ctx = Ctx::new(2).unwrap();
    let (want, want_grads) = run(&ctx, &model, 4, Recompute::ALL);
    let (tokens, labels) = rows(4);
    let mut grads = Gradients::new(&ctx, &model.params);
    let mut sum = Outcome::default();
    for part in [0..2 * SEQ_LEN, 2 * SEQ_LEN..4 * SEQ_LEN] {
        let batch = Batch { tokens: &tokens[part.clone()], labels: &labels[part], seq_len: SEQ_LEN };
        sum.add(model.forward_backward(&ctx, batch, SCALES, Recompute::ALL, &mut grads));
    }
    assert_eq!(sum.expert_load, want.expert_load);
    // Sums over tokens are cut in two, so their roundings differ: some units in the last place of the largest value.
    assert!((sum.main - want.main).abs() < 1e-9 * want.main);
    for (got, want) in values(&model, &grads).iter().zip(&want_grads) {
        assert!(max_difference(got, want) <= 2e-6 * max_abs(want).max(1e-6));
    }
}

/// The gradient of the whole objective, MTP and balance included, along itself: the slope of the loss must be its norm.
#[test]
fn the_objective_falls_along_its_gradient() {
    let ctx = Ctx::new(2).unwrap();
    let mut model = small();
    let (tokens, labels) = rows(4);
    let objective = |model: &Model, scales: Scales| {
        let batch = Batch { tokens: &tokens, labels: &labels, seq_len: SEQ_LEN };
        let mut grads = Gradients::new(&ctx, &model.params);
        let o = model.forward_backward(&ctx, batch, scales, Recompute::NOTHING, &mut grads);
        let mtp: f64 = o.mtp.iter().sum();
        (o.main * f64::from(scales.main) + mtp * f64::from(scales.mtp) + o.balance, values(model, &grads))
    };
    // Each term alone, so that a wrong one cannot hide behind the others.
    for scales in [
        Scales { main: 0.01, mtp: 0.0, balance: 0.0 },
        Scales { main: 0.0, mtp: 0.01, balance: 0.0 },
        Scales { main: 0.0, mtp: 0.0, balance: 0.25 },
    ] {
        let (_, grads) = objective(&model, scales);
        let norm = grads.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let trained: Vec<usize> =
            (0..model.params.all.len()).filter(|&i| model.params.all[i].kind.is_trained()).collect();
        let start: Vec<Vec<f32>> = trained.iter().map(|&i| model.params.all[i].value.f32().data().to_vec()).collect();
        // A step small enough that no token changes its experts, which would be a jump, and large enough that the
        // difference of two f32 forwards resolves it: the loss changes by 4e-4, its noise is about 1e-6.
        let step = 2e-4 / norm;
        let mut at = |sign: f64| {
            for ((&i, start), grad) in trained.iter().zip(&start).zip(&grads) {
                let w = model.params.all[i].value.f32_mut().data_mut();
                for ((w, s), g) in w.iter_mut().zip(start).zip(grad) {
                    *w = s + (sign * step * f64::from(*g) / norm) as f32;
                }
            }
            objective(&model, scales).0
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        at(0.0);
        assert!((slope / norm - 1.0).abs() < 5e-3, "{scales:?}: slope {slope}, norm {norm}");
    }
}

/// Direct prefill against absorbed decode, token by token and in chunks.
#[test]
fn decode_agrees_with_prefill_and_not_with_its_cuts() {
    let ctx = Ctx::new(2).unwrap();
    for name in ["base", "no_q_lora", "odd_dims", "yarn_long", "v2_group"] {
        let model = Golden::named(name).model();
        let ids = ids(40, model.config.vocab_size);
        let direct = model.trace(&ctx, &ids, false).logits;
        let mut cuts = Vec::new();
        for chunk in [1, 3, 40] {
            let mut cache = model.new_cache();
            let mut last = None;
            for (i, tokens) in ids.chunks(chunk).enumerate() {
                let logits = model.decode(&ctx, &[tokens], &mut [&mut cache]).unwrap();
                let row = direct.row((i * chunk + tokens.len()) - 1);
                // The two forms multiply in another order: the bar of the golden models, which f32 forms meet.
                let bound = 2e-5 * (max_abs(row) / 4.0).max(1.0);
                let difference = max_difference(logits.data(), row);
                assert!(difference <= bound, "{name}, chunks of {chunk}: {difference:.2e}");
                last = Some(logits);
            }
            cuts.push(last.unwrap());
        }
        assert!(cuts.iter().all(|c| c.data() == cuts[0].data()), "{name}: decode depends on how the text is cut");
    }
}

#[test]
fn a_sequence_decodes_alone_as_among_others() {
    let ctx = Ctx::new(2).unwrap();
    let model = Golden::named("base").model();
    let texts: Vec<Vec<u32>> = (1..6).map(|n| ids(7 * n, model.config.vocab_size)).collect();
    let mut caches: Vec<Cache> = texts.iter().map(|_| model.new_cache()).collect();
    for (text, cache) in texts.iter().zip(&mut caches) {
        model.prefill(&ctx, text, cache).unwrap();
    }
    let mut alone: Vec<Cache> = caches.clone();
    let next: Vec<&[u32]> = vec![&[5]; texts.len()];
    let together = model.decode(&ctx, &next, &mut caches.iter_mut().collect::<Vec<_>>()).unwrap();
    for (i, cache) in alone.iter_mut().enumerate() {
        assert_eq!(model.decode(&ctx, &[&[5]], &mut [cache]).unwrap().data(), together.row(i), "sequence {i}");
    }
}

/// Prompts that are run over together, in parts, one of a single token among them.
#[test]
fn prompts_are_alone_as_together() {
    let ctx = Ctx::new(2).unwrap();
    let model = Golden::named("base").model();
    let texts: Vec<Vec<u32>> = [1, 70, 9, 33].map(|n| ids(n, model.config.vocab_size)).to_vec();
    let mut caches: Vec<Cache> = texts.iter().map(|_| model.new_cache()).collect();
    let mut drafts: Vec<Draft> = texts.iter().map(|_| model.new_draft().unwrap()).collect();
    let (mut alone, mut drafts_alone) = (caches.clone(), drafts.clone());
    // The second run goes on with those that are left.
    for part in [0..20, 20..200] {
        let parts: Vec<usize> = (0..texts.len()).filter(|&i| texts[i].len() > part.start).collect();
        let tokens: Vec<&[u32]> = parts.iter().map(|&i| &texts[i][part.start..part.end.min(texts[i].len())]).collect();
        let of_parts = |i: &usize| parts.contains(i);
        let mut going: Vec<&mut Cache> =
            caches.iter_mut().enumerate().filter(|(i, _)| of_parts(i)).map(|(_, cache)| cache).collect();
        let (streams, rows) = model.extend_streams(&ctx, &tokens, &mut going).unwrap();
        let mut told: Vec<Told<'_>> = Vec::new();
        for (p, (i, draft)) in drafts.iter_mut().enumerate().filter(|(i, _)| of_parts(i)).enumerate() {
            let (stream, _) = model.extend_streams(&ctx, &[tokens[p]], &mut [&mut alone[i]]).unwrap();
            let [_, d] = stream.dims();
            let together = &streams.data()[rows[p].start * d..rows[p].end * d];
            assert_eq!(stream.data(), together, "text {i} from {} on", part.start);
            let (position, ids) = (part.start, tokens[p]);
            told.push(Told { rows: rows[p].clone(), ids, position, draft });
            let draft = &mut drafts_alone[i];
            model.tell_drafts(&ctx, &stream, &mut [Told { rows: 0..ids.len(), ids, position, draft }]);
        }
        model.tell_drafts(&ctx, &streams, &mut told);
    }
    let x = model.extend(&ctx, &[3], &mut model.new_cache(), Form::Direct).unwrap();
    let hidden = model.hidden(&ctx, &x);
    for (i, text) in texts.iter().enumerate() {
        let following = [Following { rows: 0..1, position: text.len() }];
        for id in 0..16 {
            let said =
                |draft: &Draft| model.propose(&ctx, &hidden, &[id], &following, &mut [&mut draft.clone()]).unwrap();
            assert_eq!(said(&drafts[i]), said(&drafts_alone[i]), "text {i}");
        }
        let next: [&[u32]; 1] = [&[5]];
        let after = model.decode(&ctx, &next, &mut [&mut caches[i]]).unwrap();
        assert_eq!(after.data(), model.decode(&ctx, &next, &mut [&mut alone[i]]).unwrap().data(), "text {i}");
    }
}

#[test]
fn the_load_of_experts_is_that_of_the_routers() {
    let (ctx, model) = (Ctx::new(2).unwrap(), small());
    let (e, k) = (model.config.n_routed_experts, model.config.num_experts_per_tok as u64);
    assert!(model.served_expert_load().iter().flatten().flatten().all(|&rows| rows == 0));
    let text = ids(40, 97);
    let mut want = vec![vec![0; e]; 3];
    // A trace is no service.
    for (layer, experts, _) in model.trace(&ctx, &text, false).routing {
        for expert in experts {
            want[layer][expert as usize] += 1_u64;
        }
    }
    let mut cache = model.new_cache();
    model.prefill(&ctx, &text[..25], &mut cache).unwrap();
    for token in text[25..].chunks(1) {
        model.decode(&ctx, &[token], &mut [&mut cache]).unwrap();
    }
    let load = model.served_expert_load();
    // A dense layer, two with experts, and two MTP layers that nobody asked.
    assert_eq!(load.len(), 5);
    assert_eq!(load[0], None);
    for layer in [1, 2] {
        let load = load[layer].as_ref().unwrap();
        assert_eq!(load.iter().sum::<u64>(), 40 * k);
        // Prefill and decode round differently, which may move a token that stands at a tie.
        let moved: u64 = load.iter().zip(&want[layer]).map(|(a, b)| a.abs_diff(*b)).sum();
        assert!(moved <= 2, "layer {layer}: {load:?}, expected {:?}", want[layer]);
    }
    assert!(load[3..].iter().flatten().flatten().all(|&rows| rows == 0));
}
