use config::recipe::Recipe;
use data::{Batch, Origin};
use model::{Gradients, Model};
use tensor::{Codes, Ctx, Matrix, Rng, Slab, Storage, Stored};

use super::*;

/// The smallest recipe, with changes.
pub(super) fn recipe(sets: &[&str]) -> Recipe {
    let text = r#"
        out = "run"
        model.preset = "tiny"
        tokenizer.path = "tokenizer.json"
        data = { seq_len = 48, sources = [{ name = "none", paths = ["none.txt"] }] }
        train = { total_tokens = 9600, micro_batch = 2 }
        batch.end = 4
        lr = { peak = 1e-3, warmup_steps = 1 }
    "#;
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    Recipe::from_toml_str(text, std::path::Path::new(""), &sets).expect("a recipe")
}

fn random_batch(recipe: &Recipe, vocab: usize) -> Batch {
    let (rows, seq_len) = (recipe.batch.end, recipe.data.seq_len);
    let mut rng = Rng::new(1, "plan", 0);
    let mut ids = || (0..rows * seq_len).map(|_| rng.below(vocab as u64) as u32).collect::<Vec<_>>();
    let origins = vec![Origin { source: 0, epoch: 0, row: 0 }; rows];
    Batch { tokens: ids(), labels: ids(), rows, seq_len, first_sequence: 0, origins }
}

/// Buffers of a real step against the plan's, at the largest moment, and all the memory they came from.
#[track_caller]
fn check(sets: &[&str]) {
    let recipe = recipe(sets);
    let config = recipe.model_config().unwrap();
    let ctx = Ctx::new(2).unwrap();
    let model = Model::random(&config, 0.02, 1).with_precision(step::precision(&recipe));
    let mut grads = Gradients::new(&ctx, &model.params);
    let batch = random_batch(&recipe, config.vocab_size);
    for _ in 0..2 {
        let now = step::scheduled(&recipe, 0, 0);
        step::forward_backward(&ctx, &model, &mut grads, &recipe, now, &batch);
    }
    let real = ctx.buffer_bytes();

    let plan = Plan::of(&recipe, 2).unwrap().memory;
    assert_eq!(plan.parameters, model.params.count(), "{sets:?}");
    let a = &plan.activations;
    let planned = plan.gradients + a.total - a.routing;
    let off = planned as f64 / real.kept as f64 - 1.0;
    let peak = (plan.gradients + a.kept + a.logits + a.packed + a.passing) as f64 / real.peak as f64 - 1.0;
    // Equal but for the ends of buffers that are no whole cache line; narrower instruction sets also fill up panels of rows.
    let tolerance = if ctx.isa.level() >= Level::Avx512 { 2e-4 } else { 0.05 };
    assert!(off.abs() < tolerance && peak.abs() < tolerance, "{sets:?}: {off:+.4} {peak:+.4} of {real:?}: {plan:?}");
}

const WIDE: &str = "model.set={ vocab_size = 3000, num_hidden_layers = 3 }";

#[test]
fn a_step_takes_what_is_planned() {
    for again in ["", "recompute={ rms_norm = true, mla_up = true, swiglu = true }", "recompute.mla_up=true"] {
        for precision in ["train.precision=f32", "train.precision=bf16"] {
            let sets: Vec<&str> = [again, precision].into_iter().filter(|set| !set.is_empty()).collect();
            check(&sets);
            check(&[&sets[..], &[WIDE, "data.seq_len=63"]].concat());
        }
    }
}

#[test]
fn every_shape_of_model_is_planned() {
    for model in [
        "{ num_nextn_predict_layers = 0 }",
        "{ num_nextn_predict_layers = 2 }",
        "{ first_k_dense_replace = 0 }",
        "{ first_k_dense_replace = 9 }",
        "{ q_lora_rank = \"null\" }",
        "{ attention_bias = true, n_shared_experts = 2 }",
        "{ tie_word_embeddings = true }",
        "{ num_attention_heads = 20, num_key_value_heads = 20 }",
    ] {
        check(&[&format!("model.set={model}"), "train.micro_batch=1"]);
    }
}

#[test]
fn prefill_takes_what_is_planned() {
    let config = recipe(&[WIDE]).model_config().unwrap();
    let ctx = Ctx::new(2).unwrap();
    let mut model = Model::random(&config, 0.02, 1);
    // As a checkpoint stores them: gate and up projections apart, for each of which products pack their rows.
    for param in model.params.all.iter_mut().filter(|p| p.value.shape().as_slice().len() > 1) {
        let (dims, values) = (param.value.shape(), param.value.to_f32());
        let mut rest = &values[..];
        let matrices = param.parts.iter().map(|part| {
            let [rows, cols] = part.dims[..] else { panic!("{} is no matrix", part.name) };
            let (own, others) = rest.split_at(rows * cols);
            rest = others;
            Matrix::new(rows, cols, Codes::F32(Slab::from_vec(own.to_vec())))
        });
        param.value = Storage::Stored(Stored::new(matrices.collect(), dims));
    }
    let mut cache = model.new_cache();
    let ids: Vec<u32> = (0..2500).map(|i| i % 700).collect();
    model.prefill(&ctx, &ids, &mut cache).unwrap();
    let question = inference::Question {
        context: 2500,
        batch: 1,
        cache: model.cache_kind,
        precision: ops::Precision::F32,
        threads: 2,
    };
    let weights = config::counts::PartBytes::of(&config);
    let plan = inference::Inference::of(&config, weights, question);
    let real = ctx.buffer_bytes().kept as f64;
    let off = plan.workspace as f64 / real - 1.0;
    assert!(off.abs() < 0.05, "{off:+.3} of {real}");
}

#[test]
fn the_largest_model_is_counted_in_64_bits() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/deepseek-v3.toml");
    let recipe = Recipe::load(root, &[]).unwrap();
    let plan = Plan::of(&recipe, 64).unwrap();
    let memory = &plan.memory;
    assert_eq!(memory.parameters, 671_026_419_200 + 11_610_068_224);
    assert_eq!(memory.weights, 4 * memory.parameters);
    let trained = memory.parameters - 59 * 256;
    assert_eq!(memory.gradients, 4 * trained);
    assert_eq!(memory.moments, 2 * 2 * trained);
    assert!(memory.total > memory.weights + memory.gradients + memory.moments);
    assert_eq!(plan.steps, steps(&recipe));
    assert!(plan.disk.checkpoint > memory.weights + memory.moments);

    let config = config::presets::preset("deepseek-v3").unwrap();
    let question = inference::Question {
        context: 131_072,
        batch: 32,
        cache: model::CacheKind::Bf16,
        precision: ops::Precision::Bf16,
        threads: 64,
    };
    let plan = inference::Inference::of(&config, config::counts::PartBytes::of(&config), question);
    assert_eq!(plan.weights_total, 688_574_839_360);
    assert_eq!(plan.cache_per_token, 70_272);
    assert_eq!(plan.cache, 32 * 131_072 * 70_272);
}

#[test]
fn a_run_that_does_not_fit_is_told_what_to_change() {
    let recipe = recipe(&[]);
    let plan = Plan::of(&recipe, 2).unwrap();
    let needed = plan.memory.total;
    let with = |bytes| Available { bytes, limit: "left by a test".to_owned() };
    plan.check(&recipe, 2, None).unwrap();
    plan.check(&recipe, 2, Some(&with(needed))).unwrap();
    let error = plan.check(&recipe, 2, Some(&with(needed - 1))).unwrap_err().to_string();
    for word in ["left by a test", "train.micro_batch=1", "recompute.mla_up=true", "optim.moments=bf16", "MB"] {
        assert!(error.contains(word), "no {word} in: {error}");
    }
    let remedies = remedies(&recipe, 2).unwrap();
    assert!(remedies.is_sorted_by(|a, b| a.saves >= b.saves) && remedies.iter().all(|r| r.saves < needed));
}
