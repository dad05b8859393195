//! Reading, refusing, completing and scheduling recipes.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use toml::{Table, Value};

use super::schema::{self, IfAbsent, KEYS, Kind, SECTIONS};
use super::{FloatType, ModelSource, Packing, Recipe, Role, Shape, Tokenizer, Until, reference, tree};

/// The least a recipe says.
const SMALLEST: &str = r#"
out = "run"
[model]
preset = "nano"
[tokenizer]
train_vocab_size = 2048
[data]
seq_len = 256
sources = [{ name = "books", paths = ["books/*.txt"] }]
[train]
total_tokens = 1e6
[batch]
end = 8
[lr]
peak = 1e-3
warmup_steps = 10
"#;

/// V3's own run; γ and λ are keyed on the same tokens as the learning rate.
const V3: &str = include_str!("../../../../recipes/deepseek-v3.toml");

fn load(text: &str, sets: &[&str]) -> Result<Recipe, String> {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    Recipe::from_toml_str(text, Path::new("/home"), &sets).map_err(|error| {
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    })
}

fn refused(sets: &[&str]) -> String {
    load(SMALLEST, sets).expect_err("this must be refused")
}

#[test]
fn the_smallest_recipe_gets_every_default() {
    let recipe = load(SMALLEST, &[]).unwrap();
    assert_eq!(recipe.out, PathBuf::from("/home/run"));
    assert_eq!(recipe.data.cache, PathBuf::from("/home/run/data"));
    assert_eq!(recipe.data.sources[0].paths, [PathBuf::from("/home/books/*.txt")]);
    let source = &recipe.data.sources[0];
    assert_eq!((source.role, source.weight, source.fim_rate), (Role::Split, 1.0, 0.0));
    assert_eq!((source.text_key.as_str(), source.cut_bytes, source.control_tokens), ("text", 0, false));
    assert_eq!((recipe.data.held_out, recipe.data.boundary_split_rate), (0.01, 0.0));
    assert_eq!(recipe.model.source, ModelSource::Preset("nano".into()));
    assert_eq!(recipe.model.init_std, 0.006 * (7168.0_f64 / 128.0).sqrt());
    assert_eq!(recipe.tokenizer, Tokenizer::TrainVocabSize(2048));
    assert_eq!((recipe.batch.start, recipe.batch.end, recipe.train.total_tokens), (8, 8, 1_000_000));
    assert_eq!((recipe.data.packing, recipe.optim.moments), (Packing::Concat, FloatType::F32));
    assert_eq!((recipe.optim.beta1, recipe.optim.beta2, recipe.optim.eps), (0.9, 0.95, 1e-8));
    assert_eq!((recipe.optim.weight_decay, recipe.optim.clip_norm), (0.1, 1.0));
    assert_eq!((recipe.loss.balance_alpha, recipe.checkpoint.keep_every_steps), (1e-4, None));
    assert_eq!(recipe.model_config().unwrap().hidden_size, 128);
}

#[test]
fn the_learning_rate_of_v3_has_the_published_values() {
    let v3 = load(V3, &[]).unwrap();
    let trillion = |t: f64| (t * 1e12) as u64;
    for (t, rate) in [
        (0.1, 2.2e-4),
        (9.999, 2.2e-4),
        (10.0, 2.2e-4),
        (11.0, 1.947e-4),
        (12.15, 1.210e-4),
        (13.0, 6.340e-5),
        (14.29, 2.200e-5),
        (14.5, 2.2e-5),
        (14.7, 7.3e-6),
        (14.8, 7.3e-6),
        (15.0, 7.3e-6),
    ] {
        let found = v3.lr_at(100_000, trillion(t));
        assert!((found - rate).abs() < 6e-4 * rate, "at {t} T: {found:e}, expected {rate:e}");
    }
    assert_eq!(v3.lr_at(0, 0), 2.2e-4 / 2000.0);
    assert_eq!(v3.lr_at(999, 0), 1.1e-4);
    assert_eq!(v3.lr_at(2000, 0), 2.2e-4);
    assert_eq!((v3.lambda_at(trillion(10.0) - 1), v3.lambda_at(trillion(10.0))), (0.3, 0.1));
    assert_eq!((v3.gamma_at(trillion(14.3) - 1), v3.gamma_at(trillion(14.3))), (0.001, 0.0));
    assert_eq!((v3.lambda_at(u64::MAX), v3.gamma_at(u64::MAX)), (0.1, 0.0));
}

/// Walking V3's run step by step meets the derived step numbers of a ramp that is linear in tokens.
#[test]
fn the_batch_ramp_of_v3_has_the_derived_steps() {
    let v3 = load(V3, &[]).unwrap();
    assert_eq!((v3.batch_at(0), v3.batch_at(469_000_000_000), v3.batch_at(u64::MAX)), (3072, 15360, 15360));
    let (mut step, mut tokens) = (0_u64, 0_u64);
    let mut marks = vec![(469e9, 14_998), (10e12, 166_490), (14.3e12, 234_836), (14.8e12, 242_783)].into_iter();
    let mut next = marks.next();
    while let Some((at, expected)) = next {
        if step == 2000 {
            assert!((tokens as f64 / 1e9 - 28.1).abs() < 0.05, "the warm-up ends at {tokens} tokens");
        }
        if tokens as f64 >= at {
            assert!(step.abs_diff(expected) <= 2, "{at:e} tokens at step {step}, expected about {expected}");
            next = marks.next();
            continue;
        }
        tokens += v3.batch_at(tokens) as u64 * 4096;
        step += 1;
    }
}

#[test]
fn the_batch_is_a_whole_number_of_micro_batches() {
    let sets = ["train.micro_batch=4", "batch.start=8", "batch.end=32", "batch.ramp_tokens=1000"];
    let recipe = load(SMALLEST, &sets).unwrap();
    let batches: Vec<usize> = (0..1001).map(|tokens| recipe.batch_at(tokens)).collect();
    assert!(batches.is_sorted() && batches.iter().all(|batch| batch.is_multiple_of(4)));
    assert_eq!((batches[0], batches[166], batches[167], batches[999], batches[1000]), (8, 8, 12, 28, 32));
}

#[test]
fn linear_and_cosine_go_from_the_value_before() {
    let phases = r#"lr.phases=[{until_fraction=0.5,shape="linear",to=5e-4},{until_tokens=900000,shape="cosine",to=0}]"#;
    let recipe = load(SMALLEST, &[phases, "lr.warmup_steps=0"]).unwrap();
    let expected = [(0, 1e-3), (250_000, 7.5e-4), (500_000, 5e-4), (700_000, 2.5e-4), (900_000, 0.0), (2_000_000, 0.0)];
    for (tokens, rate) in expected {
        assert!((recipe.lr_at(0, tokens) - rate).abs() < 1e-15, "at {tokens}");
    }
    assert_eq!(recipe.lr.phases[0].until, Until::UntilFraction(0.5));
    assert_eq!(recipe.lr.phases[1].shape, Shape::Cosine);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    for (set, message) in [
        ("lr.peek=1", r#"unknown key "lr.peek"; did you mean "lr.peak"?"#),
        ("optin.beta1=0.9", r#"unknown key "optin"; did you mean "optim"?"#),
        ("data.sources.0.wieght=2", r#"unknown key "data.sources.0.wieght"; did you mean "data.sources[].weight"?"#),
        ("total_tokens=5", r#"unknown key "total_tokens"; did you mean "train.total_tokens"?"#),
        ("optim.nonsense=5", r#"unknown key "optim.nonsense""#),
    ] {
        assert_eq!(refused(&[set]), message);
    }
}

#[test]
fn wrong_types_name_key_expected_and_found() {
    for (set, message) in [
        ("optim.beta1=\"x\"", "optim.beta1 must be a finite number, found the string \"x\""),
        ("optim.eps=inf", "optim.eps must be a finite number, found the number inf"),
        ("seed=-1", "seed must be a whole number from 0, found the integer -1"),
        ("seed=1.5", "seed must be a whole number from 0, found the number 1.5"),
        ("seed=1e40", "seed must be a whole number from 0, found the number 1e40"),
        ("recompute.swiglu=1", "recompute.swiglu must be true or false, found the integer 1"),
        ("data.packing=tight", "data.packing must be \"concat\" or \"bestfit\", found the string \"tight\""),
        ("lr=5", "lr must be a table, found the integer 5"),
        ("lr.phases=5", "lr.phases must be an array of tables, found the integer 5"),
        ("lr.phases=[5]", "lr.phases.0 must be a table, found the integer 5"),
        ("samples.prompts=[5]", "samples.prompts must be an array of strings, found the array [5]"),
        ("model.set=5", "model.set must be a table, found the integer 5"),
        ("guard.spike_factor=nan", "guard.spike_factor must be a number or inf, found the number NaN"),
    ] {
        assert_eq!(refused(&[set]), message);
    }
}

#[test]
fn missing_and_alternative_keys_are_named() {
    assert_eq!(refused(&["out="]), "out is missing: Directory of the run");
    assert_eq!(refused(&["train.total_tokens="]), "train.total_tokens is missing: Tokens to train on");
    assert_eq!(refused(&["data.sources.0.name="]), "data.sources.0.name is missing: Name in logs and metrics");
    assert_eq!(refused(&["data.sources.1.name=x"]), "data.sources.1.paths is missing: Files, directories and globs");
    assert_eq!(refused(&["model.preset="]), "give either model.preset or model.config: neither is set");
    assert_eq!(refused(&["model.config=c.json"]), "give either model.preset or model.config: both are set");
    assert_eq!(
        refused(&["tokenizer.path=t.json"]),
        "give either tokenizer.path or tokenizer.train_vocab_size: both are set"
    );
    assert_eq!(
        refused(&["lr.phases=[{shape=\"linear\",to=0}]"]),
        "give either lr.phases.0.until_tokens or lr.phases.0.until_fraction: neither is set"
    );
}

#[test]
fn values_out_of_range_and_contradictions_are_named() {
    for (sets, words) in [
        (vec!["data.held_out=1"], vec!["data.held_out must be from 0, below 1", "found 1"]),
        (vec!["data.seq_len=1"], vec!["data.seq_len must be at least 2"]),
        (vec!["data.sources=[]"], vec!["data.sources must be at least one source"]),
        (vec!["data.boundary_split_rate=1.5"], vec!["data.boundary_split_rate must be from 0 to 1, found 1.5"]),
        (vec!["data.sources.0.weight=0"], vec!["data.sources.0.weight must be positive", "the role \"validation\""]),
        (vec!["data.sources.0.role=validation"], vec!["data.sources must be of weights with a positive"]),
        (vec!["data.sources.0.fim_rate=1.5"], vec!["data.sources.0.fim_rate must be from 0 to 1"]),
        (
            vec!["data.sources.0.role=validation", "data.sources.0.weight=2"],
            vec!["data.sources.0.weight = 2", "data.sources.0.role = validation"],
        ),
        (
            vec!["data.sources.0.role=validation", "data.sources.0.fim_rate=0.5"],
            vec!["data.sources.0.fim_rate = 0.5", "data.sources.0.role = validation"],
        ),
        (
            vec!["data.sources.0.control_tokens=true", "data.sources.0.fim_rate=0.5"],
            vec!["data.sources.0.fim_rate = 0.5", "data.sources.0.control_tokens = true"],
        ),
        (
            vec!["data.sources.1={name=\"books\",paths=[\"x\"]}"],
            vec!["data.sources.1.name = books", "data.sources.0.name = books"],
        ),
        (vec!["train.total_tokens=0"], vec!["train.total_tokens must be at least 1, found 0"]),
        (vec!["train.micro_batch=3"], vec!["batch.start = 8", "train.micro_batch = 3"]),
        (
            vec!["data.seq_len=9e15", "batch.end=8000000"],
            vec!["batch.end = 8000000", "data.seq_len = 9000000000000000"],
        ),
        (vec!["batch.start=16"], vec!["batch.start = 16", "batch.end = 8"]),
        (vec!["batch.start=4"], vec!["batch.start = 4", "batch.ramp_tokens = 0"]),
        (vec!["optim.beta2=1"], vec!["optim.beta2 must be from 0, below 1"]),
        (vec!["optim.moments=bf16", "optim.beta2=0.999"], vec!["optim.moments = bf16", "optim.beta2 = 0.999"]),
        (
            vec!["lr.phases=[{until_fraction=0.5,shape=\"linear\",to=0},{until_tokens=5,shape=\"linear\",to=0}]"],
            vec!["lr.phases.1.until_tokens must be after the end of the phase before"],
        ),
        (vec!["lr.phases=[{until_fraction=1.5,shape=\"linear\",to=0}]"], vec!["lr.phases.0.until_fraction"]),
        (vec!["data.held_out=0"], vec!["validation.every_steps = 100", "data.held_out = 0"]),
        (
            vec!["data.sources.0.role=train"],
            vec!["validation.every_steps = 100", "data.sources.0.role = train", "nothing to validate on"],
        ),
        (vec!["samples.every_steps=5"], vec!["samples.every_steps = 5", "samples.prompts = []"]),
        (
            vec!["checkpoint.keep_every_steps=750"],
            vec!["checkpoint.keep_every_steps = 750", "checkpoint.every_steps = 500"],
        ),
        (vec!["guard.spike_factor=1"], vec!["guard.spike_factor must be above 1"]),
        (vec!["model.preset=nanno"], vec!["model.preset: no preset is called \"nanno\"", "did you mean \"nano\"?"]),
        (vec!["model.set.hiden_size=64"], vec!["unknown model config key \"hiden_size\""]),
        (vec!["model.set.n_group=3"], vec!["n_routed_experts = 16", "n_group = 3"]),
    ] {
        let message = refused(&sets);
        for word in words {
            assert!(message.contains(word), "{sets:?}: {message:?} lacks {word:?}");
        }
    }
}

#[test]
fn a_source_to_validate_on_has_no_weight_and_takes_the_place_of_held_out_documents() {
    let validation =
        "data.sources.1={name=\"talks\",paths=[\"t\"],role=\"validation\",control_tokens=true,cut_bytes=1e5}";
    let recipe = load(SMALLEST, &[validation, "data.sources.0.role=train", "data.held_out=0"]).unwrap();
    let [books, talks] = &recipe.data.sources[..] else { panic!("two sources") };
    assert_eq!((books.role, books.weight), (Role::Train, 1.0));
    assert_eq!(
        (talks.role, talks.weight, talks.control_tokens, talks.cut_bytes),
        (Role::Validation, 0.0, true, 100_000)
    );
    let resolved = Recipe::from_toml_str(&recipe.to_toml(), Path::new("/elsewhere"), &[]).unwrap();
    assert_eq!(resolved, recipe);
}

#[test]
fn the_model_must_fit_the_run() {
    let error = |sets: &[&str]| load(SMALLEST, sets).unwrap().model_config().unwrap_err().to_string();
    assert!(error(&["data.seq_len=5000"]).starts_with("data.seq_len = 5000 and max_position_embeddings = 4096"));
    assert!(error(&["tokenizer.train_vocab_size=4096"]).contains("vocab_size = 2048"));
    let v3 = load(V3, &["checkpoint.dtype=f32"]).unwrap();
    assert!((v3.model.init_std - 0.006).abs() < 1e-15);
    let config = v3.model_config().unwrap();
    assert_eq!(config.rope_scaling, None, "the string \"null\" stands for null");
    assert_eq!(config.dtype, Some(crate::Dtype::Float32), "the type the run saves");
    assert!(!config.raw().contains_key("quantization_config"), "a run saves no block-FP8 weights");
}

#[test]
fn sets_are_toml_or_text_and_address_arrays() {
    let recipe = load(
        SMALLEST,
        &[
            "out=2024",
            "data.sources.0.weight=2",
            "data.sources.1.name=code",
            "data.sources.1.paths=[\"/src\"]",
            "samples.prompts=[\"a = b\", \"c\"]",
            "model.set.num_hidden_layers=2",
            "optim.clip_norm=inf",
            "lr.phases.0={until_fraction=1.0,shape=\"cosine\",to=1e-5}",
        ],
    )
    .unwrap();
    assert_eq!(recipe.out, std::path::absolute("2024").unwrap(), "a path on the command line starts where it is typed");
    assert_eq!(recipe.data.sources.iter().map(|s| s.weight).collect::<Vec<_>>(), [2.0, 1.0]);
    assert_eq!(recipe.data.sources[1].paths, [PathBuf::from("/src")]);
    assert_eq!(recipe.samples.prompts, ["a = b", "c"]);
    assert_eq!(recipe.model_config().unwrap().num_hidden_layers, 2);
    assert_eq!((recipe.optim.clip_norm, recipe.lr.phases.len()), (f64::INFINITY, 1));

    for (set, reason) in [
        ("seed", "it has no \"=\""),
        ("=5", "a name in the key is empty"),
        ("a..b=5", "a name in the key is empty"),
        ("data.sources.7.weight=5", "data.sources is an array of 1, so it has no \"7\""),
        ("data.sources.name=5", "data.sources is an array of 1, so it has no \"name\""),
        ("out.deep.er=5", "out is \"/home/run\", which has no keys"),
        ("lr.peek=", "there is no lr.peek to remove"),
    ] {
        assert!(refused(&[set]).contains(reason), "{set}: {}", refused(&[set]));
    }
}

#[test]
fn a_file_is_read_relative_to_its_folder_and_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    fs_err::write(dir.path().join("config.json"), crate::presets::preset("tiny").unwrap().to_json_string()).unwrap();
    fs_err::write(&path, SMALLEST.replace("preset = \"nano\"", "config = \"config.json\"")).unwrap();
    let recipe = Recipe::load(&path, &["tokenizer.train_vocab_size=300".into()]).unwrap();
    assert_eq!(recipe.out, dir.path().join("run"));
    assert_eq!(recipe.model_config().unwrap().vocab_size, 320);
    let error = Recipe::load(&path, &["sed=5".into()]).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot use the recipe {}", path.display()));
    assert_eq!(error.source().unwrap().to_string(), "unknown key \"sed\"; did you mean \"seed\"?");
    assert!(Recipe::load(dir.path().join("none.toml"), &[]).is_err());
}

#[test]
fn a_resolved_recipe_reads_back_equal() {
    for text in [SMALLEST, V3] {
        let recipe = load(text, &[]).unwrap();
        let resolved = recipe.to_toml();
        let again = Recipe::from_toml_str(&resolved, Path::new("/elsewhere"), &[]).unwrap();
        assert_eq!(again, recipe, "{resolved}");
        assert_eq!(again.to_toml(), resolved);
    }
}

/// The table of keys and the typed recipe know the same keys.
#[test]
fn the_schema_and_the_types_agree() {
    let everything = [
        "checkpoint.keep_every_steps=500",
        "lr.phases=[{until_tokens=5,shape=\"linear\",to=1},{until_fraction=1,shape=\"linear\",to=1}]",
        "loss.mtp_lambda=[{until_tokens=5,value=1},{until_fraction=1,value=1}]",
        "loss.bias_update_speed=[{until_tokens=5,value=1},{until_fraction=1,value=1}]",
    ];
    let mut written = BTreeSet::new();
    for alternative in [vec![], vec!["tokenizer.train_vocab_size=", "tokenizer.path=/t"]] {
        let sets: Vec<&str> = everything.iter().copied().chain(alternative).collect();
        let table: Table = toml::from_str(&load(SMALLEST, &sets).unwrap().to_toml()).unwrap();
        paths(&Value::Table(table), "", &mut written);
    }
    // The other form of `model`, which would need a file.
    written.insert("model.config".into());
    let known: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(written, known);
}

fn paths(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    match (schema::find(path), value) {
        (Some(key), Value::Array(items)) if key.kind == Kind::Tables => {
            out.insert(path.to_owned());
            for item in items {
                paths(item, &format!("{path}[]"), out);
            }
        }
        (None, Value::Table(table)) => {
            for (name, value) in table {
                paths(value, &schema::join(path, name), out);
            }
        }
        _ => {
            out.insert(path.to_owned());
        }
    }
}

#[test]
fn every_default_is_toml_and_every_key_has_a_section_and_a_line() {
    let page = reference::markdown();
    for key in KEYS {
        assert!(SECTIONS.iter().any(|(section, _)| *section == schema::parent(key.path)), "{}", key.path);
        assert!(page.contains(&format!("| `{}` |", schema::name(key.path))), "{}", key.path);
        assert!(!key.doc.ends_with('.'), "{}", key.path);
        if let IfAbsent::Value(text) = key.if_absent {
            assert!(tree::literal(text).is_some(), "{}", key.path);
        }
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), KEYS.len());
}

#[test]
fn damaged_text_is_refused_or_complete_at_every_length() {
    for end in 0..V3.len() {
        // A cut may leave a recipe that is complete; what is read then must still hold together.
        if let Ok(recipe) = load(&V3[..end], &[]) {
            recipe.validate().unwrap();
        }
    }
}

prop_compose! {
    fn any_sets()(
        seed in 0..=i64::MAX,
        peak in 1e-9..1.0_f64,
        micro in 1_usize..9,
        (start, more) in (1_usize..9, 0_usize..9),
        ramp in 1_u64..1_000_000_000,
        weights in proptest::collection::vec(1e-6..1e6_f64, 1..4),
        fractions in proptest::collection::btree_set(1_u32..=1000, 1..4),
        prompt in any::<String>(),
        eps in proptest::num::f64::POSITIVE,
        keep in proptest::option::of(1_u64..9),
    ) -> Vec<String> {
        let quoted = |text: &str| Value::from(text).to_string();
        let steps: Vec<String> =
            fractions.iter().map(|f| format!("{{until_fraction={:?},value={peak:?}}}", f64::from(*f) / 1000.0)).collect();
        let mut sets = vec![
            format!("seed={seed}"), format!("lr.peak={peak:?}"), format!("train.micro_batch={micro}"),
            format!("batch.start={}", start * micro), format!("batch.end={}", (start + more) * micro),
            format!("batch.ramp_tokens={ramp}"), format!("samples.prompts=[{}]", quoted(&prompt)),
            format!("optim.eps={eps:?}"), format!("loss.mtp_lambda=[{}]", steps.join(",")),
        ];
        for (i, weight) in weights.iter().enumerate() {
            sets.push(format!("data.sources.{i}.name=s{i}"));
            sets.push(format!("data.sources.{i}.paths=[\"/p{i}\"]"));
            sets.push(format!("data.sources.{i}.weight={weight:?}"));
        }
        sets.extend(keep.map(|keep| format!("checkpoint.keep_every_steps={}", keep * 500)));
        sets
    }
}

proptest! {
    #[test]
    fn any_recipe_reads_back_equal(sets in any_sets()) {
        let recipe = Recipe::from_toml_str(SMALLEST, Path::new("/home"), &sets).unwrap();
        let again = Recipe::from_toml_str(&recipe.to_toml(), Path::new("/elsewhere"), &[]).unwrap();
        prop_assert_eq!(again, recipe);
    }

    /// No override panics, whatever it says.
    #[test]
    fn any_override_is_applied_or_refused(
        key in 0..KEYS.len(), text in "[-+0-9a-z_.\"\\[\\]{}=, \n]{0,12}", wild in ".{0,12}", index in "[0-2]?",
    ) {
        let key = KEYS[key].path.replace("[]", &format!(".{index}"));
        for argument in [format!("{key}={text}"), format!("{key}={wild}"), wild.clone(), text.clone()] {
            if let Ok(recipe) = load(V3, &[&argument]) {
                prop_assert!(recipe.lr_at(5, 77).is_finite() && recipe.batch_at(12_345) >= 1);
            }
        }
    }
}
