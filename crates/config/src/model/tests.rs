//! Reading, refusing, changing and writing configs.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{
    Dtype, ModelConfig, ModelType, QuantizationConfig, ScaleFormat, Scoring, TopkMethod, WeightFormat, WeightPart, Yarn,
};
use crate::presets::{PRESETS, preset};

const SAVED_BY_TRANSFORMERS: &str = include_str!("../../testdata/save_pretrained.json");

fn base() -> ModelConfig {
    preset("tiny").unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("not an object: {value}") };
    object
}

/// The error of `tiny` with `changes` written over it; `null` values stay `null`.
fn refused(changes: Value) -> String {
    let mut raw = base().raw().clone();
    raw.extend(object(changes));
    ModelConfig::from_value(Value::Object(raw)).unwrap_err().to_string()
}

#[test]
fn v3_is_read_under_its_own_names() {
    let v3 = preset("deepseek-v3").unwrap();
    assert_eq!((v3.hidden_size, v3.num_hidden_layers, v3.q_lora_rank), (7168, 61, Some(1536)));
    assert_eq!((v3.qk_head_dim(), v3.kv_cache_dim(), v3.shared_intermediate_size()), (192, 576, 2048));
    assert_eq!((v3.is_moe(2), v3.is_moe(3), v3.is_moe(61)), (false, true, true));
    assert_eq!(
        (v3.model_type, v3.scoring_func, v3.topk_method),
        (ModelType::DeepseekV3, Scoring::Sigmoid, TopkMethod::NoauxTc)
    );
    assert_eq!(
        (v3.bos_token_id, v3.eos_token_id.as_slice(), v3.dtype),
        (Some(0), [1].as_slice(), Some(Dtype::Bfloat16))
    );
    let fp8 = |scale_fmt| Some(QuantizationConfig::Fp8 { scale_fmt });
    assert_eq!(v3.quantization_config, fp8(ScaleFormat::Float));
    assert_eq!(preset("deepseek-v3.1").unwrap().quantization_config, fp8(ScaleFormat::Ue8m0));
}

#[test]
fn attention_temperature_has_the_published_values() {
    let yarn = |name: &str| preset(name).unwrap().rope_scaling.clone().unwrap();
    assert_eq!(yarn("deepseek-v3").softmax_mscale(), 1.368_887_945_411_393_6);
    assert_eq!(yarn("deepseek-v3").cos_sin_factor(), 1.0);
    assert!((preset("deepseek-v3").unwrap().softmax_scale() - 0.135_233_778_860_880_1).abs() < 1e-16);
    assert!((yarn("deepseek-v2-lite").softmax_mscale() - 1.260_803_777_4).abs() < 1e-10);
    assert!((yarn("kimi-k2").softmax_mscale() - 1.346_573_590_3).abs() < 1e-10);
    assert_eq!(preset("moonlight-16b-a3b").unwrap().softmax_scale(), 192f64.powf(-0.5));
    let kimi_0905 = Yarn { factor: 64.0, ..yarn("kimi-k2") };
    assert!((kimi_0905.softmax_mscale() - 1.415_888_308_3).abs() < 1e-10);
}

#[test]
fn cos_and_sin_factor_follows_what_is_given() {
    let read = |scaling: Value| {
        let mut full = object(json!({"type": "yarn", "factor": 40}));
        full.extend(object(scaling));
        base().with_overrides(&object(json!({"rope_scaling": full}))).unwrap().rope_scaling.clone().unwrap()
    };
    let m = |a: f64| 0.1 * a * 40f64.ln() + 1.0;
    assert_eq!(read(json!({"attention_factor": 1.5, "mscale": 1, "mscale_all_dim": 1})).cos_sin_factor(), 1.5);
    assert_eq!(read(json!({"mscale": 1, "mscale_all_dim": 0.707})).cos_sin_factor(), m(1.0) / m(0.707));
    // Absent and zero mean the same, for the factor, the temperature and the two betas.
    for scaling in [json!({}), json!({"mscale": 0, "mscale_all_dim": 0.0, "beta_fast": 0, "beta_slow": 0})] {
        let yarn = read(scaling);
        assert_eq!((yarn.cos_sin_factor(), yarn.softmax_mscale()), (m(1.0), 1.0));
        assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.truncate), (32.0, 1.0, true));
        assert_eq!(yarn.original_max_position_embeddings, base().max_position_embeddings);
    }
}

#[test]
fn both_spellings_give_one_config() {
    let new = ModelConfig::from_json_str(SAVED_BY_TRANSFORMERS).unwrap();
    let none = object(json!({"num_nextn_predict_layers": 0}));
    let old = base().with_overrides(&none).unwrap();
    assert_eq!(*new, *old, "the same model in the two spellings");
    let plain = json!({"rope_type": "default", "rope_theta": 5e4});
    let plain = new.with_overrides(&object(json!({"rope_parameters": plain}))).unwrap();
    assert_eq!((&plain.rope_scaling, plain.rope_theta), (&None, 5e4));
}

#[test]
fn every_preset_and_saved_file_survives_writing() {
    let saved = ModelConfig::from_json_str(SAVED_BY_TRANSFORMERS).unwrap();
    for config in PRESETS.iter().map(super::super::presets::Preset::config).chain([saved]) {
        let again = ModelConfig::from_json_str(&config.to_json_string()).unwrap();
        assert_eq!(again, config);
        assert!(again.raw().keys().eq(config.raw().keys()), "the order of keys");
    }
}

#[test]
fn unknown_keys_survive_and_files_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let mut raw = base().raw().clone();
    raw.insert("auto_map".into(), json!({"AutoConfig": "configuration.Config", "n": [1, 0.1, 1e-300, null]}));
    let config = ModelConfig::from_value(Value::Object(raw.clone())).unwrap();
    config.write(&path).unwrap();
    let again = ModelConfig::read(&path).unwrap();
    assert_eq!(again.raw(), &raw);
    assert_eq!(serde_json::to_value(&again).unwrap(), Value::Object(raw));
}

#[test]
fn defaults_of_v2_fill_the_routing_keys() {
    let mut raw = preset("deepseek-v2-lite").unwrap().raw().clone();
    for key in ["scoring_func", "topk_method", "norm_topk_prob", "routed_scaling_factor", "num_nextn_predict_layers"] {
        raw.remove(key);
    }
    raw.insert("n_group".into(), Value::Null);
    raw.insert("topk_group".into(), Value::Null);
    let config = ModelConfig::from_value(Value::Object(raw)).unwrap();
    assert_eq!(*config, *preset("deepseek-v2-lite").unwrap());
}

#[test]
fn required_keys_are_not_guessed() {
    for key in [
        "model_type",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "first_k_dense_replace",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "norm_topk_prob",
        "routed_scaling_factor",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
    ] {
        let mut raw = base().raw().clone();
        raw.remove(key).unwrap();
        let message = ModelConfig::from_value(Value::Object(raw)).unwrap_err().to_string();
        assert_eq!(message, format!("{key} is missing and has no safe default"));
    }
}

#[test]
fn optional_keys_have_their_defaults() {
    let mut raw = base().raw().clone();
    for key in [
        "num_key_value_heads",
        "moe_layer_freq",
        "scoring_func",
        "topk_method",
        "hidden_act",
        "attention_bias",
        "tie_word_embeddings",
        "num_nextn_predict_layers",
        "bos_token_id",
        "eos_token_id",
    ] {
        raw.remove(key).unwrap();
    }
    assert_eq!(*ModelConfig::from_value(Value::Object(raw)).unwrap(), *base());
}

#[test]
fn contradictions_name_the_fields_and_their_values() {
    for (changes, words) in [
        (json!({"n_routed_experts": 13}), vec!["n_routed_experts = 13", "n_group = 4"]),
        (json!({"topk_group": 5}), vec!["topk_group = 5", "n_group = 4"]),
        (json!({"n_group": 12, "topk_group": 3}), vec!["n_routed_experts = 12", "n_group = 12", "two"]),
        (json!({"num_experts_per_tok": 7}), vec!["num_experts_per_tok = 7", "n_routed_experts / n_group = 6"]),
        (json!({"qk_rope_head_dim": 7}), vec!["qk_rope_head_dim must be even", "found 7"]),
        (json!({"num_key_value_heads": 2}), vec!["num_key_value_heads = 2", "num_attention_heads = 4"]),
        (json!({"scoring_func": "tanh"}), vec!["scoring_func is \"tanh\"", "sigmoid, softmax"]),
        (json!({"scoring_func": "softmax"}), vec!["scoring_func = softmax", "model_type = deepseek_v3"]),
        (json!({"topk_method": "best"}), vec!["topk_method is \"best\"", "noaux_tc, greedy, group_limited_greedy"]),
        (json!({"topk_method": "greedy"}), vec!["topk_method = greedy", "scoring_func = sigmoid"]),
        (json!({"hidden_act": "gelu"}), vec!["hidden_act is \"gelu\"", "accepted: silu"]),
        (json!({"moe_layer_freq": 2}), vec!["moe_layer_freq is \"2\"", "accepted: 1"]),
        (json!({"rope_scaling": {"type": "linear", "factor": 2}}), vec!["rope_type is \"linear\"", "yarn, default"]),
        (json!({"rope_scaling": {"type": "yarn"}}), vec!["rope_scaling.factor is missing"]),
        (json!({"rope_scaling": {"type": "yarn", "factor": 0.5}}), vec!["rope_scaling.factor", "found 0.5"]),
        (json!({"rope_scaling": {"type": "yarn", "rope_type": "default"}}), vec!["type = yarn", "rope_type = default"]),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}),
            vec!["beta_fast = 1", "beta_slow = 2"],
        ),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5}}), vec!["rope_theta = 10000", "5"]),
        (json!({"torch_dtype": "float32", "dtype": "bfloat16"}), vec!["torch_dtype = float32", "dtype = bfloat16"]),
        (json!({"torch_dtype": "int4"}), vec!["torch_dtype is \"int4\""]),
        (json!({"quantization_config": {"quant_method": "awq"}}), vec!["quantization_config.quant_method is \"awq\""]),
        (
            json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}}),
            vec!["weight_block_size is \"[64,128]\"", "[128, 128]"],
        ),
        (json!({"quantization_config": {"quant_method": "hadal"}}), vec!["quantization_config.version is missing"]),
        (
            json!({"quantization_config": {"quant_method": "hadal", "version": 2, "weights": {}}}),
            vec!["quantization_config.version is \"2\"", "accepted: 1"],
        ),
        (
            json!({"quantization_config": {"quant_method": "hadal", "version": 1, "weights": []}}),
            vec!["quantization_config.weights must be an object"],
        ),
        (
            json!({"quantization_config": {"quant_method": "hadal", "version": 1, "weights": {"router": "q4"}}}),
            vec!["quantization_config.weights is \"router\"", "experts, attention"],
        ),
        (
            json!({"quantization_config": {"quant_method": "hadal", "version": 1, "weights": {"head": "bf16"}}}),
            vec!["quantization_config.weights.head is \"bf16\"", "q4, q8, fp8"],
        ),
        (json!({"eos_token_id": [1, 320]}), vec!["eos_token_id = 320", "vocab_size = 320"]),
        (json!({"hidden_size": 0}), vec!["hidden_size must be at least 1", "found 0"]),
        (json!({"hidden_size": "64"}), vec!["hidden_size must be a non-negative integer, found \"64\""]),
        (json!({"hidden_size": -64}), vec!["found -64"]),
        (json!({"hidden_size": 5_000_000_000_u64}), vec!["hidden_size must be below 2^32"]),
        (json!({"hidden_size": 4_000_000_000_u64, "vocab_size": 4_000_000_000_u64}), vec!["parameters"]),
        (json!({"rms_norm_eps": null}), vec!["rms_norm_eps must be a number, found null"]),
        (json!({"norm_topk_prob": 1}), vec!["norm_topk_prob must be true or false, found 1"]),
    ] {
        let message = refused(changes.clone());
        for word in words {
            assert!(message.contains(word), "{changes}: {message:?} lacks {word:?}");
        }
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    for name in ["deepseek_v32", "deepseek_v4", "llama"] {
        // The name is looked at before anything else, whatever keys the other family lacks.
        let message = ModelConfig::from_json_str(&format!("{{\"model_type\": \"{name}\"}}")).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("model_type is \"{name}\", which is not supported; accepted: deepseek_v3, kimi_k2, deepseek_v2")
        );
    }
}

#[test]
fn overrides_keep_the_spelling_and_refuse_typos() {
    let saved = ModelConfig::from_json_str(SAVED_BY_TRANSFORMERS).unwrap();
    let changes =
        object(json!({"torch_dtype": "float32", "rope_scaling": null, "rope_theta": 5e4, "qk_rope_head_dim": 4}));
    let changed = saved.with_overrides(&changes).unwrap();
    assert_eq!((changed.dtype, &changed.rope_scaling, changed.rope_theta), (Some(Dtype::Float32), &None, 5e4));
    let raw = changed.raw();
    assert!(!raw.contains_key("torch_dtype") && !raw.contains_key("rope_scaling"));
    assert_eq!((&raw["dtype"], &raw["head_dim"], &raw["qk_head_dim"]), (&json!("float32"), &json!(4), &json!(20)));

    let yarn = object(json!({"rope_scaling": {"type": "yarn", "factor": 4}}));
    assert_eq!(changed.with_overrides(&yarn).unwrap().rope_scaling.as_ref().unwrap().factor, 4.0);
    let wrong = saved.with_overrides(&object(json!({"rope_scaling": 7}))).unwrap_err().to_string();
    assert!(wrong.contains("rope_scaling must be an object"), "{wrong}");

    let heads = base().with_overrides(&object(json!({"num_attention_heads": 2}))).unwrap();
    assert_eq!(heads.raw()["num_key_value_heads"], json!(2));
    let typo = base().with_overrides(&object(json!({"hiden_size": 8}))).unwrap_err().to_string();
    assert_eq!(typo, "unknown model config key \"hiden_size\"; did you mean \"hidden_size\"?");
    // A key only the file knows may be changed.
    base().with_overrides(&object(json!({"use_cache": false}))).unwrap();
}

#[test]
fn damaged_text_is_an_error_at_every_length() {
    let text = base().to_json_string();
    let text = text.trim_end();
    for end in 0..text.len() {
        assert!(ModelConfig::from_json_str(&text[..end]).is_err(), "cut at {end}");
    }
    assert!(ModelConfig::from_json_str("[]").unwrap_err().to_string().contains("found an array"));
    assert!(ModelConfig::read("/nonexistent/config.json").is_err());
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (0u64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_0-9]{0,12}".prop_map(Value::from),
        Just(json!([128, 128])),
        Just(json!({"type": "yarn", "factor": 4})),
    ]
}

proptest! {
    /// Whatever a key is replaced by, the config is refused or it can be counted; nothing panics.
    #[test]
    fn any_two_wrong_values_are_refused_or_harmless(
        keys in proptest::collection::vec(0usize..60, 2), values in proptest::collection::vec(any_value(), 2),
    ) {
        for source in [base(), ModelConfig::from_json_str(SAVED_BY_TRANSFORMERS).unwrap()] {
            let mut raw = source.raw().clone();
            let names: Vec<String> = raw.keys().cloned().collect();
            for (key, value) in keys.iter().zip(&values) {
                raw.insert(names[key % names.len()].clone(), value.clone());
            }
            if let Ok(config) = ModelConfig::from_value(Value::Object(raw)) {
                let counts = crate::Counts::of(&config, u32::MAX);
                prop_assert!(counts.parameters.main > 0 && config.softmax_scale().is_finite());
            }
        }
    }
}

#[test]
fn quantised_formats_come_back() {
    let weights = [(WeightPart::Experts, WeightFormat::Q4), (WeightPart::Head, WeightFormat::Fp8)].into();
    for block in [
        QuantizationConfig::Hadal { weights },
        QuantizationConfig::Fp8 { scale_fmt: ScaleFormat::Float },
        QuantizationConfig::Fp8 { scale_fmt: ScaleFormat::Ue8m0 },
    ] {
        let change = Map::from_iter([("quantization_config".to_owned(), block.to_json())]);
        let config = preset("tiny").unwrap().with_overrides(&change).unwrap();
        assert_eq!(config.quantization_config, Some(block));
    }
}
