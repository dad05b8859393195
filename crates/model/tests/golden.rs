//! Every golden model: forward, routing, MTP, greedy decoding, gradients and AdamW, against transformers.

use model::{Batch, Gradients, IGNORE, Model, Recompute, Scales};
use ops::adamw::{self, Hyper, Moments};
use tensor::{Ctx, Tensor};
use testkit::{goldens, max_abs, max_difference};

/// The project's bar: 1e-5, scaled by the largest value over 4. Two f32 implementations of one model differ by 4e-6 and
/// from f64 by 3e-6 to 6e-6 (`spec/model.md` 10).
fn bar(want: &[f32]) -> f64 {
    1e-5 * (max_abs(want) / 4.0).max(1.0)
}

/// How many bars a tensor may lie from the golden and from its evaluation in f64 (`testdata/exact`).
struct Bars {
    golden: f64,
    exact: f64,
}

/// The main model holds the bar itself against the golden. The truth is further off, for the golden too (up to 2.2 bars):
/// transformers and this engine round alike, and f64 does not.
const MAIN: Bars = Bars { golden: 1.0, exact: 3.0 };

/// An MTP layer amplifies the errors of the hidden states that it is given. The goldens lie up to 2.4 bars from f64, and the
/// same model in torch's f32, with its hidden dimensions in another order, up to 3.5.
const MTP: Bars = Bars { golden: 4.0, exact: 4.0 };

#[test]
fn logits_hidden_states_routing_and_mtp() {
    let ctx = Ctx::new(2).unwrap();
    for golden in goldens() {
        let model = golden.model();
        let ids = golden.input_ids();
        let trace = model.trace(&ctx, &ids, true);
        // Some folders hold the last rows only.
        let tail = |t: &Tensor, len: usize| t.data()[t.len() - len..].to_vec();
        let check = |what: &str, got: &Tensor, bars: &Bars| {
            let (want, _) = golden.floats(what).unwrap();
            let (got, exact) = (tail(got, want.len()), golden.exact(what));
            let bar = bar(&want);
            let [from_golden, from_exact] = [&want, &exact].map(|other| max_difference(&got, other) / bar);
            let golden_from_exact = max_difference(&want, &exact) / bar;
            println!(
                "{} {what}, in bars: {from_golden:.2} from the golden, {from_exact:.2} from f64; the golden {golden_from_exact:.2}",
                golden.name
            );
            assert!(from_golden <= bars.golden, "{}: {what} is {from_golden:.2} bars from the golden", golden.name);
            assert!(from_exact <= bars.exact, "{}: {what} is {from_exact:.2} bars from f64", golden.name);
        };
        check("logits", &trace.logits, &MAIN);
        check("final_norm", &trace.final_norm, &MAIN);
        assert_eq!(golden.names("hidden.").len(), trace.hidden.len(), "{}: layers", golden.name);
        for (i, hidden) in trace.hidden.iter().enumerate() {
            check(&format!("hidden.{i}"), hidden, &MAIN);
        }
        assert_eq!(golden.names("topk_idx.").len(), trace.routing.len(), "{}: mixture layers", golden.name);
        for (layer, idx, weights) in &trace.routing {
            let want = golden.ints(&format!("topk_idx.{layer}"));
            let idx: Vec<i32> = idx.iter().map(|&e| e as i32).collect();
            assert_eq!(idx[idx.len() - want.len()..], want, "{}: experts of layer {layer}", golden.name);
            let (want, _) = golden.floats(&format!("topk_w.{layer}")).unwrap();
            let difference = max_difference(&tail(weights, want.len()), &want);
            assert!(difference <= bar(&want), "{}: weights of layer {layer} differ by {difference:.2e}", golden.name);
        }
        assert_eq!(golden.names("mtp.").len(), 2 * trace.mtp.len(), "{}: MTP layers", golden.name);
        for (k, (hidden, logits)) in trace.mtp.iter().enumerate() {
            check(&format!("mtp.{k}.hidden"), hidden, &MTP);
            check(&format!("mtp.{k}.logits"), logits, &MTP);
        }
    }
}

#[test]
fn greedy_continuations() {
    let ctx = Ctx::new(2).unwrap();
    for golden in goldens() {
        let model = golden.model();
        let ids = golden.input_ids();
        for run in golden.json["greedy"].as_array().unwrap() {
            let prompt = run["prompt_len"].as_u64().unwrap() as usize;
            let want: Vec<u32> = run["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
            let mut cache = model.new_cache();
            let mut logits = model.prefill(&ctx, &ids[..prompt], &mut cache).unwrap();
            for (i, &want) in want.iter().enumerate() {
                let token = argmax(logits.data());
                assert_eq!(token, want, "{}: token {i} after a prompt of {prompt}", golden.name);
                logits = model.decode(&ctx, &[&[token]], &mut [&mut cache]).unwrap();
            }
        }
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&x| x == best).unwrap() as u32
}

/// The golden text as a batch of one row: every token but the last is an input. With MTP the loss would be another one,
/// so the weight of its part is 0; its sums are still computed.
fn gradients(ctx: &Ctx, model: &Model, ids: &[u32]) -> (f64, Vec<f64>, Vec<Vec<u64>>, Gradients) {
    let (tokens, labels) = (&ids[..ids.len() - 1], &ids[1..]);
    assert!(!labels.contains(&IGNORE));
    let batch = Batch { tokens, labels, seq_len: tokens.len() };
    let mut grads = Gradients::new(ctx, &model.params);
    let scales = Scales { main: 1.0 / labels.len() as f32, mtp: 0.0, balance: 0.0 };
    let outcome = model.forward_backward(ctx, batch, scales, Recompute::NOTHING, &mut grads);
    let mtp = outcome.mtp.iter().enumerate().map(|(k, sum)| sum / (labels.len() - k - 1) as f64).collect();
    (outcome.main / labels.len() as f64, mtp, outcome.expert_load, grads)
}

fn relative(got: f64, want: f64) -> f64 {
    (got - want).abs() / want.abs().max(1e-30)
}

#[test]
fn losses_and_gradients() {
    let ctx = Ctx::new(2).unwrap();
    for golden in goldens() {
        let model = golden.model();
        let (loss, mtp, _, grads) = gradients(&ctx, &model, &golden.input_ids());
        let name = &golden.name;
        let want = golden.json["loss"].as_f64().unwrap();
        assert!(relative(loss, want) < 1e-5, "{name}: loss {loss} instead of {want}");
        for (k, got) in mtp.iter().enumerate() {
            let want = golden.json[format!("mtp_loss.{k}")].as_f64().unwrap();
            assert!(relative(*got, want) < 1e-5, "{name}: MTP loss {k} is {got} instead of {want}");
        }

        let norms = golden.numbers("grad_norm");
        let mut small = golden.names("grad.");
        let mut seen = 0;
        for (id, param) in model.params.ids().zip(&model.params.all) {
            let Some(grad) = grads.get(id) else { continue };
            let grad = tensor::Storage::F32(grad.clone());
            for part in param.named_tensors(&grad) {
                let tensor::Slice::F32(got) = part.data else { panic!("gradients are f32") };
                if let Some(want) = norms.get(&part.name) {
                    let norm = got.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
                    // An expert that no token chose has no gradient on either side.
                    assert!(
                        relative(norm, *want) <= 1e-4 || norm == *want,
                        "{name}: |d {}| is {norm}, not {want}",
                        part.name
                    );
                    seen += 1;
                }
                if let Some((want, _)) = golden.floats(&format!("grad.{}", part.name)) {
                    // Element by element, relative to the largest: small elements are differences of large terms.
                    let bound = 1e-4 * max_abs(&want);
                    let difference = max_difference(got, &want);
                    assert!(difference <= bound, "{name}: d {} differs by {difference:.2e}", part.name);
                    small.retain(|n| *n != part.name);
                }
            }
        }
        assert_eq!(seen, norms.len(), "{name}: gradient norms compared");
        assert!(small.is_empty(), "{name}: gradients not compared: {small:?}");
    }
}

#[test]
fn expert_load() {
    let ctx = Ctx::new(1).unwrap();
    for golden in goldens() {
        let model = golden.model();
        let trace = model.trace(&ctx, &golden.input_ids(), false);
        let Some(want) = golden.json["expert_load"].as_object() else { continue };
        for (layer, idx, _) in &trace.routing {
            let counts = ops::router::counts(idx, model.config.n_routed_experts);
            let want: Vec<u64> =
                want[&layer.to_string()].as_array().unwrap().iter().map(|c| c.as_u64().unwrap()).collect();
            assert_eq!(counts, want, "{}: load of layer {layer}", golden.name);
        }
    }
}

#[test]
fn adamw_trajectories() {
    let ctx = Ctx::new(2).unwrap();
    for golden in goldens() {
        let mut model = golden.model();
        let ids = golden.input_ids();
        let settings = &golden.json["adamw"];
        let number = |key: &str| settings[key].as_f64().unwrap();
        let mut moments: Vec<Moments> = model.params.all.iter().map(|p| Moments::f32(p.value.shape().len())).collect();
        let steps = settings["losses"].as_array().unwrap().iter().zip(golden.exact_trajectory());
        for (step, (want, (exact, sensitivity))) in (1..).zip(steps) {
            let (loss, _, _, grads) = gradients(&ctx, &model, &ids);
            let want = want.as_f64().unwrap();
            // Where a gradient is nearly zero, AdamW moves its weight by a full learning rate in a direction that
            // rounding chooses. The golden's own distance from f64 and that of f64 trajectories with weights moved by a
            // last place are samples of what this does to the loss: at the last step under 1e-5 in half of the models,
            // but 3e-3 in `fp8_odd` and 1e-2 in `dense3`. The gradients themselves are as near to f64 as torch's.
            let tolerance = 1e-4 + sensitivity.max(relative(want, exact));
            let [from_golden, from_exact] = [want, exact].map(|other| relative(loss, other));
            let name = &golden.name;
            println!(
                "{name} step {step}: {from_golden:.1e} from the golden, {from_exact:.1e} from f64, {tolerance:.1e} allowed"
            );
            assert!(from_golden <= tolerance, "{name}: loss of step {step} is {loss}, not {want}");
            assert!(from_exact <= tolerance, "{name}: loss of step {step} is {loss}, in f64 {exact}");
            let hyper = Hyper {
                lr: number("lr"),
                beta1: settings["betas"][0].as_f64().unwrap(),
                beta2: settings["betas"][1].as_f64().unwrap(),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                step,
                grad_scale: 1.0,
            };
            for id in model.params.ids().collect::<Vec<_>>() {
                // Parameters of MTP layers have zero gradients here; in the golden run they are not there at all.
                if let Some(grad) = grads.get(id) {
                    adamw::step(&ctx, model.params.all[id.0].value.f32_mut(), grad, &mut moments[id.0], &hyper);
                }
            }
        }
    }
}
